//! What `tracing` is told, with the feature of that name. Without it, nothing, at no cost.
//!
//! Subscribers are code of others, which may do anything: none runs under a context's lock, nor
//! between a request's launch and its submission.

#[cfg(not(feature = "tracing"))]
mod off;
#[cfg(feature = "tracing")]
mod on;

#[cfg(not(feature = "tracing"))]
pub(crate) use off::*;
#[cfg(feature = "tracing")]
pub(crate) use on::*;

use std::os::fd::RawFd;

use crate::request::Order;

/// Something that happened under the lock, to be told after it.
#[derive(Debug)]
#[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "told to nobody"))]
pub(crate) enum Notice {
    /// The kernel refused an attempt with `RWF_NOWAIT`. `unknown`: because it does not know the
    /// flag for this file.
    Refused {
        fd: RawFd,
        order: Order,
        unknown: bool,
    },
    /// A request goes from the blocking pool, without an attempt.
    Offloaded { fd: RawFd, order: Order },
    /// A request found no free slot.
    FoundFull { slots: usize },
}
