//! [`IoBuffer`]: the memory of a request. [`BufferReturn`]: where it goes back to.

use std::sync::Arc;

use super::iovecs::IoVecs;
use crate::backend::OpCode;
use crate::buf::{AlignedBuf, Exclusive, PartMut, Region, Shape};
use crate::sys::abi;

/// The memory of a request, which owns it until its completion.
#[derive(Debug)]
pub(crate) enum IoBuffer {
    /// No bytes.
    None,
    /// The kernel writes to it.
    Exclusive(Exclusive),
    /// The kernel reads it; others may read it too.
    Shared(Arc<Region>),
    /// Pieces of memory, or memory of any other type, for either direction.
    Vectored(Box<IoVecs>),
    /// Stands for the memory of a read that stays with the kernel: the shapes of the buffers that it
    /// belonged to, from which new ones are made. `None`: an empty buffer. Boxed because it is rare,
    /// and buffers are moved with every request.
    Replacement(Box<Vec<Option<Shape>>>),
}

impl IoBuffer {
    /// Takes the memory out; leaves none.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> IoBuffer {
        std::mem::replace(self, IoBuffer::None)
    }

    /// Operation, address and length of an entry that moves `nbytes`.
    #[inline(always)]
    pub(super) fn encode(&self, opcode: OpCode, nbytes: u64) -> (OpCode, u64, u64) {
        match self {
            IoBuffer::Exclusive(region) => (opcode, region.address(), nbytes),
            IoBuffer::Shared(region) => (opcode, region.address(), nbytes),
            IoBuffer::None | IoBuffer::Replacement(_) => (opcode, 0, nbytes),
            IoBuffer::Vectored(iovecs) => iovecs.encode(opcode, nbytes),
        }
    }

    /// Most bytes that one request moves, of `nbytes` that are wanted.
    pub(super) fn max_transfer(&self, nbytes: u64) -> u64 {
        let max = match self {
            IoBuffer::Vectored(iovecs) => iovecs.max_transfer().min(nbytes),
            _ => nbytes,
        };
        max.min(abi::MAX_RW_COUNT)
    }

    /// Its addresses and the lengths of its pieces, or-ed: aligned to a power of two exactly if all of
    /// them are. 0 where there are none.
    #[cold]
    pub(crate) fn address_bits(&self) -> u64 {
        match self {
            IoBuffer::Exclusive(region) => region.address(),
            IoBuffer::Shared(region) => region.address(),
            IoBuffer::Vectored(iovecs) => iovecs.address_bits(),
            IoBuffer::None | IoBuffer::Replacement(_) => 0,
        }
    }

    /// The rest of it, after `moved` bytes.
    pub(super) fn advanced(self, moved: u64) -> IoBuffer {
        let start = usize::try_from(moved).unwrap_or(usize::MAX);
        let iovecs = match self {
            IoBuffer::Exclusive(region) => IoVecs::rest_of_exclusive(region, start),
            IoBuffer::Shared(region) => IoVecs::rest_of_shared(region, start),
            IoBuffer::Vectored(mut iovecs) => {
                iovecs.advance(moved);
                return IoBuffer::Vectored(iovecs);
            }
            other => return other,
        };
        IoBuffer::Vectored(Box::new(iovecs))
    }

    /// What the caller gets in place of this memory, which stays with the kernel.
    pub(crate) fn replacement(&self) -> IoBuffer {
        let shapes = match self {
            IoBuffer::Exclusive(region) => vec![Some(region.shape())],
            IoBuffer::Vectored(iovecs) => match iovecs.shapes() {
                Some(shapes) => shapes,
                None => return IoBuffer::None,
            },
            _ => return IoBuffer::None,
        };
        IoBuffer::Replacement(Box::new(shapes))
    }

    /// See [`IoVecs::into_owned`].
    pub(super) fn into_owned<T: 'static>(self) -> Option<T> {
        match self {
            IoBuffer::Vectored(iovecs) => iovecs.into_owned(),
            _ => None,
        }
    }
}

/// Where the memory of a request goes back to.
#[derive(Debug)]
pub(crate) enum BufferReturn<'a> {
    /// Nowhere: it is dropped.
    None,
    Buffer(&'a mut AlignedBuf),
    #[allow(clippy::redundant_allocation)] // rarer, and this is moved with every request
    Parts(Box<&'a mut [PartMut<'a>]>),
    /// To the caller of the future, who asks for it.
    Caller,
}

impl BufferReturn<'_> {
    /// Gives the buffer its memory back, or new memory if the kernel keeps it. Returns the memory if
    /// the caller is to have it.
    #[inline(always)]
    pub(crate) fn give_back(self, buffer: IoBuffer) -> Option<IoBuffer> {
        match (self, buffer) {
            (BufferReturn::Buffer(aligned), IoBuffer::Exclusive(region)) => {
                aligned.give_back(region);
            }
            (BufferReturn::None, buffer) => drop(buffer),
            (target, buffer) => return target.give_back_others(buffer),
        }
        None
    }

    #[inline(never)]
    fn give_back_others(self, buffer: IoBuffer) -> Option<IoBuffer> {
        match (self, buffer) {
            (BufferReturn::Caller, buffer) => return Some(buffer),
            (BufferReturn::Buffer(aligned), buffer) => {
                give_back_each([aligned].into_iter(), buffer)
            }
            (BufferReturn::Parts(parts), buffer) => {
                give_back_each(parts.iter_mut().map(|part| &mut *part.buffer), buffer);
            }
            (BufferReturn::None, buffer) => drop(buffer),
        }
        None
    }
}

