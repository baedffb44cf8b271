//! System calls and allocations of all threads are counted exactly.

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use kaio_bench::{CountingAllocator, Counts, counting};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Serializes the tests, since the counters count the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts during `action`. The caller is [`alone`].
fn count(action: impl FnOnce()) -> Counts {
    let counting = counting::start();
    action();
    counting.counts()
}

/// Counts during `action`, alone.
fn counted(action: impl FnOnce()) -> Counts {
    let _alone = alone();
    count(action)
}

fn calls(counts: &Counts, name: &str) -> f64 {
    let calls = counts.calls.as_ref().expect("system calls are counted");
    calls.get(name).copied().unwrap_or_default()
}

#[test]
fn system_calls_are_counted_by_name() {
    let mut file = tempfile::tempfile().unwrap();
    let counts = counted(|| {
        for _ in 0..7 {
            file.write_at(b"block", 0).unwrap();
        }
        for _ in 0..3 {
            file.read_at(&mut [0; 5], 0).unwrap();
        }
        for _ in 0..11 {
            std::io::Seek::rewind(&mut file).unwrap();
        }
        file.sync_data().unwrap();
    });
    assert_eq!(calls(&counts, "pwrite64"), 7.0);
    assert_eq!(calls(&counts, "pread64"), 3.0);
    assert_eq!(calls(&counts, "lseek64"), 11.0);
    assert_eq!(calls(&counts, "fdatasync"), 1.0);
    // Threads of the test harness may make further calls.
    assert!(counts.all_calls().unwrap() >= 22.0);
}

#[test]
fn calls_through_syscall_are_counted_by_number() {
    let counts = counted(|| {
        for _ in 0..5 {
            failing_io_submit();
        }
    });
    assert_eq!(calls(&counts, "io_submit"), 5.0);
}

#[allow(unsafe_code)]
fn failing_io_submit() {
    // SAFETY: there is no context 0, so the call fails with EINVAL.
    let code = unsafe { libc::syscall(libc::SYS_io_submit, 0, 0, 0, 0, 0, 0) };
    assert_eq!(code, -1);
}

#[test]
fn calls_of_other_threads_are_counted() {
    let file = tempfile::tempfile().unwrap();
    let counts = counted(|| {
        // Not `sched_yield`, which the test harness calls while a thread with a result is preempted.
        let reads = || (0..100).for_each(|_| _ = file.read_at(&mut [0; 5], 0).unwrap());
        thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(reads))));
    });
    assert_eq!(calls(&counts, "pread64"), 300.0);
}

#[test]
fn allocations_are_counted() {
    let counts = counted(|| {
        for i in 0..1000 {
            drop(black_box(Box::new(i)));
        }
    });
    let allocations = counts.allocations.expect("allocations are counted");
    // Threads of the test harness may allocate too.
    assert!((1000.0..1100.0).contains(&allocations), "{allocations}");
}

#[test]
fn nothing_is_counted_while_counting_is_off() {
    let _alone = alone();
    let file = tempfile::tempfile().unwrap();
    let before = count(|| {});
    file.write_at(b"block", 0).unwrap();
    let after = count(|| {});
    assert_eq!(calls(&before, "pwrite64"), 0.0);
    assert_eq!(calls(&after, "pwrite64"), 0.0);
}

#[test]
fn counts_per_operation_are_the_difference_of_two_runs() {
    let counts = |pairs: &[(&str, f64)], allocations| Counts {
        calls: Some(pairs.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect()),
        allocations,
    };
    let short = counts(&[("io_submit", 110.0), ("mmap", 5.0)], Some(3.0));
    let long = counts(
        &[("io_submit", 310.0), ("mmap", 5.0), ("futex", 50.0)],
        None,
    );
    let difference = long.per_operation(&short, 100.0);
    assert_eq!(
        difference,
        counts(&[("io_submit", 2.0), ("futex", 0.5)], None)
    );
    assert_eq!(difference.all_calls(), Some(2.5));
}
