//! [`ResourceUsage`]: CPU time and context switches of the process.
#![allow(unsafe_code)]

use std::mem::zeroed;
use std::time::Duration;

/// Resource usage of all threads of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResourceUsage {
    /// CPU time in user space.
    pub(crate) user: Duration,
    /// CPU time in the kernel.
    pub(crate) system: Duration,
    /// Voluntary context switches: a thread went to sleep.
    pub(crate) voluntary_switches: u64,
    /// Involuntary context switches: a thread was preempted.
    pub(crate) involuntary_switches: u64,
}

impl ResourceUsage {
    /// Usage up to now, from [`getrusage(2)`](https://man7.org/linux/man-pages/man2/getrusage.2.html).
    pub(crate) fn now() -> ResourceUsage {
        // SAFETY: `rusage` consists of numbers, for which all zeros are valid.
        let mut usage: libc::rusage = unsafe { zeroed() };
        // SAFETY: `usage` is valid for writes.
        let code = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
        assert_eq!(code, 0, "getrusage takes these arguments");
        ResourceUsage {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            voluntary_switches: usage.ru_nvcsw as u64,
            involuntary_switches: usage.ru_nivcsw as u64,
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}
