//! Reads and writes that block, as an [`Sqe`] describes them.
#![allow(unsafe_code)]

use std::io;

use super::blocking_syscalls::syscall_result;
use crate::backend::Sqe;
use crate::sys::abi::UIO_MAXIOV;

/// Performs a plain read. Uses `preadv2` only if there are flags: a sandbox may know `pread64` alone.
///
/// # Safety
///
/// The buffer of `entry` is valid, and nobody observes it.
///
/// # References
///
/// [`preadv2(2)`](https://man7.org/linux/man-pages/man2/preadv2.2.html)
pub(super) unsafe fn read_at(entry: &Sqe) -> io::Result<usize> {
    if entry.rw_flags == 0 {
        let buffer = entry.addr as usize as *mut libc::c_void;
        // SAFETY: the caller's promise.
        let code = unsafe { libc::pread64(entry.fd, buffer, entry.len as usize, entry.offset) };
        return usize::try_from(code).map_err(|_| io::Error::last_os_error());
    }
    let iovec = iovec(entry);
    // SAFETY: the caller's promise; the iovec lives through the call.
    unsafe { with_flags(libc::SYS_preadv2, entry, &raw const iovec, 1) }
}

/// Performs a plain write. Uses `pwritev2` only if there are flags.
///
/// # Safety
///
/// The buffer of `entry` is valid, and nobody writes to it.
///
/// # References
///
/// [`pwritev2(2)`](https://man7.org/linux/man-pages/man2/pwritev2.2.html)
pub(super) unsafe fn write_at(entry: &Sqe) -> io::Result<usize> {
    if entry.rw_flags == 0 {
        let buffer = entry.addr as usize as *const libc::c_void;
        // SAFETY: the caller's promise.
        let code = unsafe { libc::pwrite64(entry.fd, buffer, entry.len as usize, entry.offset) };
        return usize::try_from(code).map_err(|_| io::Error::last_os_error());
    }
    let iovec = iovec(entry);
    // SAFETY: the caller's promise; the iovec lives through the call.
    unsafe { with_flags(libc::SYS_pwritev2, entry, &raw const iovec, 1) }
}

/// Performs a vectored read. Uses `preadv2` only if there are flags.
///
/// # Safety
///
/// The iovecs of `entry` are valid. Their memory is valid too, and nobody observes it.
///
/// # References
///
/// [`preadv2(2)`](https://man7.org/linux/man-pages/man2/preadv2.2.html)
pub(super) unsafe fn read_vectored_at(entry: &Sqe) -> io::Result<usize> {
    let (iovecs, count) = iovecs(entry)?;
    if entry.rw_flags == 0 {
        // SAFETY: the caller's promise.
        let code = unsafe { libc::preadv64(entry.fd, iovecs, count, entry.offset) };
        return usize::try_from(code).map_err(|_| io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    unsafe { with_flags(libc::SYS_preadv2, entry, iovecs, count) }
}

/// Performs a vectored write. Uses `pwritev2` only if there are flags.
///
/// # Safety
///
/// The iovecs of `entry` are valid. Their memory is valid too, and nobody writes to it.
///
/// # References
///
/// [`pwritev2(2)`](https://man7.org/linux/man-pages/man2/pwritev2.2.html)
pub(crate) unsafe fn write_vectored_at(entry: &Sqe) -> io::Result<usize> {
    let (iovecs, count) = iovecs(entry)?;
    if entry.rw_flags == 0 {
        // SAFETY: the caller's promise.
        let code = unsafe { libc::pwritev64(entry.fd, iovecs, count, entry.offset) };
        return usize::try_from(code).map_err(|_| io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    unsafe { with_flags(libc::SYS_pwritev2, entry, iovecs, count) }
}

/// Where in the file a transfer ends, whose offset is not negative and whose iovecs are not too many.
/// Saturates.
///
/// # Safety
///
/// The iovecs of `entry` are valid if it is vectored.
#[cold]
pub(super) unsafe fn end(entry: &Sqe) -> u64 {
    let mut len = entry.len;
    if entry.opcode.is_vectored() {
        len = 0;
        for index in 0..entry.len as usize {
            let iovecs = entry.addr as usize as *const libc::iovec;
            // SAFETY: there are that many, by the caller's promise.
            let iovec = unsafe { iovecs.add(index) };
            // SAFETY: as above.
            len = len.saturating_add(unsafe { iovec.read() }.iov_len as u64);
        }
    }
    (entry.offset as u64).saturating_add(len)
}

/// The buffer of a plain transfer.
fn iovec(entry: &Sqe) -> libc::iovec {
    libc::iovec {
        iov_base: entry.addr as usize as *mut libc::c_void,
        iov_len: entry.len as usize,
    }
}

/// The iovecs of a vectored transfer, and their number. `EINVAL`: too many.
fn iovecs(entry: &Sqe) -> io::Result<(*const libc::iovec, libc::c_int)> {
    if entry.len > UIO_MAXIOV {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let first = entry.addr as usize as *const libc::iovec;
    Ok((first, entry.len as libc::c_int))
}

/// # Safety
///
/// As [`read_vectored_at`] and [`write_vectored_at`] with these iovecs, whichever `number` is.
unsafe fn with_flags(
    number: libc::c_long,
    entry: &Sqe,
    iovecs: *const libc::iovec,
    count: libc::c_int,
) -> io::Result<usize> {
    if entry.offset < 0 {
        // To the system call, -1 is the file's own position.
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // Two registers of 32 bits. On 64-bit systems the first has all of it, and the kernel shifts
    // the second out.
    let (low, high) = (
        entry.offset as libc::c_long,
        (entry.offset >> 32) as libc::c_long,
    );
    let count: libc::c_long = count.into();
    let flags: libc::c_long = entry.rw_flags.into();
    // SAFETY: the caller's promise.
    let code = unsafe { libc::syscall(number, entry.fd, iovecs, count, low, high, flags) };
    syscall_result(code)
}
