//! Backends: perform requests and report their completions. No policy, no tokio.
//!
//! A backend is one implementation of [`IoBackend`]. [`AioBackend`](aio::AioBackend) uses the
//! kernel's AIO. [`BlockingBackend`](blocking::BlockingBackend) uses blocking system calls, for
//! machines where AIO is forbidden. `UringBackend` uses io_uring (feature `io-uring`). `SimulatedBackend` runs
//! requests on a simulated disk (feature `simulation`).
//! [`AnyBackend`](any::AnyBackend) is any of them, chosen at run time. Tests of the driver use `fake::FakeBackend`.
//!
//! # The life of an entry
//!
//! 1. The driver describes a request as a submission queue entry, [`Sqe`].
//! 2. [`Submitter::submit`] passes entries to the backend, from any thread, without a lock. The
//!    entries that the backend *took* are *in flight* from then on. Each may complete before
//!    `submit` returns, and on another thread. The backend takes entries in order, and stops at the
//!    first entry that it can't take. The caller submits the rest again.
//! 3. The backend performs the request. It then posts a [`Completion`] with the entry's
//!    `user_data`, and signals the eventfd if the caller asked for [`Notify::Signal`].
//! 4. [`IoBackend::reap`] moves completions to the caller, who is the only one that reaps. The
//!    entry is no longer in flight.
//!
//! [`Submitter::cancel`] shortens step 3 where that is possible. It removes no step: a cancelled
//! entry has its completion too.
//!
//! # The contract
//!
//! *Memory.* The backend uses the memory of an entry until the entry's completion was reaped, or
//! the backend was dropped. Iovec arrays are read during `submit` only.
//!
//! *Order.* Entries may be performed and completed in any order.
//!
//! *One completion an entry.* A backend means to post exactly one, but its word comes from the
//! kernel. The driver checks `user_data` before it uses it: duplicate and made-up completions must
//! do no harm. A backend checks them in the same way before it changes anything of its own.
//!
//! *Waiting.* `reap` and `cancel` never wait for the storage. With
//! [`Capabilities::nonblocking_submit`] they may wait for a `submit` of another thread: for one system call with
//! at most [`MAX_BATCH`] entries, which does not wait for the storage either. `submit` may block on the storage, and with
//! [`Capabilities::blocking_submit`] it always does. Dropping a backend waits until nothing is in
//! flight, and may sleep for long: never drop one on a thread of an async runtime. Polls don't hold
//! up the drop.
//!
//! *Forked children.* In a child of the process that made the backend, `submit` refuses with
//! `EINVAL`, `cancel` finds nothing, and dropping the backend does nothing. None of them takes a lock
//! there: the lock may have been held at the fork, by a thread that the child does not have. Nobody
//! calls `reap` there: the child has no ring. The driver asks whose process it is before it does.

mod aio;
mod any;
mod blocking;
#[cfg(test)]
#[cfg_attr(kaio_loom, allow(dead_code))]
pub(crate) mod fake;
mod kind;
#[cfg(feature = "simulation")]
mod simulated;
#[cfg(all(test, not(kaio_loom), not(miri)))]
mod tests;
#[cfg(feature = "io-uring")]
mod uring;

pub(crate) use aio::AioBackend;
pub(crate) use any::AnyBackend;
pub(crate) use blocking::{BlockingBackend, write_vectored_at};
pub use kind::Backend;
#[cfg(feature = "simulation")]
pub(crate) use simulated::SimulatedBackend;
#[cfg(feature = "io-uring")]
pub(crate) use uring::UringBackend;

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use arrayvec::ArrayVec;

use crate::sys::Process;

/// Kind of operation. The names are io_uring's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum OpCode {
    Read,
    Write,
    ReadVectored,
    WriteVectored,
    Fsync,
    Fdatasync,
    /// One-shot: waits until the file is ready, once.
    Poll,
    /// `fallocate(2)`. With the next two, a [file call](OpCode::is_file_call).
    Allocate,
    /// `ftruncate(2)`.
    Truncate,
    /// `sync_file_range(2)`.
    SyncRange,
    /// `openat(2)`, relative to the current directory. A file call, except that [`Submitter::cancel`] ends it.
    /// Its memory is a [`PathToOpen`](crate::buf::PathToOpen), which gets the descriptor; the result is 0.
    Open,
}

impl OpCode {
    /// Whether only backends that say so perform the operation ([`FileCalls`]). Others refuse it with
    /// `EINVAL`.
    #[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
    pub(crate) fn is_file_call(self) -> bool {
        matches!(
            self,
            OpCode::Allocate | OpCode::Truncate | OpCode::SyncRange | OpCode::Open
        )
    }

    /// Whether the operation may never complete unless it is cancelled: it waits for an event, or for another
    /// process.
    #[inline]
    pub(crate) fn waits(self) -> bool {
        matches!(self, OpCode::Poll | OpCode::Open)
    }

    /// Whether the operation moves data.
    pub(crate) fn is_transfer(self) -> bool {
        matches!(
            self,
            OpCode::Read | OpCode::Write | OpCode::ReadVectored | OpCode::WriteVectored
        )
    }

