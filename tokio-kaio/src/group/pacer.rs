//! The pacer: the task that lets requests go on when time has passed, for a limit or for an offer that was not
//! taken.

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::group_scheduler::{GroupScheduler, PacerState, TICK};

/// Starts the pacer of a scheduler, on the runtime of its context. It ends when nothing waits. This is the only
/// place where groups use a timer. Does nothing if the context has been torn down: then its operations fail.
pub(super) fn start(scheduler: &Arc<GroupScheduler>) {
    let Some(runtime) = (scheduler.runtime)() else {
        return;
    };
    let pacer = Pacer {
        scheduler: Arc::clone(scheduler),
        is_done: false,
    };
    drop(runtime.spawn(pacer.run()));
}

/// Reports its end, also if its runtime ends, or has no timer.
struct Pacer {
    scheduler: Arc<GroupScheduler>,
    is_done: bool,
}

impl Pacer {
    async fn run(mut self) {
        let mut last_tick = Instant::now();
        loop {
            let ticked = last_tick.elapsed() >= TICK;
            if ticked {
                last_tick = Instant::now();
            }
            let Some(pause) = self.scheduler.pace(ticked) else {
                self.is_done = true;
                return;
            };
            let _ = timeout(pause, self.scheduler.pacer.notified()).await;
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        self.scheduler
            .on_pacer_gone(match std::thread::panicking() {
                true => PacerState::Failed, // the runtime has no timer
                false => PacerState::Idle,
            });
    }
}
