//! [`GroupScheduler`]: the permits of one context, and the requests that wait for them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::fair_queue::{FairQueue, FlowId, Verdict};
use super::io_group::{IoGroup, LimitWatcher, cost};
use super::permit::{Permit, PermitState};
use crate::sync::contain;

/// The scheduler of one context: at most `depth` permits are in use, and the requests of groups wait for them in
/// a [`FairQueue`].
///
/// A permit that becomes free is *offered* to the next request, whose task is woken, and to no other. From then
/// on it is in use. Requests that wait behind it must not wait for a future that nobody polls, so an offer that
/// is not taken *lapses* ([`LAPSE_TICKS`]).
pub(super) struct GroupScheduler {
    depth: usize,
    state: Mutex<State>,
    /// Wakes the pacer before its pause is over.
    pub(super) pacer: Notify,
    /// The runtime of the context, where the pacer runs.
    pub(super) runtime: RuntimeSource,
}

/// Returns the runtime of a context, or `None` if the context has been torn down.
pub(crate) type RuntimeSource = Box<dyn Fn() -> Option<Handle> + Send + Sync>;

struct State {
    queue: FairQueue<Flow, Arc<Permit>>,
    /// Permits that are offered or held.
    in_use: usize,
    /// The context has stopped: everything goes on at once, and the driver refuses it.
    stopped: bool,
    pacer: PacerState,
    /// Offers that may not have been taken yet, and their age in ticks of the pacer.
    offers: Vec<(Arc<Permit>, u32)>,
    /// When the first of the groups that are held back by a limit may go on.
    next_release: Option<Instant>,
    /// The pacer pauses for longer than a [`TICK`], because there are no offers to check.
    is_long_pause: bool,
}

struct Flow {
    group: IoGroup,
    /// An append that was offered a permit and is not admitted yet. Later requests of the group wait for it, so
    /// that appends are admitted in order.
    append: Option<Arc<Permit>>,
}

/// The task that offers permits when time has passed, while requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacerState {
    Idle,
    Running,
    /// Its runtime has no timer.
    Failed,
}

/// What to do after the lock is released.
#[derive(Default)]
#[must_use]
pub(super) struct Effects {
    wake: Vec<Arc<Permit>>,
    /// The last reference to a permit, or to a group, must not be dropped under the lock.
    dropped: Vec<Arc<Permit>>,
    removed: Vec<Flow>,
    notify_pacer: bool,
}

/// Interval in which the pacer checks for offers that were not taken.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// An offer that is older than this many ticks lapses, after 20 to 30 ms. The next offer to the same request lasts
/// twice as long, and so on: a task that is slow to poll its future must have its turn in the end.
pub(super) const LAPSE_TICKS: u32 = 2;

/// How often that time doubles: to 1.3 s.
pub(super) const MAX_DOUBLINGS: u32 = 6;

/// The same for appends. They are admitted in the order in which they were made, unless a task does not poll its
/// future for so long.
const APPEND_LAPSE_TICKS: u32 = 100;

/// The pacer is not woken for less: this is the resolution of its timer.
const RELEASE_RESOLUTION: Duration = Duration::from_millis(1);

