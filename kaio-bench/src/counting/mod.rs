//! Counts system calls and allocations, of all threads, while it is asked to.
//!
//! System calls are counted where nearly all of them are made: this crate defines the functions of
//! the C library's that make them, so that the standard library, tokio, mio and the engines call
//! these instead, and these call the real ones. What the C library calls within itself goes past
//! them: starting a thread, memory for `malloc`, `pthread` locks, which Rust does not use here. So
//! does code that makes system calls without the C library, as rustix does unless told otherwise.
//! Before an engine's count is believed, hold it against `strace -f -c` (`kaio-bench once`).
//! Allocations are counted by an allocator that a binary has to install ([`CountingAllocator`]).
//!
//! Whether either takes effect depends on how a binary is linked. [`start`] finds out, with a
//! known number of each; a counter that does not count is `None` in what is counted.

mod allocator;
mod system_calls;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use allocator::CountingAllocator;

/// Whether anything is counted. One load where nothing is.
static ON: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LOCK: Mutex<()> = Mutex::new(());

/// What has been counted, or the part of it that falls to one operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// System calls by name. `None`: they can't be counted here.
    pub calls: Option<BTreeMap<String, f64>>,
    /// Calls to the allocator for memory. `None`: they can't be counted here.
    pub allocations: Option<f64>,
}

impl Counts {
    /// System calls in all.
    pub fn all_calls(&self) -> Option<f64> {
        Some(self.calls.as_ref()?.values().sum())
    }

    /// What each of `operations` has cost of what is in `self` beyond what is in `less`.
    pub fn per_operation(&self, less: &Counts, operations: f64) -> Counts {
        let share = |ours: f64, theirs: f64| (ours - theirs) / operations;
        let calls = self.calls.as_ref().zip(less.calls.as_ref());
        let allocations = self.allocations.zip(less.allocations);
        Counts {
            calls: calls.map(|(ours, theirs)| {
                let names = ours.keys().chain(theirs.keys());
                let one = |name: &String| {
                    let count = |calls: &BTreeMap<String, f64>| calls.get(name).copied();
                    let [ours, theirs] = [ours, theirs].map(|calls| count(calls).unwrap_or(0.0));
                    (name.clone(), share(ours, theirs))
                };
                names.map(one).filter(|(_, count)| *count != 0.0).collect()
            }),
            allocations: allocations.map(|(ours, theirs)| share(ours, theirs)),
        }
    }
}

/// Counts until it is asked how many. One at a time: another waits.
#[derive(Debug)]
pub struct Counting {
    calls: bool,
    allocations: bool,
    _lock: MutexGuard<'static, ()>,
}

/// Starts counting.
pub fn start() -> Counting {
    let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    ON.store(true, Ordering::SeqCst);
    let calls = ticks(system_calls::total, || {
        // Through the C library.
        std::thread::yield_now();
    });
    let allocations = ticks(
        || ALLOCATIONS.load(Ordering::SeqCst),
        || drop(black_box(Box::new(1_u64))),
    );
    system_calls::reset();
    ALLOCATIONS.store(0, Ordering::SeqCst);
    Counting {
        calls,
        allocations,
        _lock: lock,
    }
}

/// Whether `count` goes up at least by one with each `event`. (By more, if other threads are
/// active.)
fn ticks(count: impl Fn() -> u64, event: impl Fn()) -> bool {
    const EVENTS: u64 = 5;
    let before = count();
    (0..EVENTS).for_each(|_| event());
    count() - before >= EVENTS
}

impl Counting {
    /// What has been counted so far. Goes on.
    pub fn counts(&self) -> Counts {
        let allocations = ALLOCATIONS.load(Ordering::SeqCst);
        Counts {
            calls: self.calls.then(system_calls::by_name),
            allocations: self.allocations.then_some(allocations as f64),
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        ON.store(false, Ordering::SeqCst);
    }
}

#[inline]
fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}
