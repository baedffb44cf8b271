//! [`Shards`]: what is behind one handle, one kernel context or several.

use std::sync::Arc;

use super::shared::Shared;
use super::state::Limits;
use super::still_out::StillOut;
use super::teardown::given_back;
use crate::Metrics;
use crate::request::Flavour;
use crate::sys::current_cpu;

/// The contexts behind a handle: at least one. With several, a request goes to that of the CPU on
/// which it is made, so that workers neither wait for one another's lock nor submit what is in
/// another CPU's cache.
pub(super) struct Shards<F: Flavour>(Arc<[Arc<Shared<F>>]>);

impl<F: Flavour> Shards<F> {
    pub(super) fn one(shared: Arc<Shared<F>>) -> Shards<F> {
        Shards(Arc::new([shared]))
    }

    /// `limits` split over `count` contexts, or one for each slot where those are fewer; `open`
    /// makes each of them.
    pub(super) fn split<E>(
        limits: Limits,
        count: usize,
        open: impl Fn(Limits) -> Result<Arc<Shared<F>>, E>,
    ) -> Result<Shards<F>, E> {
        let count = count.min(limits.slots).max(1);
        let (each, left) = (limits.slots / count, limits.slots % count);
        let shards = (0..count).map(|shard| {
            open(Limits {
                slots: each + usize::from(shard < left),
                ..limits
            })
        });
        let shards: Result<Vec<_>, E> = shards.collect();
        Ok(Shards(shards?.into()))
    }

    pub(super) fn all(&self) -> &[Arc<Shared<F>>] {
        &self.0
    }

    /// The one for an operation that is made here and now, and all of them, in case that is full.
    /// `None`: it may go there only. `appends` tells whether it is an append.
    #[inline]
    pub(super) fn for_one(
        &self,
        appends: impl FnOnce() -> bool,
    ) -> (&Shared<F>, Option<&Shards<F>>) {
        match &*self.0 {
            [only] => (only, None),
            _ => self.among_several(appends()),
        }
    }

    #[inline(never)]
    fn among_several(&self, appends: bool) -> (&Shared<F>, Option<&Shards<F>>) {
        match appends {
            // They go one after another to each file, and a shard knows only its own ones.
            true => (&self.0[0], None),
            false => (&self.0[current_cpu() % self.0.len()], Some(self)),
        }
    }

    /// No new requests from now on.
    pub(super) fn stop(&self) {
        self.0.iter().for_each(|shard| shard.stop());
    }

    /// Slots that are free, if the context is open and requests wait for one.
    pub(super) fn available_slots(&self) -> Option<usize> {
        let free = |shard: &Arc<Shared<F>>| shard.free_slots().filter(|_| shard.limits.waits);
        self.0.iter().map(free).sum()
    }

    pub(super) fn metrics(&self) -> Metrics {
        let mut shards = self.0.iter().map(|shard| shard.metrics());
        let mut sum = shards.next().unwrap_or_default();
        shards.for_each(|shard| sum.add(shard));
        sum
    }

    pub(super) fn still_out(&self) -> StillOut {
        let mut sum = StillOut::default();
        for shard in self.all() {
            sum.add(shard.with(|state, _| state.still_out()));
        }
        sum
    }

    /// Resolves when everything has been given back to the system.
    pub(super) async fn given_back(self) {
        let gone: Vec<_> = self.0.iter().map(|shard| shard.watch_gone()).collect();
        drop(self);
        for gone in gone {
            given_back(gone).await;
        }
    }
}

impl<F: Flavour> Clone for Shards<F> {
    fn clone(&self) -> Self {
        Shards(Arc::clone(&self.0))
    }
}
