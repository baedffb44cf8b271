//! [`Memory`] of a request, and the [`Lease`] that brings it back to its buffer.

use std::sync::Arc;

use super::listed::Listed;
use crate::buf::{AlignedBuf, Exclusive, PartMut, Region, Shape};
use crate::sys::FixedIocb;
use crate::sys::abi::{self, Iocb};

/// A request's memory, which it keeps from leaving the caller's hands until the kernel is done.
#[derive(Debug)]
pub(crate) enum Memory {
    None,
    /// The kernel writes to it.
    Filling(Exclusive),
    /// The kernel reads it; so may others.
    Sending(Arc<Region>),
    /// Anything else, either way.
    Listed(Box<Listed>),
    /// None that is anybody's: where a poll is submitted from.
    Polling(FixedIocb),
    /// Stands in for a read's memory that the kernel has kept. Boxed: it is rare, and memory is
    /// moved about with every request.
    Kept(Box<Kept>),
}

/// What is needed to make up for memory.
#[derive(Debug)]
pub(crate) enum Kept {
    One(Shape),
    /// `None`: an empty buffer's.
    Several(Vec<Option<Shape>>),
}

impl Memory {
    /// The rest of a request for `nbytes` of it, to be told of the place in the file.
    #[inline(always)]
    pub(super) fn fill(&self, iocb: &mut Iocb, nbytes: u64) {
        iocb.nbytes = nbytes;
        iocb.buf = match self {
            Memory::Filling(region) => region.address(),
            Memory::Sending(region) => region.address(),
            Memory::None | Memory::Kept(_) => 0,
            Memory::Polling(fixed) => fixed.address(),
            Memory::Listed(listed) => return listed.fill(iocb, nbytes),
        };
    }

    /// Bytes that one request moves at most, if `nbytes` are wanted.
    pub(super) fn reach(&self, nbytes: u64) -> u64 {
        let reach = match self {
            Memory::Listed(listed) => listed.reach().min(nbytes),
            _ => nbytes,
        };
        reach.min(abi::MAX_RW_COUNT)
    }

    /// A multiple of all powers of two that its addresses, and the lengths of its pieces, are multiples
    /// of, and of no greater one. 0 where there are none.
    #[cold]
    pub(crate) fn misalignment(&self) -> u64 {
        match self {
            Memory::Filling(region) => region.address(),
            Memory::Sending(region) => region.address(),
            Memory::Listed(listed) => listed.misalignment(),
            Memory::None | Memory::Kept(_) | Memory::Polling(_) => 0,
        }
    }

    /// What is left of it when `moved` bytes are done with.
    pub(super) fn advanced(self, moved: u64) -> Memory {
        let start = usize::try_from(moved).unwrap_or(usize::MAX);
        let listed = match self {
            Memory::Filling(region) => Listed::filling_rest(region, start),
            Memory::Sending(region) => Listed::sending_rest(region, start),
            Memory::Listed(mut listed) => {
                listed.advance(moved);
                return Memory::Listed(listed);
            }
            other => return other,
        };
        Memory::Listed(Box::new(listed))
    }

    /// What the caller gets in place of this memory, which stays with the kernel.
    pub(crate) fn keep(&self) -> Memory {
        let kept = match self {
            Memory::Filling(region) => Kept::One(region.shape()),
            Memory::Listed(listed) => match listed.shapes() {
                Some(shapes) => Kept::Several(shapes),
                None => return Memory::None,
            },
            _ => return Memory::None,
        };
        Memory::Kept(Box::new(kept))
    }

    /// See [`Listed::into_owned`].
    pub(super) fn into_owned<T: 'static>(self) -> Option<T> {
        match self {
            Memory::Listed(listed) => listed.into_owned(),
            _ => None,
        }
    }
}

/// The buffer that a request's memory goes back to.
#[derive(Debug)]
pub(crate) enum Lease<'a> {
    None,
    Read(&'a mut AlignedBuf),
    #[allow(clippy::redundant_allocation)] // it is rarer, and leases are moved about
    ReadParts(Box<&'a mut [PartMut<'a>]>),
    /// The caller of the operation asks for it.
    Owned,
}

impl Lease<'_> {
    /// Ends the lease: the buffer gets its memory back, or new memory where the kernel has kept
    /// it. Gives it instead if the caller is to have it.
    #[inline(always)]
    pub(crate) fn settle(self, memory: Memory) -> Option<Memory> {
        match (self, memory) {
            (Lease::Read(buffer), Memory::Filling(region)) => buffer.give_back(region),
            (Lease::None, memory) => drop(memory),
            (lease, memory) => return lease.settle_others(memory),
        }
        None
    }

    #[inline(never)]
    fn settle_others(self, memory: Memory) -> Option<Memory> {
        match (self, memory) {
            (Lease::Owned, memory) => return Some(memory),
            (Lease::Read(buffer), memory) => settle_each([buffer].into_iter(), memory),
            (Lease::ReadParts(parts), memory) => {
                settle_each(parts.iter_mut().map(|part| &mut *part.buffer), memory);
            }
            (Lease::None, memory) => drop(memory),
        }
        None
    }
}

fn settle_each<'a>(buffers: impl Iterator<Item = &'a mut AlignedBuf>, memory: Memory) {
    match memory {
        Memory::Filling(region) => give_back(buffers, [Some(region)]),
        Memory::Listed(listed) => give_back(buffers, listed.into_regions()),
        Memory::Kept(kept) => match *kept {
            Kept::One(shape) => replace(buffers, [Some(shape)]),
            Kept::Several(shapes) => replace(buffers, shapes),
        },
        Memory::None | Memory::Sending(_) | Memory::Polling(_) => {}
    }
}

fn give_back<'a>(
    buffers: impl Iterator<Item = &'a mut AlignedBuf>,
    regions: impl IntoIterator<Item = Option<Exclusive>>,
) {
    for (buffer, region) in buffers.zip(regions) {
        if let Some(region) = region {
            buffer.give_back(region);
        }
    }
}

fn replace<'a>(
    buffers: impl Iterator<Item = &'a mut AlignedBuf>,
    shapes: impl IntoIterator<Item = Option<Shape>>,
) {
    for (buffer, shape) in buffers.zip(shapes) {
        if let Some(shape) = shape {
            buffer.replace(shape);
        }
    }
}
