//! [`IoOp`]: one operation, without its file and its memory.

use std::os::fd::RawFd;

use super::IoBuffer;
use crate::backend::{OpCode, Sqe};
use crate::policy::{Direction, OpInfo};
use crate::sys::abi;

/// What the kernel is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IoOp {
    /// `Read` and `Write` stand for the vectored operations, too: that depends on the buffer.
    pub(crate) opcode: OpCode,
    /// `IOPRIO_*`; 0: that of the submitting thread.
    pub(crate) priority: u16,
    /// `RWF_*`.
    pub(crate) rw_flags: i32,
    /// Bytes to move; event mask of a poll.
    pub(crate) nbytes: u64,
    pub(crate) offset: i64,
}

impl IoOp {
    /// An operation that moves no data.
    pub(crate) const fn new(opcode: OpCode) -> IoOp {
        IoOp {
            opcode,
            priority: 0,
            rw_flags: 0,
            nbytes: 0,
            offset: 0,
        }
    }

    /// Whether it writes to the end of the file, wherever that is at the time.
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

    /// What submit policy depends on.
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

    /// The entry that submits it. It names no memory except that of `buffer`, which has `nbytes`.
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
    /// Result of its completion: bytes moved, events of a poll, or a negated errno.
    Completed(i64),
    /// The submission was refused with this errno.
    Refused(i32),
    /// The context stopped first.
    Stopped,
    /// The kernel took it, and its completion can't be fetched any more, because of this errno.
    Lost(i32),
}