    pub(crate) fn is_write(self) -> bool {
        matches!(self, OpCode::Write | OpCode::WriteVectored)
    }

    pub(crate) fn is_vectored(self) -> bool {
        matches!(self, OpCode::ReadVectored | OpCode::WriteVectored)
    }
}

/// Submission queue entry: one request, in the form that every backend takes.
///
/// A field that an operation does not use is 0. Backends refuse other values with `EINVAL`, except
/// `priority`, which all operations but transfers ignore.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sqe {
    pub(crate) opcode: OpCode,
    /// `IOPRIO_*` of a transfer. 0: the priority of the submitting thread.
    pub(crate) priority: u16,
    pub(crate) fd: RawFd,
    /// `RWF_*` of a transfer; `FALLOC_FL_*`, `SYNC_FILE_RANGE_*`; `O_*`.
    pub(crate) rw_flags: i32,
    /// Address of the buffer; of the iovec array for vectored transfers; of the `PathToOpen`.
    pub(crate) addr: u64,
    /// Bytes; number of iovecs for vectored transfers; the `poll(2)` event mask, of 16 bits, for
    /// polls; the length of a file call; the mode of a file that is opened and created.
    pub(crate) len: u64,
    /// Offset in the file, of a transfer or a file call.
    pub(crate) offset: i64,
    /// Comes back in the [`Completion`]. Names the entry while it is in flight.
    pub(crate) user_data: u64,
}

/// Completion queue entry: the result of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// The [`Sqe::user_data`] of the request.
    pub(crate) user_data: u64,
    /// Bytes of a transfer, 0 of a sync, events of a poll; or an errno, negated; or a [`refusal`], or
    /// [`GIVEN_BACK`].
    ///
    /// The events of a poll may be more than the entry asked for: `POLLERR` and `POLLHUP` always
    /// count, and the kernel reports the whole mask of a wakeup. 0 means that the poll ended
    /// without an event. That is the result of a poll that was [cancelled](Submitter::cancel), but
    /// not of such polls only. The kernel ends a poll with 0 on its own when the wait queue is freed
    /// under the poll (`POLLFREE`: binder, signalfd and PSI files, whose queues die before the file
    /// does), and when a file that can't be polled by AIO is woken while the poll is set up. Who
    /// did not cancel the poll reads 0 as: the file can no longer be waited for. (`aio_poll_wake`,
    /// `aio_poll_complete_work` and `aio_poll` in Linux's `fs/aio.c`, since 5.16.)
    pub(crate) result: i64,
}

/// Smaller than any errno, negated.
const REFUSALS: i64 = -(1 << 32);

/// The largest errno of Linux.
const MAX_ERRNO: i64 = 4095;

/// The result of a transfer that a backend took, and could not begin. The caller should submit it again.
pub(crate) const GIVEN_BACK: i64 = REFUSALS;

/// How often in a row a request is submitted again that a backend gave back. Each time a thread has ended that
/// had submitted it, or the kernel could start no thread for it, which looks the same.
pub(crate) const MOST_GIVEN_BACK: u8 = 8;

/// The result of an entry that a backend took before it could refuse it. The caller should see the same error
/// as for [`SubmitError::Refused`].
#[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
pub(crate) const fn refusal(errno: i32) -> i64 {
    REFUSALS - errno as i64
}

/// The errno of a result, if it is a [`refusal`].
pub(crate) fn refused_with(result: i64) -> Option<i32> {
    let errno = REFUSALS.checked_sub(result)?;
    (1..=MAX_ERRNO).contains(&errno).then_some(errno as i32)
}

/// Most entries of one [`Submitter::submit`] that need no allocation, as long as none is a poll.
pub(crate) const MAX_BATCH: usize = 64;

/// Most completions of one [`IoBackend::reap`]: those of a batch that completes at once.
pub(crate) const REAP_BATCH: usize = MAX_BATCH;

/// Where a reap puts completions.
pub(crate) type Completions = ArrayVec<Completion, REAP_BATCH>;

/// Whether the backend should signal the eventfd when a request completes.
///
/// This is advice. A backend may signal in spite of [`Notify::Suppress`]: io_uring, for example,
/// can suppress signals for a whole ring only. It never omits the signal for [`Notify::Signal`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Notify {
    #[default]
    Signal,
    Suppress,
}

/// Why [`Submitter::submit`] took no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubmitError {
    /// The backend has no room, or not enough memory or threads. The same entries may be taken
    /// after a completion.
    NoRoom,
    /// The errno of the first entry, which the backend will not take.
    Refused(i32),
}

/// Refuses to submit in a forked child of `owner`, the process that made the backend: before any lock is taken.
#[inline(always)]
fn refuse_in_child(owner: Process) -> Result<(), SubmitError> {
    match owner == Process::current() {
        true => Ok(()),
        false => Err(SubmitError::Refused(libc::EINVAL)),
    }
}

