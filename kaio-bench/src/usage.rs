//! [`Usage`]: what the process has used up.
#![allow(unsafe_code)]

use std::mem::zeroed;
use std::time::Duration;

/// What all threads of the process have used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// CPU time in user space.
    pub(crate) user: Duration,
    /// CPU time in the kernel.
    pub(crate) system: Duration,
    /// Times a thread has slept.
    pub(crate) voluntary: u64,
    /// Times a thread's CPU was taken away.
    pub(crate) involuntary: u64,
}

impl Usage {
    /// As of now: [`getrusage(2)`](https://man7.org/linux/man-pages/man2/getrusage.2.html).
    pub(crate) fn now() -> Usage {
        // SAFETY: plain numbers, for which zero is a value.
        let mut usage: libc::rusage = unsafe { zeroed() };
        // SAFETY: a structure of ours to write to.
        let code = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
        assert_eq!(code, 0, "getrusage takes these arguments");
        Usage {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            voluntary: usage.ru_nvcsw as u64,
            involuntary: usage.ru_nivcsw as u64,
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}