fn give_back_each<'a>(buffers: impl Iterator<Item = &'a mut AlignedBuf>, memory: IoBuffer) {
    match memory {
        IoBuffer::Exclusive(region) => give_back_regions(buffers, [Some(region)]),
        IoBuffer::Vectored(iovecs) => give_back_regions(buffers, iovecs.into_regions()),
        IoBuffer::Replacement(shapes) => {
            for (buffer, shape) in buffers.zip(*shapes) {
                if let Some(shape) = shape {
                    buffer.replace(shape);
                }
            }
        }
        IoBuffer::None | IoBuffer::Shared(_) => {}
    }
}

fn give_back_regions<'a>(
    buffers: impl Iterator<Item = &'a mut AlignedBuf>,
    regions: impl IntoIterator<Item = Option<Exclusive>>,
) {
    for (buffer, region) in buffers.zip(regions) {
        if let Some(region) = region {
            buffer.give_back(region);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::OpCode;
    use crate::op::{IoOp, IoRequest};

    fn read_op(nbytes: u64) -> IoOp {
        IoOp {
            nbytes,
            ..IoOp::new(OpCode::Read)
        }
    }

    fn buffer(size: usize, byte: u8) -> AlignedBuf {
        let mut buffer = AlignedBuf::new(size).unwrap();
        buffer.fill(byte);
        buffer
    }

    #[test]
    fn taking_the_memory_leaves_none() {
        let mut source = buffer(8, 1);
        let (mut request, buffer_return) = IoRequest::read(read_op(8), &mut source).unwrap();
        let memory = request.buffer.take();
        assert!(matches!(memory, IoBuffer::Exclusive(_)));
        assert!(matches!(request.buffer, IoBuffer::None));
        assert!(buffer_return.give_back(memory).is_none());
        assert_eq!(*source, [1; 8]);
    }

    #[test]
    fn a_replacement_makes_a_buffer_of_the_same_size() {
        let mut source = buffer(8, 1);
        let address = source.as_ptr();
        let (request, buffer_return) = IoRequest::read(read_op(8), &mut source).unwrap();
        let replacement = request.buffer.replacement();
        assert!(buffer_return.give_back(replacement).is_none());
        assert_eq!(*source, [0; 8]);
        assert_ne!(source.as_ptr(), address, "the request has it");
        drop(request);
    }

    #[test]
    fn a_write_needs_no_replacement() {
        let source = buffer(8, 1);
        let request = IoRequest::write(IoOp::new(OpCode::Write), &source);
        assert!(matches!(request.buffer, IoBuffer::Shared(_)));
        assert!(matches!(request.buffer.replacement(), IoBuffer::None));
        let parts = [source.part(..)];
        let request = IoRequest::write_parts(IoOp::new(OpCode::Write), &parts);
        assert!(matches!(request.buffer.replacement(), IoBuffer::None));
    }

    #[test]
    fn each_buffer_of_a_vectored_read_gets_its_memory_back_or_a_replacement() {
        let [mut first, mut empty, mut second] = [8, 1, 16].map(|size| buffer(size, 1));
        drop(empty.take().unwrap()); // as while another read has its memory
        for replaced in [false, true] {
            let mut parts = [
                first.part_mut(..4),
                empty.part_mut(..),
                second.part_mut(8..),
            ];
            let (request, buffer_return) = IoRequest::read_parts(read_op(0), &mut parts).unwrap();
            assert_eq!(request.op.nbytes, 12);
            let memory = match replaced {
                false => request.buffer,
                true => request.buffer.replacement(),
            };
            assert!(buffer_return.give_back(memory).is_none());
            let byte = u8::from(!replaced);
            assert_eq!((&*first, &*second), (&[byte; 8][..], &[byte; 16][..]));
            assert_eq!(empty.size(), 0);
        }
    }

    #[test]
    fn the_rest_of_a_buffer_goes_back_as_a_whole() {
        let mut source = buffer(8, 1);
        let (request, buffer_return) = IoRequest::read(read_op(8), &mut source).unwrap();
        let rest = IoRequest::rest(&request.op, request.buffer, 3);
        assert_eq!((rest.op.nbytes, rest.op.offset), (5, 3));
        assert_eq!(IoRequest::max_transfer(&rest.buffer, 5), 5);
        assert!(buffer_return.give_back(rest.buffer).is_none());
        assert_eq!(*source, [1; 8]);
    }

    #[test]
    fn memory_for_the_caller_is_returned() {
        let source = buffer(8, 1);
        let memory = IoRequest::write(IoOp::new(OpCode::Write), &source).buffer;
        let returned = BufferReturn::Caller.give_back(memory);
        assert!(matches!(returned, Some(IoBuffer::Shared(_))));
    }

    #[test]
    fn memory_of_nobody_is_dropped() {
        let source = buffer(8, 1);
        let memory = IoRequest::write(IoOp::new(OpCode::Write), &source).buffer;
        let IoBuffer::Shared(region) = &memory else {
            panic!("a write shares the memory");
        };
        let region = Arc::downgrade(region);
        assert!(BufferReturn::None.give_back(memory).is_none());
        assert_eq!(region.strong_count(), 1, "the buffer itself");
    }
}
