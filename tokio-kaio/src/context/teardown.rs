//! Where contexts go to end: threads of their own, because `io_destroy(2)` sleeps.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use super::pool::Pool;
use crate::request::Memory;
use crate::sync::{EventFd, contain, watch};
use crate::sys::{Kernel, Process};

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
            Undertaker::ours().take(Box::new(burial));
        }
    }
}

type Burial = Box<dyn FnOnce() + Send>;

/// Most threads that end contexts at the same time, but for those that are stuck.
const MOST_AT_WORK: usize = 32;

/// A thread that has been at one context for longer is stuck: on a disk that does not answer, or a
/// submission that does not return. It may be so for ever, and does not keep others from ending.
const PATIENCE: Duration = Duration::from_secs(1);

/// Threads that live as long as there is something to drop.
///
/// One more than are at work, so that what waits has a thread that sees when others are stuck.
struct Undertaker {
    /// A child of that process has none of the threads, one of which may have had the lock when it was
    /// made.
    owner: Process,
    /// The child's.
    heir: OnceLock<Box<Undertaker>>,
    state: Mutex<UndertakerState>,
    /// Nothing waits any more.
    is_done: Condvar,
}

#[derive(Default)]
struct UndertakerState {
    waiting: VecDeque<Burial>,
    threads: usize,
    /// When each of them that is at work began with what it is at; by its number, so in that order.
    at_work: BTreeMap<u64, Instant>,
    /// Who tries again where a thread could not be started.
    watchers: BTreeMap<u64, Waker>,
    last_number: u64,
}

impl UndertakerState {
    /// Those at work that are not stuck: when they began, last first.
    fn on_time(&self) -> impl Iterator<Item = &Instant> {
        let began = self.at_work.values().rev();
        began.take_while(|began| began.elapsed() < PATIENCE)
    }

    /// Threads that will see to what waits.
    fn free(&self) -> usize {
        self.threads - self.at_work.len()
    }

    /// Always where something waits and none is free: not more than [`MOST_AT_WORK`] are on time then.
    fn wants_a_thread(&self) -> bool {
        let free = self.free();
        free < self.waiting.len() && free + self.on_time().count() <= MOST_AT_WORK
    }

    /// How long to wait before taking up something more. `None`: not at all.
    fn pause(&self) -> Option<Duration> {
        let (mut count, mut first) = (0, None);
        for began in self.on_time() {
            (count, first) = (count + 1, Some(began));
        }
        let first = first.filter(|_| count >= MOST_AT_WORK)?;
        Some(PATIENCE.saturating_sub(first.elapsed()))
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

impl Undertaker {
    fn new() -> Undertaker {
        Undertaker {
            owner: Process::current(),
            heir: OnceLock::new(),
            state: Mutex::default(),
            is_done: Condvar::new(),
        }
    }

    /// This process'.
    fn ours() -> &'static Undertaker {
        static FIRST: OnceLock<Undertaker> = OnceLock::new();
        let mut undertaker = FIRST.get_or_init(Undertaker::new);
        while !undertaker.is_ours() {
            undertaker = undertaker.heir.get_or_init(|| Box::new(Undertaker::new()));
        }
        undertaker
    }

    fn is_ours(&self) -> bool {
        self.owner == Process::current()
    }

    fn take(&'static self, burial: Burial) {
        self.lock().waiting.push_back(burial);
        self.call_a_thread();
    }

    /// Whether what waits has a thread that will come to it. One that is at work counts, though it may
    /// get stuck: there was none to be had beside it, and nobody is to look again and again.
    fn is_at_work(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() || state.free() > 0 || state.on_time().next().is_some()
    }

    /// Has one more thread work on what waits. Where none is to be had now, the context stays
    /// whole: that costs its share of `fs.aio-max-nr`, but stalls nobody.
    fn call_a_thread(&'static self) {
        {
            let mut state = self.lock();
            if !state.wants_a_thread() {
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

    fn work(&'static self) {
        let mut state = self.lock();
        while !state.waiting.is_empty() {
            if let Some(pause) = state.pause() {
                if state.free() > 1 {
                    break; // one is enough to wait
                }
                let waited = self.is_done.wait_timeout(state, pause);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let Some(bury) = state.waiting.pop_front() else {
                break;
            };
            if state.waiting.is_empty() {
                self.is_done.notify_all();
            }
            let number = state.next_number();
            state.at_work.insert(number, Instant::now());
            drop(state);
            self.call_a_thread(); // there may be no other for the rest
            contain(bury); // wakes those that wait for it
            state = self.lock();
            state.at_work.remove(&number);
        }
        state.threads -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, UndertakerState> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the context of `gone` has been given back. As long as there is no thread to do it,
/// it tries for one.
pub(crate) async fn given_back(mut gone: watch::Receiver<()>) {
    let mut closed = pin!(async move { while gone.changed().await.is_ok() {} });
    let mut watcher = Watcher::new();
    poll_fn(|cx| {
        let closed = closed.as_mut().poll(cx);
        if closed.is_pending() {
            if !watcher.undertaker.is_ours() {
                watcher = Watcher::new();
            }
            watcher.watch(cx.waker());
            if !watcher.undertaker.is_at_work() {
                watcher.undertaker.call_a_thread();
                cx.waker().wake_by_ref();
            }
        }
        closed
    })
    .await;
}

/// Somebody's place among those that are told when a thread could not be started.
struct Watcher {
    undertaker: &'static Undertaker,
    number: u64,
}

impl Watcher {
    fn new() -> Watcher {
        let undertaker = Undertaker::ours();
        let number = undertaker.lock().next_number();
        Watcher { undertaker, number }
    }

    fn watch(&self, waker: &Waker) {
        let waker = waker.clone();
        let unused = self.undertaker.lock().watchers.insert(self.number, waker);
        drop(unused); // not under the lock
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if self.undertaker.is_ours() {
            let unused = self.undertaker.lock().watchers.remove(&self.number);
            drop(unused); // not under the lock
        }
    }
}
