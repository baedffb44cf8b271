//! The stand-ins of the loom models. Each keeps what the real one promises, over loom's own
//! primitives, so that every promise is a step at which threads may change places.

pub(crate) use loom::thread;

use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Waker};

use loom::sync::atomic::{self, Ordering};
use loom::sync::{Mutex, MutexGuard};

use crate::EventFdError;

/// A flag whose stores are exchanges. loom lets a plain store fall behind an exchange that ran
/// before it and did not see it, and so be lost; that an exchange reads its own predecessor, which
/// rules this out, is not in its account.
#[derive(Debug)]
pub(crate) struct AtomicBool(atomic::AtomicBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> AtomicBool {
        AtomicBool(atomic::AtomicBool::new(value))
    }

    fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: bool, order: Ordering) {
        self.0.swap(value, order);
    }

    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}

/// One waker, as `atomic_waker`'s. Loom's own prints each step, for millions of them.
#[derive(Debug)]
pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub(crate) fn new() -> AtomicWaker {
        AtomicWaker(Mutex::new(None))
    }

    pub(crate) fn register(&self, waker: &Waker) {
        let waker = waker.clone();
        drop(lock(&self.0).replace(waker));
    }

    pub(crate) fn take(&self) -> Option<Waker> {
        lock(&self.0).take()
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }
}

/// An eventfd that is registered with tokio for edges, as far as [`arm`](EventFd::arm) goes.
///
/// A signal is an edge for tokio's I/O driver, which marks the descriptor ready and then takes the
/// waker, in steps between which others may run.
#[derive(Clone, Debug)]
pub(crate) struct EventFd(Arc<Line>);

/// What is stood in for.
const _: fn(&crate::EventFd, &mut Context<'_>) -> bool = crate::EventFd::arm;

#[derive(Debug)]
struct Line {
    /// What epoll has for the I/O driver.
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
    /// No more edges come.
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
            let mut reader = lock(&self.0.reader);
            let unused = reader.replace(waker);
            let ready = self.0.ready.load(Ordering::Acquire);
            drop(reader);
            drop(unused);
            if !ready {
                return true;
            }
        }
    }

    /// The kernel's part of a signal.
    #[cfg(test)]
    pub(crate) fn signal(&self) {
        lock(&self.0.edge).pending = true;
        self.0.edges.notify_all();
    }

    /// The last signal was given.
    #[cfg(test)]
    pub(crate) fn close(&self) {
        lock(&self.0.edge).closed = true;
        self.0.edges.notify_all();
    }

    /// tokio's I/O driver, until the last signal.
    #[cfg(test)]
    pub(crate) fn dispatch_all(&self) {
        loop {
            let mut edge = lock(&self.0.edge);
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

    /// tokio's I/O driver for one edge.
    #[cfg(test)]
    pub(crate) fn dispatch(&self) {
        self.0.ready.store(true, Ordering::Release);
        let reader = lock(&self.0.reader).take();
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

/// A channel whose only message is its end.
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
                let mut channel = lock(&self.0);
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
                let mut channel = lock(&self.0);
                channel.closed = true;
                mem::take(&mut channel.waiting)
            };
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A model that panicked has failed already.
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
