//! A file's blocks on the disk and pages in the page cache: `fallocate`, `sync_file_range`,
//! `posix_fadvise`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::syscalls::syscall_result;

/// Changes the allocation of `len` bytes at `offset`, as `mode` says. Blocks. Resumes after signals.
///
/// # References
///
/// [`fallocate(2)`](https://man7.org/linux/man-pages/man2/fallocate.2.html)
#[doc(alias = "fallocate")]
pub(crate) fn allocate(
    file: impl AsFd,
    mode: libc::c_int,
    offset: i64,
    len: i64,
) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    loop {
        // SAFETY: takes numbers only.
        let code = unsafe { libc::fallocate64(fd, mode, offset, len) };
        match syscall_result(code.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {} // the work so far is kept
            result => return result.map(drop),
        }
    }
}

/// Writes dirty pages of the page cache to the disk, or waits for them, as `flags` say.
///
/// # References
///
/// [`sync_file_range(2)`](https://man7.org/linux/man-pages/man2/sync_file_range.2.html)
pub(crate) fn sync_file_range(
    file: impl AsFd,
    offset: i64,
    len: i64,
    flags: libc::c_uint,
) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: takes numbers only.
    let code = unsafe { libc::sync_file_range(fd, offset, len, flags) };
    syscall_result(code.into()).map(drop)
}

/// Announces the expected use of `len` bytes at `offset` to the kernel.
///
/// # References
///
/// [`posix_fadvise(2)`](https://man7.org/linux/man-pages/man2/posix_fadvise.2.html)
#[doc(alias = "posix_fadvise")]
pub(crate) fn advise(
    file: impl AsFd,
    offset: i64,
    len: i64,
    advice: libc::c_int,
) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: takes numbers only.
    let errno = unsafe { libc::posix_fadvise64(fd, offset, len, advice) };
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)), // returned, not in `errno`
    }
}
