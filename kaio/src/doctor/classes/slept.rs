//! [`times_slept`].
#![allow(unsafe_code)] // one system call: rustix has no `getrusage`

/// How often this thread has given up its CPU by itself.
pub(super) fn times_slept() -> i64 {
    // SAFETY: plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to a structure of ours, of the type that the call takes.
    let code = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(code, 0, "getrusage fails for a wrong argument only");
    #[allow(clippy::useless_conversion)] // its width differs between targets
    usage.ru_nvcsw.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_gives_up_its_cpu() {
        let before = times_slept();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(times_slept() > before);
    }
}
