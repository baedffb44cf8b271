//! [`UringBackend`]: io_uring, by the crate `io-uring`.
//!
//! - *Submission never blocks on the storage.* A request that would block goes to a worker of the kernel.
//!   So all requests are submitted inline, whatever the [`SubmitPolicy`](crate::SubmitPolicy) is. The
//!   exception are small writes that extend a file, which the offload pool may merge.
//! - *Completions* are reaped from the ring in user space. The ring signals the eventfd of the context for
//!   each of them: [`Notify::Suppress`] has no effect. To turn the signals of a ring off and on again would
//!   lose those of requests that other threads have in flight.
//! - *Refusals.* The kernel takes an entry before it looks at the file. So some refusals are completions
//!   here ([`refusal`](super::refusal)).
//! - *The thread that submits* a request matters: the kernel runs the end of the request on that thread,
//!   and cancels what waits for a worker when the thread ends. The backend submits such requests again
//!   ([`InFlightTable`](in_flight_table::InFlightTable)). For the same reason the ring is not one of
//!   `IORING_SETUP_SINGLE_ISSUER`, and so not of `IORING_SETUP_DEFER_TASKRUN`: tokio's workers share it.
//! - *The completion queue never overflows*: it has room for one entry more than may be in flight.
//! - *Registered buffers*: a read or write of registered memory names it by index, which spares the kernel to
//!   pin its pages ([`RegisteredBuffers`](registered_buffers::RegisteredBuffers)).
//! - *Opening* ([`OpCode::Open`](super::OpCode)): the descriptor is stored in the memory of the entry, which owns
//!   it. So nobody has to close it if nobody waits for the entry any more.
//! - *The end.* The kernel releases a closed ring in the background, and a forked child keeps it open. So
//!   the drop of the backend does not rely on the close: it cancels polls and reads, then waits for the
//!   completion of every entry, and releases the registered memory. It does not wait for a poll that it may
//!   not cancel, which has no memory.
#![allow(unsafe_code)]

mod in_flight_table;
mod kernel_ring;
mod mapped_ring;
#[cfg(all(test, kaio_loom))]
mod model_kernel;
mod queue_tail;
mod registered_buffers;
mod ring_setup;
mod shared_ring;
#[cfg(all(test, kaio_loom))]
mod uring_loom_models;
mod uring_sqe;

use std::io;
use std::mem;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use super::{
    AfterReap, Capabilities, Completion, Completions, FileCalls, IoBackend, Notify, Sqe,
    SubmitError, Submitter, refuse_in_child,
};
use crate::buf::{PathToOpen, RegisteredPool};
use crate::sys::Process;
use in_flight_table::Completed;
use kernel_ring::{CompletionQueue, KernelRing};
use mapped_ring::MappedRing;
#[cfg(all(test, not(kaio_loom), not(miri)))]
pub(super) use shared_ring::SharedRing;
#[cfg(not(all(test, not(kaio_loom), not(miri))))]
use shared_ring::SharedRing;

/// A ring.
///
/// Dropping it cancels the polls and reads in flight, and waits for all other requests.
#[derive(Debug)]
pub(crate) struct UringBackend<R: KernelRing = MappedRing> {
    ring: Arc<R>,
    shared: Arc<SharedRing<R>>,
    /// Descriptors to close.
    unused: Vec<OwnedFd>,
    owner: Process,
}

/// Submits to a [`UringBackend`].
#[derive(Debug)]
pub(crate) struct UringSubmitter<R: KernelRing = MappedRing> {
    shared: Arc<SharedRing<R>>,
    owner: Process,
}

// By hand: a ring is not cloned.
impl<R: KernelRing> Clone for UringSubmitter<R> {
    fn clone(&self) -> Self {
        UringSubmitter {
            shared: Arc::clone(&self.shared),
            owner: self.owner,
        }
    }
}

impl UringBackend {
    /// Creates a ring for `nr` entries in flight, at most 65,535. All its submitters signal `eventfd`. Registers
    /// the memory of `pools`, if the kernel permits it.
    ///
    /// # Errors
    ///
    /// `EPERM`, `ENOSYS`: io_uring is forbidden or not compiled in. `ENOMEM`: before Linux 5.12,
    /// and again since about 6.14, rings count as locked memory. `EMFILE`, `ENFILE`: no descriptor is left.
    /// [`Unsupported`](io::ErrorKind::Unsupported): the kernel is too old; the text says for what.
    pub(crate) fn setup(
        nr: u32,
        eventfd: Option<RawFd>,
        pools: &[RegisteredPool],
    ) -> io::Result<UringBackend> {
        let ring = MappedRing::set_up(nr, eventfd, pools)?;
        let capacity = ring.uring.params().cq_entries();
        Ok(UringBackend::over(ring, capacity))
    }

    /// Bytes of the registered memory.
    pub(crate) fn registered_bytes(&self) -> usize {
        self.ring.buffers.bytes()
    }

