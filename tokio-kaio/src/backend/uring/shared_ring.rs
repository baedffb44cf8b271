//! [`SharedRing`]: a ring that several threads submit to and one thread reaps.
//!
//! # Locks
//!
//! `ring` is held while entries are pushed and while the kernel takes them. Otherwise one thread's call
//! could submit the entries of another thread, which would return before its own are in flight. The kernel
//! holds a lock of its own for as long, so nothing is lost. The lock is also held to cancel.
//!
//! `table` is held for short. It may be taken while `ring` is held, not the other way round.
//!
//! The completion queue needs no lock: the backend has the only reference that reaps.
//!
//! # Entries that the kernel leaves in the submission queue
//!
//! The kernel may take fewer entries than it was given, if it has no memory. The others can't be removed
//! from the queue, so they count as taken, and their memory stays with them. The eventfd is signalled, and the
//! next reap submits them again. So `submit` never reports an entry as not taken that the kernel might still
//! find.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use io_uring::IoUring;
use parking_lot::{Mutex, MutexGuard};

use super::in_flight_table::{InFlightTable, Key, NotAdded};
use super::registered_buffers::RegisteredBuffers;
use super::{ring_setup, uring_sqe};
use crate::backend::{Sqe, SubmitError};
use crate::buf::RegisteredPool;
use crate::sys::signal;

#[derive(Debug)]
pub(in crate::backend) struct SharedRing {
    /// `None`: the backend was dropped.
    ring: Mutex<Option<Arc<Ring>>>,
    table: Mutex<InFlightTable>,
    eventfd: Option<RawFd>,
    /// The submission queue has entries that the kernel has left there, or the table has some that the
    /// kernel gave back.
    is_stalled: AtomicBool,
    /// The errno of an `io_uring_enter(2)` that will not work later either. 0: none.
    broken: AtomicI32,
}

