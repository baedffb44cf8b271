//! When a request goes to the kernel at once, and when it waits for company.

use std::mem;
use std::ptr;
use std::task::Waker;

/// Guesses whether more requests will follow within the same turn of the runtime.
///
/// A request that goes alone costs a system call; one that waits for the driver to flush the queue
/// shares it, at the price of a switch to the driver's task. Waiting pays only where others
/// follow, and the only way to know is what happened last time:
///
/// - *alone*: requests go at once. The second one to arrive in a turn while the first is still
///   out ends it: they come in company. Where requests complete at once there is never one out to
///   be seen, so now and then one is made to wait, to see whether others follow: more and more
///   rarely as long as none do, since it is late by a switch of tasks, or of threads.
/// - *in company*: requests wait for the flush. It ends with a flush that finds a single one, or
///   with a few of those in a row where there was company before.
///
/// Between tasks that are *apart*, only requests of one task are company: see
/// [`State::tasks_are_apart`](super::state::State::tasks_are_apart).
#[derive(Debug, Default)]
pub(crate) struct Batching {
    company: bool,
    /// Requests that went alone since the last turn.
    this_turn: u32,
    /// Requests that went alone since one was last made to wait.
    since_probe: u32,
    /// Requests that were made to wait for company that was not seen.
    probes: u32,
    /// How often in a row that was in vain.
    in_vain: u32,
    /// How many requests the last flush found.
    last_flush: usize,
    /// Flushes since one was last put off.
    since_put_off: u32,
    /// Whose the latest one was that waits.
    latest_task: Task,
    /// Some task had two wait, one right after the other, since the last flush.
    same_task: bool,
    /// Flushes of a single one that are still to be put up with.
    patience: u32,
}

/// One in about so many requests is made to wait for company that may not come. Not at a fixed
/// distance: in waves of a length that divides it, each probe would be the last of its wave.
const PROBE_EVERY: u32 = 61;
const PROBE_JITTER: u32 = 8;

/// The distance doubles with each probe in vain, up to so many times.
const MOST_DOUBLINGS: u32 = 2;

/// One in so many flushes that seem complete is put off all the same, to see whether it was.
const PUT_OFF_EVERY: u32 = 16;

/// So many flushes of a single one in a row do not end a company that was one before: with several
/// workers, one may flush just when another one's tasks have not run.
const PATIENCE: u32 = 3;

impl Batching {
    /// Whether a new request should wait, with `in_flight` out already.
    pub(crate) fn should_wait(&mut self, in_flight: usize, waker: &Waker, apart: bool) -> bool {
        if self.company && (!apart || task_of(waker) == self.latest_task) {
            return true;
        }
        self.since_probe += 1;
        let followed = self.this_turn > 0 && in_flight > 0 && !apart;
        let distance = PROBE_EVERY << self.in_vain.min(MOST_DOUBLINGS);
        let probe = self.since_probe >= distance + self.probes % PROBE_JITTER;
        if followed || probe {
            self.probes = self.probes.wrapping_add(u32::from(probe));
            self.in_vain = self.in_vain.saturating_add(u32::from(probe));
            self.since_probe = 0;
            self.company = true;
            return true;
        }
        self.this_turn += 1;
        false
    }

    /// Whether a flush of `queued` requests would come too early, if tasks may be ready that have
    /// not run yet: one request alone, or fewer than half of the last time.
    pub(crate) fn is_early(&mut self, queued: usize, apart: bool) -> bool {
        if apart {
            return false;
        }
        self.since_put_off += 1;
        let complete = queued > 1 && queued * 2 >= self.last_flush;
        let early = !complete || self.since_put_off >= PUT_OFF_EVERY;
        if early {
            self.since_put_off = 0;
        }
        early
    }

    /// A request of the task behind `waker` waits.
    pub(crate) fn queued(&mut self, waker: &Waker) {
        let task = task_of(waker);
        self.same_task |= mem::replace(&mut self.latest_task, task) == task;
    }

    /// The queue was flushed with `requests` in it.
    pub(crate) fn flushed(&mut self, requests: usize, apart: bool) {
        let same_task = mem::take(&mut self.same_task);
        let company = requests > 1 && (same_task || !apart);
        if company {
            self.in_vain = 0;
        }
        self.company = company || self.patience > 0;
        self.patience = match company {
            true => PATIENCE,
            false => self.patience.saturating_sub(1),
        };
        self.last_flush = requests;
    }

    /// The runtime has turned: tasks that were ready have run.
    pub(crate) fn turned(&mut self) {
        self.this_turn = 0;
    }
}

/// What wakes a task, by address and kind.
type Task = (usize, usize);

