//! [`descriptor_limit`]: how many descriptors this process may have.

use rustix::process::{Resource, getrlimit};

/// Returns the soft limit of open descriptors. See `getrlimit(2)`, `RLIMIT_NOFILE`.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
