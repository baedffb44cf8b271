//! [`KernelRing`]: the interface to a ring of the kernel. Loom models implement it without a kernel.
#![allow(unsafe_code)] // declares unsafe functions, calls none

use std::fmt;
use std::io;

use super::in_flight_table::Key;
use crate::backend::Sqe;

/// A submission queue, a completion queue, and the system calls on them.
pub(crate) trait KernelRing: fmt::Debug + Send + Sync + 'static {
    /// The submission queue. Its drop publishes the entries that were pushed.
    type Submissions<'r>: SubmissionQueue;
    /// The completion queue. Its drop returns the room of the completions that were taken to the kernel.
    type Completions<'r>: CompletionQueue;

    /// # Safety
    ///
    /// There is no other submission queue of this ring, and nobody calls [`enter`](KernelRing::enter), until it
    /// is dropped.
    unsafe fn submissions(&self) -> Self::Submissions<'_>;

    /// # Safety
    ///
    /// There is no other completion queue of this ring until it is dropped.
    unsafe fn completions(&self) -> Self::Completions<'_>;

    /// Pushes an entry, for which `queue` has room.
    ///
    /// # Safety
    ///
    /// The memory of the entry is valid, as for [`Submitter::submit`](crate::backend::Submitter::submit), until
    /// its completion. The iovecs of a vectored entry stay as they are for as long.
    unsafe fn push(&self, queue: &mut Self::Submissions<'_>, entry: &Sqe, key: Key);

    /// Has the kernel take the `len` entries of the submission queue, which is empty afterwards.
    ///
    /// # Safety
    ///
    /// There is no submission queue of this ring, and nobody else calls this, until it returns.
    unsafe fn enter(&self, len: usize) -> Result<(), NotTaken>;

    /// Asks the kernel to cancel the entry of a key. Does not wait. Returns whether the kernel has the entry.
    fn cancel(&self, key: Key) -> io::Result<bool>;

    /// Signals the eventfd of the ring, as a completion does.
    fn signal(&self);

    /// Has the kernel move completions to the queue that had no room there.
    fn flush_overflow(&self);

    /// Waits for a completion, or for a while.
    fn wait(&self);

    /// Waits for a while.
    fn pause(&self);

    /// Releases the registered memory. No entry is in flight.
    fn release_memory(&self);
}

pub(crate) trait SubmissionQueue {
    fn len(&self) -> usize;

    fn is_full(&self) -> bool;
}

pub(crate) trait CompletionQueue {
    fn is_empty(&self) -> bool;

    fn is_full(&self) -> bool;

    /// Takes the key and the result of the next completion.
    fn take_next(&mut self) -> Option<(Key, i32)>;
}

/// The kernel has not taken the last `left` entries of the submission queue, which were removed from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotTaken {
    pub(crate) left: usize,
    /// The errno with which the kernel refuses all submissions. `None`: it may take them later.
    pub(crate) refused: Option<i32>,
}
