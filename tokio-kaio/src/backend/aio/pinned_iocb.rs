//! [`PollsInFlight`]: the polls that can be cancelled, with the iocbs that they were submitted from.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::aio_abi::Iocb;

/// An iocb that keeps its address.
///
/// [`io_cancel(2)`](https://man7.org/linux/man-pages/man2/io_cancel.2.html) finds a request by the
/// address of its iocb. Nobody but the kernel reads or writes the iocb once it is pinned.
#[derive(Debug)]
pub(super) struct PinnedIocb(NonNull<Iocb>);

// SAFETY: it owns plain memory, which is not bound to a thread.
unsafe impl Send for PinnedIocb {}
// SAFETY: a shared reference gives the address, and no access to the memory.
unsafe impl Sync for PinnedIocb {}

impl PinnedIocb {
    pub(super) fn new(iocb: Iocb) -> PinnedIocb {
        PinnedIocb(NonNull::from(Box::leak(Box::new(iocb))))
    }

    pub(super) fn as_ptr(&self) -> NonNull<Iocb> {
        self.0
    }

    /// [`IoEvent::obj`](super::aio_abi::IoEvent::obj) of the request.
    fn address(&self) -> u64 {
        self.0.addr().get() as u64
    }
}

impl Drop for PinnedIocb {
    fn drop(&mut self) {
        // SAFETY: `new` leaked the box, and only this takes it back. The kernel uses the iocb during
        // `io_submit` and `io_cancel`, whose callers own a reference to `self`.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// The iocbs of polls, by `user_data`: from before their submission until their completion.
///
/// A backend shares it with its submitters. Only polls take the lock: while none is in flight,
/// [`PollsInFlight::completed`] is one load.
#[derive(Debug, Default)]
pub(in crate::backend) struct PollsInFlight {
    /// Number of `iocbs`. Changed under the lock.
    count: AtomicUsize,
    iocbs: Mutex<BTreeMap<u64, Arc<PinnedIocb>>>,
}

impl PollsInFlight {
    /// Adds a poll that is about to be submitted. Returns false if there is a poll of this
    /// `user_data` already.
    pub(super) fn insert(&self, user_data: u64, iocb: Arc<PinnedIocb>) -> bool {
        let mut iocbs = self.lock();
        let Entry::Vacant(entry) = iocbs.entry(user_data) else {
            return false;
        };
        entry.insert(iocb);
        self.update_count(&iocbs);
        true
    }

    /// Removes a poll that the kernel refused.
    pub(super) fn refused(&self, user_data: u64, iocb: &PinnedIocb) {
        self.remove(user_data, iocb.address());
    }

    /// Removes the poll of this `user_data`, if there is one and it was submitted from the address
    /// `obj`. Both come from the kernel, and may name no poll.
    #[inline]
    pub(super) fn completed(&self, user_data: u64, obj: u64) {
        // The count was raised before the submission, and so before the event that the caller has
        // just read.
        if self.count.load(Ordering::Acquire) != 0 {
            self.remove(user_data, obj);
        }
    }

    /// The iocb of a poll, if it is in flight or about to be.
    pub(super) fn get(&self, user_data: u64) -> Option<Arc<PinnedIocb>> {
        self.lock().get(&user_data).cloned()
    }

    /// Removes all polls: their context is gone.
    pub(super) fn clear(&self) {
        let mut iocbs = self.lock();
        iocbs.clear();
        self.update_count(&iocbs);
    }

    #[cold]
    fn remove(&self, user_data: u64, address: u64) {
        let mut iocbs = self.lock();
        if let Entry::Occupied(entry) = iocbs.entry(user_data) {
            if entry.get().address() == address {
                entry.remove();
            }
        }
        self.update_count(&iocbs);
    }

    fn update_count(&self, iocbs: &BTreeMap<u64, Arc<PinnedIocb>>) {
        self.count.store(iocbs.len(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<PinnedIocb>>> {
        self.iocbs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from taking the lock.
    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(in crate::backend) fn hold(&self) -> impl Sized + '_ {
        self.lock()
    }

    /// Number of polls that can be cancelled.
    #[cfg(test)]
    pub(in crate::backend) fn count(&self) -> usize {
        let iocbs = self.lock();
        assert_eq!(iocbs.len(), self.count.load(Ordering::Relaxed));
        iocbs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(data: u64) -> Arc<PinnedIocb> {
        Arc::new(PinnedIocb::new(Iocb {
            data,
            ..Iocb::default()
        }))
    }

    #[test]
    fn a_pinned_iocb_keeps_its_address_and_its_content() {
        let iocb = PinnedIocb::new(Iocb {
            data: 7,
            ..Iocb::default()
        });
        let address = iocb.address();
        let moved = Box::new(iocb);
        assert_eq!(moved.address(), address);
        // SAFETY: it lives, and nobody else knows its address.
        assert_eq!(unsafe { moved.as_ptr().read() }.data, 7);
    }

    #[test]
    fn a_poll_is_found_until_it_completes() {
        let polls = PollsInFlight::default();
        let (first, second) = (pinned(1), pinned(2));
        assert!(polls.insert(1, Arc::clone(&first)) && polls.insert(2, Arc::clone(&second)));
        assert_eq!(polls.count(), 2);
        assert!(
            polls
                .get(1)
                .is_some_and(|found| Arc::ptr_eq(&found, &first))
        );
        polls.completed(1, first.address());
        assert!(polls.get(1).is_none());
        assert!(
            polls
                .get(2)
                .is_some_and(|found| Arc::ptr_eq(&found, &second))
        );
        polls.refused(2, &second);
        assert!(polls.get(2).is_none());
        assert_eq!(polls.count(), 0);
    }

    #[test]
    fn completions_that_name_no_poll_remove_none() {
        let polls = PollsInFlight::default();
        polls.completed(1, 0);
        let iocb = pinned(1);
        assert!(polls.insert(1, Arc::clone(&iocb)));
        for (user_data, obj) in [
            (1, 0),
            (1, iocb.address() + 64),
            (2, iocb.address()),
            (0, 0),
        ] {
            polls.completed(user_data, obj);
            assert_eq!(polls.count(), 1, "{user_data} {obj}");
        }
        polls.completed(1, iocb.address());
        polls.completed(1, iocb.address());
        assert_eq!(polls.count(), 0);
    }

    #[test]
    fn a_second_poll_of_the_same_user_data_leaves_the_first() {
        let polls = PollsInFlight::default();
        let (first, second) = (pinned(1), pinned(1));
        assert!(polls.insert(1, Arc::clone(&first)));
        assert!(!polls.insert(1, Arc::clone(&second)));
        polls.refused(1, &second);
        assert!(
            polls
                .get(1)
                .is_some_and(|found| Arc::ptr_eq(&found, &first))
        );
    }

    #[test]
    fn a_poll_that_completes_during_its_submission_keeps_its_iocb() {
        let polls = PollsInFlight::default();
        let iocb = pinned(3);
        assert!(polls.insert(3, Arc::clone(&iocb)));
        polls.completed(3, iocb.address());
        // SAFETY: the reference here keeps it alive, and nobody else uses it.
        assert_eq!(unsafe { iocb.as_ptr().read() }.data, 3);
    }

    #[test]
    fn no_poll_is_left_when_the_context_is_gone() {
        let polls = PollsInFlight::default();
        assert!(polls.insert(1, pinned(1)) && polls.insert(2, pinned(2)));
        polls.clear();
        assert_eq!(polls.count(), 0);
        assert!(polls.get(1).is_none());
    }
}
