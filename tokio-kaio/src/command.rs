//! [`RawCommand`]: one operation, as the caller describes it.

#[cfg(feature = "tracing")]
use crate::error::Transfer;
use crate::error::beyond_max_offset;
use crate::flags::{PollEvents, ReadFlags, WriteFlags};
use crate::{AioCommandError, AlignedBuf, Part, PartMut};

use crate::backend::OpCode;
use crate::op::{BufferReturn, IoOp, IoRequest};
use crate::sys::abi::RWF_APPEND;

/// One operation, for
/// [`submit_request`](crate::GenericAioContextHandle::submit_request) and
/// [batches](crate::Batch::push).
///
/// Offsets and lengths are in bytes. For direct I/O they must be multiples of the file's
/// [alignment](crate::File::alignment), mostly 512 or 4096. A later, breaking version may have further
/// variants.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AlignedBuf, File, RawCommand, WriteFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// let (context, handle) = aio_context(8, true)?;
/// let file = File::create(path, false).await?;
/// let block = AlignedBuf::new(4096)?;
/// let write = RawCommand::Pwrite {
///     offset: 0,
///     buffer: &block,
///     flags: WriteFlags::empty(),
///     len: 4096,
/// };
/// assert_eq!(handle.submit_request(&file, write).await?, 4096);
/// assert_eq!(handle.submit_request(&file, RawCommand::Fdsync).await?, 0);
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum RawCommand<'a> {
    /// Read `len` bytes at `offset` into the start of `buffer`, as
    /// [`pread(2)`](https://man7.org/linux/man-pages/man2/pread.2.html) does. Completes with the number of
    /// bytes read: less than `len` where the file ends, 0 at or past its end. More than 2 GiB take several
    /// requests, as with [`Preadv`](RawCommand::Preadv).
    Pread {
        /// Offset in the file, in bytes.
        offset: u64,
        /// Destination. After a short read, the rest of the `len` bytes may be zeroed. Bytes from `len` on
        /// are unchanged.
        buffer: &'a mut AlignedBuf,
        /// Flags of this read.
        flags: ReadFlags,
        /// Number of bytes, at most the buffer's size.
        len: u64,
    },

    /// Write the first `len` bytes of `buffer` at `offset`, as
    /// [`pwrite(2)`](https://man7.org/linux/man-pages/man2/pwrite.2.html) does. Completes with the number
    /// of bytes written. That is less than `len` if the disk fills up, for instance: move the rest to the
    /// start of the buffer for the next write. More than 2 GiB take several requests, as with
    /// [`Pwritev`](RawCommand::Pwritev).
    Pwrite {
        /// Offset in the file, in bytes. Ignored with [`WriteFlags::APPEND`], and if the file was opened
        /// with `O_APPEND`. With a bare descriptor that has `O_APPEND`, XFS still refuses an offset that is not
        /// aligned: give 0.
        offset: u64,
        /// Source.
        buffer: &'a AlignedBuf,
        /// Flags of this write.
        flags: WriteFlags,
        /// Number of bytes, at most the buffer's size.
        len: u64,
    },

    /// Read at `offset` into `buffers`, one after the other, as
    /// [`preadv(2)`](https://man7.org/linux/man-pages/man2/preadv.2.html) does. Completes with the number
    /// of bytes read, as [`Pread`](RawCommand::Pread) does.
    ///
    /// Each 1024 buffers (`IOV_MAX`) take a request, made when the previous one is done. If one fails, the
    /// whole read fails. It is short only where the file ends.
    Preadv {
        /// Offset in the file, in bytes.
        offset: u64,
        /// Destinations: whole buffers or ranges of them. With direct I/O each must be aligned.
        buffers: &'a mut [PartMut<'a>],
        /// Flags of this read.
        flags: ReadFlags,
    },

    /// Write `buffers` at `offset`, one after the other, as
    /// [`pwritev(2)`](https://man7.org/linux/man-pages/man2/pwritev.2.html) does. Completes with the number
    /// of bytes written, as [`Pwrite`](RawCommand::Pwrite) does.
    ///
    /// Each 1024 buffers (`IOV_MAX`) take a request, made when the previous one is done. If one fails, the
    /// write completes with the bytes written before, and a write of the rest meets the error. Only
    /// [`AioStopped`](AioCommandError::AioStopped) and [`TimedOut`](AioCommandError::TimedOut) fail the
    /// whole write, because parts of the rest may still land.
    Pwritev {
        /// Offset in the file, in bytes, as in [`Pwrite`](RawCommand::Pwrite).
        offset: u64,
        /// Sources: whole buffers or ranges of them. With direct I/O each must be aligned.
        buffers: &'a [Part<'a>],
        /// Flags of this write.
        flags: WriteFlags,
    },

    /// Wait until a pipe, socket, device or eventfd has one of `events`. Completes with the
    /// [bits](PollEvents::bits) of the events that it has, including [`ERR`](PollEvents::ERR) and
    /// [`HUP`](PollEvents::HUP) even if not asked for. [`poll`](crate::GenericAioContextHandle::poll)
    /// returns [`PollEvents`] instead. A regular file has all events at once. Since Linux 4.18.
    ///
    /// A poll holds its slot while it waits. Only polls are truly cancelled when they are dropped. Closing
    /// a context ends its polls with [`AioStopped`](AioCommandError::AioStopped).
    /// [`BadResult`](AioCommandError::BadResult): the file can no longer be polled.
    Poll {
        /// The events to wait for.
        events: PollEvents,
    },

    /// Make the file's data durable, as
    /// [`fdatasync(2)`](https://man7.org/linux/man-pages/man2/fdatasync.2.html) does. Covers the writes
    /// that completed before it is submitted.
    Fdsync,

    /// Make the file's data and metadata durable, as
    /// [`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html) does. Covers the writes that
    /// completed before it is submitted.
    Fsync,
}

