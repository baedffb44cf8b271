//! [`Shards`]: the contexts of a handle, one or several.

use std::sync::{Arc, OnceLock};

use super::close::CloseTimeoutError;
use super::refused_backend::RefusedBackend;
use crate::Metrics;
use crate::config::{ContextConfig, ContextTypes};
use crate::driver::Driver;
use crate::group::{ContextGroups, GroupMember, IoGroup, RuntimeSource};
use crate::metrics::ReapSource;
use crate::sync::OwnThread;
use crate::sys::current_cpu;
use crate::teardown::wait_until_gone;

/// One or several contexts. With several, a request goes to the context of the current CPU, so that workers
/// do not contend for a lock or use data in another CPU's cache.
pub(super) struct Shards<T: ContextTypes>(Arc<ShardSet<T>>);

struct ShardSet<T: ContextTypes> {
    /// The context, if there is one: found with one step less than in `all`.
    only: Option<Arc<Driver<T>>>,
    all: Box<[Arc<Driver<T>>]>,
    /// The groups of all shards together, once there are any.
    groups: OnceLock<ContextGroups>,
    /// Most requests of groups that are admitted at a time. `None`: as many as there are slots.
    group_depth: Option<usize>,
    /// Backends that are not available.
    refused: OnceLock<Box<[RefusedBackend]>>,
}

impl<T: ContextTypes> Shards<T> {
    pub(super) fn one(driver: Arc<Driver<T>>, group_depth: Option<usize>) -> Shards<T> {
        Shards::of(Box::new([driver]), group_depth)
    }

    fn of(all: Box<[Arc<Driver<T>>]>, group_depth: Option<usize>) -> Shards<T> {
        let only = match &*all {
            [only] => Some(Arc::clone(only)),
            _ => None,
        };
        Shards(Arc::new(ShardSet {
            only,
            all,
            groups: OnceLock::new(),
            group_depth,
            refused: OnceLock::new(),
        }))
    }

    /// Splits the slots of `config` between `count` contexts, or fewer if there are fewer slots. `open`
    /// creates each context.
    pub(super) fn split<E>(
        config: ContextConfig,
        count: usize,
        group_depth: Option<usize>,
        open: impl Fn(ContextConfig) -> Result<Arc<Driver<T>>, E>,
    ) -> Result<Shards<T>, E> {
        let count = count.min(config.capacity).max(1);
        let (each, left) = (config.capacity / count, config.capacity % count);
        let shards = (0..count).map(|shard| {
            open(ContextConfig {
                capacity: each + usize::from(shard < left),
                ..config
            })
        });
        let shards: Result<Vec<_>, E> = shards.collect();
        Ok(Shards::of(shards?.into(), group_depth))
    }

    /// Sets the backends that are not available. Has an effect once.
    pub(super) fn with_refused(self, refused: Vec<RefusedBackend>) -> Shards<T> {
        let _ = self.0.refused.set(refused.into());
        self
    }

    pub(super) fn refused(&self) -> &[RefusedBackend] {
        self.0.refused.get().map_or(&[], |refused| refused)
    }

    pub(super) fn all(&self) -> &[Arc<Driver<T>>] {
        &self.0.all
    }

    /// Returns what stands for `group` in these contexts, or `None` in a forked child.
    pub(super) fn join_group(&self, group: &IoGroup) -> Option<Arc<GroupMember>> {
        self.all()[0].enter().ok()?; // in a forked child, another thread may have been in `get_or_init`
        let groups = self.0.groups.get_or_init(|| {
            let slots = self.all().iter().map(|shard| shard.config.capacity).sum();
            let depth = self.0.group_depth.unwrap_or(slots);
            ContextGroups::new(depth, self.runtime_source())
        });
        groups.join(group)
    }

