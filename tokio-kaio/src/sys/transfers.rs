//! Transfers that wait, as an [`Iocb`] describes them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use super::abi::{Iocb, UIO_MAXIOV};
use super::syscalls::syscall_result;

/// The read that `iocb` describes, from `fd`. Waits. `preadv2` only where there are flags: a
/// sandbox may know `pread64` alone.
///
/// # Safety
///
/// The memory that `iocb` names is valid, and observed by nobody.
///
/// # References
///
/// [`preadv2(2)`](https://man7.org/linux/man-pages/man2/preadv2.2.html)
pub(crate) unsafe fn read_at(fd: RawFd, iocb: &Iocb) -> io::Result<usize> {
    if iocb.rw_flags == 0 {
        let (memory, len) = (iocb.buf as usize as *mut libc::c_void, iocb.nbytes as usize);
        // SAFETY: the caller's promise.
        let code = unsafe { libc::pread64(fd, memory, len, iocb.offset) };
        return usize::try_from(code).map_err(|_| io::Error::last_os_error());
    }
    let memory = iovec(iocb);
    // SAFETY: the caller's promise; the iovec lives through the call.
    unsafe { with_flags(libc::SYS_preadv2, fd, iocb, &raw const memory, 1) }
}

/// The write that `iocb` describes, to `fd`. Waits. `pwritev2` only where there are flags.
///
/// # Safety
///
/// The memory that `iocb` names is valid, and nobody writes to it.
///
/// # References
///
/// [`pwritev2(2)`](https://man7.org/linux/man-pages/man2/pwritev2.2.html)
pub(crate) unsafe fn write_at(fd: RawFd, iocb: &Iocb) -> io::Result<usize> {
    if iocb.rw_flags == 0 {
        let (memory, len) = (
            iocb.buf as usize as *const libc::c_void,
            iocb.nbytes as usize,
        );
        // SAFETY: the caller's promise.
        let code = unsafe { libc::pwrite64(fd, memory, len, iocb.offset) };
        return usize::try_from(code).map_err(|_| io::Error::last_os_error());
    }
    let memory = iovec(iocb);
    // SAFETY: the caller's promise; the iovec lives through the call.
    unsafe { with_flags(libc::SYS_pwritev2, fd, iocb, &raw const memory, 1) }
}

/// The read into many places that `iocb` describes, from `fd`. Waits. `preadv2` only where there
/// are flags.
///
/// # Safety
///
/// The iovecs that `iocb` names are valid, and so is the memory that they name, which nobody
/// observes.
///
/// # References
///
/// [`preadv2(2)`](https://man7.org/linux/man-pages/man2/preadv2.2.html)
pub(crate) unsafe fn read_vectored_at(fd: RawFd, iocb: &Iocb) -> io::Result<usize> {
    let (iovecs, count) = iovecs(iocb)?;
    if iocb.rw_flags == 0 {
        // SAFETY: the caller's promise.
        let code = unsafe { libc::preadv64(fd, iovecs, count, iocb.offset) };
        return usize::try_from(code).map_err(|_| io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    unsafe { with_flags(libc::SYS_preadv2, fd, iocb, iovecs, count) }
}

/// The write from many places that `iocb` describes, to `fd`. Waits. `pwritev2` only where there
/// are flags.
///
/// # Safety
///
/// The iovecs that `iocb` names are valid, and so is the memory that they name, which nobody
/// writes to.
///
/// # References
///
/// [`pwritev2(2)`](https://man7.org/linux/man-pages/man2/pwritev2.2.html)
pub(crate) unsafe fn write_vectored_at(fd: RawFd, iocb: &Iocb) -> io::Result<usize> {
    let (iovecs, count) = iovecs(iocb)?;
    if iocb.rw_flags == 0 {
        // SAFETY: the caller's promise.
        let code = unsafe { libc::pwritev64(fd, iovecs, count, iocb.offset) };
        return usize::try_from(code).map_err(|_| io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    unsafe { with_flags(libc::SYS_pwritev2, fd, iocb, iovecs, count) }
}

/// The one piece of memory of a request that has one.
fn iovec(iocb: &Iocb) -> libc::iovec {
    libc::iovec {
        iov_base: iocb.buf as usize as *mut libc::c_void,
        iov_len: iocb.nbytes as usize,
    }
}

/// Those of a request that has many. `EINVAL`: more than there may be.
fn iovecs(iocb: &Iocb) -> io::Result<(*const libc::iovec, libc::c_int)> {
    if iocb.nbytes > UIO_MAXIOV {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let first = iocb.buf as usize as *const libc::iovec;
    Ok((first, iocb.nbytes as libc::c_int))
}

/// # Safety
///
/// As [`read_vectored_at`] and [`write_vectored_at`] with these iovecs, whichever `number` is.
unsafe fn with_flags(
    number: libc::c_long,
    fd: RawFd,
    iocb: &Iocb,
    iovecs: *const libc::iovec,
    count: libc::c_int,
) -> io::Result<usize> {
    if iocb.offset < 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL)); // -1 would be "where the file is"
    }
    // Two registers of 32 bits, or the first one alone: what the second says is shifted out then.
    let (low, high) = (
        iocb.offset as libc::c_long,
        (iocb.offset >> 32) as libc::c_long,
    );
    let count: libc::c_long = count.into();
    let flags: libc::c_long = iocb.rw_flags.into();
    // SAFETY: the caller's promise.
    let code = unsafe { libc::syscall(number, fd, iovecs, count, low, high, flags) };
    syscall_result(code)
}
