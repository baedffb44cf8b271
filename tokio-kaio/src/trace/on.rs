//! The trace functions with the feature `tracing`: spans of operations, and events.

use std::future::Future;
use std::mem;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tracing::field::Empty;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Span, debug, debug_span, info, trace, warn};

use super::TraceEvent;
use crate::backend::OpCode;
use crate::error::Transfer;
use crate::op::IoOp;
use crate::sync::contain;
use crate::{AioCommandError, AioContextError, Backend, RawCommand};

/// An operation in its span. Enters the span for each poll, and records the result.
#[derive(Debug)]
pub(crate) struct Traced<O> {
    span: Span,
    operation: O,
    ended: bool,
}

impl<O> Traced<O> {
    pub(crate) fn new(span: Span, operation: O) -> Traced<O> {
        Traced {
            span,
            operation,
            ended: false,
        }
    }
}

/// The span of an operation of a batch, which polls the operation itself.
pub(crate) type OpSpan = Traced<()>;

impl Traced<()> {
    pub(crate) fn new_span(command: &RawCommand<'_>, fd: RawFd, group: Option<&str>) -> OpSpan {
        Traced::new(command_span(command, fd, group), ())
    }

    pub(crate) fn of_request(op: &IoOp, fd: RawFd, group: Option<&str>) -> OpSpan {
        Traced::new(request_span(op, fd, group), ())
    }
}

impl<O> Traced<O> {
    /// Records the result of the operation.
    pub(crate) fn record(&mut self, result: &Result<u64, AioCommandError>) {
        self.ended = true;
        match result {
            Ok(bytes) => self.span.record("bytes", bytes),
            Err(error) => self.span.record("error", tracing::field::display(error)),
        };
    }
}

impl<O> AsMut<O> for Traced<O> {
    fn as_mut(&mut self) -> &mut O {
        &mut self.operation
    }
}

impl<O> Future for Traced<O>
where
    O: Future<Output = Result<u64, AioCommandError>> + Unpin,
{
    type Output = O::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O::Output> {
        let this = self.get_mut();
        let entered = this.span.enter();
        let result = ready!(Pin::new(&mut this.operation).poll(cx));
        drop(entered);
        this.record(&result);
        Poll::Ready(result)
    }
}

impl<O> Drop for Traced<O> {
    fn drop(&mut self) {
        if !self.ended && !std::thread::panicking() {
            let _entered = self.span.enter();
            debug!(target: "tokio_kaio", "dropped before it was done");
        }
    }
}

/// The span of a command on descriptor `fd`, made by a handle of `group`.
pub(crate) fn command_span(command: &RawCommand<'_>, fd: RawFd, group: Option<&str>) -> Span {
    span(command.name(), command.transfer(), fd, group)
}

/// The span of an operation that is not a [`RawCommand`].
pub(crate) fn request_span(op: &IoOp, fd: RawFd, group: Option<&str>) -> Span {
    span(name(op.opcode), Transfer::of(op), fd, group)
}

fn span(op: &'static str, transfer: Option<Transfer>, fd: RawFd, group: Option<&str>) -> Span {
    debug_span!(
        target: "tokio_kaio",
        "aio",
        op,
        fd,
        group,
        offset = transfer.and_then(|transfer| transfer.offset),
        len = transfer.map(|transfer| transfer.len),
        bytes = Empty,
        error = Empty,
    )
}

/// Events to emit when no lock is held.
#[derive(Debug)]
pub(crate) struct TraceEvents(Vec<TraceEvent>);

impl TraceEvents {
    pub(crate) const fn new() -> TraceEvents {
        TraceEvents(Vec::new())
    }

