//! [`OwnedBuffer`]: a buffer that the caller passed by value to an operation.
#![allow(unsafe_code)]

use std::any::Any;

use super::iovecs::IoVecs;
use super::{BufferReturn, IoBuffer, IoOp, IoRequest};
use crate::buf::{AlignedBuf, IoBuf, IoBufMut};

/// An owned buffer, while its operation runs.
#[derive(Debug)]
pub(crate) enum OwnedBuffer<B> {
    /// The buffer is an `AlignedBuf`. It is kept here, and the request has its memory.
    Emptied(B),
    /// The request has the buffer.
    InRequest,
}

impl<B: IoBufMut> OwnedBuffer<B> {
    /// Creates a read into the whole capacity of `buffer`.
    ///
    /// # Errors
    ///
    /// See [`AlignedBuf::take`]. The buffer is returned unchanged.
    pub(crate) fn read(
        op: IoOp,
        mut buffer: B,
    ) -> Result<(IoRequest, OwnedBuffer<B>), (std::io::Error, B)> {
        let Some(aligned) = as_aligned(&mut buffer) else {
            let memory = IoBuffer::Vectored(Box::new(IoVecs::read_into(buffer)));
            return Ok((IoRequest::vectored(op, memory), OwnedBuffer::InRequest));
        };
        let nbytes = aligned.size() as u64;
        match aligned.take() {
            Ok(region) => {
                let memory = region.map_or(IoBuffer::None, IoBuffer::Exclusive);
                let request = IoRequest::new(IoOp { nbytes, ..op }, memory);
                Ok((request, OwnedBuffer::Emptied(buffer)))
            }
            Err(error) => Err((error, buffer)),
        }
    }

    /// Returns the buffer, with `moved` bytes read. `memory` is what the request returned.
    pub(crate) fn finish_read(self, memory: Option<IoBuffer>, moved: u64) -> B {
        let Some(mut buffer) = self.returned(memory) else {
            return B::default();
        };
        let moved = usize::try_from(moved)
            .unwrap_or(0)
            .min(buffer.bytes_total());
        // SAFETY: the kernel has filled the first `moved` bytes, and the buffer has that many.
        unsafe { buffer.set_init(moved) };
        buffer
    }
}

impl<B: IoBuf> OwnedBuffer<B> {
    /// Creates a write of all bytes of `buffer`.
    pub(crate) fn write(op: IoOp, mut buffer: B) -> (IoRequest, OwnedBuffer<B>) {
        let Some(aligned) = as_aligned(&mut buffer) else {
            let memory = IoBuffer::Vectored(Box::new(IoVecs::write_from(buffer)));
            return (IoRequest::vectored(op, memory), OwnedBuffer::InRequest);
        };
        let nbytes = aligned.size() as u64;
        let memory = aligned.share().map_or(IoBuffer::None, IoBuffer::Shared);
        let request = IoRequest::new(IoOp { nbytes, ..op }, memory);
        (request, OwnedBuffer::Emptied(buffer))
    }

    /// Returns the buffer. `memory` is what the request returned.
    pub(crate) fn finish(self, memory: Option<IoBuffer>) -> B {
        self.returned(memory).unwrap_or_default()
    }

    /// Returns the buffer, or `None` if the kernel still uses it.
    fn returned(self, memory: Option<IoBuffer>) -> Option<B> {
        let mut buffer = match self {
            OwnedBuffer::Emptied(buffer) => buffer,
            OwnedBuffer::InRequest => return memory?.into_owned(),
        };
        // A write shares the memory, so there is nothing to return. If the kernel still uses the memory of
        // a read, the buffer stays empty.
        if let Some(memory @ (IoBuffer::Exclusive(_) | IoBuffer::Vectored(_))) = memory {
            if let Some(aligned) = as_aligned(&mut buffer) {
                BufferReturn::Buffer(aligned).give_back(memory);
            }
        }
        Some(buffer)
    }
}

/// Returns the buffer as an [`AlignedBuf`], whose memory can be moved without the buffer.
fn as_aligned<B: IoBuf>(buffer: &mut B) -> Option<&mut AlignedBuf> {
    <dyn Any>::downcast_mut(buffer)
}

/// Several owned buffers, transferred in order by one operation.
#[derive(Debug)]
pub(crate) struct OwnedBuffers<B>(std::marker::PhantomData<fn() -> B>);

impl<B: IoBufMut> OwnedBuffers<B> {
    pub(crate) fn read(op: IoOp, buffers: Vec<B>) -> IoRequest {
        let memory = IoBuffer::Vectored(Box::new(IoVecs::read_into_all(buffers)));
        IoRequest::vectored(op, memory)
    }

    /// Returns the buffers, with `moved` bytes read.
    pub(crate) fn finish_read(memory: Option<IoBuffer>, moved: u64) -> Vec<B> {
        let mut buffers = Self::finish(memory);
        let mut left = usize::try_from(moved).unwrap_or(0);
        for buffer in &mut buffers {
            let moved = left.min(buffer.bytes_total());
            // SAFETY: the kernel fills the buffers in order, each from its start. So it has filled the
            // first `moved` bytes of this buffer, and the buffer has that many.
            unsafe { buffer.set_init(moved) };
            left -= moved;
        }
        buffers
    }
}

impl<B: IoBuf> OwnedBuffers<B> {
    pub(crate) fn write(op: IoOp, buffers: Vec<B>) -> IoRequest {
        let memory = IoBuffer::Vectored(Box::new(IoVecs::write_from_all(buffers)));
        IoRequest::vectored(op, memory)
    }

    /// Returns the buffers, or an empty `Vec` if the kernel still uses them.
    pub(crate) fn finish(memory: Option<IoBuffer>) -> Vec<B> {
        memory.and_then(IoBuffer::into_owned).unwrap_or_default()
    }
}