impl<'a> RawCommand<'a> {
    /// The name of the operation in traces.
    #[cfg(feature = "tracing")]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            RawCommand::Pread { .. } => "read",
            RawCommand::Pwrite { .. } => "write",
            RawCommand::Preadv { .. } => "readv",
            RawCommand::Pwritev { .. } => "writev",
            RawCommand::Poll { .. } => "poll",
            RawCommand::Fdsync => "fdatasync",
            RawCommand::Fsync => "fsync",
        }
    }

    /// Whether this is a write to the current end of the file.
    pub(crate) fn appends(&self) -> bool {
        matches!(
            self,
            RawCommand::Pwrite { flags, .. } | RawCommand::Pwritev { flags, .. }
                if flags.contains(WriteFlags::APPEND)
        )
    }

    /// Panics if `len` is larger than the buffer.
    #[inline]
    pub(crate) fn check(&self) {
        let (len, size) = match self {
            RawCommand::Pread { len, buffer, .. } => (*len, buffer.size()),
            RawCommand::Pwrite { len, buffer, .. } => (*len, buffer.size()),
            _ => return,
        };
        assert!(
            len <= size as u64,
            "len should be <= buffer.size(): a transfer of {len} bytes on a buffer of {size}"
        );
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn transfer(&self) -> Option<Transfer> {
        let (offset, len) = match self {
            RawCommand::Pread { offset, len, .. } => (*offset, *len),
            RawCommand::Pwrite { offset, len, .. } => (*offset, *len),
            RawCommand::Preadv {
                offset, buffers, ..
            } => (*offset, buffers.iter().map(|part| part.len() as u64).sum()),
            RawCommand::Pwritev {
                offset, buffers, ..
            } => (*offset, buffers.iter().map(|part| part.len() as u64).sum()),
            RawCommand::Poll { .. } | RawCommand::Fdsync | RawCommand::Fsync => return None,
        };
        Some(Transfer {
            offset: (!self.appends()).then_some(offset),
            len,
        })
    }

    /// Converts the command to a request, and the place that its memory returns to. The memory of a read
    /// moves out of the buffer.
    ///
    /// # Errors
    ///
    /// `IoSubmit`: `ENOMEM` if a buffer has to be copied and there is no memory; the errors of [`io_op`].
    #[inline(always)]
    pub(crate) fn into_request(self) -> Result<(IoRequest, BufferReturn<'a>), AioCommandError> {
        let no_memory = AioCommandError::IoSubmit;
        Ok(match self {
            RawCommand::Pread {
                offset,
                buffer,
                flags,
                len,
            } => {
                let op = io_op(OpCode::Read, flags.bits(), offset, len)?;
                IoRequest::read(op, buffer).map_err(no_memory)?
            }
            RawCommand::Pwrite {
                offset,
                buffer,
                flags,
                len,
            } => {
                let op = io_op(OpCode::Write, flags.bits(), offset, len)?;
                (IoRequest::write(op, buffer), BufferReturn::None)
            }
            RawCommand::Preadv {
                offset,
                buffers,
                flags,
            } => {
                let len = buffers.iter().map(|part| part.len() as u64).sum();
                let op = io_op(OpCode::Read, flags.bits(), offset, len)?;
                IoRequest::read_parts(op, buffers).map_err(no_memory)?
            }
            RawCommand::Pwritev {
                offset,
                buffers,
                flags,
            } => {
                let len = buffers.iter().map(|part| part.len() as u64).sum();
                let op = io_op(OpCode::Write, flags.bits(), offset, len)?;
                (IoRequest::write_parts(op, buffers), BufferReturn::None)
            }
            RawCommand::Poll { events } => (IoRequest::poll(events.bits()), BufferReturn::None),
            RawCommand::Fdsync => (IoRequest::sync(OpCode::Fdatasync), BufferReturn::None),
            RawCommand::Fsync => (IoRequest::sync(OpCode::Fsync), BufferReturn::None),
        })
    }
}

