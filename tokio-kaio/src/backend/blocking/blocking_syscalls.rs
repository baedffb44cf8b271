//! System calls that wait: for a sync, and for descriptors to be ready.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// Waits until one of `fds` is ready. With `wait` false it returns at once.
///
/// # References
///
/// [`poll(2)`](https://man7.org/linux/man-pages/man2/poll.2.html)
pub(in crate::backend) fn poll(fds: &mut [libc::pollfd], wait: bool) -> io::Result<usize> {
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

/// Resets the counter of a non-blocking `eventfd`.
///
/// # References
///
/// [`eventfd(2)`](https://man7.org/linux/man-pages/man2/eventfd.2.html)
pub(in crate::backend) fn drain(eventfd: impl AsFd) {
    let mut count = 0_u64;
    let fd = eventfd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes eight bytes to a local variable.
    let _ = unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) };
}

/// [`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html). Waits.
pub(super) fn fsync(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes a number.
    let code = unsafe { libc::fsync(fd) };
    syscall_result(code.into()).map(drop)
}

/// [`fdatasync(2)`](https://man7.org/linux/man-pages/man2/fdatasync.2.html). Waits.
pub(super) fn fdatasync(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes a number.
    let code = unsafe { libc::fdatasync(fd) };
    syscall_result(code.into()).map(drop)
}

/// −1 is `errno`, anything else the value.
pub(super) fn syscall_result(code: libc::c_long) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::last_os_error())
}

pub(super) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
