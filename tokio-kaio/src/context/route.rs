//! [`Route`]: a submission that is made outside the lock.

use std::task::Waker;

use super::effort::{Effort, Watch};
use crate::request::{Flavour, Ticket, submit};
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
    /// `None`: the requests go out quietly.
    pub(super) eventfd: Option<i32>,
    pub(super) quiet: bool,
    /// Whether to look at what it does to the thread.
    pub(super) closely: bool,
    /// The table's number of the launch.
    pub(super) launch: u32,
    /// [`State::reaps`] when the call was decided on.
    pub(super) reaps: u64,
}

impl<K: Kernel> Route<K> {
    /// See [`submit`].
    #[allow(unsafe_code)]
    pub(super) fn submit<F: Flavour<Kernel = K>>(
        &self,
        iocbs: &mut [Iocb],
        refused: impl FnMut(u64, i32),
    ) -> (usize, Effort) {
        let watch = match (self.closely, self.quiet) {
            (true, _) => Watch::closely(),
            (false, false) => Watch::by_the_clock(),
            (false, true) => Watch::not(), // done at once, for a long time
        };
        // SAFETY: iocbs reach this point right from the table's launch, once. The kernel context
        // outlives the call: a route counts in `State::submitting`, and `try_to_end`, the only
        // place that gives the kernel away, waits for that to be 0. (Nothing between the launch
        // and the end of this call runs code of others that could panic.)
        let sent = unsafe { submit::<K>(&self.port, self.eventfd, iocbs, refused) };
        (sent, watch.stop())
    }
}
