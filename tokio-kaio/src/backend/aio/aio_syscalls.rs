//! The system calls of kernel AIO, each as `io::Result`. The C library wraps none of them.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::aio_abi::{IoEvent, Iocb};

/// `aio_context_t`: the address at which the kernel mapped the completion ring.
pub(super) type ContextId = libc::c_ulong;

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
pub(super) fn io_setup(nr: u32) -> io::Result<ContextId> {
    let mut id: ContextId = 0;
    // SAFETY: the kernel writes the id to a local variable.
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
pub(super) unsafe fn io_destroy(id: ContextId) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let code = unsafe { libc::syscall(libc::SYS_io_destroy, id) };
    syscall_result(code).map(drop)
}

/// Submits requests in order, up to the first bad one; returns how many were taken. The kernel does
/// not use the iocbs after this returns.
///
/// # Errors
///
/// The errno of the first request, if none was taken.
///
/// # Safety
///
/// `id` is a live context. `iocbs` point to valid iocbs, which nobody else uses during the call. The
/// memory that the iocbs name stays valid until their events, and is observed by nobody while the
/// kernel may write to it.
///
/// # References
///
/// [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html)
#[inline]
pub(super) unsafe fn io_submit(id: ContextId, iocbs: &mut [*mut Iocb]) -> io::Result<usize> {
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

/// Cancels the poll that was submitted from the address `iocb`. Other requests can't be cancelled.
/// The event of the poll still comes, through the ring. Does not wait. Returns whether the poll was
/// found.
///
/// # Errors
///
/// The errno of a kernel that can't cancel. `EINVAL` is no error: the poll has completed, or was not
/// submitted yet.
///
/// # References
///
/// [`io_cancel(2)`](https://man7.org/linux/man-pages/man2/io_cancel.2.html)
pub(super) fn io_cancel(id: ContextId, iocb: NonNull<Iocb>) -> io::Result<bool> {
    let mut unused = MaybeUninit::<IoEvent>::zeroed(); // kernels before 3.10 wrote to it
    // SAFETY: the kernel refuses an `id` that is no context. It reads a word of `iocb`, with a check
    // of the address, and writes to a local variable.
    let code =
        unsafe { libc::syscall(libc::SYS_io_cancel, id, iocb.as_ptr(), unused.as_mut_ptr()) };
    match syscall_result(code) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINPROGRESS) => Ok(true), // Linux's only answer of success
            Some(libc::EINVAL | libc::EAGAIN) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Moves up to `room` events that have arrived to `events`; returns how many. Does not wait.
///
/// # Safety
///
/// `id` is a live context, `events` has room for `room` events, and nobody reaps the ring in user
/// space at the same time.
///
/// # References
///
/// [`io_getevents(2)`](https://man7.org/linux/man-pages/man2/io_getevents.2.html)
pub(super) unsafe fn io_getevents(
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
    match syscall_result(code) {
        // A signal was pending, and there were no events.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        fetched => fetched,
    }
}

/// Keeps the ring of context `id` out of forked children.
///
/// # Safety
///
/// The `len` bytes from `id` are exactly the ring's mapping.
///
/// # References
///
/// [`madvise(2)`](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_DONTFORK`
pub(super) unsafe fn dont_fork_ring(id: ContextId, len: usize) -> io::Result<()> {
    // SAFETY: the caller's promise; the advice changes nothing in this process.
    let code = unsafe { libc::madvise(id as *mut libc::c_void, len, libc::MADV_DONTFORK) };
    syscall_result(code.into()).map(drop)
}

/// −1 is `errno`, anything else the value.
fn syscall_result(code: libc::c_long) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::last_os_error())
}
