//! The kernel: its structures, its system calls and the completion ring. No policy, no tokio.

pub(crate) mod abi;
mod aio;
mod dio;
mod fixed_iocb;
mod fork;
mod memory;
#[cfg(test)]
mod model_ring;
mod poller;
mod priority;
mod ring;
mod space;
mod syscalls;
mod system;
#[cfg(all(test, not(kaio_loom), not(miri)))]
mod tests;
mod threads;
mod transfers;

pub(crate) use aio::{Aio, MAX_BATCH};
pub(crate) use dio::{
    DirectIo, atomic_sizes, direct_io, least_direct, logical_block_size, try_read,
};
pub(crate) use fixed_iocb::FixedIocb;
pub(crate) use fork::Process;
pub(crate) use memory::{Mapping, page_size};
#[cfg(test)]
pub(crate) use model_ring::ModelRing;
pub(crate) use space::{advise, allocate, sync_file_range};
pub(crate) use syscalls::{
    ThreadUsage, clear_direct, create_eventfd, current_cpu, duplicate, is_direct, memlock_limit,
    set_direct, signal, status_flags, thread_usage,
};
pub(crate) use system::System;
pub(crate) use threads::Threads;

use std::io;

use abi::{IoEvent, Iocb};
use arrayvec::ArrayVec;

/// Most events that one reap takes out of the ring: those of a batch that is done at once.
pub(crate) const REAP_BATCH: usize = MAX_BATCH;

/// Where a reap puts the events that it took.
pub(crate) type Events = ArrayVec<IoEvent, REAP_BATCH>;

/// What the driver needs of the kernel. [`Aio`] is the real one, [`Threads`] does without its AIO;
/// tests put others in their place.
///
/// Dropping it waits for every request in flight and may sleep for long: see
/// [`Aio`](struct@Aio). After that the kernel touches none of their memory.
#[allow(unsafe_code)] // declares, does nothing
pub(crate) trait Kernel: Send + 'static {
    /// What a submission needs. Cheap to clone, so that the call is made outside any lock.
    type Port: Clone + Send + Sync + 'static;

    fn port(&self) -> Self::Port;

    /// Hands `batch` to the kernel; returns how many of its first requests were taken. A
    /// [stand-in](Iocb::stand_in) is the poll that it stands for.
    ///
    /// # Errors
    ///
    /// The errno that the first request of `batch` met; none was taken then.
    ///
    /// # Safety
    ///
    /// The memory that each of `batch` names stays valid, and for reads unobserved, until the
    /// request's event was reaped or this `Kernel` was dropped; iovecs stay until this returns. The
    /// `Kernel` that gave `port` has not been dropped, and what it signals stays open until it is.
    ///
    /// The [`FixedIocb`] that a stand-in names belongs to this one request, which keeps it just as
    /// long as its memory, and it is used with no other `Kernel`.
    unsafe fn submit(port: &Self::Port, batch: &mut [Iocb]) -> io::Result<usize>;

    /// Asks for the end of the poll that was submitted from `poll`. Its event still comes, with a
    /// `res` of 0, or of what it found meanwhile. Never waits.
    ///
    /// Returns whether it was there. It is not where it is done, or not submitted yet: another
    /// thread may be about to. Asking again when that has returned finds it, if it was taken. Some
    /// kernels can't cancel, and never find one.
    fn cancel(port: &Self::Port, poll: &FixedIocb) -> bool;

    /// Appends events that have arrived to `events`, as many as fit. Never waits.
    ///
    /// # Errors
    ///
    /// The errno of `io_getevents`, if that is what it takes: further ones are not to be had.
    fn reap(&mut self, events: &mut Events) -> io::Result<()>;

    /// Whether a reap takes events out of a ring in user memory, without a system call.
    fn has_ring(&self) -> bool {
        false
    }
}
