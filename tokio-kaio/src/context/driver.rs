//! [`Driver`]: the background task of a context.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

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
    },
    /// Until everything is given back.
    Ending(Pin<Box<dyn Future<Output = ()> + Send>>),
}

const SHORTEST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

impl<F: Flavour> Driver<F> {
    pub(crate) fn new(shared: Arc<Shared<F>>) -> Driver<F> {
        Driver {
            shared,
            stage: Stage::Running {
                pause: SHORTEST_PAUSE,
            },
        }
    }
}

impl<F: Flavour> Future for Driver<F> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Stage::Running { pause } = &mut this.stage {
            let reaper = &this.shared.reaper;
            reaper.register_driver(cx.waker());
            let signal = reaper.take_signal().then(|| reaper.waker());
            match this.shared.drive(signal.as_ref()) {
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

impl<F: Flavour> Drop for Driver<F> {
    fn drop(&mut self) {
        self.shared.orphan();
        self.shared.reaper.forget_driver();
    }
}
