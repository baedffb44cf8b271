//! The system calls, each as `io::Result`. The C library wraps none of the AIO ones.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// `aio_context_t`: the address at which the kernel mapped the completion ring.

/// −1 is `errno`, anything else the value.
pub(crate) fn syscall_result(code: libc::c_long) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::last_os_error())
}

/// A non-blocking, close-on-exec eventfd that counts from `init`.
///
/// # References
///
/// [`eventfd(2)`](https://man7.org/linux/man-pages/man2/eventfd.2.html)
#[doc(alias = "eventfd")]
pub(crate) fn create_eventfd(init: u32, semaphore: bool) -> io::Result<OwnedFd> {
    let semaphore = if semaphore { libc::EFD_SEMAPHORE } else { 0 };
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::eventfd(init, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | semaphore) };
    syscall_result(fd.into())?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds `O_DIRECT` to the status flags of an open file, leaving the others as they are. Returns
/// whether `O_APPEND` is one of them.
///
/// # Errors
///
/// `EINVAL`: the file system can't do direct I/O on it.
///
/// # References
///
/// [`F_SETFL(2const)`](https://man7.org/linux/man-pages/man2/F_SETFL.2const.html)
pub(crate) fn set_direct(file: impl AsFd) -> io::Result<bool> {
    let flags = status_flags(file.as_fd().as_raw_fd())?;
    set_status_flags(&file, flags | libc::O_DIRECT)?;
    Ok(flags & libc::O_APPEND != 0)
}

/// Takes `O_DIRECT` from them again. Returns the same.
pub(crate) fn clear_direct(file: impl AsFd) -> io::Result<bool> {
    let flags = status_flags(file.as_fd().as_raw_fd())?;
    set_status_flags(&file, flags & !libc::O_DIRECT)?;
    Ok(flags & libc::O_APPEND != 0)
}

/// Whether the file behind `fd` has `O_DIRECT`.
pub(crate) fn is_direct(fd: RawFd) -> io::Result<bool> {
    Ok(status_flags(fd)? & libc::O_DIRECT != 0)
}

/// The access mode and status flags of an open file.
///
/// # References
///
/// [`F_GETFL(2const)`](https://man7.org/linux/man-pages/man2/F_GETFL.2const.html)
pub(crate) fn status_flags(fd: RawFd) -> io::Result<libc::c_int> {
    // SAFETY: asks for the flags of a descriptor; a closed one is EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    syscall_result(flags.into())?;
    Ok(flags)
}

fn set_status_flags(file: impl AsFd, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: sets flags of a descriptor that is open; no memory is involved.
    let code = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_SETFL, flags) };
    syscall_result(code.into()).map(drop)
}

/// Adds one to `eventfd`. Ignores errors: if the counter is full, the reader has been signalled already;
/// if the descriptor is no eventfd any more, the reader has gone.
///
/// # References
///
/// [`eventfd(2)`](https://man7.org/linux/man-pages/man2/eventfd.2.html)
pub(crate) fn signal(eventfd: RawFd) {
    let one = 1_u64;
    // SAFETY: eight bytes of ours are read.
    let _ = unsafe { libc::write(eventfd, (&raw const one).cast(), size_of::<u64>()) };
}

/// Another descriptor of the same open file.
///
/// # References
///
/// [`F_DUPFD_CLOEXEC(2const)`](https://man7.org/linux/man-pages/man2/F_DUPFD.2const.html)
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers; a closed one is EBADF.
    let code = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    syscall_result(code.into())?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(code) })
}

/// What this thread has come to so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadUsage {
    /// How often it has gone to sleep: it had to wait for something.
    pub(crate) sleeps: i64,
    /// For how long it has run.
    pub(crate) cpu: Duration,
}

/// # References
///
/// [`getrusage(2)`](https://man7.org/linux/man-pages/man2/getrusage.2.html): `ru_nvcsw`, `ru_utime`,
/// `ru_stime`
pub(crate) fn thread_usage() -> io::Result<ThreadUsage> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes to a structure of ours.
    let code = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    syscall_result(code.into())?;
    // SAFETY: all zeroes is a valid rusage, and the kernel has filled it in.
    let usage = unsafe { usage.assume_init() };
    let duration = |time: libc::timeval| {
        let (seconds, micros) = (time.tv_sec as u64, time.tv_usec as u64);
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    #[allow(clippy::useless_conversion)] // its width differs between targets
    Ok(ThreadUsage {
        sleeps: usage.ru_nvcsw.into(),
        cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
    })
}

/// The CPU that runs this thread, or ran it a moment ago. 0 where that is not known.
///
/// # References
///
/// [`sched_getcpu(3)`](https://man7.org/linux/man-pages/man3/sched_getcpu.3.html)
pub(crate) fn current_cpu() -> usize {
    // SAFETY: takes nothing, and looks at what the kernel keeps for the thread.
    let cpu = unsafe { libc::sched_getcpu() };
    usize::try_from(cpu).unwrap_or(0)
}

/// The soft `RLIMIT_MEMLOCK` in bytes; `None`: unlimited.
///
/// # References
///
/// [`getrlimit(2)`](https://man7.org/linux/man-pages/man2/getrlimit.2.html)
pub(crate) fn memlock_limit() -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes to a structure of ours.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    syscall_result(code.into())?;
    #[allow(clippy::useless_conversion)] // 32 bits wide on some targets
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then(|| limit.rlim_cur.into()))
}
