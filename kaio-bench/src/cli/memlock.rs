//! [`raise_memlock`]: raises RLIMIT_MEMLOCK.
#![allow(unsafe_code)]

/// Raises the soft limit of locked memory to the hard limit, since the buffers of all engines exist at
/// once.
pub(super) fn raise_memlock() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writes.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if code == 0 {
        limit.rlim_cur = limit.rlim_max;
        // Errors are ignored: an engine that needs more reports it.
        // SAFETY: `limit` is valid for reads.
        unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    }
}
