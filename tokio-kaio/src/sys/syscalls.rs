//! System calls as functions that return `io::Result`.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

#[cfg(all(test, not(kaio_loom)))]
use super::unknown_usage::is_usage_unknown;

/// Converts the result of a system call: −1 to the error in `errno`, other values to `Ok`.
pub(crate) fn syscall_result(code: libc::c_long) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::last_os_error())
}

/// Creates a non-blocking, close-on-exec eventfd that starts at `init`.
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

/// Adds `O_DIRECT` to the status flags of an open file. Returns the access mode and flags that it had before.
///
/// # Errors
///
/// `EINVAL`: the file system can't do direct I/O on this file.
///
/// # References
///
/// [`F_SETFL(2const)`](https://man7.org/linux/man-pages/man2/F_SETFL.2const.html)
pub(crate) fn set_direct(file: impl AsFd) -> io::Result<libc::c_int> {
    let flags = status_flags(file.as_fd().as_raw_fd())?;
    set_status_flags(&file, flags | libc::O_DIRECT)?;
    Ok(flags)
}

/// Removes `O_DIRECT` from the status flags of an open file. Returns the access mode and flags that it had
/// before.
pub(crate) fn clear_direct(file: impl AsFd) -> io::Result<libc::c_int> {
    let flags = status_flags(file.as_fd().as_raw_fd())?;
    set_status_flags(&file, flags & !libc::O_DIRECT)?;
    Ok(flags)
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
    // SAFETY: reads the flags of a descriptor. A closed descriptor is EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    syscall_result(flags.into())?;
    Ok(flags)
}

fn set_status_flags(file: impl AsFd, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: sets flags of an open descriptor. No memory is involved.
    let code = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_SETFL, flags) };
    syscall_result(code.into()).map(drop)
}

/// Adds one to `eventfd`. Ignores errors: if the counter is full, the reader is signalled already; if the
/// descriptor is no longer an eventfd, the reader is gone.
///
/// # References
///
/// [`eventfd(2)`](https://man7.org/linux/man-pages/man2/eventfd.2.html)
pub(crate) fn signal(eventfd: RawFd) {
    let one = 1_u64;
    // SAFETY: the kernel reads our eight bytes.
    let _ = unsafe { libc::write(eventfd, (&raw const one).cast(), size_of::<u64>()) };
}

/// Makes another descriptor of the same open file.
///
/// # References
///
/// [`F_DUPFD_CLOEXEC(2const)`](https://man7.org/linux/man-pages/man2/F_DUPFD.2const.html)
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only. A closed descriptor is EBADF.
    let code = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    syscall_result(code.into())?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(code) })
}

/// Resources that a thread has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadUsage {
    /// Number of times that the thread slept to wait for something.
    pub(crate) sleeps: i64,
    /// CPU time.
    pub(crate) cpu: Duration,
}

/// The usage of the current thread.
///
/// # References
///
/// [`getrusage(2)`](https://man7.org/linux/man-pages/man2/getrusage.2.html): `ru_nvcsw`, `ru_utime`,
/// `ru_stime`
pub(crate) fn thread_usage() -> io::Result<ThreadUsage> {
    // Miri ends the process at `getrusage`.
    if cfg!(miri) || is_usage_unknown() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes to our structure.
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

#[cfg(not(all(test, not(kaio_loom))))]
const fn is_usage_unknown() -> bool {
    false
}

/// The CPU that runs this thread, or ran it a moment ago. 0 if unknown.
///
/// # References
///
/// [`sched_getcpu(3)`](https://man7.org/linux/man-pages/man3/sched_getcpu.3.html)
pub(crate) fn current_cpu() -> usize {
    // SAFETY: takes no arguments, and only reads data that the kernel keeps for the thread.
    let cpu = unsafe { libc::sched_getcpu() };
    usize::try_from(cpu).unwrap_or(0)
}

/// The soft limit `RLIMIT_MEMLOCK` in bytes. `None`: unlimited.
///
/// # References
///
/// [`getrlimit(2)`](https://man7.org/linux/man-pages/man2/getrlimit.2.html)
pub(crate) fn memlock_limit() -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes to our structure.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    syscall_result(code.into())?;
    #[allow(clippy::useless_conversion)] // 32 bits wide on some targets
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then(|| limit.rlim_cur.into()))
}
