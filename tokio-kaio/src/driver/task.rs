//! [`DriverTask`]: the background task of a context.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use super::{CompletionWaker, ContextTypes, DriveResult};
use crate::teardown::wait_until_gone;

/// Submits queued requests after the tasks that were ready have run. Resolves when the context has given
/// everything back.
///
/// Dropped before that, as when its runtime shuts down, it ends the context: operations that are not
/// done get [`AioStopped`](crate::AioCommandError::AioStopped), and the kernel keeps the memory that it
/// uses.
pub(crate) struct DriverTask<T: ContextTypes> {
    completion_waker: Arc<CompletionWaker<T>>,
    driver: Arc<super::Driver<T>>,
    state: State,
}

enum State {
    Running {
        /// How long to wait before the next look for completions that are not signalled.
        pause: Duration,
        order: PollOrder,
    },
    /// Until everything is given back.
    Ending(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// Whether the tasks that were ready have run when the driver task is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollOrder {
    /// Maybe not: a worker of the multi-threaded runtime first polls the task that was woken last.
    Early,
    /// They have: the driver task has let them run first.
    Late,
    /// They always have: the queue of the runtime is first in, first out.
    Fair,
}

const SHORTEST_PAUSE: Duration = Duration::from_micros(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(10);

impl<T: ContextTypes> DriverTask<T> {
    pub(crate) fn new(
        driver: Arc<super::Driver<T>>,
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
            match driver.drive(signal.as_ref(), order.take()) {
                DriveResult::Yield => {
                    *order = PollOrder::Late;
                    cx.waker().wake_by_ref(); // a task that wakes itself goes to the end of the queue
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

impl PollOrder {
    /// Of a task that any thread of the current runtime may poll.
    pub(crate) fn of_runtime() -> PollOrder {
        match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => PollOrder::Early,
            _ => PollOrder::Fair,
        }
    }

    /// The order of this poll; the next one is early again.
    fn take(&mut self) -> PollOrder {
        match *self {
            PollOrder::Late => mem::replace(self, PollOrder::Early),
            order => order,
        }
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
