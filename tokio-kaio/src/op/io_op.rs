//! [`IoOp`]: an operation, without its file and its memory. [`Outcome`]: how a request ended.

use std::os::fd::RawFd;

use super::IoBuffer;
use crate::backend::{OpCode, Sqe};
use crate::policy::{Direction, OpInfo};
use crate::sys::abi;

/// An operation, as passed to the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IoOp {
    /// `Read` and `Write` also stand for the vectored opcodes, which the buffer selects.
    pub(crate) opcode: OpCode,
    /// `IOPRIO_*`. 0: the priority of the submitting thread.
    pub(crate) priority: u16,
    /// `RWF_*`.
    pub(crate) rw_flags: i32,
    /// Number of bytes to move. For a poll: the event mask.
    pub(crate) nbytes: u64,
    pub(crate) offset: i64,
}

impl IoOp {
    /// Creates an operation that moves no data.
    pub(crate) const fn new(opcode: OpCode) -> IoOp {
        IoOp {
            opcode,
            priority: 0,
            rw_flags: 0,
            nbytes: 0,
            offset: 0,
        }
    }

    /// Returns whether the operation is a write with `RWF_APPEND`.
    #[inline]
    pub(crate) fn appends(&self) -> bool {
        self.rw_flags & abi::RWF_APPEND != 0 && self.opcode == OpCode::Write
    }

    #[inline]
    pub(crate) fn is_poll(&self) -> bool {
        self.opcode == OpCode::Poll
    }

    #[inline]
    pub(crate) fn is_read(&self) -> bool {
        self.opcode == OpCode::Read
    }

    #[inline]
    pub(crate) fn is_write(&self) -> bool {
        self.opcode == OpCode::Write
    }

    #[inline]
    pub(crate) fn is_transfer(&self) -> bool {
        self.is_read() || self.is_write()
    }

    /// Returns the properties that submit policy depends on.
    #[inline(always)]
    pub(crate) fn info(&self) -> OpInfo {
        OpInfo {
            direction: match self.opcode {
                OpCode::Read => Some(Direction::Read),
                OpCode::Write => Some(Direction::Write),
                _ => None,
            },
            is_poll: self.is_poll(),
            appends: self.appends(),
            rw_flags: self.rw_flags,
            offset: self.offset as u64,
            nbytes: self.nbytes,
        }
    }

    /// Returns the entry to submit. It refers to no memory except the first `nbytes` of `buffer`.
    #[inline(always)]
    pub(crate) fn sqe(&self, fd: RawFd, buffer: &IoBuffer, user_data: u64) -> Sqe {
        let (opcode, addr, len) = buffer.encode(self.opcode, self.nbytes);
        Sqe {
            opcode,
            priority: self.priority,
            fd,
            rw_flags: self.rw_flags,
            addr,
            len,
            offset: self.offset,
            user_data,
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The result from the completion: bytes moved, events of a poll, or a negated errno.
    Completed(i64),
    /// The submission was refused with this errno.
    Refused(i32),
    /// The context stopped before the request was done.
    Stopped,
    /// The request was in flight when reaping failed with this errno, so its completion can't be reaped.
    Lost(i32),
}
