//! [`QueueTail`]: takes entries back from the submission queue.
#![allow(unsafe_code)] // changes memory that is shared with the kernel

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use io_uring::{IoUring, Parameters};

use crate::sys::Mapping;

/// The tail of the submission queue of a ring, mapped a second time: the crate `io-uring` only moves it forward.
#[derive(Debug)]
pub(super) struct QueueTail {
    queue: Mapping,
    /// Bytes from the start of the mapping.
    offset: usize,
}

/// Words of `struct io_uring_params` before `sq_off.tail`, which is a part of the interface of the kernel:
/// ten words, and `sq_off.head`.
const WORDS_BEFORE_TAIL: usize = 11;

const _: () = assert!(size_of::<Parameters>() == 120 && align_of::<Parameters>() >= 4);

impl QueueTail {
    /// # Errors
    ///
    /// The errno of `mmap(2)` or `madvise(2)`.
    pub(super) fn map(ring: &IoUring) -> io::Result<QueueTail> {
        let words = (&raw const *ring.params()).cast::<u32>();
        // SAFETY: within the parameters.
        let word = unsafe { words.add(WORDS_BEFORE_TAIL) };
        // SAFETY: `Parameters` is a transparent wrapper of the structure of the kernel, as it documents.
        let offset = unsafe { word.read() } as usize;
        let len = offset + size_of::<AtomicU32>();
        let queue = Mapping::shared(ring.as_raw_fd(), len)?;
        queue.dont_fork()?;
        Ok(QueueTail { queue, offset })
    }

    /// Removes the last `count` entries of the queue. The caller holds the lock of the ring, and the kernel has
    /// not taken them: it looks at the queue of a ring without `IORING_SETUP_SQPOLL` only within
    /// `io_uring_enter(2)`.
    pub(super) fn move_back(&self, count: usize) {
        // SAFETY: within the mapping.
        let tail = unsafe { self.queue.start().add(self.offset) }.cast::<AtomicU32>();
        debug_assert!(tail.is_aligned());
        // SAFETY: mapped as long as `self` exists, aligned to its size, and everyone uses it as an atomic or
        // under the lock of the ring.
        let tail = unsafe { tail.as_ref() };
        tail.fetch_sub(count as u32, Ordering::Release);
    }
}
