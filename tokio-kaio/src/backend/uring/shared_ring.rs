//! [`SharedRing`]: a ring that several threads submit to and one thread reaps.
//!
//! # Locks
//!
//! `ring` is held while entries are pushed and while the kernel takes them. Otherwise one thread's call
//! could submit the entries of another thread, which would return before its own are in flight. The kernel
//! holds a lock of its own for as long, so nothing is lost. The lock is also held to cancel and to submit again, so
//! these wait while another thread submits: for one system call, with at most 64 entries, which passes on to a
//! worker what would wait for the storage.
//!
//! `table` is held for short. It may be taken while `ring` is held, not the other way round.
//!
//! The completion queue needs no lock: the backend has the only reference that reaps.
//!
//! # Entries that the kernel does not take
//!
//! The kernel may take fewer entries than it was given, if it has no memory. The others are removed from the
//! submission queue: a later submission would find them there, when their descriptor may mean another file.
//! The table keeps them, the eventfd is signalled, and the next reap submits them again. If the kernel still does
//! not take them, the reaps that follow repeat that: after a completion, or after the pause that
//! [`AfterReap`](crate::backend::AfterReap) asks for. If the kernel refuses
//! all submissions, as a seccomp filter of one thread does, they are refused.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::in_flight_table::{InFlightTable, Key, NotAdded};
use super::kernel_ring::{KernelRing, NotTaken, SubmissionQueue};
use super::mapped_ring::MappedRing;
use super::uring_sqe;
use crate::backend::{Completion, Completions, Sqe, SubmitError};
use crate::sync::{AtomicBool, Mutex, MutexGuard};

#[derive(Debug)]
pub(in crate::backend) struct SharedRing<R = MappedRing> {
    /// `None`: the backend was dropped.
    ring: Mutex<Option<Arc<R>>>,
    table: Mutex<InFlightTable>,
    /// The table has entries to submit again, or that have ended.
    is_stalled: AtomicBool,
}

impl<R: KernelRing> SharedRing<R> {
    /// Shares `ring`, whose completion queue has room for `capacity` completions, a power of two.
    pub(super) fn new(ring: Arc<R>, capacity: u32) -> SharedRing<R> {
        SharedRing {
            ring: Mutex::new(Some(ring)),
            table: Mutex::new(InFlightTable::new(capacity)),
            is_stalled: AtomicBool::new(false),
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, InFlightTable> {
        self.table.lock()
    }

    /// Submits the first of `entries`, as many as there is room for.
    ///
    /// # Safety
    ///
    /// As [`Submitter::submit`](crate::backend::Submitter::submit).
    pub(super) unsafe fn submit(&self, entries: &[Sqe]) -> Result<usize, SubmitError> {
        let ring = self.ring.lock();
        let Some(ring) = ring.as_deref() else {
            return Err(SubmitError::Refused(libc::EINVAL));
        };
        let mut taken = 0;
        let mut error = SubmitError::NoRoom;
        // SAFETY: the lock is held, so there is no other submission queue, and nobody enters the kernel.
        let mut queue = unsafe { ring.submissions() };
        let mut table = self.table.lock();
        for entry in entries {
            if queue.is_full() {
                break;
            }
            // SAFETY: the caller's promise.
            if let Err(errno) = unsafe { uring_sqe::check(entry) } {
                error = SubmitError::Refused(errno);
                break;
            }
            // SAFETY: the caller's promise.
            let iovecs = unsafe { uring_sqe::iovecs(entry) };
            let key = match table.add(entry, iovecs) {
                Ok(key) => key,
                Err(NotAdded::Full) => break,
                Err(NotAdded::Exists) => {
                    error = SubmitError::Refused(libc::EEXIST);
                    break;
                }
            };
            // SAFETY: the memory is the request's own until its completion, by the caller's promise; the
            // iovecs are the table's until then.
            unsafe { push(&mut queue, ring, &table, key) };
            taken += 1;
        }
        drop(table);
        let len = queue.len();
        drop(queue);
        // SAFETY: the lock is held, and the queue was dropped.
        if let Err(not_taken) = unsafe { ring.enter(len) } {
            let pushed = &entries[..taken];
            (taken, error) = self.keep_not_taken(ring, pushed, not_taken);
        }
        match taken {
            0 => Err(error),
            taken => Ok(taken),
        }
    }

    /// Keeps the last of the entries that were `pushed`, to submit them again, or removes those that can't be.
    /// Returns how many were taken, and why the next one was not.
    #[cold]
    fn keep_not_taken(
        &self,
        ring: &R,
        pushed: &[Sqe],
        not_taken: NotTaken,
    ) -> (usize, SubmitError) {
        let mut table = self.table.lock();
        let mut taken = pushed.len().saturating_sub(not_taken.left);
        let left = &pushed[taken..];
        if let Some(errno) = not_taken.refused {
            left.iter().for_each(|sqe| table.remove(sqe.user_data));
            return (taken, SubmitError::Refused(errno));
        }
        let kept = left.iter().take_while(|sqe| table.keep(sqe.user_data));
        let kept = kept.count();
        taken += kept;
        left[kept..]
            .iter()
            .for_each(|sqe| table.remove(sqe.user_data));
        drop(table);
        if kept > 0 {
            self.stall(ring);
        }
        (taken, SubmitError::NoRoom)
    }

    /// Has the next reap call [`SharedRing::resubmit`], and signals.
    #[cold]
    fn stall(&self, ring: &R) {
        self.is_stalled.store(true, Ordering::Release);
        ring.signal();
    }

    /// Whether [`SharedRing::resubmit`] is due.
    #[inline]
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Acquire)
    }

