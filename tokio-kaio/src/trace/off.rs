//! [`Notices`] and the rest, where nobody listens.

use std::os::fd::RawFd;
use std::time::Duration;

use super::Notice;
use crate::{AioCommandError, AioContextError, RawCommand};

#[derive(Debug)]
pub(crate) struct Notices;

impl Notices {
    pub(crate) const fn new() -> Notices {
        Notices
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, _notice: impl FnOnce() -> Notice) {}

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn tell(&mut self) {}
}

#[inline(always)]
pub(crate) fn slow_submit(_requests: usize, _took: Duration, _offloaded: bool) {}

pub(crate) fn without_aio(_nr: usize, _error: &AioContextError) {}

pub(crate) fn without_ring() {}

/// An operation that somebody else polls.
#[derive(Debug)]
pub(crate) struct Told;

impl Told {
    pub(crate) fn of(_: &RawCommand<'_>, _: RawFd) -> Told {
        Told
    }

    pub(crate) fn ended(&mut self, _: &Result<u64, AioCommandError>) {}
}
