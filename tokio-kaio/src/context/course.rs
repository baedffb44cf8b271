//! [`Course`]: how far an operation is that may take several requests.

use std::io;

use crate::AioCommandError;
use crate::request::{Memory, Order, Payload};
use crate::sys::abi;

/// How many requests an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// One.
    Once,
    /// As many as the kernel's limits make of it. What stops one stops all: see [`Course::failed`].
    Long,
    /// As many as it takes to move all bytes.
    Exact,
    /// One, a poll, which ends with what is ready.
    Poll,
}

/// What a poll tells of whether it is asked or not.
const EVER_READY: u64 = (libc::POLLERR | libc::POLLHUP) as u64;

/// An operation whose request is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    /// Of the request, and all that comes after it.
    pub(super) order: Order,
    /// Bytes that those before it have moved.
    done: u64,
    /// The one before it moved less than it reached for: there may be no more to be had.
    cut_short: bool,
    pub(super) extent: Extent,
}

/// What comes after a request.
pub(super) enum After {
    /// One for what is left.
    Rest(Payload),
    End(Result<u64, AioCommandError>, Memory),
}

impl Course {
    /// Of a command that nobody has looked at yet.
    pub(super) const NEW: Course = Course {
        order: Order::bare(0),
        done: 0,
        cut_short: false,
        extent: Extent::Once,
    };

    pub(super) fn of(order: &Order, extent: Extent) -> Course {
        Course {
            order: *order,
            done: 0,
            cut_short: false,
            extent,
        }
    }

    /// The first request is about to go.
    #[inline(always)]
    pub(super) fn begin(&mut self, payload: &Payload) {
        self.order = *payload.order();
        if payload.is_special() {
            self.classify(payload);
        }
    }

    #[inline(never)]
    fn classify(&mut self, payload: &Payload) {
        if self.order.is_poll() {
            self.extent = Extent::Poll;
        } else if self.extent == Extent::Once && payload.is_long() {
            self.extent = Extent::Long;
        }
    }

    /// Where a transfer ends that has moved `bytes`. `None`: it is none, or its place is not known.
    #[inline]
    pub(super) fn end(&self, bytes: u64) -> Option<u64> {
        let has_place = self.order.is_transfer() && !self.order.appends();
        has_place.then(|| (self.order.offset as u64).saturating_add(bytes))
    }

    /// `memory` is what the request had that came to `result`.
    pub(super) fn after(&mut self, result: Result<u64, AioCommandError>, memory: Memory) -> After {
        let wanted = self.order.nbytes;
        let moved = match result {
            Ok(moved) => moved,
            Err(error) => return After::End(self.failed(error), memory),
        };
        if self.extent == Extent::Poll {
            // The kernel may tell of more than it was asked for, and of nothing when it was
            // cancelled: under a future that still waits that is the context's end.
            let ready = moved & (wanted | EVER_READY);
            let stopped = ready == 0;
            let result = (!stopped)
                .then_some(ready)
                .ok_or(AioCommandError::AioStopped);
            return After::End(result, memory);
        }
        let cut_short = moved < Payload::reach(&memory, wanted);
        let goes_on = moved < wanted
            && match self.extent {
                Extent::Exact if moved == 0 => return After::End(Err(self.incomplete()), memory),
                Extent::Exact => true,
                // It may have moved nothing: all of its pieces were empty.
                Extent::Long => !cut_short,
                Extent::Once | Extent::Poll => false,
            };
        if !goes_on {
            return After::End(Ok(self.done + moved), memory);
        }
        self.cut_short = cut_short;
        let rest = Payload::rest(&self.order, memory, moved);
        self.order = *rest.order();
        self.done += moved;
        After::Rest(rest)
    }

    /// The operation comes to an end with an error of its latest request.
    pub(super) fn failed(&self, error: AioCommandError) -> Result<u64, AioCommandError> {
        match self.extent {
            _ if self.done == 0 => Err(error),
            // Short, as if it had been one; who goes on meets the error. A read is short where the
            // file ends, and nowhere else.
            Extent::Long if !self.is_read() && leaves_nothing_out(&error) => Ok(self.done),
            Extent::Once | Extent::Poll | Extent::Long => Err(error),
            // What is left after a read that was cut short by the end of the file may not be aligned.
            Extent::Exact
                if self.cut_short
                    && self.is_read()
                    && error.raw_os_error() == Some(libc::EINVAL) =>
            {
                Err(self.incomplete())
            }
            Extent::Exact => Err(error),
        }
    }

    fn is_read(&self) -> bool {
        self.order.opcode == abi::IOCB_CMD_PREAD
    }

    /// Nothing more is to be had.
    fn incomplete(&self) -> AioCommandError {
        let (done, left, at) = (self.done, self.order.nbytes, self.order.offset);
        AioCommandError::BadResult(match self.is_read() {
            true => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "the file ends at offset {at}, after {done} bytes of the {} asked for",
                    done + left
                ),
            ),
            false => io::Error::new(
                io::ErrorKind::WriteZero,
                format!(
                    "no more is written at offset {at}, after {done} bytes of {}",
                    done + left
                ),
            ),
        })
    }
}

/// Whether nothing of the request that failed so can land later.
fn leaves_nothing_out(error: &AioCommandError) -> bool {
    !matches!(
        error,
        AioCommandError::AioStopped | AioCommandError::TimedOut
    )
}
