//! [`IoRequest`]: an operation with its memory.

use std::io;

use super::iovecs::IoVecs;
use super::{BufferReturn, IoBuffer, IoOp};
use crate::backend::OpCode;
use crate::buf::{AlignedBuf, Part, PartMut};
use crate::sys::abi;

#[derive(Debug)]
pub(crate) struct IoRequest {
    pub(crate) op: IoOp,
    /// Has the bytes that `op` moves.
    pub(crate) buffer: IoBuffer,
}

impl IoRequest {
    pub(crate) fn new(op: IoOp, buffer: IoBuffer) -> IoRequest {
        IoRequest { op, buffer }
    }

    /// A request that moves no data.
    pub(crate) fn sync(opcode: OpCode) -> IoRequest {
        IoRequest::new(IoOp::new(opcode), IoBuffer::None)
    }

    /// A poll for `events`.
    pub(crate) fn poll(events: u16) -> IoRequest {
        let op = IoOp {
            nbytes: events.into(),
            ..IoOp::new(OpCode::Poll)
        };
        IoRequest::new(op, IoBuffer::None)
    }

    /// A read of `op.nbytes` into `buffer`, which must have that many.
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

    /// A write of `op.nbytes` from `buffer`, which must have that many.
    #[inline(always)]
    pub(crate) fn write(op: IoOp, buffer: &AlignedBuf) -> IoRequest {
        assert!(op.nbytes <= buffer.size() as u64);
        let memory = match buffer.share() {
            Some(region) => IoBuffer::Shared(region),
            None => IoBuffer::None, // no bytes
        };
        IoRequest::new(op, memory)
    }

    /// A read into `parts`, one after the other.
    ///
    /// # Errors
    ///
    /// See [`AlignedBuf::take`]; all buffers are as they were.
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

    /// A write from `parts`, one after the other.
    #[inline(never)]
    pub(crate) fn write_parts(op: IoOp, parts: &[Part<'_>]) -> IoRequest {
        let iovecs = IoVecs::shared(parts.iter().filter_map(|part| {
            let region = part.buffer.share()?;
            Some((region, part.range.start, part.range.len()))
        }));
        IoRequest::vectored(op, IoBuffer::Vectored(Box::new(iovecs)))
    }

    /// `op`, for all bytes of `buffer`.
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

    /// Most bytes that a request with `buffer`, of `nbytes` that are wanted, moves.
    pub(crate) fn max_transfer(buffer: &IoBuffer, nbytes: u64) -> u64 {
        buffer.max_transfer(nbytes)
    }

    /// Whether it may be a transfer of several requests, or no transfer.
    #[inline(always)]
    pub(crate) fn needs_progress(op: &IoOp, buffer: &IoBuffer) -> bool {
        matches!(buffer, IoBuffer::Vectored(_)) || op.is_poll() || op.nbytes > abi::MAX_RW_COUNT
    }

    /// Whether it takes more than one request.
    pub(crate) fn exceeds_one_request(op: &IoOp, buffer: &IoBuffer) -> bool {
        op.is_transfer() && buffer.max_transfer(op.nbytes) < op.nbytes
    }

    /// The request for what is left of `op` after `moved` bytes.
    pub(crate) fn rest(op: &IoOp, buffer: IoBuffer, moved: u64) -> IoRequest {
        let op = IoOp {
            nbytes: op.nbytes.saturating_sub(moved),
            offset: op.offset.saturating_add_unsigned(moved),
            ..*op
        };
        IoRequest::new(op, buffer.advanced(moved))
    }
}
