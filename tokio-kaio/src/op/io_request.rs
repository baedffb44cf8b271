//! [`IoRequest`]: an operation and its memory.

use std::io;

use super::iovecs::IoVecs;
use super::{BufferReturn, IoBuffer, IoOp};
use crate::backend::OpCode;
use crate::buf::{AlignedBuf, Part, PartMut};
use crate::sys::abi;

#[derive(Debug)]
pub(crate) struct IoRequest {
    pub(crate) op: IoOp,
    /// The memory that `op` reads or writes. Has at least `op.nbytes`.
    pub(crate) buffer: IoBuffer,
}

impl IoRequest {
    pub(crate) fn new(op: IoOp, buffer: IoBuffer) -> IoRequest {
        IoRequest { op, buffer }
    }

    /// Creates a request that moves no data.
    pub(crate) fn sync(opcode: OpCode) -> IoRequest {
        IoRequest::new(IoOp::new(opcode), IoBuffer::None)
    }

    /// Creates a poll for `events`.
    pub(crate) fn poll(events: u16) -> IoRequest {
        let op = IoOp {
            nbytes: events.into(),
            ..IoOp::new(OpCode::Poll)
        };
        IoRequest::new(op, IoBuffer::None)
    }

    /// Creates a read of `op.nbytes` into `buffer`, which must have at least that size.
    ///
    /// # Errors
    ///
    /// See [`AlignedBuf::take`].
    #[inline(always)]
    pub(crate) fn read(
        op: IoOp,
        buffer: &mut AlignedBuf,
    ) -> io::Result<(IoRequest, BufferReturn<'_>)> {
        assert!(op.nbytes <= buffer.size() as u64);
        let memory = match buffer.take()? {
            Some(region) => IoBuffer::Exclusive(region),
            None => IoBuffer::None, // no bytes
        };
        Ok((IoRequest::new(op, memory), BufferReturn::Buffer(buffer)))
    }

    /// Creates a write of `op.nbytes` from `buffer`, which must have at least that size.
    #[inline(always)]
    pub(crate) fn write(op: IoOp, buffer: &AlignedBuf) -> IoRequest {
        assert!(op.nbytes <= buffer.size() as u64);
        let memory = match buffer.share() {
            Some(region) => IoBuffer::Shared(region),
            None => IoBuffer::None, // no bytes
        };
        IoRequest::new(op, memory)
    }

    /// Creates a read into `parts`, in order.
    ///
    /// # Errors
    ///
    /// See [`AlignedBuf::take`]. All buffers are unchanged.
    #[inline(never)]
    pub(crate) fn read_parts<'a>(
        op: IoOp,
        parts: &'a mut [PartMut<'a>],
    ) -> io::Result<(IoRequest, BufferReturn<'a>)> {
        let mut failed = None;
        let iovecs =
            IoVecs::exclusive(parts.iter_mut().map_while(|part| match part.buffer.take() {
                Ok(region) => Some((region, part.range.start, part.range.len())),
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }));
        let buffer = IoBuffer::Vectored(Box::new(iovecs));
        let buffer_return = BufferReturn::Parts(Box::new(parts));
        match failed {
            None => Ok((IoRequest::vectored(op, buffer), buffer_return)),
            Some(error) => {
                buffer_return.give_back(buffer);
                Err(error)
            }
        }
    }

    /// Creates a write from `parts`, in order.
    #[inline(never)]
    pub(crate) fn write_parts(op: IoOp, parts: &[Part<'_>]) -> IoRequest {
        let iovecs = IoVecs::shared(parts.iter().filter_map(|part| {
            let region = part.buffer.share()?;
            Some((region, part.range.start, part.range.len()))
        }));
        IoRequest::vectored(op, IoBuffer::Vectored(Box::new(iovecs)))
    }

    /// Creates a request for all bytes of `buffer`.
    pub(super) fn vectored(op: IoOp, buffer: IoBuffer) -> IoRequest {
        let op = match &buffer {
            IoBuffer::Vectored(iovecs) => IoOp {
                nbytes: iovecs.len(),
                ..op
            },
            _ => op,
        };
        IoRequest::new(op, buffer)
    }

    /// Returns how many of `nbytes` one request with `buffer` can move at most.
    pub(crate) fn max_transfer(buffer: &IoBuffer, nbytes: u64) -> u64 {
        buffer.max_transfer(nbytes)
    }

    /// Returns whether the operation may take several requests, or is a poll.
    #[inline(always)]
    pub(crate) fn needs_progress(op: &IoOp, buffer: &IoBuffer) -> bool {
        matches!(buffer, IoBuffer::Vectored(_)) || op.is_poll() || op.nbytes > abi::MAX_RW_COUNT
    }

    /// Returns whether the transfer takes more than one request.
    pub(crate) fn exceeds_one_request(op: &IoOp, buffer: &IoBuffer) -> bool {
        op.is_transfer() && buffer.max_transfer(op.nbytes) < op.nbytes
    }

    /// Creates the request for the rest of `op`, after `moved` bytes.
    pub(crate) fn rest(op: &IoOp, buffer: IoBuffer, moved: u64) -> IoRequest {
        let op = IoOp {
            nbytes: op.nbytes.saturating_sub(moved),
            offset: op.offset.saturating_add_unsigned(moved),
            ..*op
        };
        IoRequest::new(op, buffer.advanced(moved))
    }
}
