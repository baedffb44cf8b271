//! Replacements of the primitives in loom models. Each gives the guarantees of the real one, with loom's
//! primitives, so that loom can switch threads at each step.

pub(crate) use loom::thread;

use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Waker};

#[cfg_attr(not(feature = "io-uring"), allow(unused_imports))]
pub(crate) use loom::sync::MutexGuard;
use loom::sync::atomic::{self, Ordering};

use crate::EventFdError;

/// A flag whose stores are exchanges. loom can order a plain store before an exchange that ran earlier and
/// did not read the store, so that the store is lost. In reality an exchange reads its immediate
/// predecessor, which rules this out; loom does not model that.
#[derive(Debug)]
pub(crate) struct AtomicBool(atomic::AtomicBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> AtomicBool {
        AtomicBool(atomic::AtomicBool::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: bool, order: Ordering) {
        self.0.swap(value, order);
    }

    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}

/// A lock with the interface of `parking_lot`.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        // The lock is poisoned only if the model has panicked, and so failed already.
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Holds one waker, like `atomic_waker`. loom's `AtomicWaker` prints every step, millions of them.
#[derive(Debug)]
pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub(crate) fn new() -> AtomicWaker {
        AtomicWaker(Mutex::new(None))
    }

    pub(crate) fn register(&self, waker: &Waker) {
        let waker = waker.clone();
        drop(self.0.lock().replace(waker));
    }

    pub(crate) fn take(&self) -> Option<Waker> {
        self.0.lock().take()
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }
}

/// Models an eventfd that is registered with tokio for edges, as far as [`arm`](EventFd::arm) needs it.
///
/// A signal is an edge for tokio's I/O driver. The driver marks the descriptor ready, and then takes the
/// waker. Other threads may run between these steps.
#[derive(Clone, Debug)]
pub(crate) struct EventFd(Arc<Line>);

/// The signature of the function that is modelled.
const _: fn(&crate::EventFd, &mut Context<'_>) -> bool = crate::EventFd::arm;

#[derive(Debug)]
struct Line {
    /// The edge that epoll reports to the I/O driver.
    #[cfg(test)]
    edge: Mutex<Edge>,
    #[cfg(test)]
    edges: loom::sync::Condvar,
    ready: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

#[cfg(test)]
#[derive(Debug, Default)]
struct Edge {
    pending: bool,
    /// There are no more edges.
    closed: bool,
}

impl EventFd {
    pub(crate) fn new(_init: usize, _semaphore: bool) -> Result<EventFd, EventFdError> {
        Ok(EventFd(Arc::new(Line {
            #[cfg(test)]
            edge: Mutex::default(),
            #[cfg(test)]
            edges: loom::sync::Condvar::new(),
            ready: AtomicBool::new(false),
            reader: Mutex::new(None),
        })))
    }

    pub(crate) fn arm(&self, cx: &mut Context<'_>) -> bool {
        loop {
            self.0.ready.swap(false, Ordering::AcqRel);
            let waker = cx.waker().clone();
            let mut reader = self.0.reader.lock();
            let unused = reader.replace(waker);
            let ready = self.0.ready.load(Ordering::Acquire);
            drop(reader);
            drop(unused);
            if !ready {
                return true;
            }
        }
    }

    /// Signals the eventfd, as the kernel does.
    #[cfg(test)]
    pub(crate) fn signal(&self) {
        self.0.edge.lock().pending = true;
        self.0.edges.notify_all();
    }

    /// Ends the signals.
    #[cfg(test)]
    pub(crate) fn close(&self) {
        self.0.edge.lock().closed = true;
        self.0.edges.notify_all();
    }

    /// Runs as tokio's I/O driver, until the signals end.
    #[cfg(test)]
    pub(crate) fn dispatch_all(&self) {
        loop {
            let mut edge = self.0.edge.lock();
            while !edge.pending && !edge.closed {
                let woken = self.0.edges.wait(edge);
                edge = woken.unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            if !mem::take(&mut edge.pending) {
                return;
            }
            drop(edge);
            self.dispatch();
        }
    }

    /// Handles one edge, as tokio's I/O driver does.
    #[cfg(test)]
    pub(crate) fn dispatch(&self) {
        self.0.ready.store(true, Ordering::Release);
        let reader = self.0.reader.lock().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        RawFd::MAX
    }
}

/// A channel whose only event is that the sender is dropped.
pub(crate) mod watch {
    use super::*;
    use std::marker::PhantomData;
    use std::task::Poll;

    pub(crate) fn channel<T>(_first: T) -> (Sender<T>, Receiver<T>) {
        let channel = Arc::new(Mutex::new(Channel::default()));
        let sender = Sender(Arc::clone(&channel), PhantomData);
        (sender, Receiver(channel, PhantomData))
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Arc<Mutex<Channel>>, PhantomData<T>);

    #[derive(Clone, Debug)]
    pub(crate) struct Receiver<T>(Arc<Mutex<Channel>>, PhantomData<T>);

    #[derive(Debug, Default)]
    struct Channel {
        closed: bool,
        waiting: Vec<Waker>,
    }

    impl<T> Receiver<T> {
        pub(crate) async fn changed(&mut self) -> Result<(), ()> {
            std::future::poll_fn(|cx| {
                let waker = cx.waker().clone();
                let mut channel = self.0.lock();
                if channel.closed {
                    return Poll::Ready(Err(()));
                }
                channel.waiting.push(waker);
                Poll::Pending
            })
            .await
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            let waiting = {
                let mut channel = self.0.lock();
                channel.closed = true;
                mem::take(&mut channel.waiting)
            };
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}
