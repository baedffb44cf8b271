//! [`RawCommand`]: one operation as the caller states it.

use crate::error::Transfer;
use crate::flags::{ReadFlags, WriteFlags};
use crate::{AioCommandError, LockedBuf};

use crate::request::{Lease, Payload};
use crate::sys::abi::{self, Iocb};

/// One operation, for
/// [`submit_request`](crate::GenericAioContextHandle::submit_request).
///
/// Offsets and lengths are bytes. For direct I/O they must be multiples of what the file wants:
/// 512 or 4096 mostly. Later versions may have further variants.
#[derive(Debug)]
pub enum RawCommand<'a> {
    /// Read `len` bytes at `offset` to the front of `buffer`. Completes with the number of bytes
    /// read: less than `len` where the file ends, 0 at or past its end. As
    /// [`pread(2)`](https://man7.org/linux/man-pages/man2/pread.2.html).
    Pread {
        /// Where in the file, bytes.
        offset: u64,
        /// Where to. The bytes after those that were read are left as they were.
        buffer: &'a mut LockedBuf,
        /// How.
        flags: ReadFlags,
        /// How many bytes, at most the buffer's size.
        len: u64,
    },

    /// Write the first `len` bytes of `buffer` at `offset`. Completes with the number of bytes
    /// written, which can be less than `len`, as where the disk fills up; the rest is then to be
    /// moved to the front of the buffer for the next write. As
    /// [`pwrite(2)`](https://man7.org/linux/man-pages/man2/pwrite.2.html).
    Pwrite {
        /// Where in the file, bytes. Ignored with [`WriteFlags::APPEND`].
        offset: u64,
        /// Where from.
        buffer: &'a LockedBuf,
        /// How.
        flags: WriteFlags,
        /// How many bytes, at most the buffer's size.
        len: u64,
    },

    /// Make the file's data durable. Covers the writes that have completed before it is submitted.
    /// As [`fdatasync(2)`](https://man7.org/linux/man-pages/man2/fdatasync.2.html).
    Fdsync,

    /// Make the file's data and metadata durable. Covers the writes that have completed before it
    /// is submitted. As [`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html).
    Fsync,
}

impl<'a> RawCommand<'a> {
    /// Panics where `len` is larger than the buffer.
    pub(crate) fn check(&self) {
        let (len, size) = match self {
            RawCommand::Pread { len, buffer, .. } => (*len, buffer.size()),
            RawCommand::Pwrite { len, buffer, .. } => (*len, buffer.size()),
            RawCommand::Fdsync | RawCommand::Fsync => return,
        };
        assert!(
            len <= size as u64,
            "len should be <= buffer.size(): a transfer of {len} bytes on a buffer of {size}"
        );
    }

    pub(crate) fn transfer(&self) -> Option<Transfer> {
        match *self {
            RawCommand::Pread { offset, len, .. } => Some(Transfer {
                offset: Some(offset),
                len,
            }),
            RawCommand::Pwrite {
                offset, len, flags, ..
            } => Some(Transfer {
                offset: (!flags.contains(WriteFlags::APPEND)).then_some(offset),
                len,
            }),
            RawCommand::Fdsync | RawCommand::Fsync => None,
        }
    }

    /// The request for descriptor `fd`: the iocb, with the memory that it names leased from the
    /// buffer.
    ///
    /// # Errors
    ///
    /// `IoSubmit`: `ENOMEM` where a buffer must be copied and can't, `EOPNOTSUPP` for flags that
    /// no kernel could know.
    pub(crate) fn payload(self, fd: i32) -> Result<(Payload, Lease<'a>), AioCommandError> {
        Ok(match self {
            RawCommand::Pread {
                offset,
                buffer,
                flags,
                len,
            } => {
                let mut iocb = Iocb::new(abi::IOCB_CMD_PREAD, fd);
                iocb.rw_flags = rw_flags(flags.bits())?;
                iocb.offset = offset as i64;
                iocb.nbytes = len;
                Payload::read(iocb, buffer).map_err(AioCommandError::IoSubmit)?
            }
            RawCommand::Pwrite {
                offset,
                buffer,
                flags,
                len,
            } => {
                let mut iocb = Iocb::new(abi::IOCB_CMD_PWRITE, fd);
                iocb.rw_flags = rw_flags(flags.bits())?;
                iocb.offset = offset as i64;
                iocb.nbytes = len;
                (Payload::write(iocb, buffer), Lease::None)
            }
            RawCommand::Fdsync => (
                Payload::bare(Iocb::new(abi::IOCB_CMD_FDSYNC, fd)),
                Lease::None,
            ),
            RawCommand::Fsync => (
                Payload::bare(Iocb::new(abi::IOCB_CMD_FSYNC, fd)),
                Lease::None,
            ),
        })
    }
}

/// No bit is dropped on the way to the kernel.
fn rw_flags(bits: isize) -> Result<i32, AioCommandError> {
    i32::try_from(bits)
        .map_err(|_| AioCommandError::IoSubmit(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP)))
}