    /// The file calls of this kernel.
    pub(crate) fn file_calls(&self) -> FileCalls {
        ring_setup::file_calls(&self.ring.uring)
    }

    /// Why the memory of pools is not registered.
    pub(crate) fn registration_error(&self) -> Option<&io::Error> {
        self.ring.buffers.refused()
    }

    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(super) fn shared(&self) -> &Arc<SharedRing> {
        &self.shared
    }
}

impl<R: KernelRing> UringBackend<R> {
    /// A backend over `ring`, whose completion queue has room for `capacity` completions.
    fn over(ring: R, capacity: u32) -> UringBackend<R> {
        let ring = Arc::new(ring);
        UringBackend {
            shared: Arc::new(SharedRing::new(Arc::clone(&ring), capacity)),
            ring,
            unused: Vec::new(),
            owner: Process::current(),
        }
    }

    /// Moves completions from the ring, and submits again what the kernel gave back.
    #[inline]
    fn reap_queue(&mut self, completions: &mut Completions) {
        // SAFETY: `self` is borrowed mutably, and nobody else makes a completion queue of this ring.
        let mut queue = unsafe { self.ring.completions() };
        if queue.is_empty() {
            return;
        }
        let was_full = queue.is_full();
        let mut table = self.shared.table();
        while !completions.is_full() {
            let Some((key, result)) = queue.take_next() else {
                break;
            };
            match table.complete(key, result) {
                Completed::Entry(user_data, result) => {
                    completions.push(Completion { user_data, result });
                }
                Completed::Opened {
                    user_data,
                    addr,
                    descriptor,
                } => {
                    // SAFETY: the memory of the entry is valid until this completion, by the promise of who
                    // submitted it. The kernel has opened the descriptor for the entry, and its key finds
                    // nothing a second time.
                    unsafe { PathToOpen::store(addr, descriptor) };
                    let result = 0;
                    completions.push(Completion { user_data, result });
                }
                Completed::GivenBack | Completed::Unknown => {}
            }
        }
        table.move_unused(&mut self.unused);
        // Before the lock is released, with which others add as many entries as have left the table: the
        // queue has room for their completions.
        drop(queue);
        let given_back = table.has_given_back();
        drop(table);
        if was_full {
            self.ring.flush_overflow(); // never so far; the kernel would hold back what had no room
        }
        if given_back {
            self.shared.resubmit(completions);
        }
    }
}

impl<R: KernelRing> IoBackend for UringBackend<R> {
    type Submitter = UringSubmitter<R>;

    /// `eventfd` is the one of [`UringBackend::setup`]: a ring has one for all of its submitters.
    fn submitter(&self, _eventfd: Option<RawFd>) -> UringSubmitter<R> {
        UringSubmitter {
            shared: Arc::clone(&self.shared),
            owner: self.owner,
        }
    }

    #[inline]
    fn reap(&mut self, completions: &mut Completions) -> io::Result<()> {
        if self.shared.is_stalled() {
            self.shared.resubmit(completions);
            self.shared.table().move_unused(&mut self.unused);
        }
        self.reap_queue(completions);
        Ok(())
    }

    #[inline(always)]
    fn after_reap(&mut self) -> AfterReap {
        AfterReap {
            reap_later: self.shared.is_stalled(),
            unused: mem::take(&mut self.unused),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            blocking_submit: false,
            nonblocking_submit: true,
            user_ring: true,
            cancels_transfers: true,
        }
    }
}

impl<R: KernelRing> Drop for UringBackend<R> {
    fn drop(&mut self) {
        if self.owner != Process::current() {
            // The ring is not mapped here, and a thread of the parent may have held a lock at the fork.
            mem::forget(Arc::clone(&self.ring));
            mem::forget(Arc::clone(&self.shared));
            return;
        }
        self.shared.close();
        let mut completions = Completions::new();
        // Memory of callers is in use until its entry has completed.
        while self.shared.table().in_flight() > 0 {
            completions.clear();
            if self.shared.is_stalled() {
                self.shared.resubmit(&mut completions);
            }
            self.reap_queue(&mut completions);
            if !completions.is_empty() {
                continue;
            }
            match self.shared.is_stalled() {
                true => self.ring.pause(),
                false => self.ring.wait(),
            }
        }
        // The submitters that are left keep the table, and must keep no file open.
        self.shared.table().move_unused(&mut self.unused);
        self.shared.release();
    }
}

impl<R: KernelRing> Submitter for UringSubmitter<R> {
    #[inline]
    unsafe fn submit(&self, entries: &[Sqe], _: Notify) -> Result<usize, SubmitError> {
        refuse_in_child(self.owner)?;
        if entries.is_empty() {
            return Ok(0);
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { self.shared.submit(entries) }
    }

    /// Finds polls and reads. Writes and syncs go on, as on every backend.
    fn cancel(&self, user_data: u64) -> bool {
        self.owner == Process::current() && self.shared.cancel(user_data)
    }
}