    /// Returns a function that returns the runtime of the contexts. It does not keep the runtime, because that
    /// would keep descriptors open after the end of the contexts.
    fn runtime_source(&self) -> RuntimeSource {
        let shards = self.all().iter();
        let pools: Vec<_> = shards.map(|shard| Arc::downgrade(&shard.offload)).collect();
        Box::new(move || pools.iter().find_map(|pool| pool.upgrade()?.runtime()))
    }

    /// Returns the context for a new operation, and all contexts if the operation may go to another one when
    /// that context is full. `appends` returns whether the operation is an append.
    #[inline]
    pub(super) fn for_one(
        &self,
        appends: impl FnOnce() -> bool,
    ) -> (&Driver<T>, Option<&Shards<T>>) {
        match &self.0.only {
            Some(only) => (only, None),
            None => self.among_several(appends()),
        }
    }

    #[inline(never)]
    fn among_several(&self, appends: bool) -> (&Driver<T>, Option<&Shards<T>>) {
        match appends {
            // A shard keeps only its own appends in order, so all appends go to one shard.
            true => (&self.all()[0], None),
            false => (&self.all()[current_cpu() % self.all().len()], Some(self)),
        }
    }

    /// Returns one context for all operations of a batch, even if the thread moves to another CPU meanwhile,
    /// and all contexts, for operations that may go to another one. `appends` returns whether any operation
    /// is an append.
    pub(super) fn for_batch(
        &self,
        appends: impl FnOnce() -> bool,
    ) -> (&Driver<T>, Option<&Shards<T>>) {
        match &self.0.only {
            Some(only) => (only, None),
            None => (self.among_several(appends()).0, Some(self)),
        }
    }

    /// Publishes the metrics of all groups.
    #[cfg(feature = "metrics")]
    pub(super) fn publish_groups(&self) {
        let groups = self.0.groups.get().into_iter();
        for group in groups.flat_map(ContextGroups::all) {
            group.metrics().publish(group.name().to_owned());
        }
    }

    /// Stops admitting requests in all shards.
    pub(super) fn stop(&self) {
        let ours = self.all().iter().flat_map(|shard| shard.enter());
        ours.for_each(|shard| shard.stop());
        if let Some(groups) = self.0.groups.get() {
            groups.stop();
        }
    }

    /// Returns the number of free slots. Returns `None` if a context is not open, or if requests do not wait
    /// for slots.
    pub(super) fn available_slots(&self) -> Option<usize> {
        let free = |shard: &Arc<Driver<T>>| {
            let free = shard.enter().ok()?.free_capacity();
            free.filter(|_| shard.config.wait_for_slot)
        };
        self.all().iter().map(free).sum()
    }

    pub(super) fn metrics(&self) -> Metrics {
        let ours = self.all().iter().flat_map(|shard| shard.enter());
        let mut shards = ours.map(|shard| shard.metrics());
        let mut sum = shards.next().unwrap_or_default();
        shards.for_each(|shard| sum.add(shard));
        sum
    }

    pub(super) fn unfinished(&self) -> CloseTimeoutError {
        let ours = self.all().iter().flat_map(|shard| shard.enter());
        let mut sum = CloseTimeoutError::default();
        ours.for_each(|shard| shard.with_slots(ReapSource::Other, |slots, _| sum.add(slots)));
        sum
    }

    /// Returns the thread of the contexts, if they have one of their own.
    pub(super) fn own_thread(&self) -> Option<&OwnThread> {
        self.all()[0].driver_waker.own_thread()
    }

    /// Resolves when all contexts have been torn down, and their own thread has ended.
    pub(super) async fn wait_until_gone(self) {
        let mut gone: Vec<_> = self.all().iter().map(|shard| shard.gone()).collect();
        gone.extend(self.own_thread().map(OwnThread::ended));
        drop(self);
        for gone in gone {
            wait_until_gone(gone).await;
        }
    }
}

impl<T: ContextTypes> Clone for Shards<T> {
    fn clone(&self) -> Self {
        Shards(Arc::clone(&self.0))
    }
}
