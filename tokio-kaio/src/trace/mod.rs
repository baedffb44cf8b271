//! Spans and events for the crate `tracing`, with the feature of that name. Without the feature,
//! functions without effect or cost.
//!
//! Subscribers are callers' code: none runs under a context's lock, or between the launch of a request and
//! its submission.

#[cfg(not(feature = "tracing"))]
mod off;
#[cfg(feature = "tracing")]
mod on;

#[cfg(not(feature = "tracing"))]
pub(crate) use off::*;
#[cfg(feature = "tracing")]
pub(crate) use on::*;

use std::os::fd::RawFd;

use crate::op::IoOp;
use crate::policy::SubmitTiming;

/// An event that happens under the lock, and is emitted after its release.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "tracing"),
    allow(dead_code, reason = "read only with feature `tracing`")
)]
pub(crate) enum TraceEvent {
    /// The kernel refused an attempt with `RWF_NOWAIT`. `unsupported`: it does not support the flag for
    /// this file.
    NowaitRefused {
        fd: RawFd,
        op: IoOp,
        unsupported: bool,
    },
    /// A request was offloaded without an attempt.
    Offloaded { fd: RawFd, op: IoOp },
    /// A request found no free slot.
    FoundFull { slots: usize },
}

/// Traces a slow submission of `requests` on a thread of the runtime. To be called without a lock:
/// subscribers are code of others.
#[inline(always)]
pub(crate) fn slow_inline_submit(timing: Option<&SubmitTiming>, requests: usize) {
    if let Some(timing) = timing.filter(|timing| timing.is_slow()) {
        slow_submit(requests, timing.time, false);
    }
}
