//! [`raise_memlock`].
#![allow(unsafe_code)]

/// Lets the process lock as much memory as it may: all engines' buffers are there at once.
pub(super) fn raise_memlock() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a structure of ours to write to.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if code == 0 {
        limit.rlim_cur = limit.rlim_max;
        // If it can't be raised, an engine that needs more says so.
        // SAFETY: a structure of ours to read from.
        unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    }
}
