//! [`descriptor_limit`]: how many descriptors this process may have.
#![allow(unsafe_code)]

/// Returns the soft limit of open descriptors. See `getrlimit(2)`, `RLIMIT_NOFILE`.
pub(crate) fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes `limit` during the call only.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    match code {
        // The type of the field differs between targets.
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
        0 => limit.rlim_cur as u64,
        _ => u64::MAX,
    }
}
