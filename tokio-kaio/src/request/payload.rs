//! What a request carries: what the kernel is to do, and the memory that it does it with.

use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::LockedBuf;
use crate::buf::{Exclusive, Region, Shape};
use crate::sys::abi::{self, Iocb};

/// A request's memory, which it keeps from leaving the caller's hands until the kernel is done.
#[derive(Debug)]
pub(crate) enum Memory {
    None,
    /// The kernel writes to it.
    Filling(Exclusive),
    /// The kernel reads it; so may others.
    Sending(Arc<Region>),
    /// Stands in for a read's memory that the kernel has kept. Boxed: it is rare, and memory is
    /// moved about with every request.
    Kept(Box<Shape>),
}

impl Memory {
    fn address(&self) -> u64 {
        match self {
            Memory::Filling(region) => region.address(),
            Memory::Sending(region) => region.address(),
            Memory::None | Memory::Kept(_) => 0,
        }
    }

    /// What the caller gets in place of this memory, which stays with the kernel.
    pub(super) fn keep(&self) -> Memory {
        match self {
            Memory::Filling(region) => Memory::Kept(Box::new(region.shape())),
            _ => Memory::None,
        }
    }
}

/// What the kernel is to do, but for the file and the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) opcode: u16,
    pub(crate) rw_flags: i32,
    pub(crate) nbytes: u64,
    pub(crate) offset: i64,
}

impl Order {
    /// One that moves no data.
    pub(crate) fn bare(opcode: u16) -> Order {
        Order {
            opcode,
            rw_flags: 0,
            nbytes: 0,
            offset: 0,
        }
    }

    /// Whether it is a write to the end of the file, wherever that is when it is made.
    pub(crate) fn appends(&self) -> bool {
        self.rw_flags & abi::RWF_APPEND != 0 && self.opcode == abi::IOCB_CMD_PWRITE
    }

    /// What [`Order::iocb`] was made from.
    pub(crate) fn of(iocb: &Iocb) -> Order {
        Order {
            opcode: iocb.lio_opcode,
            rw_flags: iocb.rw_flags,
            nbytes: iocb.nbytes,
            offset: iocb.offset,
        }
    }

    /// As the kernel takes it. It names no memory but `memory`, which has that many bytes, and
    /// comes back as `tag`.
    pub(crate) fn iocb(&self, fd: RawFd, memory: &Memory, tag: u64) -> Iocb {
        let mut iocb = Iocb::default();
        self.fill(&mut iocb, fd, memory, tag);
        iocb
    }

    /// The same in a place that is there already, and blank.
    #[inline(always)]
    pub(crate) fn fill(&self, iocb: &mut Iocb, fd: RawFd, memory: &Memory, tag: u64) {
        iocb.lio_opcode = self.opcode;
        iocb.fildes = fd as u32;
        iocb.data = tag;
        iocb.rw_flags = self.rw_flags;
        iocb.buf = memory.address();
        iocb.nbytes = self.nbytes;
        iocb.offset = self.offset;
    }
}

/// An order with its memory.
#[derive(Debug)]
pub(crate) struct Payload {
    order: Order,
    /// Has the bytes that `order` moves.
    memory: Memory,
}

/// The buffer that a request's memory goes back to.
#[derive(Debug)]
pub(crate) enum Lease<'a> {
    None,
    Read(&'a mut LockedBuf),
}

impl Payload {
    /// A request that moves no data.
    pub(crate) fn bare(opcode: u16) -> Payload {
        Payload {
            order: Order::bare(opcode),
            memory: Memory::None,
        }
    }

    /// A read of `order.nbytes` into `buffer`, which must have that many.
    ///
    /// # Errors
    ///
    /// See [`LockedBuf::take`].
    pub(crate) fn read(order: Order, buffer: &mut LockedBuf) -> io::Result<(Payload, Lease<'_>)> {
        assert!(order.nbytes <= buffer.size() as u64);
        let memory = match buffer.take()? {
            Some(region) => Memory::Filling(region),
            None => Memory::None, // no bytes
        };
        Ok((Payload { order, memory }, Lease::Read(buffer)))
    }

    /// A write of `order.nbytes` from `buffer`, which must have that many.
    pub(crate) fn write(order: Order, buffer: &LockedBuf) -> Payload {
        assert!(order.nbytes <= buffer.size() as u64);
        let memory = match buffer.share() {
            Some(region) => Memory::Sending(region),
            None => Memory::None, // no bytes
        };
        Payload { order, memory }
    }

    /// What it is to do, and its memory, which leaves it.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> (Order, Memory) {
        (self.order, mem::replace(&mut self.memory, Memory::None))
    }

    pub(crate) fn order(&self) -> &Order {
        &self.order
    }

    pub(crate) fn into_memory(self) -> Memory {
        self.memory
    }
}

impl Lease<'_> {
    /// Ends the lease: the buffer gets its memory back, or new memory where the kernel has kept
    /// it.
    pub(crate) fn settle(self, memory: Memory) {
        match (self, memory) {
            (Lease::Read(buffer), Memory::Filling(region)) => buffer.give_back(region),
            (Lease::Read(buffer), Memory::Kept(shape)) => buffer.replace(*shape),
            _ => {}
        }
    }
}
