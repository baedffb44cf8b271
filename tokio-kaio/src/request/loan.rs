//! [`Loan`]: a buffer that its caller has handed over for an operation.
#![allow(unsafe_code)]

use std::any::Any;

use super::listed::Listed;
use super::{Lease, Memory, Order, Payload};
use crate::buf::{AlignedBuf, IoBuf, IoBufMut};

/// What an operation has of a buffer that was handed over, to give it back.
#[derive(Debug)]
pub(crate) enum Loan<B> {
    /// The buffer is here, its memory in the request.
    Hollow(B),
    /// All of it is in the request.
    Away,
}

impl<B: IoBufMut> Loan<B> {
    /// A read into all that `buffer` has room for.
    ///
    /// # Errors
    ///
    /// See [`AlignedBuf::take`](crate::AlignedBuf): the buffer is as it was.
    pub(crate) fn read(
        order: Order,
        mut buffer: B,
    ) -> Result<(Payload, Loan<B>), (std::io::Error, B)> {
        let Some(aligned) = as_aligned(&mut buffer) else {
            let memory = Memory::Listed(Box::new(Listed::filling_owned(buffer)));
            return Ok((Payload::listed(order, memory), Loan::Away));
        };
        let nbytes = aligned.size() as u64;
        match aligned.take() {
            Ok(region) => {
                let memory = region.map_or(Memory::None, Memory::Filling);
                let payload = Payload::new(Order { nbytes, ..order }, memory);
                Ok((payload, Loan::Hollow(buffer)))
            }
            Err(error) => Err((error, buffer)),
        }
    }

    /// The buffer back, of which `moved` bytes were read. `memory`: what came back from the request.
    pub(crate) fn filled(self, memory: Option<Memory>, moved: u64) -> B {
        let Some(mut buffer) = self.returned(memory) else {
            return B::default();
        };
        let moved = usize::try_from(moved)
            .unwrap_or(0)
            .min(buffer.bytes_total());
        // SAFETY: the kernel has filled that many of this buffer, from its start.
        unsafe { buffer.set_init(moved) };
        buffer
    }
}

impl<B: IoBuf> Loan<B> {
    /// A write of all that `buffer` has.
    pub(crate) fn write(order: Order, mut buffer: B) -> (Payload, Loan<B>) {
        let Some(aligned) = as_aligned(&mut buffer) else {
            let memory = Memory::Listed(Box::new(Listed::sending_owned(buffer)));
            return (Payload::listed(order, memory), Loan::Away);
        };
        let nbytes = aligned.size() as u64;
        let memory = aligned.share().map_or(Memory::None, Memory::Sending);
        let payload = Payload::new(Order { nbytes, ..order }, memory);
        (payload, Loan::Hollow(buffer))
    }

    /// The buffer back. `memory`: what came back from the request.
    pub(crate) fn end(self, memory: Option<Memory>) -> B {
        self.returned(memory).unwrap_or_default()
    }

    /// `None`: the kernel has kept it.
    fn returned(self, memory: Option<Memory>) -> Option<B> {
        let mut buffer = match self {
            Loan::Hollow(buffer) => buffer,
            Loan::Away => return memory?.into_owned(),
        };
        // A write has shared it. Of a read that the kernel has kept, the buffer is empty.
        if let Some(memory @ (Memory::Filling(_) | Memory::Listed(_))) = memory {
            if let Some(aligned) = as_aligned(&mut buffer) {
                Lease::Read(aligned).settle(memory);
            }
        }
        Some(buffer)
    }
}

/// The buffer as the one type of which the memory can go by itself.
fn as_aligned<B: IoBuf>(buffer: &mut B) -> Option<&mut AlignedBuf> {
    <dyn Any>::downcast_mut(buffer)
}

/// The same for several buffers, which go one after the other.
#[derive(Debug)]
pub(crate) struct Loans<B>(std::marker::PhantomData<fn() -> B>);

impl<B: IoBufMut> Loans<B> {
    pub(crate) fn read(order: Order, buffers: Vec<B>) -> Payload {
        let memory = Memory::Listed(Box::new(Listed::filling_all_owned(buffers)));
        Payload::listed(order, memory)
    }

    /// The buffers back, of which `moved` bytes were read.
    pub(crate) fn filled(memory: Option<Memory>, moved: u64) -> Vec<B> {
        let mut buffers = Self::end(memory);
        let mut left = usize::try_from(moved).unwrap_or(0);
        for buffer in &mut buffers {
            let moved = left.min(buffer.bytes_total());
            // SAFETY: the kernel has filled that many, from the start, and gone on to the next one
            // where there was no more room.
            unsafe { buffer.set_init(moved) };
            left -= moved;
        }
        buffers
    }
}

impl<B: IoBuf> Loans<B> {
    pub(crate) fn write(order: Order, buffers: Vec<B>) -> Payload {
        let memory = Memory::Listed(Box::new(Listed::sending_all_owned(buffers)));
        Payload::listed(order, memory)
    }

    /// The buffers back; none where the kernel has kept them.
    pub(crate) fn end(memory: Option<Memory>) -> Vec<B> {
        memory.and_then(Memory::into_owned).unwrap_or_default()
    }
}
