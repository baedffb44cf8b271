//! Waiting without hanging.

use std::fmt::Debug;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio_kaio::{AioContextHandle, Metrics};

/// The time after which a test counts as hanging. No test takes as long on a machine that is busy, or that has
/// stopped the test for a while.
pub const HANG: Duration = Duration::from_secs(300);

/// Awaits `future`; panics after [`HANG`], so that a hang fails the test.
///
/// `future` is not polled again at the timeout, so a lost wakeup fails the test too.
pub async fn with_hang_guard<T>(future: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        () = tokio::time::sleep(HANG) => panic!("still running after {HANG:?}"),
        value = future => value,
    }
}

/// Runs `test` on a thread of its own; a hang fails the test.
pub fn bounded<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = test();
        let _ = sender.send(());
        result
    });
    match receiver.recv_timeout(HANG) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().unwrap(),
    }
}

/// Waits until `done`; panics after [`HANG`], with `state`.
pub async fn wait_until<S: Debug>(mut done: impl FnMut() -> bool, state: impl Fn() -> S) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < HANG, "still {:?}", state());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Like [`wait_until`], without a runtime.
pub fn block_until<S: Debug>(done: impl Fn() -> bool, state: impl Fn() -> S) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < HANG, "still {:?}", state());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `done`, also where tokio's clock stands still: the runtime never becomes idle, so the
/// clock does not advance by itself.
pub async fn spin_until<S: Debug>(mut done: impl FnMut() -> bool, state: impl Fn() -> S) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < HANG, "still {:?}", state());
        thread::sleep(Duration::from_micros(50));
        tokio::task::yield_now().await;
    }
}

/// Repeats `attempt` until it returns `Some`, for states that a test can't force; panics after [`HANG`].
pub async fn retry_until<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut attempts = 0;
    while start.elapsed() < HANG {
        if let Some(seen) = attempt().await {
            return seen;
        }
        attempts += 1;
    }
    panic!("not seen in {attempts} attempts");
}

/// Waits until every request of `handle` that goes through the blocking pool has a thread; until then
/// it could still be withdrawn.
pub async fn wait_until_all_offloaded(handle: &AioContextHandle) {
    while handle.metrics().waiting_for_thread > 0 {
        tokio::task::yield_now().await;
    }
}

/// NOWAIT refusals and offloads that `handle` has counted since `before`.
pub fn since(handle: &AioContextHandle, before: &Metrics) -> (u64, u64) {
    let since = handle.metrics().since(before);
    (since.nowait_refusals, since.offloads)
}

/// Waits until all `slots` of a context are free.
pub async fn wait_all_free(handle: &AioContextHandle, slots: usize) {
    let free = || handle.available_slots();
    wait_until(|| free() == Some(slots), free).await;
}

/// Waits until all `slots` of a context are free; asserts that its counters show no work left.
pub async fn assert_idle(handle: &AioContextHandle, slots: usize) {
    wait_all_free(handle, slots).await;
    assert_no_work(&handle.metrics());
}

/// Waits until no request is in flight; asserts that the counters show no work left.
pub async fn assert_no_work_left(handle: &AioContextHandle) {
    let in_flight = || handle.metrics().in_flight;
    wait_until(|| in_flight() == 0, in_flight).await;
    assert_no_work(&handle.metrics());
}

fn assert_no_work(metrics: &Metrics) {
    assert_eq!(metrics.submitted, metrics.completed, "{metrics:?}");
    let left = (
        metrics.queued,
        metrics.in_flight,
        metrics.waiting_for_thread,
    );
    assert_eq!(left, (0, 0, 0), "{metrics:?}");
    assert_eq!(metrics.abandoned_in_flight, 0, "{metrics:?}");
}
