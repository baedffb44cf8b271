//! [`CloseTimeoutError`]: the error of closing a context that did not end in time.

use std::fmt;
use std::os::fd::RawFd;

use crate::slab::Slots;

/// The error of [`close_timeout`](crate::GenericAioContext::close_timeout). Reports the requests that were
/// not done in time.
///
/// The context ends by itself when these requests are done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseTimeoutError {
    pub(super) queued: usize,
    pub(super) in_flight: usize,
    pub(super) abandoned: usize,
    pub(super) descriptors: Vec<RawFd>,
}

impl CloseTimeoutError {
    /// Number of requests in flight, in the kernel or in the blocking pool.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Number of requests in flight whose future was dropped or timed out.
    pub fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Number of requests that wait to be submitted.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Descriptors of the requests in flight, as the callers passed them, without duplicates. The caller
    /// may have closed some since, and their numbers may be reused.
    pub fn descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }

    /// Adds the unfinished requests in `slots`.
    pub(super) fn add(&mut self, slots: &Slots) {
        for (_, slot) in slots.iter() {
            self.queued += usize::from(slot.is_waiting());
            if slot.is_in_flight() {
                self.descriptors.push(slot.file_id.fd());
            }
        }
        self.in_flight += slots.in_flight();
        self.abandoned += slots.abandoned();
        self.descriptors.sort_unstable();
        self.descriptors.dedup();
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
            "the AIO context is not closed yet: requests in flight: {in_flight} (abandoned: {abandoned}; \
             descriptors {descriptors:?}), queued: {queued}; it closes by itself when they are done"
        )
    }
}

impl std::error::Error for CloseTimeoutError {}