/// Describes a transfer of `nbytes`; 0 if not known yet: the caller has to call [`check_end`] later.
///
/// # Errors
///
/// `IoSubmit`: `EOPNOTSUPP` for flags that no kernel can know; the errors of [`check_end`].
#[inline(always)]
pub(crate) fn io_op(
    opcode: OpCode,
    flags: isize,
    offset: u64,
    nbytes: u64,
) -> Result<IoOp, AioCommandError> {
    let op = IoOp {
        rw_flags: flags as i32,
        nbytes,
        offset: offset as i64,
        ..IoOp::new(opcode)
    };
    const RARE: usize = (!0 << 31) | RWF_APPEND as usize;
    // Nearly all transfers have small flags, append nothing, and end below the largest offset.
    match flags as usize & RARE == 0 && ends_in_range(&op) {
        true => Ok(op),
        false => check_rare(op, flags),
    }
}

#[cold]
fn check_rare(mut op: IoOp, flags: isize) -> Result<IoOp, AioCommandError> {
    op.rw_flags = rw_flags(flags)?;
    if op.appends() {
        // The kernel ignores the offset of an append, but refuses an invalid one, and XFS a misaligned one.
        op.offset = 0;
    }
    check_end(&op)?;
    Ok(op)
}

/// Whether a transfer ends at an offset that a file can have.
#[inline(always)]
fn ends_in_range(op: &IoOp) -> bool {
    let (offset, len) = (op.offset as u64, op.nbytes);
    (offset | len | offset.wrapping_add(len)) >> 63 == 0
}

/// Checks that a transfer ends at an offset that a file can have. Kernel AIO refuses other requests, and
/// `pread(2)` fails with the same errno. The check makes it the same error on every backend, with a text
/// that says why.
///
/// # Errors
///
/// `IoSubmit`, `EINVAL`: the transfer would end past the largest offset of a file.
#[inline]
pub(crate) fn check_end(op: &IoOp) -> Result<(), AioCommandError> {
    const LARGEST: u64 = i64::MAX as u64;
    match ends_in_range(op) || op.appends() {
        true => Ok(()), // the offset of an append is not known in advance
        false => Err(beyond_max_offset(op.offset as u64, op.nbytes, LARGEST)),
    }
}

