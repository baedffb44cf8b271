//! The trace functions without the feature `tracing`: they do nothing.

use std::os::fd::RawFd;
use std::time::Duration;

use super::TraceEvent;
use crate::op::IoOp;
use crate::{AioCommandError, AioContextError, Backend, RawCommand};

#[derive(Debug)]
pub(crate) struct TraceEvents;

impl TraceEvents {
    pub(crate) const fn new() -> TraceEvents {
        TraceEvents
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, _event: impl FnOnce() -> TraceEvent) {}

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn emit(&mut self) {}
}

#[inline(always)]
pub(crate) fn slow_submit(_requests: usize, _took: Duration, _offloaded: bool) {}

pub(crate) fn backend_refused(
    _nr: usize,
    _refused: Backend,
    _error: &AioContextError,
    _used: Backend,
) {
}

pub(crate) fn without_ring() {}

#[cfg(feature = "io-uring")]
pub(crate) fn without_registered_buffers(_error: &std::io::Error) {}

#[inline(always)]
pub(crate) fn long_wait(_group: &str, _waited: Duration) {}

/// The span of an operation of a batch.
#[derive(Debug)]
pub(crate) struct OpSpan;

impl OpSpan {
    pub(crate) fn new_span(_: &RawCommand<'_>, _: RawFd, _: Option<&str>) -> OpSpan {
        OpSpan
    }

    pub(crate) fn of_request(_: &IoOp, _: RawFd, _: Option<&str>) -> OpSpan {
        OpSpan
    }

    pub(crate) fn record(&mut self, _: &Result<u64, AioCommandError>) {}
}
