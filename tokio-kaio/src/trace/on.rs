//! [`Spanned`], [`Notices`] and single events.

use std::future::Future;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tracing::field::Empty;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Span, debug, debug_span, info, trace, warn};

use super::Notice;
use crate::error::Transfer;
use crate::request::Order;
use crate::sync::contain;
use crate::sys::abi;
use crate::{AioCommandError, AioContextError, RawCommand};

/// An operation in its span, which is entered for each poll and gets the result.
#[derive(Debug)]
pub(crate) struct Spanned<O> {
    span: Span,
    operation: O,
    ended: bool,
}

impl<O> Spanned<O> {
    pub(crate) fn new(span: Span, operation: O) -> Spanned<O> {
        Spanned {
            span,
            operation,
            ended: false,
        }
    }
}

/// An operation that somebody else polls, in its span.
pub(crate) type Told = Spanned<()>;

impl Told {
    pub(crate) fn of(command: &RawCommand<'_>, fd: RawFd) -> Told {
        Spanned::new(operation(command, fd), ())
    }
}

impl<O> Spanned<O> {
    /// It has come to `result`.
    pub(crate) fn ended(&mut self, result: &Result<u64, AioCommandError>) {
        self.ended = true;
        match result {
            Ok(bytes) => self.span.record("bytes", bytes),
            Err(error) => self.span.record("error", tracing::field::display(error)),
        };
    }
}

impl<O> AsMut<O> for Spanned<O> {
    fn as_mut(&mut self) -> &mut O {
        &mut self.operation
    }
}

impl<O> Future for Spanned<O>
where
    O: Future<Output = Result<u64, AioCommandError>> + Unpin,
{
    type Output = O::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O::Output> {
        let this = self.get_mut();
        let entered = this.span.enter();
        let result = ready!(Pin::new(&mut this.operation).poll(cx));
        drop(entered);
        this.ended(&result);
        Poll::Ready(result)
    }
}

impl<O> Drop for Spanned<O> {
    fn drop(&mut self) {
        if !self.ended && !std::thread::panicking() {
            let _entered = self.span.enter();
            debug!(target: "tokio_kaio", "dropped before it was done");
        }
    }
}

/// The span of an operation on descriptor `fd`.
pub(crate) fn operation(command: &RawCommand<'_>, fd: RawFd) -> Span {
    span(command.name(), command.transfer(), fd)
}

/// The span of an operation that is no command.
pub(crate) fn prepared(order: &Order, fd: RawFd) -> Span {
    span(name(order.opcode), Transfer::of(order), fd)
}

fn span(op: &'static str, transfer: Option<Transfer>, fd: RawFd) -> Span {
    debug_span!(
        target: "tokio_kaio",
        "aio",
        op,
        fd,
        offset = transfer.and_then(|transfer| transfer.offset),
        len = transfer.map(|transfer| transfer.len),
        bytes = Empty,
        error = Empty,
    )
}

/// What is to be told when no lock is held.
#[derive(Debug)]
pub(crate) struct Notices(Vec<Notice>);

impl Notices {
    pub(crate) const fn new() -> Notices {
        Notices(Vec::new())
    }

    /// Takes one in, if somebody listens.
    #[inline]
    pub(crate) fn push(&mut self, notice: impl FnOnce() -> Notice) {
        // That is a look at a number; the subscriber itself is asked later.
        if LevelFilter::current() >= Level::DEBUG {
            self.0.push(notice());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells all of it.
    pub(crate) fn tell(&mut self) {
        for notice in self.0.drain(..) {
            contain(|| tell(notice));
        }
    }
}

fn tell(notice: Notice) {
    match notice {
        Notice::Refused { fd, order, unknown } => debug!(
            target: "tokio_kaio",
            op = name(order.opcode),
            fd,
            offset = order.offset,
            len = order.nbytes,
            errno = if unknown { "EOPNOTSUPP" } else { "EAGAIN" },
            "the kernel refused RWF_NOWAIT: submitted from the blocking pool"
        ),
        Notice::Offloaded { fd, order } => trace!(
            target: "tokio_kaio",
            op = name(order.opcode),
            fd,
            offset = order.offset,
            len = order.nbytes,
            "submitted from the blocking pool"
        ),
        Notice::FoundFull { slots } => {
            trace!(target: "tokio_kaio", slots, "no slot of the context was free");
        }
    }
}

fn name(opcode: u16) -> &'static str {
    match opcode {
        abi::IOCB_CMD_PREAD => "read",
        abi::IOCB_CMD_PWRITE => "write",
        abi::IOCB_CMD_FDSYNC => "fdatasync",
        abi::IOCB_CMD_STAND_IN => "poll",
        _ => "fsync",
    }
}

/// A submission that takes longer than this is worth a warning.
const LONG: Duration = Duration::from_millis(10);

/// A submission took long. `offloaded`: on a thread of the blocking pool, where that is no harm.
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
            "io_submit took long on a thread of the runtime"
        ),
        true => debug!(
            target: "tokio_kaio",
            requests,
            micros,
            "io_submit took long on a thread of the blocking pool"
        ),
    });
}

/// A context runs on threads, because AIO can't be had.
pub(crate) fn without_aio(nr: usize, error: &AioContextError) {
    let errno = match error {
        AioContextError::IoSetup(error) => error.raw_os_error(),
        AioContextError::EventFd(_) => None,
    };
    warn!(
        target: "tokio_kaio",
        nr,
        errno,
        "kernel AIO can't be had: a context runs on the thread pool: {error}"
    );
}

/// Events are fetched by system call.
pub(crate) fn without_ring() {
    info!(
        target: "tokio_kaio",
        "the kernel maps no completion ring that is known here: events are fetched with io_getevents"
    );
}