/// What a driver has to know about a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities {
    /// `submit` performs the whole request, except a poll: it is for threads that may block.
    pub(crate) blocking_submit: bool,
    /// `submit` never blocks on the storage: the kernel has workers for requests that would block.
    pub(crate) nonblocking_submit: bool,
    /// `reap` takes completions from a ring that the kernel shares with user space, without a system
    /// call.
    pub(crate) user_ring: bool,
    /// `cancel` finds reads and opens too. Otherwise it finds polls only.
    pub(crate) cancels_transfers: bool,
}

/// The file calls that a backend performs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileCalls {
    /// [`OpCode::Allocate`] and [`OpCode::SyncRange`].
    pub(crate) allocate: bool,
    /// [`OpCode::Truncate`].
    pub(crate) truncate: bool,
    /// [`OpCode::Open`].
    pub(crate) open: bool,
}

/// Work that a [`IoBackend::reap`] leaves to its caller, who does it without a lock.
#[derive(Debug, Default)]
pub(crate) struct AfterReap {
    /// Call `reap` again after a pause: entries that were taken have to be submitted again, and the kernel has
    /// just not taken them. No completion may signal that.
    pub(crate) reap_later: bool,
    /// Descriptors to close, which may wait for the storage.
    pub(crate) unused: Vec<OwnedFd>,
}

/// Performs requests. See the [module](self) for the contract.
///
/// Dropping it waits for every request in flight, and may sleep for long. Afterwards nobody uses
/// the memory of the requests.
pub(crate) trait IoBackend: Send + 'static {
    type Submitter: Submitter;

    /// A submitter to this backend, for any thread. Completions signal `eventfd`.
    fn submitter(&self, eventfd: Option<RawFd>) -> Self::Submitter;

    /// Appends completions to `completions`, as many as fit. Never waits for the storage.
    ///
    /// # Errors
    ///
    /// The errno of the system call that fetches completions, where that is needed. No completion
    /// can be fetched any more.
    fn reap(&mut self, completions: &mut Completions) -> io::Result<()>;

    /// Returns the work that the last `reap` has left to its caller, who holds the lock here and does the work
    /// after it.
    #[inline(always)]
    fn after_reap(&mut self) -> AfterReap {
        AfterReap::default()
    }

    fn capabilities(&self) -> Capabilities;

    /// Whether the drop may wait for requests in flight.
    #[cfg(feature = "simulation")]
    fn drop_waits(&self) -> bool {
        true
    }
}

/// Submits to an [`IoBackend`].
///
/// A clone may count references: keep one submitter, and share it by reference.
#[allow(unsafe_code)] // declares an unsafe function, calls none
pub(crate) trait Submitter: Clone + Send + Sync + 'static {
    /// Submits `entries`, in order; returns how many of the first ones were taken.
    ///
    /// That is at least one if there are any. The rest was not looked at, or will be refused when
    /// it comes first.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]: none was taken. Polls may be refused with `EEXIST`: a poll of the same
    /// `user_data` is in flight.
    ///
    /// # Safety
    ///
    /// The memory that each entry names stays valid until the entry's completion was reaped or the
    /// backend was dropped. Nobody observes the memory of a read, and nobody writes to the memory of
    /// a write, for as long. Iovec arrays stay valid until this returns.
    ///
    /// The backend has not been dropped, and is not dropped before this returns. The eventfd of this
    /// submitter stays open until the backend was dropped.
    unsafe fn submit(&self, entries: &[Sqe], notify: Notify) -> Result<usize, SubmitError>;

    /// Asks for the end of the request in flight that has this `user_data`, whose descriptor may be closed
    /// from now on. Never waits for the storage.
    ///
    /// Returns whether the request was found. Its completion still comes, with the result 0 of a
    /// cancelled poll or read, or with what it did in the meantime. A request is not found if it has
    /// completed, or if another thread has not submitted it yet. Nothing is remembered then: ask
    /// again when that `submit` has returned. Some kernels can't cancel, and never find a request.
    fn cancel(&self, user_data: u64) -> bool;
}

/// Submits `entries` in order. Adds each entry that is refused to `refused`, with its errno, and continues
/// with the next one. Returns how many were handled: taken or refused. There is no room for the rest.
///
/// # Safety
///
/// As [`Submitter::submit`].
#[inline(always)]
#[allow(unsafe_code)]
pub(crate) unsafe fn submit_all<S: Submitter>(
    submitter: &S,
    notify: Notify,
    entries: &[Sqe],
    refused: &mut Vec<(u64, i32)>,
) -> usize {
    let mut handled = 0;
    while handled < entries.len() {
        let rest = &entries[handled..];
        // SAFETY: the caller's promise.
        match unsafe { submitter.submit(rest, notify) } {
            Ok(0) | Err(SubmitError::NoRoom) => break,
            Ok(taken) => handled += taken.min(rest.len()),
            Err(SubmitError::Refused(errno)) => {
                refused.push((rest[0].user_data, errno));
                handled += 1;
            }
        }
    }
    handled
}