    /// Adds an event, if a subscriber may want it.
    #[inline]
    pub(crate) fn push(&mut self, event: impl FnOnce() -> TraceEvent) {
        // This check reads a number. The subscriber, which is callers' code, decides in `emit`.
        if LevelFilter::current() >= Level::DEBUG {
            self.0.push(event());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Emits all events.
    pub(crate) fn emit(&mut self) {
        for event in mem::take(&mut self.0) {
            contain(|| emit(event));
        }
    }
}

fn emit(event: TraceEvent) {
    match event {
        TraceEvent::NowaitRefused {
            fd,
            op,
            unsupported,
        } => debug!(
            target: "tokio_kaio",
            op = name(op.opcode),
            fd,
            offset = op.offset,
            len = op.nbytes,
            errno = if unsupported { "EOPNOTSUPP" } else { "EAGAIN" },
            "the kernel refused RWF_NOWAIT: submitted from the blocking pool"
        ),
        TraceEvent::Offloaded { fd, op } => trace!(
            target: "tokio_kaio",
            op = name(op.opcode),
            fd,
            offset = op.offset,
            len = op.nbytes,
            "submitted from the blocking pool"
        ),
        TraceEvent::FoundFull { slots } => {
            trace!(target: "tokio_kaio", slots, "no slot of the context was free");
        }
    }
}

fn name(opcode: OpCode) -> &'static str {
    match opcode {
        OpCode::Read | OpCode::ReadVectored => "read",
        OpCode::Write | OpCode::WriteVectored => "write",
        OpCode::Fdatasync => "fdatasync",
        OpCode::Poll => "poll",
        OpCode::Fsync => "fsync",
        OpCode::Allocate => "allocate",
        OpCode::Truncate => "truncate",
        OpCode::SyncRange => "sync_range",
        OpCode::Open => "open",
    }
}

/// A request that waits longer for the turn of its group causes an event.
const LONG_WAIT: Duration = Duration::from_millis(10);

/// Reports that a request waited long for the turn of its group.
pub(crate) fn long_wait(group: &str, waited: Duration) {
    if waited >= LONG_WAIT {
        let micros = waited.as_micros() as u64;
        contain(|| {
            debug!(
                target: "tokio_kaio",
                group,
                micros,
                "a request waited for the turn of its group"
            );
        });
    }
}

/// A submission on a thread of the runtime that takes longer causes a warning.
const LONG: Duration = Duration::from_millis(10);

/// Reports a slow submission. `offloaded`: on a thread of the blocking pool, which may block.
pub(crate) fn slow_submit(requests: usize, took: Duration, offloaded: bool) {
    let micros = took.as_micros() as u64;
    contain(|| match offloaded {
        false if took >= LONG => warn!(
            target: "tokio_kaio",
            requests,
            micros,
            "io_submit held up a thread of the runtime"
        ),
        false => debug!(
            target: "tokio_kaio",
            requests,
            micros,
            "slow io_submit on a thread of the runtime"
        ),
        true => debug!(
            target: "tokio_kaio",
            requests,
            micros,
            "slow io_submit on a thread of the blocking pool"
        ),
    });
}

/// Reports that a context runs on `used`, because `refused` is not available.
pub(crate) fn backend_refused(nr: usize, refused: Backend, error: &AioContextError, used: Backend) {
    let (errno, reason) = (error.raw_os_error(), error.reason());
    match used {
        Backend::ThreadPool => warn!(
            target: "tokio_kaio",
            nr,
            errno,
            "{refused} is not available, so a context runs on {used}: {reason}"
        ),
        _ => info!(
            target: "tokio_kaio",
            nr,
            errno,
            "{refused} is not available, so a context runs on {used}: {reason}"
        ),
    }
}

/// Reports that completions are fetched by system call.
pub(crate) fn without_ring() {
    info!(
        target: "tokio_kaio",
        "the kernel maps no completion ring of a known layout: completions are fetched with io_getevents"
    );
}

#[cfg(feature = "io-uring")]
#[cold]
pub(crate) fn without_registered_buffers(error: &std::io::Error) {
    warn!(
        target: "tokio_kaio",
        errno = error.raw_os_error(),
        "the memory of a pool can't be registered with io_uring, so its requests take more CPU: {error}; \
         raise RLIMIT_MEMLOCK (ulimit -l)"
    );
}
