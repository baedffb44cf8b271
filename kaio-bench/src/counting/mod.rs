//! Counts system calls and allocations of all threads.
//!
//! System calls are counted by interposition: this crate defines the C library's wrapper functions, so
//! that the standard library, tokio, mio and the engines call these, which count and call the real
//! ones. Two kinds of system calls are not counted: those that the C library makes internally (starting a
//! thread, memory for `malloc`, `pthread` locks), and those made without the C library, as rustix does by
//! default. Compare an engine's count with `strace -f -c` (`kaio-bench once`) before you rely on it.
//! Allocations are counted by an allocator that the binary must install ([`CountingAllocator`]).
//!
//! Whether either counter works depends on how the binary is linked. [`start`] checks both with a known
//! number of events; the result of a counter that does not work is `None`.

mod counting_allocator;
mod syscall_counters;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use counting_allocator::CountingAllocator;

/// Whether counting is on. When it is off, an interposed call costs one more load.
static ON: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LOCK: Mutex<()> = Mutex::new(());

/// Counted events, in total or per operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// System calls by name. `None` if they can't be counted in this binary.
    pub calls: Option<BTreeMap<String, f64>>,
    /// Allocations. `None` if they can't be counted in this binary.
    pub allocations: Option<f64>,
}

impl Counts {
    /// Total number of system calls.
    pub fn all_calls(&self) -> Option<f64> {
        Some(self.calls.as_ref()?.values().sum())
    }

    /// Divides the difference between `self` and `base` by `operations`.
    pub fn per_operation(&self, base: &Counts, operations: f64) -> Counts {
        let per_operation = |ours: f64, base: f64| (ours - base) / operations;
        let calls = self.calls.as_ref().zip(base.calls.as_ref());
        let allocations = self.allocations.zip(base.allocations);
        Counts {
            calls: calls.map(|(ours, base)| {
                let names = ours.keys().chain(base.keys());
                let one = |name: &String| {
                    let count = |calls: &BTreeMap<String, f64>| calls.get(name).copied();
                    let [ours, base] = [ours, base].map(|calls| count(calls).unwrap_or(0.0));
                    (name.clone(), per_operation(ours, base))
                };
                names.map(one).filter(|(_, count)| *count != 0.0).collect()
            }),
            allocations: allocations.map(|(ours, base)| per_operation(ours, base)),
        }
    }
}

/// Counts until it is dropped. Only one exists at a time: [`start`] waits for the other.
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
    let calls = is_counted(syscall_counters::total, || {
        // Calls `sched_yield` of the C library.
        std::thread::yield_now();
    });
    let allocations = is_counted(
        || ALLOCATIONS.load(Ordering::SeqCst),
        || drop(black_box(Box::new(1_u64))),
    );
    syscall_counters::reset();
    ALLOCATIONS.store(0, Ordering::SeqCst);
    Counting {
        calls,
        allocations,
        _lock: lock,
    }
}

/// Whether `count` increases by at least one with each `event`; by more if other threads are active.
fn is_counted(count: impl Fn() -> u64, event: impl Fn()) -> bool {
    const EVENTS: u64 = 5;
    let before = count();
    (0..EVENTS).for_each(|_| event());
    count() - before >= EVENTS
}

impl Counting {
    /// Returns the counts so far, and continues counting.
    pub fn counts(&self) -> Counts {
        let allocations = ALLOCATIONS.load(Ordering::SeqCst);
        Counts {
            calls: self.calls.then(syscall_counters::by_name),
            allocations: self.allocations.then_some(allocations as f64),
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        ON.store(false, Ordering::SeqCst);
    }
}

/// The counts of the current [`Counting`], if there is one. Includes a counter that does not work.
pub(crate) fn counts_if_on() -> Option<Counts> {
    is_on().then(|| Counts {
        calls: Some(syscall_counters::by_name()),
        allocations: Some(ALLOCATIONS.load(Ordering::SeqCst) as f64),
    })
}

#[inline]
fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}
