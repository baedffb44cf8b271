//! [`BufferPool`]: a fixed number of buffers in one mapping.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use tokio::sync::Semaphore;

use super::pool_memory::{FreeList, PoolEntry, PoolMemory};
use super::{AlignedBuf, LockedBufError, Region, RegisteredPool, Shape};
use crate::sys::Process;

/// A pool with a fixed number of buffers of one size, which are allocated together and reused.
///
/// [`get`](BufferPool::get) waits for a free buffer, [`try_get`](BufferPool::try_get) does not. A dropped
/// buffer returns to the pool; if an abandoned operation on the buffer is still in flight, the buffer returns
/// when the kernel is done. So the memory under I/O never grows beyond the pool, with one exception: the
/// [replacement](AlignedBuf#while-an-operation-runs) of a buffer whose read was dropped while the caller
/// kept the buffer. Taking a buffer costs no system call, and no page fault once its memory was used.
///
/// A [`SizeClassPool`](crate::SizeClassPool) has buffers of many sizes.
///
/// The buffers are ordinary [`AlignedBuf`]s. The content of a buffer is that with which it was
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
    memory: Arc<PoolMemory>,
    /// The shape of each buffer.
    shape: Shape,
}

/// Creates a [`BufferPool`] with more options than [`BufferPool::new`].
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
#[must_use = "a builder creates no pool until `build` is called"]
pub struct BufferPoolBuilder {
    count: usize,
    shape: Shape,
}

impl BufferPoolBuilder {
    /// Creates a builder for a pool of `count` buffers of `size` bytes.
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
    /// If `alignment` is not a power of two.
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

    /// Sets whether the memory is on huge pages if the system has them, as with [`AlignedBuf::huge`]. By
    /// default it is not.
    pub fn huge_pages(mut self, huge: bool) -> BufferPoolBuilder {
        self.shape.huge = huge;
        self
    }

    /// Creates the pool.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: the size or the number is 0, or there is not enough memory.
    /// [`LockedBufError::MemLock`]: `RLIMIT_MEMLOCK` does not permit to lock the memory.
    pub fn build(self) -> Result<BufferPool, LockedBufError> {
        let BufferPoolBuilder { count, shape } = self;
        if shape.len == 0 {
            return Err(LockedBufError::zero_size());
        }
        if count == 0 {
            let error = "a pool needs at least 1 buffer, not 0 buffers";
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
        let free = FreeList::new(count as u32).map_err(LockedBufError::MapAnon)?;
        let whole = Shape {
            len: total,
            ..shape
        };
        let mapping = whole.map().map_err(LockedBufError::MapAnon)?;
        if shape.locked {
            mapping.lock().map_err(LockedBufError::MemLock)?;
        }
        let memory = PoolMemory {
            mapping: ManuallyDrop::new(mapping),
            owner: Process::current(),
            stride,
            count,
            free: Mutex::new(free),
            permits: Semaphore::new(count),
        };
        Ok(BufferPool {
            memory: Arc::new(memory),
            shape,
        })
    }
}

impl BufferPool {
    /// Creates a pool of `count` buffers of `size` bytes, each at a multiple of 4096. See
    /// [`BufferPoolBuilder`] for more options.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: the size or the number is 0, or there is not enough memory.
    pub fn new(count: usize, size: usize) -> Result<BufferPool, LockedBufError> {
        BufferPoolBuilder::new(count, size).build()
    }

    /// Takes a buffer from the pool. If none is free, waits until one returns; waiting calls get buffers in
    /// FIFO order. Waits forever if no buffer returns: use [`tokio::time::timeout`] to give up.
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses its position in the queue, and nothing else.
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
        match self.memory.permits.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => unreachable!("the semaphore is never closed"),
        }
        self.take()
    }

    /// Takes a buffer from the pool, if one is free that no call of [`get`](BufferPool::get) waits for.
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
    #[must_use = "a dropped buffer returns to the pool at once"]
    pub fn try_get(&self) -> Option<AlignedBuf> {
        self.memory.permits.try_acquire().ok()?.forget();
        Some(self.take())
    }

    /// Returns the number of free buffers.
    pub fn available(&self) -> usize {
        self.memory.permits.available_permits()
    }

    /// Returns the number of buffers, free or not.
    pub fn capacity(&self) -> usize {
        self.memory.count
    }

    /// Returns the size of each buffer in bytes.
    pub fn buffer_size(&self) -> usize {
        self.shape.len
    }

    /// Takes a free buffer. The caller has acquired a permit for it.
    fn take(&self) -> AlignedBuf {
        let Some(index) = self.memory.free().take() else {
            unreachable!("every permit stands for a free buffer");
        };
        let entry = PoolEntry {
            pool: Arc::clone(&self.memory),
            index,
        };
        let start = self.memory.mapping.start();
        // SAFETY: `index` is below `count`, so the result is within the mapping.
        let start = unsafe { start.add(index as usize * self.memory.stride) };
        AlignedBuf::from_region(Region::pooled(start, self.shape, entry))
    }
}

impl From<&BufferPool> for RegisteredPool {
    /// The memory of all buffers. None in a forked child.
    fn from(pool: &BufferPool) -> RegisteredPool {
        let is_ours = pool.memory.owner == Process::current();
        let start = pool.memory.mapping.start().as_ptr().expose_provenance();
        let len = pool.memory.stride * pool.memory.count;
        let addresses = start..start + if is_ours { len } else { 0 };
        RegisteredPool::new(addresses, Arc::clone(&pool.memory) as _)
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
