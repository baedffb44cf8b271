//! [`BlockingBackend`]: performs each request with a system call that blocks. For machines where
//! AIO is forbidden.
#![allow(unsafe_code)]

mod blocking_syscalls;
mod poll_thread;
mod thread_priority;
mod transfers;

use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{
    Capabilities, Completion, Completions, IoBackend, Notify, OpCode, Sqe, SubmitError, Submitter,
    refuse_in_child,
};
use crate::sys::abi::UIO_MAXIOV;
use crate::sys::{Process, signal};
use blocking_syscalls::errno_of;
use poll_thread::PollThread;
use thread_priority::ThreadPriority;

pub(crate) use transfers::write_vectored_at;
#[cfg(all(test, not(kaio_loom), not(miri)))]
pub(super) use {
    blocking_syscalls::{drain, poll},
    thread_priority::ioprio_get,
};

/// A backend whose submitting threads perform the requests, before `submit` returns. Polls may take
/// for ever: a [thread](PollThread) waits for them.
#[derive(Debug)]
pub(crate) struct BlockingBackend {
    polls: Arc<PollThread>,
    owner: Process,
}

/// Performs requests for a [`BlockingBackend`].
#[derive(Clone, Debug)]
pub(crate) struct BlockingSubmitter {
    polls: Arc<PollThread>,
    owner: Process,
    eventfd: Option<RawFd>,
}

impl BlockingBackend {
    pub(crate) fn new() -> BlockingBackend {
        BlockingBackend {
            polls: Arc::default(),
            owner: Process::current(),
        }
    }

    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(super) fn polls(&self) -> &Arc<PollThread> {
        &self.polls
    }
}

impl IoBackend for BlockingBackend {
    type Submitter = BlockingSubmitter;

    fn submitter(&self, eventfd: Option<RawFd>) -> BlockingSubmitter {
        BlockingSubmitter {
            polls: Arc::clone(&self.polls),
            owner: self.owner,
            eventfd,
        }
    }

    fn reap(&mut self, completions: &mut Completions) -> io::Result<()> {
        if self.owner == Process::current() {
            self.polls.take(completions);
        }
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            blocking_submit: true,
            nonblocking_submit: false,
            user_ring: false,
            cancels_transfers: false,
        }
    }
}

impl Drop for BlockingBackend {
    fn drop(&mut self) {
        if self.owner == Process::current() {
            self.polls.close();
        } else {
            // A thread of the parent may have been changing the queues at the fork.
            mem::forget(Arc::clone(&self.polls));
        }
    }
}

impl Submitter for BlockingSubmitter {
    /// Performs the first entry only: the error of a later one would hide that the first was
    /// performed.
    unsafe fn submit(&self, entries: &[Sqe], notify: Notify) -> Result<usize, SubmitError> {
        refuse_in_child(self.owner)?;
        let Some(entry) = entries.first() else {
            return Ok(0);
        };
        let eventfd = self.eventfd.filter(|_| notify == Notify::Signal);
        if entry.opcode == OpCode::Poll {
            self.polls.submit(entry, eventfd)?;
            return Ok(1);
        }
        // SAFETY: the caller's promise: the memory is the request's own until its completion is
        // reaped, which is posted below.
        let result = unsafe { perform(entry) }.map_err(SubmitError::Refused)?;
        self.polls.post(Completion {
            user_data: entry.user_data,
            result,
        });
        if let Some(eventfd) = eventfd {
            signal(eventfd);
        }
        Ok(1)
    }

    fn cancel(&self, user_data: u64) -> bool {
        self.owner == Process::current() && self.polls.cancel(user_data)
    }
}

/// Performs a request that is not a poll; returns its result.
///
/// # Errors
///
/// The errno, where [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html) would
/// refuse the request. Other errors are results.
///
/// # Safety
///
/// The memory that `entry` names is valid. Nobody observes the memory of a read; nobody writes to
/// the memory of a write.
unsafe fn perform(entry: &Sqe) -> Result<i64, i32> {
    let priority = (entry.priority != 0 && entry.opcode.is_transfer())
        .then(|| ThreadPriority::set(entry.priority))
        .transpose()
        .map_err(|error| errno_of(&error))?;
    // SAFETY: the caller's promise.
    let performed = unsafe { perform_with_own_priority(entry) };
    drop(priority);
    match performed.map_err(|error| errno_of(&error)) {
        Ok(bytes) => Ok(bytes as i64),
        // AIO refuses a directory with EINVAL.
        Err(libc::EISDIR) => Err(libc::EINVAL),
        // SAFETY: the caller's promise.
        Err(errno) if unsafe { is_refusal(entry, errno) } => Err(errno),
        Err(errno) => Ok(-i64::from(errno)),
    }
}

/// # Safety
///
/// As [`perform`].
unsafe fn perform_with_own_priority(entry: &Sqe) -> io::Result<usize> {
    let is_plain = (entry.addr, entry.len, entry.offset, entry.rw_flags) == (0, 0, 0, 0);
    match entry.opcode {
        OpCode::Fsync if is_plain => blocking_syscalls::fsync(entry.fd).map(|()| 0),
        OpCode::Fdatasync if is_plain => blocking_syscalls::fdatasync(entry.fd).map(|()| 0),
        // SAFETY: the caller's promise.
        OpCode::Read => unsafe { transfers::read_at(entry) },
        // SAFETY: the caller's promise.
        OpCode::Write => unsafe { transfers::write_at(entry) },
        // SAFETY: the caller's promise.
        OpCode::ReadVectored => unsafe { transfers::read_vectored_at(entry) },
        // SAFETY: the caller's promise.
        OpCode::WriteVectored => unsafe { transfers::write_vectored_at(entry) },
        OpCode::Fsync
        | OpCode::Fdatasync
        | OpCode::Poll
        | OpCode::Allocate
        | OpCode::Truncate
        | OpCode::SyncRange
        | OpCode::Open => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Whether `io_submit(2)` would refuse the request with this errno, rather than take it and have it
/// fail.
///
/// # Safety
///
/// As [`perform`].
unsafe fn is_refusal(entry: &Sqe, errno: i32) -> bool {
    match errno {
        libc::EBADF | libc::EOPNOTSUPP => true,
        // EINVAL of a well-formed transfer is about the alignment. AIO reports that as a result.
        libc::EINVAL if entry.opcode.is_transfer() => {
            let too_many = entry.opcode.is_vectored() && entry.len > UIO_MAXIOV;
            // SAFETY: the caller's promise; the iovecs are not too many.
            let ends_past_max = || unsafe { transfers::end(entry) } > i64::MAX as u64;
            entry.offset < 0 || too_many || ends_past_max()
        }
        libc::EINVAL => true,
        _ => false,
    }
}
