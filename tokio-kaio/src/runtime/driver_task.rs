//! [`DriverTask`]: the background task of a context.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use super::CompletionWaker;
use crate::config::ContextTypes;
use crate::driver::{DriveResult, Driver};
use crate::policy::PollOrder;
use crate::teardown::wait_until_gone;

/// Submits queued requests after the ready tasks have run. Resolves when the context has been torn down.
///
/// Dropping the task before that, as a runtime does when it shuts down, ends the context at once.
/// Unfinished operations fail with [`AioStopped`](crate::AioCommandError::AioStopped). Memory that the
/// kernel still uses is kept until the kernel is done.
pub(crate) struct DriverTask<T: ContextTypes> {
    completion_waker: Arc<CompletionWaker<T>>,
    driver: Arc<Driver<T>>,
    state: State,
}

enum State {
    Running {
        /// Time until the next reap of completions that are not signalled.
        pause: Duration,
        order: PollOrder,
    },
    /// Waits until the context has been torn down.
    Ending(Pin<Box<dyn Future<Output = ()> + Send>>),
}

const SHORTEST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

impl<T: ContextTypes> DriverTask<T> {
    pub(crate) fn new(
        driver: Arc<Driver<T>>,
        completion_waker: Arc<CompletionWaker<T>>,
        order: PollOrder,
    ) -> DriverTask<T> {
        DriverTask {
            completion_waker,
            driver,
            state: State::Running {
                pause: SHORTEST_PAUSE,
                order,
            },
        }
    }
}

impl<T: ContextTypes> Future for DriverTask<T> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Ok(driver) = this.driver.enter() else {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EINVAL)));
        };
        if let State::Running { pause, order } = &mut this.state {
            let driver_waker = &driver.driver_waker;
            driver_waker.register(cx.waker());
            let signal = driver_waker.take_signal();
            let signal = signal.then(|| this.completion_waker.waker());
            let this_order = *order;
            if *order == PollOrder::Late {
                *order = PollOrder::Early; // the next poll is early again
            }
            match driver.drive(signal.as_ref(), this_order) {
                DriveResult::Yield => {
                    *order = PollOrder::Late;
                    cx.waker().wake_by_ref(); // puts the task at the end of the run queue
                    return Poll::Pending;
                }
                DriveResult::Idle => {
                    *pause = SHORTEST_PAUSE;
                    return Poll::Pending;
                }
                DriveResult::Unsignalled => {
                    driver_waker.wake_after(*pause);
                    *pause = (*pause * 2).min(LONGEST_PAUSE);
                    return Poll::Pending;
                }
                DriveResult::Gone => {
                    driver_waker.unregister();
                    let gone = wait_until_gone(driver.gone());
                    this.state = State::Ending(Box::pin(gone));
                }
            }
        }
        if let State::Ending(gone) = &mut this.state {
            ready!(gone.as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

/// Returns the poll order of the driver task on the current runtime.
pub(crate) fn poll_order() -> PollOrder {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => PollOrder::Early,
        _ => PollOrder::Fair,
    }
}

impl<T: ContextTypes> Drop for DriverTask<T> {
    fn drop(&mut self) {
        if let Ok(driver) = self.driver.enter() {
            driver.orphan();
            driver.driver_waker.unregister();
        }
    }
}
