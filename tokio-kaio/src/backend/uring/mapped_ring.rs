//! [`MappedRing`]: a ring of the kernel, mapped into this process.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::thread;
use std::time::Duration;

use io_uring::IoUring;

use super::in_flight_table::Key;
use super::kernel_ring::{CompletionQueue, KernelRing, NotTaken, SubmissionQueue};
use super::queue_tail::QueueTail;
use super::registered_buffers::RegisteredBuffers;
use super::{ring_setup, uring_sqe};
use crate::backend::Sqe;
use crate::buf::RegisteredPool;
use crate::sys::signal;

pub(crate) struct MappedRing {
    pub(super) uring: IoUring,
    pub(super) buffers: RegisteredBuffers,
    tail: QueueTail,
    eventfd: Option<RawFd>,
}

/// `IORING_ENTER_GETEVENTS`: to wait for completions, and to have overflowed ones moved to the queue.
const ENTER_GETEVENTS: u32 = 1;

/// Time between two looks at a ring that can't be waited for.
const PAUSE: Duration = Duration::from_millis(1);

impl MappedRing {
    /// # Errors
    ///
    /// See [`ring_setup::set_up`]. If the memory of `pools` can't be registered, the ring works without.
    pub(super) fn set_up(
        nr: u32,
        eventfd: Option<RawFd>,
        pools: &[RegisteredPool],
    ) -> io::Result<MappedRing> {
        let uring = ring_setup::set_up(nr, eventfd)?;
        let tail = QueueTail::map(&uring)?;
        let buffers = RegisteredBuffers::register(&uring, pools);
        Ok(MappedRing {
            uring,
            buffers,
            tail,
            eventfd,
        })
    }

    /// Removes the entries that the kernel has left in the submission queue.
    ///
    /// # Safety
    ///
    /// As [`KernelRing::enter`].
    #[cold]
    unsafe fn remove_left(&self, answer: io::Result<usize>) -> NotTaken {
        // SAFETY: the caller's promise.
        let left = unsafe { self.uring.submission_shared() }.len();
        self.tail.move_back(left);
        let errno = answer
            .err()
            .map(|error| error.raw_os_error().unwrap_or(libc::EIO));
        NotTaken {
            left,
            refused: errno.filter(|errno| {
                ![libc::EAGAIN, libc::EBUSY, libc::EINTR, libc::ENOMEM].contains(errno)
            }),
        }
    }

    /// Calls `io_uring_enter(2)` without submitting, to wait for `min_complete` completions.
    #[cold]
    fn get_events(&self, min_complete: u32) -> io::Result<usize> {
        let submitter = self.uring.submitter();
        let no_mask = None::<&libc::sigset_t>;
        // SAFETY: submits nothing, and passes no memory.
        unsafe { submitter.enter(0, min_complete, ENTER_GETEVENTS, no_mask) }
    }
}

impl KernelRing for MappedRing {
    type Submissions<'r> = io_uring::SubmissionQueue<'r>;
    type Completions<'r> = io_uring::CompletionQueue<'r>;

    #[inline]
    unsafe fn submissions(&self) -> io_uring::SubmissionQueue<'_> {
        // SAFETY: the caller's promise. The queue is dropped before the kernel reads it.
        unsafe { self.uring.submission_shared() }
    }

    #[inline]
    unsafe fn completions(&self) -> io_uring::CompletionQueue<'_> {
        // SAFETY: the caller's promise.
        unsafe { self.uring.completion_shared() }
    }

    #[inline]
    unsafe fn push(&self, queue: &mut io_uring::SubmissionQueue<'_>, entry: &Sqe, key: Key) {
        // SAFETY: the caller's promise.
        let encoded = unsafe { uring_sqe::encode(entry, key, &self.buffers) };
        // SAFETY: the caller's promise.
        let pushed = unsafe { queue.push(&encoded) };
        debug_assert!(pushed.is_ok(), "there is room");
    }

    #[inline]
    unsafe fn enter(&self, len: usize) -> Result<(), NotTaken> {
        if len == 0 {
            return Ok(());
        }
        match self.uring.submit() {
            Ok(submitted) if submitted == len => Ok(()),
            // SAFETY: the caller's promise.
            answer => Err(unsafe { self.remove_left(answer) }),
        }
    }

    fn cancel(&self, key: Key) -> io::Result<bool> {
        ring_setup::cancel(&self.uring, key.user_data())
    }

    fn signal(&self) {
        if let Some(eventfd) = self.eventfd {
            signal(eventfd);
        }
    }

    fn flush_overflow(&self) {
        let _ = self.get_events(0); // completions still come
    }

    fn wait(&self) {
        let waited = self.get_events(1);
        if waited.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
            self.pause(); // a later filter may forbid to wait, but completions still come
        }
    }

    fn pause(&self) {
        thread::sleep(PAUSE);
    }

    /// The kernel closes a ring in the background, and a forked child keeps it open.
    fn release_memory(&self) {
        self.buffers.unregister(&self.uring);
    }
}

impl SubmissionQueue for io_uring::SubmissionQueue<'_> {
    #[inline]
    fn len(&self) -> usize {
        io_uring::SubmissionQueue::len(self)
    }

    #[inline]
    fn is_full(&self) -> bool {
        io_uring::SubmissionQueue::is_full(self)
    }
}

impl CompletionQueue for io_uring::CompletionQueue<'_> {
    #[inline]
    fn is_empty(&self) -> bool {
        io_uring::CompletionQueue::is_empty(self)
    }

    #[inline]
    fn is_full(&self) -> bool {
        io_uring::CompletionQueue::is_full(self)
    }

    #[inline]
    fn take_next(&mut self) -> Option<(Key, i32)> {
        let entry = self.next()?;
        Some((Key::from_user_data(entry.user_data()), entry.result()))
    }
}

impl fmt::Debug for MappedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MappedRing") // `IoUring` has no `Debug`
    }
}
