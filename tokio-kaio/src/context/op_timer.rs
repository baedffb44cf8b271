//! [`OpTimer`]: the timer of an operation with a time limit.
#![allow(unsafe_code)]

use std::future::{Future, poll_fn};
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::sync::{AtomicWaker, OwnRuntime, OwnThread, contain};

/// Resolves at a deadline. One pointer, because every operation has room for it.
pub(crate) struct OpTimer(ManuallyDrop<Pin<Box<Timer>>>);

struct Timer {
    /// Never moved: see [`OpTimer::sleep`].
    sleep: Sleep,
    /// Woken by `sleep`, if `runtime` is set.
    task: Option<Arc<TimerTask>>,
    /// The runtime of `sleep`, if that belongs to the context. Declared later, so dropped later.
    runtime: Option<Arc<OwnRuntime>>,
}

/// The task of an operation, woken on the thread of the context. A panic of its waker must not end that thread.
struct TimerTask(AtomicWaker);

impl Wake for TimerTask {
    fn wake(self: Arc<Self>) {
        contain(|| self.0.wake());
    }
}

impl OpTimer {
    /// Starts a timer: in the runtime of `own_thread`, the thread of the context, or in the current runtime
    /// if the context has no thread of its own. `deadline` is evaluated with the clock of that runtime.
    ///
    /// Returns `None` if that thread has ended. Then the context has ended too, and so have its operations.
    ///
    /// # Panics
    ///
    /// Without `own_thread`: outside a tokio runtime, and in a runtime whose timer is not enabled.
    pub(crate) fn start(
        deadline: impl FnOnce() -> Option<Instant>,
        own_thread: Option<&OwnThread>,
    ) -> Option<OpTimer> {
        let runtime = match own_thread {
            Some(thread) => Some(thread.runtime()?),
            None => None,
        };
        let entered = runtime.as_ref().map(|runtime| runtime.enter());
        let sleep = sleep_until(deadline()?);
        drop(entered);
        Some(OpTimer(ManuallyDrop::new(Box::pin(Timer {
            sleep,
            task: runtime
                .as_ref()
                .map(|_| Arc::new(TimerTask(AtomicWaker::new()))),
            runtime,
        }))))
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_due(&self) -> bool {
        let entered = self.0.runtime.as_ref().map(|runtime| runtime.enter());
        let is_due = self.0.sleep.deadline() <= Instant::now();
        drop(entered);
        is_due
    }

    fn sleep(&mut self) -> Pin<&mut Sleep> {
        // SAFETY: `Timer` is pinned, and `sleep` with it: nothing moves `sleep` out of it, `Timer` is not
        // `Unpin` because `Sleep` is not, and `Timer` has no `Drop`.
        unsafe { self.0.as_mut().map_unchecked_mut(|timer| &mut timer.sleep) }
    }
}

impl Future for OpTimer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(task) = &this.0.task else {
            return this.sleep().poll(cx);
        };
        task.0.register(cx.waker());
        let waker = Waker::from(Arc::clone(task));
        this.sleep().poll(&mut Context::from_waker(&waker))
    }
}

impl Drop for OpTimer {
    fn drop(&mut self) {
        // Dropping a timer locks the timers of its runtime. In a forked child, the thread of the context may
        // have held that lock at the fork. So the child leaks the timer.
        let runtime = self.0.runtime.as_ref();
        if runtime.is_none_or(|runtime| runtime.is_ours()) {
            // SAFETY: dropped only here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

/// Calls `deadline` with the clock of a timer that is [started](OpTimer::start) with `own_thread`: that of the
/// current runtime may be paused.
pub(crate) fn with_clock_of<R>(own_thread: Option<&OwnThread>, deadline: impl FnOnce() -> R) -> R {
    let runtime = own_thread.and_then(OwnThread::runtime);
    let _entered = runtime.as_ref().map(|runtime| runtime.enter());
    deadline()
}

/// Polls `future` until it is ready or `timer` fires. Returns `None` in the second case.
pub(crate) async fn until<F: Future>(
    mut future: Pin<&mut F>,
    mut timer: OpTimer,
) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Pin::new(&mut timer).poll(cx).map(|()| None),
    })
    .await
}
