//! [`TransferProgress`]: how far an operation of one or several requests is.

use std::io;

use crate::AioCommandError;
use crate::backend::OpCode;
use crate::op::{IoBuffer, IoOp, IoRequest};

/// How many requests an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferMode {
    /// One.
    Single,
    /// As many as the limits of the kernel require. The operation ends where one of them stops: see
    /// [`TransferProgress::failed`].
    Split,
    /// As many as it takes to move all bytes.
    Exact,
    /// One, a poll, whose result is the events.
    Poll,
}

/// Events that a poll reports even if it was not asked for them.
const ALWAYS_REPORTED: u64 = (libc::POLLERR | libc::POLLHUP) as u64;

/// The progress of an operation, with the request under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransferProgress {
    /// The request, and all that comes after it.
    pub(super) op: IoOp,
    /// Bytes moved by earlier requests.
    done: u64,
    /// The last request moved less than it could have: there may be no more.
    was_short: bool,
    pub(super) mode: TransferMode,
}

/// What follows a request.
pub(super) enum NextStep {
    /// A request for the rest.
    Resubmit(IoRequest),
    End(Result<u64, AioCommandError>, IoBuffer),
}

impl TransferProgress {
    /// Of a command that was not polled yet.
    pub(super) const NEW: TransferProgress = TransferProgress {
        op: IoOp::new(OpCode::Fsync),
        done: 0,
        was_short: false,
        mode: TransferMode::Single,
    };

    pub(super) fn new(op: IoOp, mode: TransferMode) -> TransferProgress {
        TransferProgress {
            op,
            mode,
            ..TransferProgress::NEW
        }
    }

    /// The first request is about to be submitted.
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

    /// End of the range that a transfer of `bytes` has moved. `None`: it is no transfer, or its offset is
    /// unknown.
    #[inline]
    pub(super) fn end(&self, bytes: u64) -> Option<u64> {
        let has_offset = self.op.is_transfer() && !self.op.appends();
        has_offset.then(|| (self.op.offset as u64).saturating_add(bytes))
    }

    /// What follows the request that had `buffer` and ended with `result`.
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
            // The kernel may report more than it was asked for.
            return NextStep::End(Ok(moved & (wanted | ALWAYS_REPORTED)), buffer);
        }
        let was_short = moved < IoRequest::max_transfer(&buffer, wanted);
        let goes_on = moved < wanted
            && match self.mode {
                TransferMode::Exact if moved == 0 => {
                    return NextStep::End(Err(self.incomplete()), buffer);
                }
                TransferMode::Exact => true,
                // It may have moved nothing: all of its pieces were empty.
                TransferMode::Split => !was_short,
                TransferMode::Single | TransferMode::Poll => false,
            };
        if !goes_on {
            return NextStep::End(Ok(self.done + moved), buffer);
        }
        self.was_short = was_short;
        let rest = IoRequest::rest(&self.op, buffer, moved);
        self.op = rest.op;
        self.done += moved;
        NextStep::Resubmit(rest)
    }

    /// The operation ends with an error of its last request.
    pub(super) fn failed(&self, error: AioCommandError) -> Result<u64, AioCommandError> {
        match self.mode {
            _ if self.done == 0 => Err(error),
            // Short, like a single request; the next operation meets the error. A read is short at the
            // end of the file only.
            TransferMode::Split if !self.op.is_read() && is_final(&error) => Ok(self.done),
            TransferMode::Single | TransferMode::Poll | TransferMode::Split => Err(error),
            // The rest of a read that was cut short by the end of the file may not be aligned.
            TransferMode::Exact
                if self.was_short
                    && self.op.is_read()
                    && error.raw_os_error() == Some(libc::EINVAL) =>
            {
                Err(self.incomplete())
            }
            TransferMode::Exact => Err(error),
        }
    }

    /// No more bytes can be moved.
    fn incomplete(&self) -> AioCommandError {
        let (done, left, at) = (self.done, self.op.nbytes, self.op.offset);
        let wanted = done + left;
        AioCommandError::BadResult(match self.op.is_read() {
            true => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "the file ends at offset {at}, after {done} bytes of the {wanted} asked for"
                ),
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

/// Whether nothing of a request that failed with this can land later.
fn is_final(error: &AioCommandError) -> bool {
    !matches!(
        error,
        AioCommandError::AioStopped | AioCommandError::TimedOut
    )
}