/// Longest pause of the pacer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl GroupScheduler {
    /// Creates a scheduler with `depth` permits, at least one.
    pub(super) fn new(depth: usize, runtime: RuntimeSource) -> GroupScheduler {
        GroupScheduler {
            depth: depth.max(1),
            state: Mutex::new(State {
                queue: FairQueue::new(),
                in_use: 0,
                stopped: false,
                pacer: PacerState::Idle,
                offers: Vec::new(),
                next_release: None,
                is_long_pause: false,
            }),
            pacer: Notify::new(),
            runtime,
        }
    }

    /// Changes the state under the lock, then carries out the effects.
    fn with<R>(&self, change: impl FnOnce(&mut State, &mut Effects) -> R) -> R {
        let mut effects = Effects::default();
        let result = change(&mut self.state.lock(), &mut effects);
        effects.run(self);
        result
    }

    pub(super) fn add_flow(&self, group: IoGroup) -> FlowId {
        let is_same = {
            let group = group.clone();
            move |known: &Flow| known.group.is(&group)
        };
        let flow = Flow {
            group,
            append: None,
        };
        self.state.lock().queue.add_flow(flow, is_same)
    }

    pub(super) fn remove_flow(&self, flow: FlowId) {
        let mut state = self.state.lock();
        let removed = (state.queue.remove_flow(flow), state.queue.take_removed());
        drop(state);
        drop(removed); // after the lock
    }

    /// Offers a new permit, or queues it.
    pub(super) fn acquire(&self, flow: FlowId, permit: &Arc<Permit>) {
        self.with(|state, effects| {
            if state.stopped || state.goes_at_once(flow, permit, self.depth) {
                permit.change(PermitState::Waiting, PermitState::Offered);
                return;
            }
            let position = state.queue.push(flow, Arc::clone(permit));
            permit.position.store(position, Ordering::Relaxed);
            if let Some(Flow { group, .. }) = state.queue.flow(flow) {
                let now = nanoseconds(group.now());
                permit.waits_since.store(now, Ordering::Relaxed);
                group.counters().start_wait();
            }
            state.dispatch(self.depth, effects);
            effects.wake.retain(|offered| !Arc::ptr_eq(offered, permit)); // its future is being polled
        });
    }

    /// Queues a permit again that has lapsed.
    pub(super) fn requeue(&self, flow: FlowId, permit: &Arc<Permit>) {
        self.with(|state, effects| {
            if !permit.change(PermitState::Lapsed, PermitState::Waiting) {
                return;
            }
            if state.stopped {
                permit.change(PermitState::Waiting, PermitState::Offered);
                return;
            }
            let position = permit.position.load(Ordering::Relaxed);
            if let Some(Flow { group, .. }) = state.queue.flow(flow) {
                group.counters().start_wait();
            }
            state.queue.insert(flow, position, Arc::clone(permit));
            state.dispatch(self.depth, effects);
            effects.wake.retain(|offered| !Arc::ptr_eq(offered, permit));
        });
    }

    /// Takes back a permit that was held.
    pub(super) fn give_back(&self, flow: FlowId, permit: &Permit) {
        self.with(|state, effects| {
            state.forget_append(flow, permit, effects);
            state.release(self.depth, effects);
        });
    }

    /// Takes back a permit that was offered and was not wanted, or removes it from the queue.
    pub(super) fn cancel(&self, flow: FlowId, permit: &Arc<Permit>) {
        self.with(|state, effects| {
            state.forget_append(flow, permit, effects);
            if permit.change(PermitState::Waiting, PermitState::Returned) {
                let position = permit.position.load(Ordering::Relaxed);
                effects.dropped.extend(state.queue.remove(flow, position));
                if let Some(flow) = state.queue.flow(flow) {
                    flow.group.counters().end_wait();
                    flow.refund(permit);
                }
                // The next request of the group may need less, and a queue of lapsed permits is empty now.
                state.dispatch(self.depth, effects);
            } else if permit.change(PermitState::Offered, PermitState::Returned) {
                if let Some(flow) = state.queue.flow(flow) {
                    flow.refund(permit);
                }
                state.release(self.depth, effects);
            } else {
                permit.change(PermitState::Lapsed, PermitState::Returned);
            }
        });
    }

    /// Lets the requests behind an append go on.
    pub(super) fn on_append_admitted(&self, flow: FlowId, permit: &Permit) {
        self.with(|state, effects| {
            state.forget_append(flow, permit, effects);
            state.dispatch(self.depth, effects);
        });
    }

    /// Lets everything go on. The driver refuses it.
    pub(super) fn stop(&self) {
        self.with(|state, effects| {
            state.stopped = true;
            state.queue.take_all(|flow, permit| {
                flow.group.counters().end_wait();
                permit.change(PermitState::Waiting, PermitState::Offered);
                effects.wake.push(permit);
            });
            let offers = state.offers.drain(..);
            effects.dropped.extend(offers.map(|(permit, _)| permit));
            let appends = state.queue.flows_mut().flat_map(|flow| flow.append.take());
            effects.dropped.extend(appends);
            effects.notify_pacer = true;
        });
    }

    /// Returns the state of the pacer, for a request that waits. If it is `Idle`, the caller must start it: it
    /// is `Running` from now on.
    pub(super) fn reserve_pacer(&self) -> PacerState {
        let mut state = self.state.lock();
        match state.pacer {
            PacerState::Idle if !state.queue.is_empty() => {
                std::mem::replace(&mut state.pacer, PacerState::Running)
            }
            PacerState::Idle => PacerState::Running, // nothing waits any more
            known => known,
        }
    }

    /// Notes that the pacer has ended. All requests that wait are polled, and start another one.
    pub(super) fn on_pacer_gone(&self, ended: PacerState) {
        self.with(|state, effects| {
            state.pacer = ended;
            effects.wake.extend(state.queue.items().cloned());
        });
    }

    /// Offers what time allows. Returns how long to pause, or `None` if the pacer is no longer needed. `ticked`:
    /// a [`TICK`] has passed since the offers were last checked.
    pub(super) fn pace(&self, ticked: bool) -> Option<Duration> {
        self.with(|state, effects| {
            if ticked {
                state.check_offers(self.depth, effects);
            }
            state.dispatch(self.depth, effects);
            effects.notify_pacer = false; // it is running
            if state.queue.is_empty() {
                state.pacer = PacerState::Idle;
                return None;
            }
            if state.in_use >= self.depth {
                state.next_release = None; // a permit that is returned sets it, and notifies the pacer
            }
            let until_release = state
                .next_release
                .map(|time| time.saturating_duration_since(Instant::now()));
            let pause = until_release.unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
            state.is_long_pause = state.offers.is_empty() && pause > TICK;
            Some(match state.is_long_pause {
                true => pause,
                false => pause.min(TICK),
            })
        })
    }
}

