//! What this process, and the machine, have open.

use std::fs;

use tokio::runtime;

use super::child::assert_child;
use super::current_thread;

/// Open descriptors and mapped completion rings of this process.
pub fn open_resources() -> (usize, usize) {
    assert_child();
    // The first runtime of a process opens two descriptors for signals and keeps them.
    if runtime::Handle::try_current().is_err() {
        drop(current_thread());
    }
    (fs::read_dir("/proc/self/fd").unwrap().count(), rings())
}

/// Whether everything that was opened after `before` has been released. Fewer descriptors are fine: a
/// thread that destroyed a context keeps its runtime's waker for a moment longer.
pub fn is_released(before: (usize, usize)) -> bool {
    let now = open_resources();
    now.0 <= before.0 && now.1 <= before.1
}

/// Completion rings that this process has mapped.
pub fn rings() -> usize {
    assert_child();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("/[aio]")).count()
}

/// `fs.aio-nr`: the requests that all contexts on the machine have room for.
pub fn aio_nr() -> u64 {
    let text = fs::read_to_string("/proc/sys/fs/aio-nr").unwrap();
    text.trim().parse().unwrap()
}

/// How often this thread has given up its CPU voluntarily.
pub fn voluntary_switches() -> libc::c_long {
    // SAFETY: plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a structure of ours to write to.
    let code = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    assert_eq!(code, 0);
    usage.ru_nvcsw
}
