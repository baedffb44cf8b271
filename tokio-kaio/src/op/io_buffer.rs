//! [`IoBuffer`]: the memory of a request. [`BufferReturn`]: where the memory is returned to.

use std::sync::Arc;

use super::iovecs::IoVecs;
use crate::backend::OpCode;
use crate::buf::{AlignedBuf, Exclusive, PartMut, PathToOpen, Region, Shape};
use crate::group::HeldPermit;
use crate::sys::abi;

/// The memory of a request, which owns it until its completion.
#[derive(Debug)]
pub(crate) enum IoBuffer {
    /// No memory.
    None,
    /// A region that the kernel writes to.
    Exclusive(Exclusive),
    /// A region that the kernel reads. Others may read it at the same time.
    Shared(Arc<Region>),
    /// Several pieces of memory, or an owned buffer of any type, for reads and writes.
    Vectored(Box<IoVecs>),
    /// The path of a file to open, which gets the descriptor. Shared with the future.
    Path(Arc<PathToOpen>),
    /// Stands for the memory of a read that the kernel still uses. It has the shapes of the buffers that the
    /// memory was taken from, for which new memory is allocated; `None` is an empty buffer. Boxed because
    /// it is rare, and an `IoBuffer` is moved with every request.
    #[allow(clippy::box_collection)] // one word, where a `Vec` has three
    Replacement(Box<Vec<Option<Shape>>>),
    /// The memory of a request of a group, or none, and the permit of the request. Where the memory is dropped,
    /// the permit goes back.
    WithPermit(Box<(IoBuffer, HeldPermit)>),
}

impl IoBuffer {
    /// Takes the memory, and leaves [`IoBuffer::None`].
    #[inline(always)]
    pub(crate) fn take(&mut self) -> IoBuffer {
        std::mem::replace(self, IoBuffer::None)
    }

    /// Returns the opcode, address and length fields of an entry that moves `nbytes`.
    #[inline(always)]
    pub(super) fn encode(&self, opcode: OpCode, nbytes: u64) -> (OpCode, u64, u64) {
        match self {
            IoBuffer::Exclusive(region) => (opcode, region.address(), nbytes),
            IoBuffer::Shared(region) => (opcode, region.address(), nbytes),
            IoBuffer::None | IoBuffer::Replacement(_) => (opcode, 0, nbytes),
            IoBuffer::Vectored(_) | IoBuffer::WithPermit(_) | IoBuffer::Path(_) => {
                self.encode_rare(opcode, nbytes)
            }
        }
    }

    #[cold]
    fn encode_rare(&self, opcode: OpCode, nbytes: u64) -> (OpCode, u64, u64) {
        match self {
            IoBuffer::Vectored(iovecs) => iovecs.encode(opcode, nbytes),
            IoBuffer::Path(path) => (opcode, PathToOpen::address(path), nbytes),
            IoBuffer::WithPermit(memory) => memory.0.encode(opcode, nbytes),
            _ => (opcode, 0, nbytes),
        }
    }

    /// Adds the permit of a request of a group.
    pub(crate) fn with_permit(self, permit: HeldPermit) -> IoBuffer {
        IoBuffer::WithPermit(Box::new((self, permit)))
    }

    /// Takes the permit off, which goes back when the caller drops it.
    pub(crate) fn without_permit(self) -> (IoBuffer, Option<HeldPermit>) {
        match self {
            IoBuffer::WithPermit(memory) => {
                let (memory, permit) = *memory;
                (memory, Some(permit))
            }
            other => (other, None),
        }
    }

    /// Returns how many of `nbytes` one request can move at most.
    pub(super) fn max_transfer(&self, nbytes: u64) -> u64 {
        let max = match self {
            IoBuffer::Vectored(iovecs) => iovecs.max_transfer().min(nbytes),
            IoBuffer::WithPermit(memory) => return memory.0.max_transfer(nbytes),
            _ => nbytes,
        };
        max.min(abi::MAX_RW_COUNT)
    }

    /// Returns the addresses and piece lengths of the next request, or-ed. The result is aligned to a power
    /// of two exactly if all of them are. It is 0 if there are none.
    #[cold]
    pub(crate) fn address_bits(&self) -> u64 {
        match self {
            IoBuffer::Exclusive(region) => region.address(),
            IoBuffer::Shared(region) => region.address(),
            IoBuffer::Vectored(iovecs) => iovecs.address_bits(),
            IoBuffer::WithPermit(memory) => memory.0.address_bits(),
            IoBuffer::None | IoBuffer::Replacement(_) | IoBuffer::Path(_) => 0,
        }
    }

    /// Returns the rest of the memory, after `moved` bytes. The whole memory stays owned.
    pub(super) fn advanced(self, moved: u64) -> IoBuffer {
        let start = usize::try_from(moved).unwrap_or(usize::MAX);
        let iovecs = match self {
            IoBuffer::Exclusive(region) => IoVecs::rest_of_exclusive(region, start),
            IoBuffer::Shared(region) => IoVecs::rest_of_shared(region, start),
            IoBuffer::Vectored(mut iovecs) => {
                iovecs.advance(moved);
                return IoBuffer::Vectored(iovecs);
            }
            IoBuffer::WithPermit(memory) => return memory.0.advanced(moved),
            other => return other,
        };
        IoBuffer::Vectored(Box::new(iovecs))
    }

    /// Returns what the caller gets in place of this memory, which the kernel still uses.
    pub(crate) fn replacement(&self) -> IoBuffer {
        let shapes = match self {
            IoBuffer::Exclusive(region) => vec![Some(region.shape())],
            IoBuffer::Vectored(iovecs) => match iovecs.shapes() {
                Some(shapes) => shapes,
                None => return IoBuffer::None,
            },
            IoBuffer::WithPermit(memory) => return memory.0.replacement(),
            _ => return IoBuffer::None,
        };
        IoBuffer::Replacement(Box::new(shapes))
    }

    /// See [`IoVecs::into_owned`].
    pub(super) fn into_owned<T: 'static>(self) -> Option<T> {
        match self {
            IoBuffer::Vectored(iovecs) => iovecs.into_owned(),
            IoBuffer::WithPermit(memory) => memory.0.into_owned(),
            _ => None,
        }
    }
}

/// Where the memory of a request is returned to.
#[derive(Debug)]
pub(crate) enum BufferReturn<'a> {
    /// Nowhere: the memory is dropped.
    None,
    Buffer(&'a mut AlignedBuf),
    #[allow(clippy::redundant_allocation)] // rarer, and this is moved with every request
    Parts(Box<&'a mut [PartMut<'a>]>),
    /// The user of the future, who takes the memory when the operation has completed.
    Caller,
}

impl BufferReturn<'_> {
    /// Returns the memory to its buffer, or allocates new memory if the kernel still uses the old. For
    /// [`BufferReturn::Caller`], returns the memory.
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
        let (buffer, _permit) = buffer.without_permit();
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
        IoBuffer::None | IoBuffer::Shared(_) | IoBuffer::Path(_) | IoBuffer::WithPermit(_) => {}
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
    fn the_rest_of_a_buffer_still_owns_the_whole_buffer() {
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
    fn memory_without_a_buffer_to_return_to_is_dropped() {
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
