//! [`GroupMember`]: a group in one context. [`ContextGroups`]: the groups of a context.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::fair_queue::FlowId;
use super::group_scheduler::{GroupScheduler, PacerState};
use super::io_group::{IoGroup, LimitWatcher};
use super::pacer;
use super::permit::{Permit, PermitSource, PermitState};
use crate::sys::Process;

/// The groups of one context.
#[derive(Debug)]
pub(crate) struct ContextGroups {
    scheduler: Arc<GroupScheduler>,
    members: Mutex<Vec<Weak<GroupMember>>>,
    owner: Process,
}

/// A group in one context. Shared by the handles that belong to it, and their requests.
#[derive(Debug)]
pub(crate) struct GroupMember {
    scheduler: Arc<GroupScheduler>,
    group: IoGroup,
    flow: FlowId,
    owner: Process,
}

impl ContextGroups {
    /// At most `depth` requests of groups are admitted at a time.
    pub(crate) fn new(depth: usize, runtime: Option<Handle>) -> ContextGroups {
        ContextGroups {
            scheduler: Arc::new(GroupScheduler::new(depth, runtime)),
            members: Mutex::new(Vec::new()),
            owner: Process::current(),
        }
    }

    /// Returns the member that stands for `group`, or `None` in a forked child.
    pub(crate) fn join(&self, group: &IoGroup) -> Option<Arc<GroupMember>> {
        if self.owner != Process::current() {
            return None;
        }
        let mut members = self.members.lock();
        members.retain(|member| member.strong_count() > 0);
        let mut live = members.iter().flat_map(Weak::upgrade);
        if let Some(member) = live.find(|member| member.group.is(group)) {
            return Some(member);
        }
        let member = Arc::new(GroupMember {
            scheduler: Arc::clone(&self.scheduler),
            group: group.clone(),
            flow: self.scheduler.add_flow(group.clone()),
            owner: self.owner,
        });
        members.push(Arc::downgrade(&member));
        drop(members);
        let watcher: Weak<GroupScheduler> = Arc::downgrade(&self.scheduler);
        group.add_watcher(watcher as Weak<dyn LimitWatcher>);
        Some(member)
    }

    /// The groups that have handles. None in a forked child.
    #[cfg(feature = "metrics")]
    pub(crate) fn all(&self) -> Vec<IoGroup> {
        if self.owner != Process::current() {
            return Vec::new();
        }
        let members: Vec<_> = self.members.lock().clone();
        let live = members.iter().flat_map(Weak::upgrade);
        live.map(|member| member.group.clone()).collect()
    }

    /// Lets all requests go on that wait: the context has stopped, and its driver refuses them.
    pub(crate) fn stop(&self) {
        if self.owner == Process::current() {
            self.scheduler.stop();
        }
    }
}

impl GroupMember {
    pub(crate) fn group(&self) -> &IoGroup {
        &self.group
    }

    /// Returns a permit for a request of `bytes`, which may have to wait. See [`Permit::poll`]. Must not be
    /// called in a forked child.
    pub(crate) fn acquire(self: &Arc<Self>, bytes: u64, appends: bool) -> Arc<Permit> {
        let permit = Permit::new(Arc::clone(self) as Arc<dyn PermitSource>, bytes, appends);
        self.scheduler.acquire(self.flow, &permit);
        permit
    }

    /// Starts the pacer if requests wait and it does not run.
    ///
    /// # Panics
    ///
    /// If there is no timer and the group has a limit, so that the request would wait for ever.
    fn ensure_pacer(&self) {
        let is_paced = match self.scheduler.reserve_pacer() {
            PacerState::Running => true,
            PacerState::Failed => false,
            PacerState::Idle => {
                let started = pacer::start(&self.scheduler);
                if !started {
                    self.scheduler.release_pacer();
                }
                started
            }
        };
        assert!(
            is_paced || !self.group.is_limited(),
            "the group `{}` has a limit, which needs a tokio runtime with a timer: enable it \
             (`Builder::enable_time`), or make the context inside a runtime",
            self.group.name()
        );
    }
}

impl PermitSource for GroupMember {
    fn on_held(&self, permit: &Permit) {
        self.group.counters().start(permit.bytes);
    }

    fn wait(&self, permit: &Arc<Permit>) {
        if permit.is(PermitState::Lapsed) {
            self.scheduler.requeue(self.flow, permit);
        }
        if permit.is(PermitState::Waiting) {
            self.ensure_pacer();
        }
    }

    fn give_back(&self) {
        if self.owner == Process::current() {
            self.group.counters().end();
            self.scheduler.give_back();
        }
    }

    fn cancel(&self, permit: &Arc<Permit>) {
        if self.owner == Process::current() {
            self.scheduler.cancel(self.flow, permit);
        }
    }

    fn on_admitted(&self, permit: &Permit) {
        self.scheduler.on_append_admitted(self.flow, permit);
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        if self.owner == Process::current() {
            self.scheduler.remove_flow(self.flow);
        }
    }
}
