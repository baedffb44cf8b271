//! [`raise_soft_limits`]: raises RLIMIT_MEMLOCK and RLIMIT_NOFILE.
#![allow(unsafe_code)]

/// Raises the soft limits of locked memory and of open descriptors to the hard limits, since the buffers, files
/// and contexts of all engines exist at once.
pub(super) fn raise_soft_limits() {
    raise(libc::RLIMIT_MEMLOCK);
    raise(libc::RLIMIT_NOFILE);
}

fn raise(resource: libc::__rlimit_resource_t) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writes.
    let code = unsafe { libc::getrlimit(resource, &raw mut limit) };
    if code == 0 {
        limit.rlim_cur = limit.rlim_max;
        // Errors are ignored: an engine that needs more reports it.
        // SAFETY: `limit` is valid for reads.
        unsafe { libc::setrlimit(resource, &raw const limit) };
    }
}
