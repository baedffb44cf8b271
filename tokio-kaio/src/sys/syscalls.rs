//! The system calls, each as `io::Result`. The C library wraps none of the AIO ones.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use super::abi::{IoEvent, Iocb};

/// `aio_context_t`: the address at which the kernel mapped the completion ring.
pub(crate) type ContextId = libc::c_ulong;

/// −1 is `errno`, anything else the value.
pub(crate) fn syscall_result(code: libc::c_long) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::last_os_error())
}

/// Creates a context for `nr` requests.
///
/// # Errors
///
/// `EAGAIN`: past `fs.aio-max-nr`. `EINVAL`: `nr` is 0 or absurd. `ENOMEM`. `EPERM`, `ENOSYS`: a
/// sandbox, or a kernel without AIO.
///
/// # References
///
/// [`io_setup(2)`](https://man7.org/linux/man-pages/man2/io_setup.2.html)
pub(crate) fn io_setup(nr: u32) -> io::Result<ContextId> {
    let mut id: ContextId = 0;
    // SAFETY: the kernel writes the id to a word of ours.
    let code = unsafe {
        libc::syscall(
            libc::SYS_io_setup,
            nr as libc::c_long,
            &raw mut id as libc::c_long,
        )
    };
    syscall_result(code).map(|_| id)
}

/// Waits for the requests in flight, then unmaps the ring. Sleeps, uninterruptibly.
///
/// # Safety
///
/// No other thread uses `id` or the ring any more.
///
/// # References
///
/// [`io_destroy(2)`](https://man7.org/linux/man-pages/man2/io_destroy.2.html)
pub(crate) unsafe fn io_destroy(id: ContextId) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let code = unsafe { libc::syscall(libc::SYS_io_destroy, id) };
    syscall_result(code).map(drop)
}

/// Submits requests in order up to the first bad one; returns how many were taken.
///
/// # Errors
///
/// What the first request met, if none was taken.
///
/// # Safety
///
/// `id` is a live context. `iocbs` point to valid iocbs. The memory that these name stays valid
/// until their events, and is observed by nobody while the kernel may write to it.
///
/// # References
///
/// [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html)
pub(crate) unsafe fn io_submit(id: ContextId, iocbs: &mut [*mut Iocb]) -> io::Result<usize> {
    // SAFETY: the caller's promise.
    let code = unsafe {
        libc::syscall(
            libc::SYS_io_submit,
            id,
            iocbs.len() as libc::c_long,
            iocbs.as_mut_ptr(),
        )
    };
    syscall_result(code)
}

/// Asks for the end of the request that was submitted from the address `iocb`. Only a poll can be
/// ended so; its event comes as any other does. Does not wait. Returns whether there was one.
///
/// # Errors
///
/// Those of a kernel that can't. `EINVAL` is none: the request is done, or not there yet.
///
/// # References
///
/// [`io_cancel(2)`](https://man7.org/linux/man-pages/man2/io_cancel.2.html)
pub(crate) fn io_cancel(id: ContextId, iocb: NonNull<Iocb>) -> io::Result<bool> {
    let mut unused = MaybeUninit::<IoEvent>::zeroed(); // kernels before 3.10 wrote to it
    // SAFETY: an `id` that is no context is told from one. The kernel reads a word of `iocb`, as far
    // as there is one, and writes to an event of ours.
    let code =
        unsafe { libc::syscall(libc::SYS_io_cancel, id, iocb.as_ptr(), unused.as_mut_ptr()) };
    match syscall_result(code) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINPROGRESS) => Ok(true), // what Linux says of every one
            Some(libc::EINVAL | libc::EAGAIN) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Takes up to `room` events that have arrived into `events`; does not wait.
///
/// # Safety
///
/// `id` is a live context, `events` has room for `room` of them, and nobody reaps the ring in
/// user space at the same time.
///
/// # References
///
/// [`io_getevents(2)`](https://man7.org/linux/man-pages/man2/io_getevents.2.html)
pub(crate) unsafe fn io_getevents(
    id: ContextId,
    events: *mut IoEvent,
    room: usize,
) -> io::Result<usize> {
    let at_least: libc::c_long = 0;
    let no_timeout: *mut libc::timespec = std::ptr::null_mut();
    // SAFETY: the caller's promise; with a minimum of 0 the kernel never waits.
    let code = unsafe {
        libc::syscall(
            libc::SYS_io_getevents,
            id,
            at_least,
            room as libc::c_long,
            events,
            no_timeout,
        )
    };
    syscall_result(code)
}

/// [`madvise(2)`](https://man7.org/linux/man-pages/man2/madvise.2.html) with `MADV_DONTFORK` over
/// the ring of context `id`.
///
/// # Safety
///
/// The `len` bytes from `id` are exactly the ring's mapping.
pub(crate) unsafe fn dont_fork_ring(id: ContextId, len: usize) -> io::Result<()> {
    // SAFETY: the caller's promise; the advice leaves this process' view as it is.
    let code = unsafe { libc::madvise(id as *mut libc::c_void, len, libc::MADV_DONTFORK) };
    syscall_result(code.into()).map(drop)
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

/// Waits until one of `fds` is ready, or not at all: forever is the other choice.
///
/// # References
///
/// [`poll(2)`](https://man7.org/linux/man-pages/man2/poll.2.html)
pub(crate) fn poll(fds: &mut [libc::pollfd], wait: bool) -> io::Result<usize> {
    let timeout = if wait { -1 } else { 0 };
    loop {
        // SAFETY: the kernel reads and writes the structures of the slice.
        let code = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
        match syscall_result(code.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Takes what `eventfd`, which does not wait, has counted.
pub(crate) fn drain(eventfd: impl AsFd) {
    let mut count = 0_u64;
    let fd = eventfd.as_fd().as_raw_fd();
    // SAFETY: eight bytes of ours are written.
    let _ = unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) };
}

/// [`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html). Waits.
pub(crate) fn fsync(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes a number.
    let code = unsafe { libc::fsync(fd) };
    syscall_result(code.into()).map(drop)
}

/// [`fdatasync(2)`](https://man7.org/linux/man-pages/man2/fdatasync.2.html). Waits.
pub(crate) fn fdatasync(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes a number.
    let code = unsafe { libc::fdatasync(fd) };
    syscall_result(code.into()).map(drop)
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
