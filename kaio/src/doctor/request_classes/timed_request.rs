//! [`time_request`]: times a request and its submission.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio_kaio::AioContextHandle;

use super::context_switches::voluntary_context_switches;

/// The times of a request and of its submission.
pub(super) struct TimedRequest<T> {
    pub(super) result: T,
    /// The first poll submitted the request. Otherwise the other fields are meaningless.
    pub(super) submitted: bool,
    pub(super) slept: bool,
    pub(super) done: bool,
    /// Time in `io_submit`.
    pub(super) inside: Duration,
    /// Time until the request was complete.
    pub(super) time: Duration,
}

pub(super) async fn time_request<T>(
    handle: &AioContextHandle,
    request: impl Future<Output = T>,
) -> TimedRequest<T> {
    let mut request = pin!(request);
    let (before, slept) = (handle.metrics(), voluntary_context_switches());
    let began = Instant::now();
    let first = poll_fn(|context| Poll::Ready(request.as_mut().poll(context))).await;
    let at_once = began.elapsed();
    let (after, slept) = (handle.metrics(), voluntary_context_switches() - slept);
    let done = first.is_ready();
    let (result, time) = match first {
        Poll::Ready(result) => (result, at_once),
        Poll::Pending => (request.await, began.elapsed()),
    };
    TimedRequest {
        result,
        submitted: after.timed_submits == before.timed_submits + 1,
        slept: slept != 0,
        done,
        inside: after.submit_time - before.submit_time,
        time,
    }
}
