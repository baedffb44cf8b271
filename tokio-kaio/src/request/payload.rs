//! What a request carries: the iocb and the memory that it names.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::LockedBuf;
use crate::buf::{Exclusive, Region, Shape};
use crate::sys::abi::Iocb;

/// A request's memory, which it keeps from leaving the caller's hands until the kernel is done.
#[derive(Debug)]
pub(crate) enum Memory {
    None,
    /// The kernel writes to it.
    Filling(Exclusive),
    /// The kernel reads it; so may others.
    Sending(#[allow(dead_code, reason = "held, not looked at")] Arc<Region>),
    /// Stands in for a read's memory that the kernel has kept.
    Kept(Shape),
}

impl Memory {
    /// What the caller gets in place of this memory, which stays with the kernel.
    pub(super) fn keep(&self) -> Memory {
        match self {
            Memory::Filling(region) => Memory::Kept(region.shape()),
            _ => Memory::None,
        }
    }
}

/// What goes to the kernel.
#[derive(Debug)]
pub(crate) struct Payload {
    /// Names nothing but `memory`.
    iocb: Iocb,
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
    pub(crate) fn bare(iocb: Iocb) -> Payload {
        debug_assert_eq!((iocb.buf, iocb.nbytes), (0, 0));
        Payload {
            iocb,
            memory: Memory::None,
        }
    }

    /// A read of `iocb.nbytes` into `buffer`, which must have that many.
    ///
    /// # Errors
    ///
    /// See [`LockedBuf::take`].
    pub(crate) fn read(mut iocb: Iocb, buffer: &mut LockedBuf) -> io::Result<(Payload, Lease<'_>)> {
        assert!(iocb.nbytes <= buffer.size() as u64);
        let memory = match buffer.take()? {
            Some(region) => {
                iocb.buf = region.address();
                Memory::Filling(region)
            }
            None => Memory::None, // no bytes
        };
        Ok((Payload { iocb, memory }, Lease::Read(buffer)))
    }

    /// A write of `iocb.nbytes` from `buffer`, which must have that many.
    pub(crate) fn write(mut iocb: Iocb, buffer: &LockedBuf) -> Payload {
        assert!(iocb.nbytes <= buffer.size() as u64);
        let memory = match buffer.share() {
            Some(region) => {
                iocb.buf = region.address();
                Memory::Sending(region)
            }
            None => Memory::None, // no bytes
        };
        Payload { iocb, memory }
    }

    /// The same on another descriptor.
    pub(crate) fn on(mut self, fd: RawFd) -> Payload {
        self.iocb.fildes = fd as u32;
        self
    }

    pub(crate) fn into_parts(self) -> (Iocb, Memory) {
        (self.iocb, self.memory)
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
            (Lease::Read(buffer), Memory::Kept(shape)) => buffer.replace(shape),
            _ => {}
        }
    }
}
