//! [`Route`]: a submission that is made outside the lock.

use std::task::Waker;

use super::effort::{Effort, Watch};
use crate::request::{Flavour, Stay, Ticket, submit};
use crate::sys::Kernel;
use crate::sys::abi::Iocb;

/// A request that the table has in flight and the kernel does not have yet.
pub(super) struct Launched<F: Flavour> {
    pub(super) ticket: Ticket<F>,
    pub(super) iocb: Iocb,
    pub(super) route: Route<F::Kernel>,
    /// For the table, unless the request is done at once: its own task needs no waking then.
    pub(super) waker: Waker,
}

/// Where an `io_submit` goes. Counted in [`State::submitting`] while it is in use.
pub(super) struct Route<K: Kernel> {
    pub(super) port: K::Port,
    /// Negative: there is none.
    pub(super) eventfd: i32,
    /// The requests go out without a signal.
    pub(super) quiet: bool,
    /// Whether to look at what it does to the thread.
    pub(super) closely: bool,
    /// The table's number of the launch.
    pub(super) launch: u32,
    /// [`State::reaps`] when the call was decided on.
    pub(super) reaps: u32,
}

impl<K: Kernel> Route<K> {
    /// See [`submit`](crate::request::submit). What it did to the thread was not looked at where requests have been done at
    /// once for long.
    #[inline(always)]
    pub(super) fn submit(
        &self,
        iocbs: &mut [Iocb],
        refused: impl FnMut(u64, i32),
    ) -> (usize, Option<Effort>) {
        let watch = match (self.closely, self.quiet) {
            (false, true) => None,
            (false, false) => Some(Watch::by_the_clock()),
            (true, _) => Some(Watch::closely()),
        };
        let eventfd = (self.eventfd >= 0 && !self.quiet).then_some(self.eventfd);
        #[allow(unsafe_code)]
        // SAFETY: iocbs reach this point right from the table's launch, once. The kernel context
        // outlives the call: a route counts in `State::submitting`, and `try_to_end`, the only
        // place that gives the kernel away, waits for that to be 0. (Nothing between the launch
        // and the end of this call runs code of others that could panic.)
        let sent = unsafe { submit::<K>(&self.port, eventfd, iocbs, refused) };
        (sent, watch.map(Watch::stop))
    }

    /// Whether there is something for the files to learn.
    pub(super) fn is_news(&self, effort: Option<&Effort>) -> Option<Stay> {
        let stay = effort?.stay();
        (self.closely || stay != Stay::Short).then_some(stay)
    }
}
