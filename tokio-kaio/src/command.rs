//! [`RawCommand`]: one operation as the caller states it.

#[cfg(feature = "tracing")]
use crate::error::Transfer;
use crate::error::past_the_largest;
use crate::flags::{PollEvents, ReadFlags, WriteFlags};
use crate::{AioCommandError, AlignedBuf, Part, PartMut};

use crate::backend::OpCode;
use crate::op::{BufferReturn, IoOp, IoRequest};

/// One operation, for
/// [`submit_request`](crate::GenericAioContextHandle::submit_request).
///
/// Offsets and lengths are bytes. For direct I/O they must be multiples of what the file wants:
/// 512 or 4096 mostly. A later, breaking version may have
/// further variants.
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
    /// Read `len` bytes at `offset` to the front of `buffer`. Completes with the number of bytes
    /// read: less than `len` where the file ends, 0 at or past its end. As
    /// [`pread(2)`](https://man7.org/linux/man-pages/man2/pread.2.html), but more than 2 GiB take
    /// several requests, as of [`Preadv`](RawCommand::Preadv).
    Pread {
        /// Where in the file, bytes.
        offset: u64,
        /// Where to. Of the `len` bytes, those after the ones that were read can have been zeroed;
        /// the rest of the buffer is left as it was.
        buffer: &'a mut AlignedBuf,
        /// How.
        flags: ReadFlags,
        /// How many bytes, at most the buffer's size.
        len: u64,
    },

    /// Write the first `len` bytes of `buffer` at `offset`. Completes with the number of bytes
    /// written, which can be less than `len`, as where the disk fills up; the rest is then to be
    /// moved to the front of the buffer for the next write. As
    /// [`pwrite(2)`](https://man7.org/linux/man-pages/man2/pwrite.2.html), but more than 2 GiB take
    /// several requests, as of [`Pwritev`](RawCommand::Pwritev).
    Pwrite {
        /// Where in the file, bytes. Ignored with [`WriteFlags::APPEND`], and where the file was
        /// opened with `O_APPEND`.
        offset: u64,
        /// Where from.
        buffer: &'a AlignedBuf,
        /// How.
        flags: WriteFlags,
        /// How many bytes, at most the buffer's size.
        len: u64,
    },

    /// Read at `offset` to each of `buffers`, one after the other. Completes with the number of bytes
    /// read, as [`Pread`](RawCommand::Pread) does. As
    /// [`preadv(2)`](https://man7.org/linux/man-pages/man2/preadv.2.html), but of more than
    /// `IOV_MAX`, 1024, a request is made for each 1024, one when the one before is done. Where one of
    /// them fails, so does the whole: it is short only where the file ends.
    Preadv {
        /// Where in the file, bytes.
        offset: u64,
        /// Where to: whole buffers or ranges of them. With direct I/O each must be aligned.
        buffers: &'a mut [PartMut<'a>],
        /// How.
        flags: ReadFlags,
    },

    /// Write each of `buffers` at `offset`, one after the other. Completes with the number of bytes
    /// written, as [`Pwrite`](RawCommand::Pwrite) does. As
    /// [`pwritev(2)`](https://man7.org/linux/man-pages/man2/pwritev.2.html), but of more than
    /// `IOV_MAX`, 1024, a request is made for each 1024, one when the one before is done. Where one of
    /// them fails, it completes with what those before have written, and a write of the rest meets the
    /// error; but [`AioStopped`](AioCommandError::AioStopped) and
    /// [`TimedOut`](AioCommandError::TimedOut) fail the whole, since of the rest some may still land.
    Pwritev {
        /// Where in the file, bytes; as in [`Pwrite`](RawCommand::Pwrite).
        offset: u64,
        /// Where from: whole buffers or ranges of them. With direct I/O each must be aligned.
        buffers: &'a [Part<'a>],
        /// How.
        flags: WriteFlags,
    },

    /// Wait until a pipe, socket, device or eventfd has one of `events`. Completes with the
    /// [bits](PollEvents::bits) of those that it has, including [`ERR`](PollEvents::ERR) and
    /// [`HUP`](PollEvents::HUP) even if not asked for. [`poll`](crate::GenericAioContextHandle::poll)
    /// returns [`PollEvents`] instead. A regular file has all events at once.
    ///
    /// It occupies a slot while it waits. Only polls are truly cancelled when they are dropped. A context
    /// that is closed does not wait for polls in flight: they fail with
    /// [`AioStopped`](AioCommandError::AioStopped). Since Linux 4.18.
    Poll {
        /// What to wait for.
        events: PollEvents,
    },

    /// Make the file's data durable. Covers the writes that have completed before it is submitted.
    /// As [`fdatasync(2)`](https://man7.org/linux/man-pages/man2/fdatasync.2.html).
    Fdsync,

    /// Make the file's data and metadata durable. Covers the writes that have completed before it
    /// is submitted. As [`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html).
    Fsync,
}

impl<'a> RawCommand<'a> {
    /// What it is called in traces.
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

    /// Whether it is a write to the end of the file, wherever that is when it is made.
    pub(crate) fn appends(&self) -> bool {
        matches!(
            self,
            RawCommand::Pwrite { flags, .. } | RawCommand::Pwritev { flags, .. }
                if flags.contains(WriteFlags::APPEND)
        )
    }

    /// Panics where `len` is larger than the buffer.
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

    /// The request, and where its memory goes back to. The memory moves out of the buffer of a read.
    ///
    /// # Errors
    ///
    /// `IoSubmit`: `ENOMEM` where a buffer must be copied and can't, and what [`io_op`] refuses.
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

/// A transfer of `nbytes`, or 0 if that is not known yet: [`check_end`] is to follow then.
///
/// # Errors
///
/// `IoSubmit`: `EOPNOTSUPP` for flags that no kernel could know, and what [`check_end`] refuses.
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
    // Nearly all have small flags, and end below the largest offset.
    match (flags as usize) < 1 << 31 && ends_in_range(&op) {
        true => Ok(op),
        false => check_rare(op, flags),
    }
}

#[cold]
fn check_rare(mut op: IoOp, flags: isize) -> Result<IoOp, AioCommandError> {
    /// With room for the longest transfer behind it.
    const LAST: u64 = i64::MAX as u64 - (1 << 32);
    op.rw_flags = rw_flags(flags)?;
    if op.appends() && op.offset as u64 > LAST {
        op.offset = 0; // the kernel ignores it, but refuses one that no file has
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

/// # Errors
///
/// `IoSubmit`, `EINVAL`: the transfer would end past the largest offset of a file. The kernel's AIO
/// refuses such a request, and `pread(2)` fails with the same errno; checked here, it is one error on
/// every backend, with a text that says why.
#[inline]
pub(crate) fn check_end(op: &IoOp) -> Result<(), AioCommandError> {
    const LARGEST: u64 = i64::MAX as u64;
    match ends_in_range(op) || op.appends() {
        true => Ok(()), // the offset of an append is not known in advance
        false => Err(past_the_largest(op.offset as u64, op.nbytes, LARGEST)),
    }
}

/// No bit is dropped on the way to the kernel.
fn rw_flags(bits: isize) -> Result<i32, AioCommandError> {
    i32::try_from(bits)
        .map_err(|_| AioCommandError::IoSubmit(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Sqe;

    /// The entry that a backend gets, of a command that is well-formed.
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