fn task_of(waker: &Waker) -> Task {
    (waker.data().addr(), ptr::from_ref(waker.vtable()).addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_goes_at_once_but_for_the_probe() {
        let mut batching = Batching::default();
        let mut waited = vec![];
        for request in 0..100_000 {
            if batching.should_wait(0, Waker::noop(), false) {
                waited.push(request);
                batching.flushed(1, false);
            }
            batching.turned();
        }
        assert!(waited[0] < PROBE_EVERY);
        assert!(waited[1] - waited[0] >= 2 * PROBE_EVERY);
        let at_last = PROBE_EVERY << MOST_DOUBLINGS;
        let gap = waited[waited.len() - 1] - waited[waited.len() - 2];
        assert!((at_last..=at_last + PROBE_JITTER).contains(&gap), "{gap}");
    }

    #[test]
    fn the_second_of_a_turn_waits_and_so_do_all_after_it() {
        let mut batching = Batching::default();
        assert!(!batching.should_wait(0, Waker::noop(), false));
        for in_flight in 1..32 {
            assert!(batching.should_wait(in_flight, Waker::noop(), false));
        }
        batching.flushed(31, false);
        batching.turned();
        assert!(
            batching.should_wait(0, Waker::noop(), false),
            "the next wave goes together"
        );
    }

    #[test]
    fn company_that_stays_out_is_not_waited_for_again() {
        let mut batching = Batching::default();
        assert!(!batching.should_wait(0, Waker::noop(), false));
        assert!(batching.should_wait(1, Waker::noop(), false));
        batching.flushed(1, false);
        batching.turned();
        assert!(!batching.should_wait(1, Waker::noop(), false));
    }

    #[test]
    fn company_is_found_where_requests_complete_at_once() {
        let mut batching = Batching::default();
        let first = (0..)
            .position(|_| batching.should_wait(0, Waker::noop(), false))
            .unwrap();
        assert!(first < PROBE_EVERY as usize);
        batching.flushed(20, false);
        assert!(batching.should_wait(0, Waker::noop(), false));
    }

    #[test]
    fn waves_of_any_length_are_soon_found() {
        for wave in 2..200_usize {
            let mut batching = Batching::default();
            let found = (0..40_usize).any(|_| {
                let waiting = (0..wave)
                    .filter(|_| batching.should_wait(0, Waker::noop(), false))
                    .count();
                if waiting > 0 {
                    batching.flushed(waiting, false);
                }
                batching.turned();
                waiting == wave
            });
            assert!(found || wave < 7, "waves of {wave}");
        }
    }

    /// Differs from those of other numbers.
    fn task(number: usize) -> Waker {
        struct Task(#[allow(dead_code, reason = "has an address of its own")] usize);
        impl std::task::Wake for Task {
            fn wake(self: std::sync::Arc<Self>) {}
        }
        std::sync::Arc::new(Task(number)).into()
    }

    #[test]
    fn company_outlasts_a_few_flushes_of_one() {
        let mut batching = Batching::default();
        assert!(!batching.should_wait(0, Waker::noop(), false));
        assert!(batching.should_wait(1, Waker::noop(), false));
        batching.flushed(8, false);
        for _ in 0..PATIENCE {
            assert!(batching.should_wait(0, Waker::noop(), false));
            batching.flushed(1, false);
        }
        assert!(batching.should_wait(0, Waker::noop(), false));
        batching.flushed(1, false);
        batching.turned();
        assert!(!batching.should_wait(0, Waker::noop(), false));
    }

    #[test]
    fn tasks_that_are_apart_do_not_wait_for_one_another() {
        let mut batching = Batching::default();
        let tasks: Vec<_> = (0..32).map(task).collect();
        let mut waited = 0;
        for _ in 0..100 {
            for task in &tasks {
                if batching.should_wait(1, task, true) {
                    batching.queued(task);
                    waited += 1;
                    assert!(!batching.is_early(1, true), "the rest of a wave is there");
                    batching.flushed(1, true);
                }
            }
            batching.turned();
        }
        assert!(waited <= 3200 / PROBE_EVERY, "{waited} waited");
    }

    #[test]
    fn a_task_that_is_apart_still_has_its_own_wave_together() {
        let mut batching = Batching::default();
        let (ours, other) = (task(0), task(1));
        for _ in 0..20 {
            let mut queued = 0;
            for _ in 0..16 {
                if batching.should_wait(0, &ours, true) {
                    batching.queued(&ours);
                    queued += 1;
                }
            }
            batching.flushed(queued, true);
            batching.turned();
        }
        let waits = (0..16).filter(|_| batching.should_wait(0, &ours, true));
        assert_eq!(waits.count(), 16);
        assert!(!batching.should_wait(0, &other, true));
    }
}
