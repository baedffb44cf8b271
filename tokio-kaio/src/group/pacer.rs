//! The pacer: the task that lets requests go on when time has passed, for a limit or for an offer that was not
//! taken.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::group_scheduler::{GroupScheduler, PacerState, TICK};

/// Starts the pacer of a scheduler, on the runtime of its context or on the current one. It ends when nothing
/// waits. This is the only place where groups use a timer. Returns `false` if there is no runtime.
pub(super) fn start(scheduler: &Arc<GroupScheduler>) -> bool {
    let runtime = match &scheduler.runtime {
        Some(runtime) => runtime.clone(),
        None => match Handle::try_current() {
            Ok(runtime) => runtime,
            Err(_) => return false,
        },
    };
    let pacer = Pacer {
        scheduler: Arc::clone(scheduler),
        is_done: false,
    };
    drop(runtime.spawn(pacer.run()));
    true
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
