//! [`watch`]: one request, and its submission.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio_kaio::AioContextHandle;

use super::slept::times_slept;

/// One request, and its submission.
pub(super) struct Watched<T> {
    pub(super) result: T,
    /// The first poll submitted it. What follows is of no meaning otherwise.
    pub(super) submitted: bool,
    pub(super) slept: bool,
    pub(super) done: bool,
    /// Time in `io_submit`.
    pub(super) inside: Duration,
    /// Time until it was done.
    pub(super) time: Duration,
}

pub(super) async fn watch<T>(
    handle: &AioContextHandle,
    request: impl Future<Output = T>,
) -> Watched<T> {
    let mut request = pin!(request);
    let (before, slept) = (handle.metrics(), times_slept());
    let began = Instant::now();
    let first = poll_fn(|context| Poll::Ready(request.as_mut().poll(context))).await;
    let at_once = began.elapsed();
    let (after, slept) = (handle.metrics(), times_slept() - slept);
    let done = first.is_ready();
    let (result, time) = match first {
        Poll::Ready(result) => (result, at_once),
        Poll::Pending => (request.await, began.elapsed()),
    };
    Watched {
        result,
        submitted: after.timed_submits == before.timed_submits + 1,
        slept: slept != 0,
        done,
        inside: after.submit_time - before.submit_time,
        time,
    }
}
