//! [`Driver`]: the background task of a context.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use super::shared::Shared;
use super::state::Driven;
use super::teardown::given_back;
use crate::request::Flavour;

/// Submits what futures have queued, when the tasks that were ready have run. Ends when the
/// context has given everything back.
///
/// Dropped before that, as when its runtime shuts down, it ends the context: what waits gets
/// [`AioStopped`](crate::AioCommandError::AioStopped), and what the kernel still has is kept until
/// the kernel is done.
pub(crate) struct Driver<F: Flavour> {
    shared: Arc<Shared<F>>,
    stage: Stage,
}

enum Stage {
    Running {
        /// How long not to look for requests of whose end no signal tells.
        pause: Duration,
        turn: Turn,
    },
    /// Until everything is given back.
    Ending(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// Whether the tasks that were ready have run when the driver is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// They may not have: a worker of the multi-threaded runtime polls the task first that was
    /// woken last.
    Early,
    /// They have: the driver has let them go first.
    Late,
    /// They always have: the runtime's queue is first in, first out.
    Fair,
}

const SHORTEST_PAUSE: Duration = Duration::from_micros(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(10);

impl<F: Flavour> Driver<F> {
    pub(super) fn new(shared: Arc<Shared<F>>, turn: Turn) -> Driver<F> {
        Driver {
            shared,
            stage: Stage::Running {
                pause: SHORTEST_PAUSE,
                turn,
            },
        }
    }
}

impl<F: Flavour> Future for Driver<F> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Stage::Running { pause, turn } = &mut this.stage {
            let reaper = &this.shared.reaper;
            reaper.register_driver(cx.waker());
            let signal = reaper.take_signal().then(|| reaper.waker());
            match this.shared.drive(signal.as_ref(), turn.take()) {
                Driven::Early => {
                    *turn = Turn::Late;
                    cx.waker().wake_by_ref(); // a task that wakes itself goes to the end
                    return Poll::Pending;
                }
                Driven::Quiescent => {
                    *pause = SHORTEST_PAUSE;
                    return Poll::Pending;
                }
                Driven::Unsignalled => {
                    reaper.wake_driver_after(*pause);
                    *pause = (*pause * 2).min(LONGEST_PAUSE);
                    return Poll::Pending;
                }
                Driven::Gone => {
                    reaper.forget_driver();
                    let given_back = given_back(this.shared.watch_gone());
                    this.stage = Stage::Ending(Box::pin(given_back));
                }
            }
        }
        if let Stage::Ending(ended) = &mut this.stage {
            ready!(ended.as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl Turn {
    /// For a driver that any thread of the current runtime may poll.
    pub(super) fn of_runtime() -> Turn {
        match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => Turn::Early,
            _ => Turn::Fair,
        }
    }

    /// What it is now; the next one is early again.
    fn take(&mut self) -> Turn {
        match *self {
            Turn::Late => mem::replace(self, Turn::Early),
            turn => turn,
        }
    }
}

impl<F: Flavour> Drop for Driver<F> {
    fn drop(&mut self) {
        self.shared.orphan();
        self.shared.reaper.forget_driver();
    }
}
