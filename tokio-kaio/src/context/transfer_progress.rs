//! [`TransferProgress`]: the progress of an operation that takes one or several requests.

use std::io;

use crate::AioCommandError;
use crate::backend::{MOST_GIVEN_BACK, OpCode};
use crate::op::{IoBuffer, IoOp, IoRequest};

/// How many requests an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferMode {
    /// One request.
    Single,
    /// As many requests as the limits of the kernel require. The operation ends after the first request that
    /// is short or fails (see [`TransferProgress::failed`]).
    Split,
    /// As many requests as it takes to move all bytes.
    Exact,
    /// As many requests as it takes to read all bytes, or all up to the end of the file. A request that ends
    /// within a block of this size has reached the end of the file.
    Full { block: u32 },
    /// One poll request, whose result is the events.
    Poll,
}

/// Events that a poll reports even if they were not requested.
const ALWAYS_REPORTED: u64 = (libc::POLLERR | libc::POLLHUP) as u64;

/// The progress of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransferProgress {
    /// The rest of the operation, including the current request.
    pub(super) op: IoOp,
    /// Number of bytes moved by earlier requests.
    done: u64,
    /// The last request moved less than it could have, so it may have reached the end of the file.
    was_short: bool,
    /// How often in a row the backend has given back the current request.
    given_back: u8,
    pub(super) mode: TransferMode,
}

/// What follows a request.
pub(super) enum NextStep {
    /// A request for the rest.
    Resubmit(IoRequest),
    End(Result<u64, AioCommandError>, IoBuffer),
}

impl TransferProgress {
    /// The progress of an operation that was not polled yet.
    pub(super) const NEW: TransferProgress = TransferProgress {
        op: IoOp::new(OpCode::Fsync),
        done: 0,
        was_short: false,
        given_back: 0,
        mode: TransferMode::Single,
    };

    pub(super) fn new(op: IoOp, mode: TransferMode) -> TransferProgress {
        TransferProgress {
            op,
            mode,
            ..TransferProgress::NEW
        }
    }

    /// Prepares the first request, which has `buffer`. Selects the mode.
    #[inline(always)]
    pub(super) fn start(&mut self, priority: u16, buffer: &IoBuffer) {
        self.op.priority = priority;
        if IoRequest::needs_progress(&self.op, buffer) {
            self.set_mode(buffer);
        }
    }

    #[inline(never)]
    fn set_mode(&mut self, buffer: &IoBuffer) {
        if self.op.is_poll() {
            self.mode = TransferMode::Poll;
        } else if self.mode == TransferMode::Single
            && IoRequest::exceeds_one_request(&self.op, buffer)
        {
            self.mode = TransferMode::Split;
        }
    }

    /// Returns the end of the range that the current request has transferred if it moved `bytes`. Returns
    /// `None` if the request is not a transfer, or an append, whose offset is unknown.
    #[inline]
    pub(super) fn end(&self, bytes: u64) -> Option<u64> {
        let has_offset = self.op.is_transfer() && !self.op.appends();
        has_offset.then(|| (self.op.offset as u64).saturating_add(bytes))
    }

    /// Takes note that the backend has given back the request. Returns whether to submit it again.
    #[cold]
    pub(super) fn on_given_back(&mut self) -> bool {
        self.given_back += 1;
        self.given_back <= MOST_GIVEN_BACK
    }

    /// Returns what follows the request that had `buffer` and ended with `result`.
    pub(super) fn next_step(
        &mut self,
        result: Result<u64, AioCommandError>,
        buffer: IoBuffer,
    ) -> NextStep {
        let wanted = self.op.nbytes;
        let moved = match result {
            Ok(moved) => moved,
            Err(error) => return NextStep::End(self.failed(error), buffer),
        };
        if self.mode == TransferMode::Poll {
            // The kernel may report events that were not requested.
            return NextStep::End(Ok(moved & (wanted | ALWAYS_REPORTED)), buffer);
        }
        let was_short = moved < IoRequest::max_transfer(&buffer, wanted);
        let goes_on = moved < wanted
            && match self.mode {
                TransferMode::Exact if moved == 0 => {
                    return NextStep::End(Err(self.incomplete()), buffer);
                }
                TransferMode::Exact => true,
                TransferMode::Full { block } => moved > 0 && !self.ends_within_block(moved, block),
                // `moved` may be 0 if all pieces of the request were empty.
                TransferMode::Split => !was_short,
                TransferMode::Single | TransferMode::Poll => false,
            };
        if !goes_on {
            return NextStep::End(Ok(self.done + moved), buffer);
        }
        self.was_short = was_short;
        self.given_back = 0;
        let rest = IoRequest::rest(&self.op, buffer, moved);
        self.op = rest.op;
        self.done += moved;
        NextStep::Resubmit(rest)
    }

    /// Returns the result of an operation whose last request failed with `error`.
    pub(super) fn failed(&self, error: AioCommandError) -> Result<u64, AioCommandError> {
        match self.mode {
            _ if self.done == 0 => Err(error),
            // A short write, as from a single request. The next operation gets the error. Reads fail,
            // because a short read means the end of the file.
            TransferMode::Split if !self.op.is_read() && is_final(&error) => Ok(self.done),
            TransferMode::Exact if self.is_misaligned_rest(&error) => Err(self.incomplete()),
            TransferMode::Full { .. } if self.is_misaligned_rest(&error) => Ok(self.done),
            _ => Err(error),
        }
    }

    /// Returns whether `error` refuses the rest of a read that was short at the end of the file: the rest may
    /// be misaligned.
    fn is_misaligned_rest(&self, error: &AioCommandError) -> bool {
        self.was_short && self.op.is_read() && error.raw_os_error() == Some(libc::EINVAL)
    }

    /// Returns whether the current request ends within a block if it moved `moved` bytes.
    fn ends_within_block(&self, moved: u64, block: u32) -> bool {
        (self.op.offset as u64).wrapping_add(moved) % u64::from(block.max(1)) != 0
    }

    /// Returns the error of an exact transfer that can't move more bytes.
    fn incomplete(&self) -> AioCommandError {
        let (done, left, at) = (self.done, self.op.nbytes, self.op.offset);
        let wanted = done + left;
        AioCommandError::BadResult(match self.op.is_read() {
            true => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                match done {
                    // How far before the offset is not known.
                    0 => format!(
                        "the file ends at or before offset {at}, where {wanted} bytes were requested"
                    ),
                    _ => format!(
                        "the file ends at offset {at}, after {done} bytes of the {wanted} requested"
                    ),
                },
            ),
            false => io::Error::new(
                io::ErrorKind::WriteZero,
                format!(
                    "the write made no progress at offset {at}: {done} of {wanted} bytes were written"
                ),
            ),
        })
    }
}

/// Returns whether a write that failed with `error` can no longer change the file.
fn is_final(error: &AioCommandError) -> bool {
    !matches!(
        error,
        AioCommandError::AioStopped | AioCommandError::TimedOut
    )
}
