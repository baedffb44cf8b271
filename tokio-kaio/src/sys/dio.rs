//! What direct I/O on a file wants: `statx(2)` with `STATX_DIOALIGN`.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use super::syscalls::syscall_result;

/// The alignments that a file wants for direct I/O, and its size, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectIo {
    pub(crate) size: u64,
    /// Of the memory.
    pub(crate) memory: u32,
    /// Of offset and length.
    pub(crate) offset: u32,
}

/// `None`: the kernel (before 6.1) or the file system does not tell. Alignments of 0: the file
/// can't do direct I/O.
///
/// # References
///
/// [`statx(2)`](https://man7.org/linux/man-pages/man2/statx.2.html)
pub(crate) fn direct_io(fd: RawFd) -> io::Result<Option<DirectIo>> {
    let mut status = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH asks about the descriptor itself; a closed one is
    // EBADF. The kernel writes one structure to memory of ours.
    let code = unsafe {
        libc::statx(
            fd,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_DIOALIGN | libc::STATX_SIZE,
            status.as_mut_ptr(),
        )
    };
    syscall_result(code.into())?;
    // SAFETY: all zeroes is a valid statx, and the kernel has filled it in.
    let status = unsafe { status.assume_init() };
    Ok(
        (status.stx_mask & libc::STATX_DIOALIGN != 0).then_some(DirectIo {
            size: status.stx_size,
            memory: status.stx_dio_mem_align,
            offset: status.stx_dio_offset_align,
        }),
    )
}
