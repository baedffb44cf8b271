//! Where contexts go to end: threads of their own, because `io_destroy(2)` sleeps.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::thread;

use super::pool::Pool;
use crate::request::Memory;
use crate::sync::{EventFd, contain, watch};
use crate::sys::Kernel;

/// What is left of a context that nobody uses any more.
pub(crate) struct Remains<K: Kernel> {
    /// Waits for what is in flight.
    pub(crate) kernel: K,
    /// May be submitting to it.
    pub(super) pool: Arc<Pool<K>>,
    /// What it may touch until then.
    pub(crate) memory: Vec<Memory>,
    pub(crate) signal: Option<EventFd>,
    /// Closing the channel says that all of it is gone.
    pub(crate) gone: watch::Sender<()>,
}

impl<K: Kernel> fmt::Debug for Remains<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remains")
            .field("memory", &self.memory.len())
            .finish_non_exhaustive()
    }
}

impl<K: Kernel> Remains<K> {
    /// Gives everything back to the system, on another thread: it may sleep for long.
    pub(crate) fn bury(self) {
        let burial = move || {
            self.pool.close();
            drop(self.kernel); // waits for what is in flight, so before its memory
            drop(self.memory);
            drop(self.signal);
            drop(self.gone);
        };
        if cfg!(kaio_loom) {
            burial(); // a model's threads are few, and all its own
        } else {
            UNDERTAKER.take(Box::new(burial));
        }
    }
}

type Burial = Box<dyn FnOnce() + Send>;

/// Most threads that end contexts at the same time.
const MAX_THREADS: usize = 32;

static UNDERTAKER: Undertaker = Undertaker {
    state: Mutex::new(UndertakerState {
        waiting: VecDeque::new(),
        threads: 0,
        next_watcher: 0,
        watchers: BTreeMap::new(),
    }),
};

/// Threads that live as long as there is something to drop.
struct Undertaker {
    state: Mutex<UndertakerState>,
}

struct UndertakerState {
    waiting: VecDeque<Burial>,
    threads: usize,
    next_watcher: u64,
    /// Who tries again where a thread could not be started.
    watchers: BTreeMap<u64, Waker>,
}

impl Undertaker {
    fn take(&'static self, burial: Burial) {
        self.lock().waiting.push_back(burial);
        self.call_a_thread();
    }

    /// Whether what waits has a thread that will come to it.
    fn is_at_work(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() || state.threads > 0
    }

    /// Has one more thread work on what waits. Where none is to be had now, the context stays
    /// whole: that costs its share of `fs.aio-max-nr`, but stalls nobody.
    fn call_a_thread(&'static self) {
        {
            let mut state = self.lock();
            if state.threads == MAX_THREADS {
                return;
            }
            state.threads += 1;
        }
        let thread = thread::Builder::new().name("kaio-teardown".into());
        if thread.spawn(|| self.work()).is_ok() {
            return;
        }
        let watchers = {
            let mut state = self.lock();
            state.threads -= 1;
            mem::take(&mut state.watchers)
        };
        for waker in watchers.into_values() {
            contain(|| waker.wake());
        }
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let Some(bury) = state.waiting.pop_front() else {
                state.threads -= 1;
                return;
            };
            drop(state);
            contain(bury); // wakes those that wait for it
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, UndertakerState> {
        // Nothing panics while holding it.
        let locked = self.state.lock();
        locked.unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Waits until the context of `gone` has been given back. As long as there is no thread to do it,
/// it tries for one.
pub(crate) async fn given_back(mut gone: watch::Receiver<()>) {
    let mut closed = pin!(async move { while gone.changed().await.is_ok() {} });
    let watcher = Watcher::new();
    poll_fn(|cx| {
        let closed = closed.as_mut().poll(cx);
        if closed.is_pending() {
            watcher.watch(cx.waker());
            if !UNDERTAKER.is_at_work() {
                UNDERTAKER.call_a_thread();
                cx.waker().wake_by_ref();
            }
        }
        closed
    })
    .await;
}

/// Somebody's place among those that are told when a thread could not be started.
struct Watcher(u64);

impl Watcher {
    fn new() -> Watcher {
        let mut state = UNDERTAKER.lock();
        state.next_watcher += 1;
        Watcher(state.next_watcher)
    }

    fn watch(&self, waker: &Waker) {
        let waker = waker.clone();
        let unused = UNDERTAKER.lock().watchers.insert(self.0, waker);
        drop(unused); // not under the lock
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let unused = UNDERTAKER.lock().watchers.remove(&self.0);
        drop(unused); // not under the lock
    }
}
