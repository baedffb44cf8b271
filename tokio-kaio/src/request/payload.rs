//! What a request carries: what the kernel is to do, and the memory that it does it with.

use std::io;
use std::mem;
use std::os::fd::RawFd;

use super::listed::Listed;
use super::{Lease, Memory};
use crate::buf::{AlignedBuf, Part, PartMut};
use crate::sys::FixedIocb;
use crate::sys::abi::{self, Iocb};

/// What the kernel is to do, but for the file and the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// `PREAD` and `PWRITE` stand for the vectored ones, too: that is up to the memory.
    pub(crate) opcode: u16,
    /// `IOPRIO_*`; 0: that of the thread that submits it.
    pub(crate) priority: u16,
    pub(crate) rw_flags: i32,
    pub(crate) nbytes: u64,
    pub(crate) offset: i64,
}

impl Order {
    /// One that moves no data.
    pub(crate) const fn bare(opcode: u16) -> Order {
        Order {
            opcode,
            priority: 0,
            rw_flags: 0,
            nbytes: 0,
            offset: 0,
        }
    }

    /// Whether it is a write to the end of the file, wherever that is when it is made.
    pub(crate) fn appends(&self) -> bool {
        self.rw_flags & abi::RWF_APPEND != 0 && self.opcode == abi::IOCB_CMD_PWRITE
    }

    pub(crate) fn is_poll(&self) -> bool {
        self.opcode == abi::IOCB_CMD_STAND_IN
    }

    pub(crate) fn is_transfer(&self) -> bool {
        matches!(self.opcode, abi::IOCB_CMD_PREAD | abi::IOCB_CMD_PWRITE)
    }

    /// What [`Order::iocb`] was made from; of a vectored one it does not tell how many bytes it moves.
    pub(crate) fn of(iocb: &Iocb) -> Order {
        let (opcode, nbytes) = match iocb.lio_opcode {
            abi::IOCB_CMD_PREADV => (abi::IOCB_CMD_PREAD, 0),
            abi::IOCB_CMD_PWRITEV => (abi::IOCB_CMD_PWRITE, 0),
            plain => (plain, iocb.nbytes),
        };
        Order {
            opcode,
            priority: iocb.reqprio as u16,
            rw_flags: iocb.rw_flags,
            nbytes,
            offset: iocb.offset,
        }
    }

    /// What [`Order::iocb`] was made from, with `memory`.
    pub(super) fn of_both(iocb: &Iocb, memory: &Memory) -> Order {
        let order = Order::of(iocb);
        match memory {
            // A plain one may be for less than there is.
            Memory::Listed(listed) if iocb.is_vectored() => Order {
                nbytes: listed.len(),
                ..order
            },
            _ => order,
        }
    }

    /// As the kernel takes it. It names no memory but `memory`, which has that many bytes, and
    /// comes back as `tag`.
    #[inline(always)]
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
        iocb.set_priority(self.priority);
        iocb.offset = self.offset;
        memory.fill(iocb, self.nbytes);
    }
}

/// An order with its memory.
#[derive(Debug)]
pub(crate) struct Payload {
    order: Order,
    /// Has the bytes that `order` moves.
    memory: Memory,
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
    /// See [`AlignedBuf::take`].
    #[inline(always)]
    pub(crate) fn read(order: Order, buffer: &mut AlignedBuf) -> io::Result<(Payload, Lease<'_>)> {
        assert!(order.nbytes <= buffer.size() as u64);
        let memory = match buffer.take()? {
            Some(region) => Memory::Filling(region),
            None => Memory::None, // no bytes
        };
        Ok((Payload { order, memory }, Lease::Read(buffer)))
    }

    /// A write of `order.nbytes` from `buffer`, which must have that many.
    #[inline(always)]
    pub(crate) fn write(order: Order, buffer: &AlignedBuf) -> Payload {
        assert!(order.nbytes <= buffer.size() as u64);
        let memory = match buffer.share() {
            Some(region) => Memory::Sending(region),
            None => Memory::None, // no bytes
        };
        Payload { order, memory }
    }

    /// A read into `parts`, one after the other.
    ///
    /// # Errors
    ///
    /// See [`AlignedBuf::take`].
    #[inline(never)]
    pub(crate) fn read_parts<'a>(
        order: Order,
        parts: &'a mut [PartMut<'a>],
    ) -> io::Result<(Payload, Lease<'a>)> {
        let mut failed = None;
        let memory = Listed::filling(parts.iter_mut().map_while(|part| match part.buffer.take() {
            Ok(region) => Some((region, part.range.start, part.range.len())),
            Err(error) => {
                failed = Some(error);
                None
            }
        }));
        let memory = Memory::Listed(Box::new(memory));
        let lease = Lease::ReadParts(Box::new(parts));
        match failed {
            None => Ok((Payload::listed(order, memory), lease)),
            Some(error) => {
                lease.settle(memory);
                Err(error)
            }
        }
    }

    /// A write from `parts`, one after the other.
    #[inline(never)]
    pub(crate) fn write_parts(order: Order, parts: &[Part<'_>]) -> Payload {
        let memory = Listed::sending(parts.iter().filter_map(|part| {
            let region = part.buffer.share()?;
            Some((region, part.range.start, part.range.len()))
        }));
        Payload::listed(order, Memory::Listed(Box::new(memory)))
    }

    /// `order`, for as many bytes as `memory` has.
    pub(super) fn listed(order: Order, memory: Memory) -> Payload {
        let order = match &memory {
            Memory::Listed(listed) => Order {
                nbytes: listed.len(),
                ..order
            },
            _ => order,
        };
        Payload { order, memory }
    }

    pub(crate) fn new(order: Order, memory: Memory) -> Payload {
        Payload { order, memory }
    }

    pub(crate) fn set_priority(&mut self, priority: u16) {
        self.order.priority = priority;
    }

    /// What it is to do, and its memory, which leaves it.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> (Order, Memory) {
        (self.order, mem::replace(&mut self.memory, Memory::None))
    }

    pub(crate) fn order(&self) -> &Order {
        &self.order
    }

    /// A poll for `events`.
    pub(crate) fn poll(events: u16) -> Payload {
        Payload {
            order: Order {
                nbytes: events.into(),
                ..Order::bare(abi::IOCB_CMD_STAND_IN)
            },
            memory: Memory::Polling(FixedIocb::new()),
        }
    }

    /// Whether it is a transfer that may take more than one request, or none at all.
    #[inline(always)]
    pub(crate) fn is_special(&self) -> bool {
        matches!(self.memory, Memory::Listed(_) | Memory::Polling(_))
            || self.order.nbytes > abi::MAX_RW_COUNT
    }

    /// Whether it takes more than one request.
    pub(crate) fn is_long(&self) -> bool {
        self.order.is_transfer() && self.memory.reach(self.order.nbytes) < self.order.nbytes
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn into_memory(self) -> Memory {
        self.memory
    }

    /// Bytes that a request with `memory`, for `nbytes`, moves if nothing stops it.
    pub(crate) fn reach(memory: &Memory, nbytes: u64) -> u64 {
        memory.reach(nbytes)
    }

    /// What is left of `order` when a request for it, with `memory`, has moved `moved` bytes.
    pub(crate) fn rest(order: &Order, memory: Memory, moved: u64) -> Payload {
        Payload {
            order: Order {
                nbytes: order.nbytes.saturating_sub(moved),
                offset: order.offset.saturating_add_unsigned(moved),
                ..*order
            },
            memory: memory.advanced(moved),
        }
    }
}
