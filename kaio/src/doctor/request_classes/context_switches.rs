//! [`voluntary_context_switches`]: how often a thread has slept.
#![allow(unsafe_code)] // getrusage, which rustix does not wrap

/// Returns the number of voluntary context switches of this thread.
pub(super) fn voluntary_context_switches() -> i64 {
    // SAFETY: a structure of integers, for which zeroes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for writes, and of the type that the call takes.
    let code = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(code, 0, "getrusage fails only for invalid arguments");
    #[allow(clippy::useless_conversion)] // the width differs between targets
    usage.ru_nvcsw.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_a_voluntary_context_switch() {
        let before = voluntary_context_switches();
        // A thread that is preempted while it falls asleep may find the time over when it goes on.
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(voluntary_context_switches() > before);
    }
}