impl State {
    /// Whether a new permit is offered at once: nothing waits, and there is a free one. Charges the group then.
    fn goes_at_once(&mut self, id: FlowId, permit: &Arc<Permit>, depth: usize) -> bool {
        if self.in_use >= depth || !self.queue.is_empty() {
            return false;
        }
        let Some(flow) = self.queue.flow(id) else {
            return false;
        };
        match flow.judge(permit) {
            Ok(Verdict::Go { cost, weight }) => {
                self.queue.charge(id, cost, weight);
                self.in_use += 1;
                true
            }
            _ => false,
        }
    }

    fn release(&mut self, depth: usize, effects: &mut Effects) {
        self.in_use = self.in_use.saturating_sub(1);
        if self.queue.is_empty() {
            if self.in_use == 0 {
                self.queue.end_busy_period();
                self.forget_taken_offers(effects); // all of them: nothing is offered
                effects.removed.extend(self.queue.take_removed());
            }
            return;
        }
        self.dispatch(depth, effects);
    }

    /// Ends the wait of the requests behind `permit`, if it is that of an append.
    fn forget_append(&mut self, flow: FlowId, permit: &Permit, effects: &mut Effects) {
        if let Some(flow) = self.queue.flow(flow).filter(|_| permit.appends) {
            let is_it = |append: &mut Arc<Permit>| std::ptr::eq(&**append, permit);
            effects.dropped.extend(flow.append.take_if(is_it));
        }
    }

    /// Offers free permits to the next requests.
    fn dispatch(&mut self, depth: usize, effects: &mut Effects) {
        if self.stopped || self.in_use >= depth || self.queue.is_empty() {
            return;
        }
        let mut shortest: Option<Duration> = None;
        while self.in_use < depth {
            let next = self.queue.pop(|flow, permit| match flow.judge(permit) {
                Ok(verdict) => {
                    flow.on_offer(permit, effects);
                    verdict
                }
                Err(HeldBack::ByAppend) => Verdict::HoldBack,
                Err(HeldBack::ByLimit(wait)) => {
                    shortest = Some(shortest.map_or(wait, |shortest| shortest.min(wait)));
                    Verdict::HoldBack
                }
            });
            let Some(permit) = next else { break };
            self.in_use += 1;
            permit.change(PermitState::Waiting, PermitState::Offered);
            self.add_offer(&permit, effects);
            effects.wake.push(permit);
        }
        let Some(wait) = shortest else {
            if self.in_use < depth {
                self.next_release = None;
            }
            return; // or not all groups were asked
        };
        let release = Instant::now() + wait;
        let is_sooner = |known| release + RELEASE_RESOLUTION < known;
        effects.notify_pacer |= self.next_release.is_none_or(is_sooner);
        self.next_release = Some(release);
    }

