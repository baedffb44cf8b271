//! [`CloseTimeoutError`]: a context could not be closed in time.

use std::fmt;
use std::os::fd::RawFd;

use crate::driver::Unfinished;

/// A context was not [closed](crate::GenericAioContext::close_timeout) in time: says which requests were
/// not done.
///
/// The context goes on to end by itself when the kernel is done with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseTimeoutError {
    pub(super) queued: usize,
    pub(super) in_flight: usize,
    pub(super) abandoned: usize,
    pub(super) descriptors: Vec<RawFd>,
}

impl CloseTimeoutError {
    /// Requests in flight: the kernel has them, or a thread of the blocking pool.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Requests in flight that no future waits for: it was dropped, or has timed out.
    pub fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Requests that wait to be submitted.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Descriptors of the requests in flight, as their callers named them, each once. They may have been
    /// closed since, and their numbers reused.
    pub fn descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }

    /// Of several contexts together.
    pub(super) fn sum(contexts: impl Iterator<Item = Unfinished>) -> CloseTimeoutError {
        let mut sum = CloseTimeoutError::default();
        for context in contexts {
            sum.queued += context.queued;
            sum.in_flight += context.in_flight;
            sum.abandoned += context.abandoned;
            sum.descriptors.extend(context.descriptors);
        }
        sum.descriptors.sort_unstable();
        sum.descriptors.dedup();
        sum
    }
}

impl fmt::Display for CloseTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CloseTimeoutError {
            queued,
            in_flight,
            abandoned,
            descriptors,
        } = self;
        if in_flight + queued == 0 {
            return write!(
                f,
                "the AIO context is not closed yet: its requests are done, but the kernel has not \
                 destroyed it"
            );
        }
        write!(
            f,
            "the AIO context is not closed yet: {in_flight} requests are in flight ({abandoned} of them \
             abandoned; descriptors {descriptors:?}), {queued} are queued; it closes by itself when they \
             are done"
        )
    }
}

impl std::error::Error for CloseTimeoutError {}
