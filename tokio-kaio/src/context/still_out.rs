//! [`StillOut`]: what a context has not got back.

use std::fmt;
use std::os::fd::RawFd;

/// What was still out when the time to [close](crate::GenericAioContext::close_timeout) a context was
/// up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StillOut {
    pub(super) queued: usize,
    pub(super) in_flight: usize,
    pub(super) abandoned: usize,
    pub(super) descriptors: Vec<RawFd>,
}

impl StillOut {
    /// Requests that the kernel has, or a thread of the blocking pool.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Those of them that no future waits for: it was dropped, or ran into its deadline.
    pub fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Requests that wait to go there.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The descriptors, each once, of the files of the requests in flight, as their callers named them.
    /// They may have been closed since, and their numbers given to other files.
    pub fn descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }

    pub(super) fn add(&mut self, other: StillOut) {
        self.queued += other.queued;
        self.in_flight += other.in_flight;
        self.abandoned += other.abandoned;
        self.descriptors.extend(other.descriptors);
        self.descriptors.sort_unstable();
        self.descriptors.dedup();
    }
}

impl fmt::Display for StillOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StillOut {
            queued,
            in_flight,
            abandoned,
            descriptors,
        } = self;
        if in_flight + queued == 0 {
            return write!(
                f,
                "the AIO context has not ended yet: all of its requests are done, but the kernel has not \
                 taken it down"
            );
        }
        write!(
            f,
            "the AIO context has not ended yet: in flight are still {in_flight} (abandoned {abandoned}; \
             descriptors {descriptors:?}), queued {queued}; it ends by itself when the kernel is done with \
             them"
        )
    }
}

impl std::error::Error for StillOut {}