    fn add_offer(&mut self, permit: &Arc<Permit>, effects: &mut Effects) {
        effects.notify_pacer |= std::mem::take(&mut self.is_long_pause);
        if self.offers.len() >= 2 * self.in_use.max(16) {
            self.forget_taken_offers(effects);
        }
        self.offers.push((Arc::clone(permit), 0));
    }

    fn forget_taken_offers(&mut self, effects: &mut Effects) {
        let mut index = 0;
        while let Some((permit, _)) = self.offers.get(index) {
            match permit.is(PermitState::Offered) {
                true => index += 1,
                false => effects.dropped.push(self.offers.swap_remove(index).0),
            }
        }
    }

    /// Lets old offers lapse.
    fn check_offers(&mut self, depth: usize, effects: &mut Effects) {
        self.forget_taken_offers(effects);
        let mut index = 0;
        while let Some((permit, age)) = self.offers.get_mut(index) {
            *age += 1;
            let limit = match permit.appends {
                true => APPEND_LAPSE_TICKS,
                false => LAPSE_TICKS << permit.lapses.load(Ordering::Relaxed).min(MAX_DOUBLINGS),
            };
            if *age <= limit || !permit.change(PermitState::Offered, PermitState::Lapsed) {
                index += 1;
                continue;
            }
            permit.lapses.fetch_add(1, Ordering::Relaxed);
            let (permit, _) = self.offers.swap_remove(index);
            effects.dropped.push(permit);
            self.release(depth, effects);
        }
    }
}

/// Why a request may not go.
enum HeldBack {
    ByAppend,
    ByLimit(Duration),
}

impl Flow {
    /// Decides about the next request of the flow. Charges the limits if it goes.
    fn judge(&mut self, permit: &Permit) -> Result<Verdict, HeldBack> {
        let is_pending =
            |append: &Arc<Permit>| append.is(PermitState::Offered) || append.is(PermitState::Held);
        if self.append.as_ref().is_some_and(is_pending) {
            return Err(HeldBack::ByAppend);
        }
        if permit.was_offered() {
            return Ok(Verdict::GoAgain);
        }
        let wait = self.group.limit_wait();
        if wait > Duration::ZERO {
            return Err(HeldBack::ByLimit(wait));
        }
        let is_charged = self.group.charge_limits(permit.bytes);
        permit.is_charged.store(is_charged, Ordering::Relaxed);
        Ok(Verdict::Go {
            cost: cost(permit.bytes),
            weight: self.group.weight(),
        })
    }

    /// Takes back the charge for a request that is not made.
    fn refund(&self, permit: &Permit) {
        if permit.is_charged.swap(false, Ordering::Relaxed) {
            self.group.refund_limits(permit.bytes);
        }
    }

    /// Notes that the wait of a request is over.
    fn on_offer(&mut self, permit: &Arc<Permit>, effects: &mut Effects) {
        let counters = self.group.counters();
        counters.end_wait();
        if !permit.was_offered() {
            let since = permit.waits_since.load(Ordering::Relaxed);
            let waited = nanoseconds(self.group.now()).saturating_sub(since).max(1);
            permit.waited.store(waited, Ordering::Relaxed);
            counters.add_wait(waited);
        }
        if permit.appends {
            effects
                .dropped
                .extend(self.append.replace(Arc::clone(permit)));
        }
    }
}

impl Effects {
    fn run(self, scheduler: &GroupScheduler) {
        for permit in &self.wake {
            permit.wake_task();
        }
        if self.notify_pacer {
            scheduler.pacer.notify_one();
        }
        for permit in self.wake.into_iter().chain(self.dropped) {
            contain(|| drop(permit)); // drops the waker of a task
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl LimitWatcher for GroupScheduler {
    fn on_limits_changed(&self) {
        self.with(|state, effects| {
            state.dispatch(self.depth, effects);
            effects.notify_pacer = true;
        });
    }
}

impl std::fmt::Debug for GroupScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupScheduler")
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}