    /// Submits what the kernel has not taken and what it gave back, and moves what has ended to `completions`,
    /// as much as fits.
    #[cold]
    pub(super) fn resubmit(&self, completions: &mut Completions) {
        let ring = self.ring.lock();
        let Some(ring) = ring.as_deref() else {
            return;
        };
        self.is_stalled.store(false, Ordering::Relaxed);
        // SAFETY: as in `submit`.
        let mut queue = unsafe { ring.submissions() };
        let mut table = self.table.lock();
        let mut pushed = Vec::new();
        for key in table.take_given_back() {
            if queue.is_full() {
                table.give_back(key);
                continue;
            }
            // SAFETY: the entry is in flight for the caller of `submit`, who keeps its memory until the
            // completion, which has not been reported. The kernel does not have the entry: it has posted a
            // completion, or has not taken it. The iovecs are the table's.
            unsafe { push(&mut queue, ring, &table, key) };
            pushed.push(key);
        }
        drop(table);
        let len = queue.len();
        drop(queue);
        // SAFETY: as in `submit`.
        let entered = unsafe { ring.enter(len) };
        let mut table = self.table.lock();
        let has_failed = entered.is_err();
        if let Err(not_taken) = entered {
            for key in pushed.into_iter().rev().take(not_taken.left) {
                match not_taken.refused {
                    Some(errno) => table.refuse(key, errno),
                    None => table.give_back(key),
                }
            }
        }
        while !completions.is_full() {
            let Some((user_data, result)) = table.take_ended() else {
                break;
            };
            completions.push(Completion { user_data, result });
        }
        let (left, ended) = (table.has_given_back(), table.has_ended());
        drop(table);
        if ended || left && !has_failed {
            self.stall(ring);
        } else if left {
            // Not signalled: that would repeat a call in a loop that fails. `IoBackend::after_reap` asks for a
            // pause.
            self.is_stalled.store(true, Ordering::Release);
        }
    }

    /// Asks for the end of a poll or a read. See
    /// [`Submitter::cancel`](crate::backend::Submitter::cancel).
    pub(super) fn cancel(&self, user_data: u64) -> bool {
        let ring = self.ring.lock(); // no submission is under way, so the kernel has what the table has
        let Some(ring) = ring.as_deref() else {
            return false;
        };
        let Some(key) = self.table.lock().abandon(user_data) else {
            return false;
        };
        if self.table.lock().cancel_given_back(key) {
            self.stall(ring);
            return true;
        }
        // Without the lock of the table, for whoever reaps. The key still names this entry or nothing.
        match ring.cancel(key) {
            Ok(true) => true,
            Ok(false) => {
                self.table.lock().unmark_cancelled(key);
                false
            }
            Err(_) => {
                let mut table = self.table.lock();
                table.unmark_cancelled(key);
                if !table.is_poll(key) {
                    return false;
                }
                // A later filter forbids to cancel. A poll has no memory, so nobody needs its completion.
                table.end(key, 0);
                drop(table);
                self.stall(ring);
                true
            }
        }
    }

    /// Cancels all polls and reads.
    pub(super) fn close(&self) {
        let ring = self.ring.lock();
        let keys = self.table.lock().close();
        for key in keys {
            let Some(ring) = ring.as_deref() else {
                return;
            };
            // A read that can't be cancelled completes.
            if ring.cancel(key).is_err() {
                let mut table = self.table.lock();
                if table.is_poll(key) {
                    table.end(key, 0); // as in `cancel`
                }
            }
        }
    }

    /// Releases the ring. Submitters that are left find none. The kernel closes a ring in the background, and
    /// a forked child keeps it open, so the registered memory is released before.
    pub(super) fn release(&self) {
        let ring = self.ring.lock().take();
        if let Some(ring) = &ring {
            ring.release_memory();
        }
        drop(ring); // without the lock
    }
}

#[cfg(all(test, not(kaio_loom), not(miri)))]
impl SharedRing {
    /// Has the kernel post `count` completions that belong to no entry.
    pub(in crate::backend) fn post_made_up(&self, count: usize) {
        let ring = self.ring.lock();
        let ring = ring.as_deref().unwrap();
        let made_up = io_uring::opcode::Nop::new().build().user_data(u64::MAX);
        for _ in 0..count {
            // SAFETY: as in `submit`.
            let mut queue = unsafe { ring.submissions() };
            // SAFETY: uses no memory.
            unsafe { queue.push(&made_up) }.unwrap();
            drop(queue);
            ring.uring.submit().unwrap();
        }
    }

    /// Keeps others from taking any lock.
    pub(in crate::backend) fn hold(&self) -> impl Sized + '_ {
        (self.ring.lock(), self.table.lock())
    }
}

/// Pushes the entry of `key`, for which `queue` has room.
///
/// # Safety
///
/// The memory of the entry is valid, as for [`SharedRing::submit`], until its completion.
#[inline]
unsafe fn push<R: KernelRing>(
    queue: &mut R::Submissions<'_>,
    ring: &R,
    table: &InFlightTable,
    key: Key,
) {
    let Some(entry) = table.entry(key) else {
        return debug_assert!(false, "the entry is in flight");
    };
    // SAFETY: the caller's promise. The iovecs are the table's.
    unsafe { ring.push(queue, &entry, key) };
}
