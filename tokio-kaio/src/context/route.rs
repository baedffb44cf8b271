//! [`Route`]: a submission that is made outside the lock.

use super::effort::{Effort, Watch};
use crate::request::Stay;

/// How an `io_submit` is made: by [`Shared::submit`](super::shared::Shared::submit). Counted in
/// [`State::submitting`](super::state::State::submitting) while it is in use, so that the kernel
/// context outlives the call.
#[derive(Debug)]
pub(super) struct Route {
    /// The requests go out without a signal.
    pub(super) quiet: bool,
    /// Whether to look at what it does to the thread.
    pub(super) closely: bool,
    /// The table's number of the launch.
    pub(super) launch: u32,
    /// [`State::reaps`](super::state::State::reaps) when the call was decided on.
    pub(super) reaps: u32,
}

impl Route {
    /// Sees what the call does to the thread. `None`: that is not looked at, where requests have
    /// been done at once for long.
    #[inline(always)]
    pub(super) fn watch(&self) -> Option<Watch> {
        match (self.closely, self.quiet) {
            (false, true) => None,
            (false, false) => Some(Watch::by_the_clock()),
            (true, _) => Some(Watch::closely()),
        }
    }

    /// Whether there is something for the files to learn.
    #[inline]
    pub(super) fn is_news(&self, effort: Option<&Effort>) -> Option<Stay> {
        let stay = effort?.stay();
        (self.closely || stay != Stay::Short).then_some(stay)
    }
}