/// Converts flags without dropping a bit.
fn rw_flags(bits: isize) -> Result<i32, AioCommandError> {
    i32::try_from(bits)
        .map_err(|_| AioCommandError::IoSubmit(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Sqe;

    /// The submission queue entry of a valid command.
    fn encoded(command: RawCommand<'_>) -> Sqe {
        let (request, buffer_return) = command.into_request().unwrap();
        let sqe = request.op.sqe(5, &request.buffer, 3);
        buffer_return.give_back(request.buffer);
        assert_eq!((sqe.user_data, sqe.fd, sqe.priority), (3, 5, 0));
        sqe
    }

    fn read(buffer: &mut AlignedBuf, flags: ReadFlags) -> RawCommand<'_> {
        RawCommand::Pread {
            offset: 8192,
            buffer,
            flags,
            len: 512,
        }
    }

    fn write(buffer: &AlignedBuf, flags: WriteFlags) -> RawCommand<'_> {
        RawCommand::Pwrite {
            offset: 8192,
            buffer,
            flags,
            len: 512,
        }
    }

    #[test]
    fn every_read_flag_is_in_rw_flags_and_nowhere_else() {
        let mut buffer = AlignedBuf::new(4096).unwrap();
        for (flag, bits) in [
            (ReadFlags::empty(), 0),
            (ReadFlags::HIPRI, libc::RWF_HIPRI),
            (ReadFlags::NOWAIT, libc::RWF_NOWAIT),
            (ReadFlags::DONTCACHE, 0x80),
            (ReadFlags::all(), 0x80 | libc::RWF_HIPRI | libc::RWF_NOWAIT),
            (ReadFlags::from_bits_retain(1 << 30), 1 << 30),
        ] {
            let sqe = encoded(read(&mut buffer, flag));
            assert_eq!(sqe.rw_flags, bits, "{flag:?}");
        }
    }

    #[test]
    fn an_append_has_no_offset() {
        let buffer = AlignedBuf::new(4096).unwrap();
        let offset = |flags| encoded(write(&buffer, flags)).offset;
        assert_ne!(offset(WriteFlags::empty()), 0);
        assert_eq!(offset(WriteFlags::APPEND), 0);
    }

    #[test]
    fn every_write_flag_is_in_rw_flags_and_nowhere_else() {
        let buffer = AlignedBuf::new(4096).unwrap();
        for (flag, bits) in [
            (WriteFlags::empty(), 0),
            (WriteFlags::APPEND, libc::RWF_APPEND),
            (WriteFlags::DSYNC, libc::RWF_DSYNC),
            (WriteFlags::HIPRI, libc::RWF_HIPRI),
            (WriteFlags::NOWAIT, libc::RWF_NOWAIT),
            (WriteFlags::SYNC, libc::RWF_SYNC),
            (WriteFlags::NOAPPEND, 0x20),
            (WriteFlags::ATOMIC, 0x40),
            (WriteFlags::DONTCACHE, 0x80),
            (WriteFlags::all(), 0xff),
            (WriteFlags::from_bits_retain(0x100), 0x100),
        ] {
            let sqe = encoded(write(&buffer, flag));
            assert_eq!(sqe.rw_flags, bits, "{flag:?}");
        }
    }

    #[test]
    fn bits_that_do_not_fit_are_refused_and_the_buffer_stays() {
        let mut buffer = AlignedBuf::new(4096).unwrap();
        for bits in (31..isize::BITS).map(|bit| 1_isize << bit) {
            let flags = ReadFlags::from_bits_retain(bits);
            let error = read(&mut buffer, flags).into_request().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{bits:#x}");
            let flags = WriteFlags::from_bits_retain(bits);
            let error = write(&buffer, flags).into_request().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{bits:#x}");
        }
        assert_eq!(buffer.size(), 4096);
    }

    #[test]
    fn transfers_name_their_place_and_memory() {
        let mut buffer = AlignedBuf::new(4096).unwrap();
        let address = buffer.as_ref().as_ptr().addr() as u64;
        let sqe = encoded(write(&buffer, WriteFlags::empty()));
        assert_eq!(sqe.opcode, OpCode::Write);
        assert_eq!((sqe.offset, sqe.len, sqe.addr), (8192, 512, address));
        let sqe = encoded(read(&mut buffer, ReadFlags::empty()));
        assert_eq!(sqe.opcode, OpCode::Read);
        assert_eq!((sqe.offset, sqe.len, sqe.addr), (8192, 512, address));
    }

    #[test]
    fn syncs_leave_every_field_of_a_transfer_at_zero() {
        for (command, opcode) in [
            (RawCommand::Fsync, OpCode::Fsync),
            (RawCommand::Fdsync, OpCode::Fdatasync),
        ] {
            let sqe = encoded(command);
            assert_eq!(sqe.opcode, opcode);
            assert_eq!((sqe.offset, sqe.len, sqe.addr, sqe.rw_flags), (0, 0, 0, 0));
        }
    }
}