/// A ring. It has no `Debug` of its own.
pub(super) struct Ring {
    pub(super) uring: IoUring,
    pub(super) buffers: RegisteredBuffers,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl SharedRing {
    /// # Errors
    ///
    /// See [`ring_setup::set_up`]. If the memory of `pools` can't be registered, the ring works without.
    pub(super) fn set_up(
        nr: u32,
        eventfd: Option<RawFd>,
        pools: &[RegisteredPool],
    ) -> io::Result<(SharedRing, Arc<Ring>)> {
        let uring = ring_setup::set_up(nr, eventfd)?;
        let table = InFlightTable::new(uring.params().cq_entries());
        let buffers = RegisteredBuffers::register(&uring, pools);
        let ring = Arc::new(Ring { uring, buffers });
        let shared = SharedRing {
            ring: Mutex::new(Some(Arc::clone(&ring))),
            table: Mutex::new(table),
            eventfd,
            is_stalled: AtomicBool::new(false),
            broken: AtomicI32::new(0),
        };
        Ok((shared, ring))
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
        match self.broken.load(Ordering::Relaxed) {
            0 => {}
            errno => return Err(SubmitError::Refused(errno)),
        }
        let mut taken = 0;
        let mut error = SubmitError::NoRoom;
        // SAFETY: the lock is held, so there is no other submission queue. It is dropped before the kernel
        // reads it, which publishes the entries.
        let mut queue = unsafe { ring.uring.submission_shared() };
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
        if len > 0 {
            self.enter(ring, len);
        }
        match taken {
            0 => Err(error),
            taken => Ok(taken),
        }
    }

    /// Has the kernel take the `len` entries of the submission queue. The caller holds the lock of the ring.
    #[inline]
    fn enter(&self, ring: &Ring, len: usize) {
        match ring.uring.submit() {
            Ok(submitted) if submitted == len => {}
            answer => self.stall(answer),
        }
    }

    /// The kernel has left entries in the submission queue.
    #[cold]
    fn stall(&self, answer: io::Result<usize>) {
        if let Err(error) = answer {
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOMEM) => {}
                errno => self
                    .broken
                    .store(errno.unwrap_or(libc::EIO), Ordering::Relaxed),
            }
        }
        self.is_stalled.store(true, Ordering::Release);
        if let Some(eventfd) = self.eventfd {
            signal(eventfd);
        }
    }

    /// Whether [`SharedRing::resubmit`] is due.
    #[inline]
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Acquire)
    }

    /// Submits what the kernel has left in the submission queue, and what it gave back.
    ///
    /// # Errors
    ///
    /// The errno with which the kernel refuses all submissions.
    #[cold]
    pub(super) fn resubmit(&self) -> io::Result<()> {
        let ring = self.ring.lock();
        match self.broken.load(Ordering::Relaxed) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        let Some(ring) = ring.as_deref() else {
            return Ok(());
        };
        self.is_stalled.store(false, Ordering::Relaxed);
        // SAFETY: as in `submit`.
        let mut queue = unsafe { ring.uring.submission_shared() };
        let mut table = self.table.lock();
        for key in table.take_given_back() {
            if queue.is_full() {
                table.give_back(key);
                continue;
            }
            // SAFETY: the entry is in flight for the caller of `submit`, who keeps its memory until the
            // completion, which has not been reported. The kernel does not have the entry: it has posted a
            // completion. The iovecs are the table's.
            unsafe { push(&mut queue, ring, &table, key) };
        }
        let more = table.has_given_back();
        drop(table);
        let len = queue.len();
        drop(queue);
        if len > 0 {
            self.enter(ring, len);
        }
        if more {
            self.stall(Ok(0));
        }
        Ok(())
    }

    /// Number of entries in flight that the kernel has or will have: not those that it can't take any more.
    pub(super) fn expected(&self, ring: &Ring) -> usize {
        let _lock = self.ring.lock();
        let table = self.table.lock();
        let in_flight = table.in_flight();
        if self.broken.load(Ordering::Relaxed) == 0 {
            return in_flight;
        }
        // SAFETY: as in `submit`.
        let left = unsafe { ring.uring.submission_shared() }.len();
        in_flight.saturating_sub(left + table.given_back())
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
        // Without the lock of the table, for whoever reaps. The key still names this entry or nothing.
        let found = ring_setup::cancel(&ring.uring, key.user_data()).unwrap_or(false);
        if !found {
            self.table.lock().unmark_cancelled(key);
        }
        found
    }

    /// Cancels all polls and reads.
    pub(super) fn close(&self) {
        let ring = self.ring.lock();
        let keys = self.table.lock().close();
        for key in keys {
            if let Some(ring) = ring.as_deref() {
                // A read that can't be cancelled completes.
                let _ = ring_setup::cancel(&ring.uring, key.user_data());
            }
        }
    }

    /// Releases the ring. Submitters that are left find none.
    pub(super) fn release(&self) {
        let ring = self.ring.lock().take();
        drop(ring); // without the lock
    }

    /// Has the kernel post `count` completions that belong to no entry.
    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(in crate::backend) fn post_made_up(&self, count: usize) {
        let ring = self.ring.lock();
        let ring = ring.as_deref().unwrap();
        let made_up = io_uring::opcode::Nop::new().build().user_data(u64::MAX);
        for _ in 0..count {
            // SAFETY: as in `submit`.
            let mut queue = unsafe { ring.uring.submission_shared() };
            // SAFETY: uses no memory.
            unsafe { queue.push(&made_up) }.unwrap();
            drop(queue);
            ring.uring.submit().unwrap();
        }
    }

    /// Keeps others from taking any lock.
    #[cfg(all(test, not(kaio_loom), not(miri)))]
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
unsafe fn push(
    queue: &mut io_uring::SubmissionQueue<'_>,
    ring: &Ring,
    table: &InFlightTable,
    key: Key,
) {
    let Some(entry) = table.entry(key) else {
        return debug_assert!(false, "the entry is in flight");
    };
    let encoded = uring_sqe::encode(&entry, key, &ring.buffers);
    // SAFETY: the caller's promise.
    let pushed = unsafe { queue.push(&encoded) };
    debug_assert!(pushed.is_ok(), "there is room");
}
