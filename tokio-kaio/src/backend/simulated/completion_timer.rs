//! [`CompletionTimer`]: finishes the requests of a context when they are due.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use super::request_queue::{NextDue, RequestQueue};
use crate::sync::DriverWaker;

/// The task that finishes the requests of one context when they are due, and wakes the driver task. It ends
/// when the backend is dropped.
#[derive(Debug)]
pub(crate) struct CompletionTimer {
    queue: Arc<RequestQueue>,
    driver: Arc<DriverWaker>,
    sleep: Pin<Box<Sleep>>,
}

impl CompletionTimer {
    pub(super) fn new(queue: Arc<RequestQueue>, driver: Arc<DriverWaker>) -> CompletionTimer {
        CompletionTimer {
            queue,
            driver,
            sleep: Box::pin(sleep_until(Instant::now())),
        }
    }
}

impl Future for CompletionTimer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.queue.register_timer(cx.waker());
        loop {
            let (next, any_completed) = this.queue.finish_due();
            if any_completed {
                this.driver.wake();
            }
            match next {
                NextDue::Never => return Poll::Pending,
                NextDue::Closed => return Poll::Ready(()),
                NextDue::At(instant) => {
                    if this.sleep.deadline() != instant {
                        this.sleep.as_mut().reset(instant);
                    }
                    if this.sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
