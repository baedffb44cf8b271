//! [`BufferPool`]: a fixed number of buffers in one region of memory.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use tokio::sync::Semaphore;

use super::{AlignedBuf, LockedBufError, Region, Shape};
use crate::sys::{Mapping, Process};

/// A pool with a fixed number of buffers of one size, which are allocated together and reused.
///
/// [`get`](BufferPool::get) waits for a free buffer, [`try_get`](BufferPool::try_get) does not. A dropped
/// buffer returns to the pool; if an abandoned operation is still in flight on it, it returns when the
/// kernel is done. So the memory under I/O never grows beyond the pool, with one exception: the
/// [replacement](AlignedBuf#while-an-operation-runs) of a buffer whose read was dropped while the caller
/// kept the buffer. To take a buffer costs no system call and no page fault.
///
/// The buffers are ordinary [`AlignedBuf`]s. A buffer still has the content that it had when it was
/// returned. Buffers keep the memory of the pool alive, so the pool, which is cheap to clone, may be dropped
/// before them. A child process made by `fork(2)` does not inherit the memory: it gets a segmentation fault
/// when it touches a buffer of an inherited pool.
///
/// # Examples
///
/// ```
/// use tokio_kaio::BufferPool;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = BufferPool::new(2, 64 << 10)?;
/// let (first, second) = (pool.get().await, pool.get().await);
/// assert_eq!(second.size(), 64 << 10);
/// assert!(pool.try_get().is_none());
/// drop(first);
/// assert_eq!(pool.available(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BufferPool {
    inner: Arc<Inner>,
}

/// Makes a [`BufferPool`] with more options than [`BufferPool::new`].
///
/// # Examples
///
/// ```
/// use tokio_kaio::BufferPoolBuilder;
///
/// let pool = BufferPoolBuilder::new(32, 512).alignment(512).build()?;
/// assert_eq!((pool.capacity(), pool.buffer_size()), (32, 512));
/// # Ok::<(), tokio_kaio::LockedBufError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder makes no pool until `build` is called"]
pub struct BufferPoolBuilder {
    count: usize,
    shape: Shape,
}

impl BufferPoolBuilder {
    /// Starts with `count` buffers of `size` bytes.
    pub fn new(count: usize, size: usize) -> BufferPoolBuilder {
        BufferPoolBuilder {
            count,
            shape: Shape::plain(size).aligned_to(4096),
        }
    }

    /// Sets the alignment of each buffer, 4096 by default. Small buffers take less memory with a smaller
    /// alignment; many devices require 512.
    ///
    /// # Panics
    ///
    /// If `alignment` is no power of two.
    pub fn alignment(mut self, alignment: usize) -> BufferPoolBuilder {
        self.shape = self.shape.aligned_to(alignment);
        self
    }

    /// Sets whether the memory is locked into RAM, as with [`LockedBuf`](crate::LockedBuf). By default it
    /// is not.
    pub fn locked(mut self, locked: bool) -> BufferPoolBuilder {
        self.shape.locked = locked;
        self
    }

    /// Sets whether the memory is on huge pages, as far as there are any, as with [`AlignedBuf::huge`]. By
    /// default it is not.
    pub fn huge_pages(mut self, huge: bool) -> BufferPoolBuilder {
        self.shape.huge = huge;
        self
    }

    /// Makes the pool.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: the size or number is 0, or there is not enough memory.
    /// [`LockedBufError::MemLock`]: `RLIMIT_MEMLOCK` does not allow the memory to be locked.
    pub fn build(self) -> Result<BufferPool, LockedBufError> {
        let BufferPoolBuilder { count, shape } = self;
        if shape.len == 0 {
            return Err(LockedBufError::no_size());
        }
        if count == 0 {
            let error = "a pool of 0 buffers, the least is 1";
            let error = io::Error::new(io::ErrorKind::InvalidInput, error);
            return Err(LockedBufError::MapAnon(error));
        }
        let stride = shape.len.checked_next_multiple_of(shape.alignment);
        let total = stride.and_then(|stride| stride.checked_mul(count));
        let fits = count <= Semaphore::MAX_PERMITS && u32::try_from(count).is_ok();
        let (Some(stride), Some(total), true) = (stride, total, fits) else {
            let error = io::Error::from_raw_os_error(libc::ENOMEM);
            return Err(LockedBufError::MapAnon(error));
        };
        let free = Free::of(count as u32).map_err(LockedBufError::MapAnon)?;
        let whole = Shape {
            len: total,
            ..shape
        };
        let mapping = whole.make_mapped().map_err(LockedBufError::MapAnon)?;
        if shape.locked {
            mapping.lock().map_err(LockedBufError::MemLock)?;
        }
        let inner = Inner {
            mapping: ManuallyDrop::new(mapping),
            owner: Process::current(),
            stride,
            count,
            shape,
            free: Mutex::new(free),
            permits: Semaphore::new(count),
        };
        Ok(BufferPool {
            inner: Arc::new(inner),
        })
    }
}

