//! [`GroupMember`]: a group in one context. [`ContextGroups`]: the groups of a context.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::fair_queue::FlowId;
use super::group_scheduler::{GroupScheduler, PacerState, RuntimeSource};
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
    pub(crate) fn new(depth: usize, runtime: RuntimeSource) -> ContextGroups {
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
                pacer::start(&self.scheduler);
                true
            }
        };
        assert!(
            is_paced || !self.group.is_limited(),
            "the group `{}` has a limit, which needs a timer: enable it in the tokio runtime of the context \
             (`Builder::enable_time`)",
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

    fn give_back(&self, permit: &Permit) {
        if self.owner == Process::current() {
            self.group.counters().end();
            self.scheduler.give_back(self.flow, permit);
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

#[cfg(all(test, not(kaio_loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use futures::FutureExt;
    use proptest::prelude::*;

    use super::super::group_scheduler::{LAPSE_TICKS, MAX_DOUBLINGS, TICK};
    use super::super::permit::HeldPermit;
    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request whose future is polled by hand.
    struct Request {
        permit: Arc<Permit>,
        wakes: Arc<Wakes>,
        held: Option<HeldPermit>,
    }

    impl Request {
        fn new(member: &Arc<GroupMember>, appends: bool) -> Request {
            let mut request = Request {
                permit: member.acquire(4096, appends),
                wakes: Arc::default(),
                held: None,
            };
            request.poll();
            request
        }

        /// Returns whether the request has its permit.
        fn poll(&mut self) -> bool {
            if self.held.is_none() {
                let waker = Waker::from(Arc::clone(&self.wakes));
                self.held = self.permit.poll(&waker);
            }
            self.held.is_some()
        }

        fn wakes(&self) -> usize {
            self.wakes.0.load(Ordering::Relaxed)
        }

        fn is(&self, state: PermitState) -> bool {
            self.permit.is(state)
        }
    }

    impl Drop for Request {
        fn drop(&mut self) {
            self.permit.cancel();
        }
    }

    fn groups(depth: usize, weights: &[u32]) -> (ContextGroups, Vec<Arc<GroupMember>>) {
        let context = ContextGroups::new(depth, Box::new(|| None));
        let join = |&weight| {
            context
                .join(&IoGroup::new("test").with_weight(weight))
                .unwrap()
        };
        let members = weights.iter().map(join).collect();
        (context, members)
    }

    #[test]
    fn a_group_is_one_member_of_a_context() {
        let context = ContextGroups::new(1, Box::new(|| None));
        let group = IoGroup::new("a");
        let member = context.join(&group).unwrap();
        assert!(Arc::ptr_eq(&member, &context.join(&group.clone()).unwrap()));
        assert!(!Arc::ptr_eq(
            &member,
            &context.join(&IoGroup::new("a")).unwrap()
        ));
    }

    #[test]
    fn a_returned_permit_wakes_the_next_request_only() {
        let (_context, members) = groups(2, &[100]);
        let mut requests: Vec<_> = (0..6).map(|_| Request::new(&members[0], false)).collect();
        let held = |requests: &[Request]| requests.iter().filter(|r| r.held.is_some()).count();
        assert_eq!(held(&requests), 2);
        for first in 0..4 {
            drop(requests[first].held.take());
            let wakes: Vec<_> = requests.iter().map(Request::wakes).collect();
            let expected: Vec<_> = (0..6)
                .map(|i| usize::from((2..first + 3).contains(&i)))
                .collect();
            assert_eq!(wakes, expected);
            assert!(requests[first + 2].poll());
        }
        let metrics = members[0].group().metrics();
        assert_eq!(
            (metrics.requests, metrics.waited, metrics.waiting),
            (6, 4, 0)
        );
        assert_eq!(metrics.in_flight, 2);
    }

    #[test]
    fn the_wake_of_a_completion_returns_the_permit_and_wakes_the_task() {
        let (_context, members) = groups(1, &[100]);
        let done = Request::new(&members[0], false);
        let mut next = Request::new(&members[0], false);
        assert!(!next.poll());
        let waker = Waker::from(Arc::clone(&done.permit)); // as the driver has it
        waker.wake_by_ref();
        assert_eq!((done.wakes(), next.wakes()), (1, 1));
        assert!(next.poll());
        waker.wake();
        drop(done);
        let mut last = Request::new(&members[0], false);
        assert!(!last.poll(), "the permit was returned once");
    }

    #[test]
    fn an_offer_that_nobody_takes_lapses_and_is_made_again() {
        let (context, members) = groups(1, &[100]);
        let first = Request::new(&members[0], false);
        let (mut slow, mut next) = (
            Request::new(&members[0], false),
            Request::new(&members[0], false),
        );
        drop(first);
        assert!(slow.is(PermitState::Offered));
        for _ in 0..3 {
            assert!(!next.poll());
            context.scheduler.pace(true);
        }
        assert!(slow.is(PermitState::Lapsed) && next.poll());
        assert!(!slow.poll(), "it is in the queue again");
        let mut last = Request::new(&members[0], false);
        drop(next.held.take());
        assert!(!last.poll() && slow.poll(), "at its old place");
        let metrics = members[0].group().metrics();
        assert_eq!((metrics.requests, metrics.waiting), (3, 1));
    }

    #[test]
    fn an_append_is_not_offered_before_the_one_before_it_is_admitted() {
        let (_context, members) = groups(3, &[100, 100]);
        let busy: Vec<_> = (0..3).map(|_| Request::new(&members[0], false)).collect();
        let mut first = Request::new(&members[0], true);
        let mut second = Request::new(&members[0], true);
        let mut other = Request::new(&members[1], true);
        drop(busy);
        assert!(other.poll(), "of another group");
        assert!(!second.poll());
        assert!(first.poll() && !second.poll());
        first.permit.on_admitted();
        assert!(second.poll());
    }

    #[test]
    fn everything_goes_once_the_context_has_stopped() {
        let (context, members) = groups(1, &[100]);
        let mut requests: Vec<_> = (0..4).map(|_| Request::new(&members[0], false)).collect();
        context.stop();
        assert!(requests.iter_mut().all(Request::poll));
        requests.push(Request::new(&members[0], false));
        assert!(requests.iter_mut().all(Request::poll));
        drop(requests);
        let metrics = members[0].group().metrics();
        assert_eq!((metrics.waiting, metrics.in_flight), (0, 0));
    }

    #[test]
    fn a_context_that_is_dropped_leaves_nothing_behind() {
        let group = IoGroup::new("a");
        let context = ContextGroups::new(1, Box::new(|| None));
        let member = context.join(&group).unwrap();
        let scheduler = Arc::downgrade(&context.scheduler);
        let requests: Vec<_> = (0..4).map(|_| Request::new(&member, true)).collect();
        context.stop();
        drop((context, member, requests));
        assert!(scheduler.upgrade().is_none());
    }

    #[test]
    fn requests_of_slow_tasks_have_their_turn_all_the_same() {
        const DELAY: u32 = 4; // ticks from a wake to the poll: more than an offer lasts at first
        let (context, members) = groups(1, &[100]);
        let first = Request::new(&members[0], false);
        let mut waiting: Vec<_> = (0..4).map(|_| Request::new(&members[0], false)).collect();
        let mut polled_at = [None; 4];
        let mut done = 0;
        drop(first);
        for tick in 0..1000 {
            context.scheduler.pace(true);
            for (request, polled_at) in waiting.iter_mut().zip(&mut polled_at) {
                if request.wakes() > 0 && polled_at.is_none() {
                    *polled_at = Some(tick + DELAY);
                }
                if *polled_at == Some(tick) {
                    *polled_at = None;
                    request.wakes = Arc::default();
                    if request.poll() {
                        done += 1;
                        *request = Request::new(&members[0], false);
                    }
                }
            }
        }
        assert!(done > 50, "{done} in 1000 ticks");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pacer_does_not_wake_for_a_limit_while_no_permit_is_free() {
        let (context, members) = groups(1, &[100, 100]);
        let limited = members[0].group();
        limited.set_max_iops(20);
        drop(Request::new(&members[0], false));
        let waits = Request::new(&members[0], false);
        let mut holds = Request::new(&members[1], false);
        assert!(waits.is(PermitState::Waiting) && holds.poll());
        tokio::time::advance(Duration::from_millis(60)).await; // the limit allows the next request
        let pause = context.scheduler.pace(false).unwrap();
        assert!(pause >= TICK, "{pause:?}");
        (0..100).for_each(|_| assert!(limited.charge_limits(0)));
        let is_notified = || context.scheduler.pacer.notified().now_or_never().is_some();
        while is_notified() {}
        drop(holds);
        assert!(is_notified(), "it knows a new time");
        assert!(waits.is(PermitState::Waiting));
    }

    #[test]
    fn a_group_that_is_joined_for_each_request_has_no_more_than_its_share() {
        let context = ContextGroups::new(1, Box::new(|| None));
        let [light, heavy] = [100, 400].map(|weight| IoGroup::new("test").with_weight(weight));
        let heavy = context.join(&heavy).unwrap();
        let join = || Request::new(&context.join(&light).unwrap(), false);
        let mut others: Vec<_> = (0..4).map(|_| Request::new(&heavy, false)).collect();
        let (mut request, mut turns) = (Some(join()), 0);
        for _ in 0..100 {
            if request.as_mut().is_some_and(Request::poll) {
                turns += 1;
                drop(request.take());
                context.scheduler.pace(true);
                request = Some(join());
            }
            if let Some(held) = others.iter_mut().position(Request::poll) {
                drop(others.remove(held));
                others.push(Request::new(&heavy, false));
            }
        }
        assert!((20..=30).contains(&turns), "{turns} of 125");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_not_refunded_for_requests_that_a_stopped_context_let_go() {
        let group = IoGroup::new("a").with_max_iops(1);
        let context = ContextGroups::new(1000, Box::new(|| None));
        let member = context.join(&group).unwrap();
        (0..100).for_each(|_| assert!(group.charge_limits(0))); // by another context
        let waiting: Vec<_> = (0..100).map(|_| Request::new(&member, false)).collect();
        let before = group.limit_wait();
        context.stop();
        drop(waiting);
        let after = group.limit_wait();
        assert!(after > before / 2, "{before:?}, {after:?}");
    }

    #[test]
    fn a_group_whose_requests_are_done_is_not_kept() {
        let context = ContextGroups::new(1, Box::new(|| None));
        for appends in [false, true] {
            for takes in [false, true] {
                let member = context.join(&IoGroup::new("tenant")).unwrap();
                let weak = Arc::downgrade(&member);
                let first = Request::new(&member, appends);
                let mut waiting = Request::new(&member, appends);
                drop(first);
                assert!(waiting.is(PermitState::Offered));
                assert!(!takes || waiting.poll());
                drop(waiting.held.take());
                drop((waiting, member));
                assert_eq!(weak.strong_count(), 0, "{appends}, {takes}");
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Make { group: usize },
        Poll { which: usize },
        Complete { which: usize },
        Drop { which: usize },
        Forget { which: usize },
        Tick,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let which = 0..1000_usize;
        let step = prop_oneof![
            4 => (0..3_usize).prop_map(|group| Step::Make { group }),
            4 => which.clone().prop_map(|which| Step::Poll { which }),
            3 => which.clone().prop_map(|which| Step::Complete { which }),
            2 => which.clone().prop_map(|which| Step::Drop { which }),
            1 => which.prop_map(|which| Step::Forget { which }),
            1 => Just(Step::Tick),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 200 }))]

        /// Whatever requests do: at most `depth` permits are in use, none is idle while requests wait, and at
        /// the end all of them can be had.
        #[test]
        fn no_permit_is_lost(depth in 1..4_usize, steps in steps()) {
            let (context, members) = groups(depth, &[1, 100, 10_000]);
            let mut requests: Vec<Request> = Vec::new();
            let mut forgotten: Vec<Arc<Permit>> = Vec::new();
            for step in steps {
                let pick = |which: usize| which % requests.len().max(1);
                match step {
                    Step::Make { group } => requests.push(Request::new(&members[group], false)),
                    Step::Poll { which } => {
                        let which = pick(which);
                        requests.get_mut(which).map(Request::poll);
                    }
                    Step::Complete { which } => {
                        let which = pick(which);
                        if requests.get(which).is_some_and(|request| request.held.is_some()) {
                            requests[which].permit.wake_task();
                            drop(requests.swap_remove(which));
                        }
                    }
                    Step::Drop { which } => {
                        let which = pick(which);
                        if which < requests.len() {
                            drop(requests.swap_remove(which));
                        }
                    }
                    Step::Forget { which } => {
                        let which = pick(which);
                        if requests.get(which).is_some_and(|request| request.held.is_none()) {
                            let request = requests.swap_remove(which);
                            forgotten.push(Arc::clone(&request.permit));
                            std::mem::forget(request);
                        }
                    }
                    Step::Tick => drop(context.scheduler.pace(true)),
                }
                let permits = || requests.iter().map(|r| &r.permit).chain(&forgotten);
                let count = |state| permits().filter(|permit| permit.is(state)).count();
                let in_use = count(PermitState::Offered) + count(PermitState::Held);
                prop_assert!(in_use <= depth);
                prop_assert!(in_use == depth || count(PermitState::Waiting) == 0);
            }
            drop(requests);
            let mut last: Vec<_> = (0..depth).map(|_| Request::new(&members[0], false)).collect();
            // Those that are forgotten have to lapse, one after another: each may have the longest of all offers.
            let longest = (LAPSE_TICKS << MAX_DOUBLINGS) as usize + 1;
            for _ in 0..longest * (forgotten.len() + 1) {
                context.scheduler.pace(true);
                for request in &mut last {
                    request.poll();
                }
            }
            prop_assert!(last.iter_mut().all(Request::poll));
        }
    }
}