struct Inner {
    /// `count` times `stride` bytes.
    mapping: ManuallyDrop<Mapping>,
    owner: Process,
    stride: usize,
    count: usize,
    /// Of each buffer.
    shape: Shape,
    /// Never fewer than there are permits.
    free: Mutex<Free>,
    permits: Semaphore,
}

/// The places that no buffer has.
struct Free {
    /// Has room for all.
    back: Vec<u32>,
    /// Those that none has had yet.
    fresh: Range<u32>,
}

/// One buffer's place in a pool, which is free again when this is dropped.
pub(super) struct Place {
    pool: Arc<Inner>,
    index: u32,
}

impl BufferPool {
    /// `count` buffers of `size` bytes, each at a multiple of 4096. See [`BufferPoolBuilder`] for
    /// more choices.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`] for a size or number of 0, or where there is no room for all.
    pub fn new(count: usize, size: usize) -> Result<BufferPool, LockedBufError> {
        BufferPoolBuilder::new(count, size).build()
    }

    /// A buffer; waits until there is one, in the order in which it was asked for: for ever, if those who
    /// have them keep them. To give up, use [`tokio::time::timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it loses its place in the line, and nothing else.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio::time::timeout;
    /// use tokio_kaio::BufferPool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = BufferPool::new(1, 4096)?;
    /// let kept = pool.get().await;
    /// assert!(timeout(Duration::from_millis(5), pool.get()).await.is_err());
    /// drop(kept);
    /// assert_eq!(pool.get().await.size(), 4096);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self) -> AlignedBuf {
        match self.inner.permits.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => unreachable!("it is never closed"),
        }
        self.take()
    }

    /// A buffer, if there is one now that nobody waits for.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::BufferPool;
    ///
    /// let pool = BufferPool::new(1, 4096)?;
    /// let buffer = pool.try_get();
    /// assert!(buffer.is_some() && pool.try_get().is_none());
    /// # Ok::<(), tokio_kaio::LockedBufError>(())
    /// ```
    #[must_use = "dropped, the buffer goes back at once"]
    pub fn try_get(&self) -> Option<AlignedBuf> {
        self.inner.permits.try_acquire().ok()?.forget();
        Some(self.take())
    }

    /// Number of free buffers.
    pub fn available(&self) -> usize {
        self.inner.permits.available_permits()
    }

    /// Number of buffers in all.
    pub fn capacity(&self) -> usize {
        self.inner.count
    }

    /// Size of each, bytes.
    pub fn buffer_size(&self) -> usize {
        self.inner.shape.len
    }

    /// To be called with a permit, which is spent.
    fn take(&self) -> AlignedBuf {
        let Some(index) = self.inner.free().take() else {
            unreachable!("a permit stands for a place");
        };
        let place = Place {
            pool: Arc::clone(&self.inner),
            index,
        };
        let start = self.inner.mapping.start();
        // SAFETY: `index` is below `count`, so it is within the mapping.
        let start = unsafe { start.add(index as usize * self.inner.stride) };
        AlignedBuf::on(Region::placed(start, self.inner.shape, place))
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("capacity", &self.capacity())
            .field("buffer_size", &self.buffer_size())
            .field("available", &self.available())
            .finish()
    }
}

impl Inner {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Free {
    /// All of `count`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn of(count: u32) -> io::Result<Free> {
        let mut back = Vec::new();
        let room = back.try_reserve_exact(count as usize);
        room.map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Free {
            back,
            fresh: 0..count,
        })
    }

    /// The one that was in use last.
    fn take(&mut self) -> Option<u32> {
        self.back.pop().or_else(|| self.fresh.next())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A forked child does not have the memory; others may be where it was.
        if self.owner == Process::current() {
            // SAFETY: dropped here only. No buffer is left, each would have a `Place`.
            unsafe { ManuallyDrop::drop(&mut self.mapping) };
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.free().back.push(self.index);
        self.pool.permits.add_permits(1); // wakes who waits: not under the lock
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.index).finish()
    }
}
