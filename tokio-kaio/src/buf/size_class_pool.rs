//! [`SizeClassPool`]: buffers of many sizes in one mapping.

use std::sync::Arc;
use std::{fmt, io};

use super::buddy_allocator::BuddyAllocator;
use super::size_class_memory::SizeClassMemory;
use super::{AlignedBuf, LockedBufError, Region, RegisteredPool, Shape};
use crate::sys::{HUGE_PAGE, Mapping};

/// A pool of buffers of many sizes, which together take no more than a limit of memory.
///
/// The memory is allocated once and divided into blocks of powers of two, which are merged again when their
/// buffers have returned, so what small buffers have used serves large ones later. A buffer has exactly the
/// size that was asked for; the block behind it is
///
/// - the next power of two, and at least the [alignment](SizeClassPoolBuilder::alignment) of the pool, 4096;
/// - beyond eight times that, rounded up to an eighth of that power instead: a buffer of 1 MiB + 4 KiB takes
///   1.25 MiB, and the rest of its 2 MiB is free for others.
///
/// | method | if no block is free |
/// |---|---|
/// | [`get`](SizeClassPool::get) | waits until one is, first in, first out |
/// | [`try_get`](SizeClassPool::try_get) | returns `None` |
/// | [`get_or_map`](SizeClassPool::get_or_map) | maps a buffer of its own, which does not return to the pool |
///
/// Use `get` where buffers return soon, because it keeps the memory under the limit. Use `get_or_map` where
/// consumers keep buffers as long as they like, because to wait for them can last forever.
///
/// A dropped buffer returns to the pool; if an abandoned operation on it is still in flight, the buffer
/// returns when the kernel is done. Taking a buffer costs no system call, and no page fault once its memory was
/// used. Memory that was used stays with the process until the pool and all its buffers are dropped.
///
/// The buffers are ordinary [`AlignedBuf`]s. The content of a buffer is that of earlier buffers in its place.
/// Buffers keep the memory of the pool alive, so the pool, which is cheap to clone, may be dropped before
/// them.
///
/// Each context has such a pool for results whose size is not known before:
/// [`handle.buffers()`](crate::GenericAioContextHandle::buffers). For buffers of one size, a
/// [`BufferPool`](crate::BufferPool) has no blocks to divide, and no size to round up.
///
/// # Forked children
///
/// A child made by `fork(2)` does not inherit the memory: it gets a segmentation fault when it touches a buffer
/// of an inherited pool. There, `get` fails, `try_get` returns `None`, and `get_or_map` maps every buffer.
///
/// # Examples
///
/// ```
/// use tokio_kaio::SizeClassPool;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = SizeClassPool::new(1 << 20)?;
/// let (small, large) = (pool.get(700).await?, pool.get(512 << 10).await?);
/// assert_eq!((small.size(), large.size()), (700, 512 << 10));
/// assert_eq!(pool.available(), (512 << 10) - 4096);
///
/// assert!(pool.try_get(512 << 10).is_none());
/// let fresh = pool.get_or_map(512 << 10)?;
/// assert_eq!(pool.stats().mapped_afresh, 1);
///
/// drop((small, large, fresh));
/// assert_eq!(pool.try_get(1 << 20).unwrap().size(), 1 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SizeClassPool {
    memory: Arc<SizeClassMemory>,
    /// The shape of the whole memory.
    shape: Shape,
}

/// Creates a [`SizeClassPool`] with more options than [`SizeClassPool::new`].
///
/// # Examples
///
/// ```
/// use tokio_kaio::SizeClassPoolBuilder;
///
/// let pool = SizeClassPoolBuilder::new(8 << 20)
///     .huge_pages(true)
///     .populate(true)
///     .build()?;
/// assert_eq!(pool.limit(), 8 << 20);
/// # Ok::<(), tokio_kaio::LockedBufError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder creates no pool until `build` is called"]
pub struct SizeClassPoolBuilder {
    limit: usize,
    shape: Shape,
    populate: bool,
}

/// The numbers of a [`SizeClassPool`] at one moment. See [`SizeClassPool::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SizeClassPoolStats {
    /// Bytes that buffers of the pool may take together.
    pub limit: usize,

    /// Bytes that buffers take, including what their sizes were rounded up by, and including buffers of
    /// abandoned operations that are in flight.
    pub in_use: usize,

    /// Bytes that are free. A buffer of this size may still not be available, because the free blocks are
    /// apart from each other.
    pub available: usize,

    /// Number of buffers that are in use.
    pub buffers: usize,

    /// Number of calls of [`get`](SizeClassPool::get) that wait.
    pub waiting: usize,

    /// Number of buffers taken from the pool so far.
    pub taken: u64,

    /// Number of buffers that [`get_or_map`](SizeClassPool::get_or_map) has mapped so far, because it found no
    /// block. If this grows, a larger limit would save system calls and page faults.
    pub mapped_afresh: u64,
}

/// The alignment of buffers in bytes by default.
const DEFAULT_ALIGNMENT: usize = 4096;

/// The smallest block in bytes. Every device that has a smaller alignment accepts this one.
const MIN_BLOCK: usize = 512;

impl SizeClassPoolBuilder {
    /// Creates a builder for a pool whose buffers take at most `limit` bytes together. Rounded down to a
    /// multiple of the [alignment](SizeClassPoolBuilder::alignment).
    pub fn new(limit: usize) -> SizeClassPoolBuilder {
        SizeClassPoolBuilder {
            limit,
            shape: Shape::plain(limit).aligned_to(DEFAULT_ALIGNMENT),
            populate: false,
        }
    }

    /// Sets the alignment of each buffer, which is also the size of the smallest block: 4096 by default, at
    /// least 512. Small buffers take less memory with a smaller alignment; many devices require 512.
    ///
    /// # Panics
    ///
    /// If `alignment` is not a power of two.
    pub fn alignment(mut self, alignment: usize) -> SizeClassPoolBuilder {
        self.shape = self.shape.aligned_to(alignment);
        self
    }

    /// Sets whether the memory is locked into RAM, as with [`LockedBuf`](crate::LockedBuf). By default it
    /// is not. Buffers that [`get_or_map`](SizeClassPool::get_or_map) maps are locked too.
    pub fn locked(mut self, locked: bool) -> SizeClassPoolBuilder {
        self.shape.locked = locked;
        self
    }

    /// Sets whether the memory is on huge pages if the system has them, as with [`AlignedBuf::huge`]. By
    /// default it is not.
    pub fn huge_pages(mut self, huge: bool) -> SizeClassPoolBuilder {
        self.shape.huge = huge;
        self
    }

    /// Sets whether [`build`](SizeClassPoolBuilder::build) touches all pages, so that the first use of a buffer
    /// causes no page faults. By default it does not, and the system provides a page when it is first used.
    /// Takes as long as to zero the memory, and longer if the system first has to make room for it. See
    /// [`madvise(2)`](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_POPULATE_WRITE`.
    pub fn populate(mut self, populate: bool) -> SizeClassPoolBuilder {
        self.populate = populate;
        self
    }

    /// Creates the pool.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: the limit is smaller than the alignment, or there is not enough memory.
    /// [`LockedBufError::MemLock`]: `RLIMIT_MEMLOCK` does not permit to lock the memory.
    pub fn build(self) -> Result<SizeClassPool, LockedBufError> {
        let unit = self.shape.alignment.max(MIN_BLOCK);
        let units = self.limit / unit;
        if units == 0 {
            let text = format!(
                "a pool needs a limit of at least {unit} bytes, the size of its smallest buffer, not {}",
                self.limit
            );
            return Err(invalid(text));
        }
        let populate = self.populate;
        let pool = self.build_unmapped()?;
        pool.memory.ensure_mapped(|| {
            let mapping = map(pool.shape)?;
            if populate {
                mapping.populate().map_err(LockedBufError::MapAnon)?;
            }
            Ok(mapping)
        })?;
        Ok(pool)
    }

    /// Creates a pool that maps its memory when it is first used.
    fn build_unmapped(self) -> Result<SizeClassPool, LockedBufError> {
        let unit = self.shape.alignment.max(MIN_BLOCK);
        let units = self.limit / unit;
        let no_memory = |_| LockedBufError::MapAnon(io::Error::from_raw_os_error(libc::ENOMEM));
        let memory = SizeClassMemory::new(unit, u32::try_from(units).map_err(no_memory)?);
        Ok(SizeClassPool {
            memory: Arc::new(memory),
            shape: Shape {
                len: units * unit,
                alignment: unit,
                ..self.shape
            },
        })
    }
}

impl SizeClassPool {
    /// Creates a pool whose buffers take at most `limit` bytes together, each at a multiple of 4096. See
    /// [`SizeClassPoolBuilder`] for more options.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: the limit is less than 4096, or there is not enough memory.
    pub fn new(limit: usize) -> Result<SizeClassPool, LockedBufError> {
        SizeClassPoolBuilder::new(limit).build()
    }

    /// Creates a pool that maps its memory when it is first used.
    pub(crate) fn unmapped(limit: u32) -> SizeClassPool {
        match SizeClassPoolBuilder::new(limit as usize).build_unmapped() {
            Ok(pool) => pool,
            Err(_) => unreachable!("a number of 32 bits is not too large"),
        }
    }

    /// Takes a buffer of `len` bytes. If there is no room, waits until enough buffers have returned. Waiting
    /// calls get their buffers in FIFO order, whatever their sizes: a large one is not overtaken by small
    /// ones. Waits forever if too few buffers return: use [`tokio::time::timeout`] to give up, or
    /// [`get_or_map`](SizeClassPool::get_or_map).
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: `len` is 0 or exceeds [`max_buffer_size`](SizeClassPool::max_buffer_size);
    /// or this is a [forked child](SizeClassPool#forked-children).
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses its position in the queue, and nothing else.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::SizeClassPool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = SizeClassPool::new(64 << 10)?;
    /// let small = pool.get(4096).await?;
    /// let waiting = tokio::spawn({
    ///     let pool = pool.clone();
    ///     async move { pool.get(64 << 10).await }
    /// });
    /// tokio::task::yield_now().await;
    /// assert_eq!(pool.stats().waiting, 1);
    /// assert!(pool.try_get(4096).is_none()); // does not overtake
    /// drop(small);
    /// assert_eq!(waiting.await??.size(), 64 << 10);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self, len: usize) -> Result<AlignedBuf, LockedBufError> {
        let units = self.units(len)?;
        if !self.memory.is_ours() {
            return Err(invalid(
                "the pool was made by the parent of this forked process; make a new one".into(),
            ));
        }
        if let Some(buffer) = self.take(len, units, false)? {
            return Ok(buffer);
        }
        let _waiting = self.memory.wait();
        let _turn = self.memory.turn.lock().await;
        loop {
            if let Some(buffer) = self.take(len, units, true)? {
                return Ok(buffer);
            }
            self.memory.returned.notified().await;
        }
    }

    /// Takes a buffer of `len` bytes, if there is room that no call of [`get`](SizeClassPool::get) waits for.
    /// `None` also if `len` is 0 or exceeds [`max_buffer_size`](SizeClassPool::max_buffer_size).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::SizeClassPool;
    ///
    /// let pool = SizeClassPool::new(8192)?;
    /// let buffer = pool.try_get(5000);
    /// assert!(buffer.is_some() && pool.try_get(1).is_none());
    /// # Ok::<(), tokio_kaio::LockedBufError>(())
    /// ```
    #[must_use = "a dropped buffer returns to the pool at once"]
    pub fn try_get(&self, len: usize) -> Option<AlignedBuf> {
        let units = self.units(len).ok()?;
        match self.memory.is_ours() {
            true => self.take(len, units, false).ok().flatten(),
            false => None,
        }
    }

    /// Takes a buffer of `len` bytes. If there is no room, maps a new one, which is unmapped when dropped. So
    /// this never waits, and accepts any size. Calls of [`get`](SizeClassPool::get) that wait are not
    /// overtaken.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: `len` is 0, or there is not enough memory. [`LockedBufError::MemLock`]: the
    /// pool is [locked](SizeClassPoolBuilder::locked), and `RLIMIT_MEMLOCK` does not permit to lock more.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::SizeClassPool;
    ///
    /// let pool = SizeClassPool::new(8192)?;
    /// let buffers = (pool.get_or_map(8192)?, pool.get_or_map(100)?);
    /// assert_eq!(pool.stats().mapped_afresh, 1);
    /// # Ok::<(), tokio_kaio::LockedBufError>(())
    /// ```
    pub fn get_or_map(&self, len: usize) -> Result<AlignedBuf, LockedBufError> {
        if let Some(buffer) = self.try_get(len) {
            return Ok(buffer);
        }
        let buffer = AlignedBuf::allocate(self.shape_of(len))?;
        self.memory.count_mapped_afresh();
        Ok(buffer)
    }

    /// Returns the number of bytes that the buffers of the pool may take together.
    pub fn limit(&self) -> usize {
        self.shape.len
    }

    /// Returns the size of the largest buffer that the pool can have, in bytes: the largest power of two
    /// that is not larger than the limit.
    pub fn max_buffer_size(&self) -> usize {
        self.memory
            .units
            .checked_ilog2()
            .map_or(0, |order| self.memory.unit << order)
    }

    /// Returns the number of free bytes.
    pub fn available(&self) -> usize {
        self.stats().available
    }

    /// Returns what the pool has in use, and has counted. In a
    /// [forked child](SizeClassPool#forked-children), nothing is in use.
    pub fn stats(&self) -> SizeClassPoolStats {
        let now = self.memory.current_use();
        let in_use = now.in_use as usize * self.memory.unit;
        SizeClassPoolStats {
            limit: self.limit(),
            in_use,
            available: self.limit() - in_use,
            buffers: now.buffers,
            waiting: now.waiting,
            taken: now.taken,
            mapped_afresh: self.memory.mapped_afresh(),
        }
    }

    /// Returns the units of a buffer of `len` bytes.
    ///
    /// # Errors
    ///
    /// `MapAnon`: the pool can't have such a buffer.
    fn units(&self, len: usize) -> Result<u32, LockedBufError> {
        if len == 0 {
            return Err(LockedBufError::zero_size());
        }
        let max = self.max_buffer_size();
        if len > max {
            return Err(invalid(format!(
                "a buffer of {len} bytes is larger than the largest one of the pool, {max} bytes: \
                 make a pool with a larger limit, or use get_or_map"
            )));
        }
        Ok(BuddyAllocator::rounded(
            len.div_ceil(self.memory.unit) as u32
        ))
    }

    /// The shape of a buffer.
    fn shape_of(&self, len: usize) -> Shape {
        Shape {
            len,
            // A buffer that replaces this one has no whole huge page to fill.
            huge: self.shape.huge && len >= HUGE_PAGE,
            ..self.shape
        }
    }

    fn take(
        &self,
        len: usize,
        units: u32,
        has_turn: bool,
    ) -> Result<Option<AlignedBuf>, LockedBufError> {
        let taken = self.memory.take(units, has_turn, || map(self.shape))?;
        Ok(taken.map(|(start, block)| {
            let region = Region::of_size_class(start, self.shape_of(len), block);
            AlignedBuf::from_region(region)
        }))
    }
}

/// Maps the memory of a pool.
fn map(shape: Shape) -> Result<Mapping, LockedBufError> {
    let mapping = shape.map().map_err(LockedBufError::MapAnon)?;
    if shape.locked {
        mapping.lock().map_err(LockedBufError::MemLock)?;
    }
    Ok(mapping)
}

fn invalid(text: String) -> LockedBufError {
    LockedBufError::MapAnon(io::Error::new(io::ErrorKind::InvalidInput, text))
}

impl From<&SizeClassPool> for RegisteredPool {
    /// The memory of all buffers, which is mapped now. None in a forked child, or if it can't be mapped.
    fn from(pool: &SizeClassPool) -> RegisteredPool {
        let start = pool.memory.is_ours().then(|| {
            let start = pool.memory.start(|| map(pool.shape)).ok()?;
            Some(start.as_ptr().expose_provenance())
        });
        let addresses = match start.flatten() {
            Some(start) => start..start + pool.shape.len,
            None => 0..0,
        };
        RegisteredPool::new(addresses, Arc::clone(&pool.memory) as _)
    }
}

impl fmt::Debug for SizeClassPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("SizeClassPool")
            .field("limit", &stats.limit)
            .field("available", &stats.available)
            .field("buffers", &stats.buffers)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_apart_and_return_when_dropped() {
        let pool = SizeClassPoolBuilder::new(40 << 10)
            .alignment(512)
            .build()
            .unwrap();
        let mut buffers = Vec::new();
        for (number, len) in [1, 512, 513, 5000, 9000, 3].into_iter().enumerate() {
            let mut buffer = pool.try_get(len).unwrap();
            assert_eq!((buffer.len(), buffer.as_ptr().addr() % 512), (len, 0));
            buffer.fill(number as u8);
            buffers.push(buffer);
        }
        for (number, buffer) in buffers.iter().enumerate() {
            assert!(buffer.iter().all(|&byte| byte == number as u8), "{number}");
        }
        let (stats, taken) = (pool.stats(), buffers.len());
        assert_eq!((stats.buffers, stats.taken), (taken, taken as u64));
        assert_eq!(stats.in_use + stats.available, stats.limit);
        drop(pool.clone());
        drop(pool);
        buffers[0][0] = 9; // buffers keep the memory alive
    }

    #[test]
    fn a_pool_that_is_not_mapped_yet_is_mapped_when_it_is_first_used() {
        let pool = SizeClassPool::unmapped(8192);
        assert_eq!((pool.available(), pool.max_buffer_size()), (8192, 8192));
        let buffer = pool.try_get(8192).unwrap();
        assert!(buffer.iter().all(|&byte| byte == 0));
        assert_eq!(pool.available(), 0);
    }

    #[test]
    fn a_pool_whose_memory_cannot_be_mapped_maps_every_buffer() {
        let pool = SizeClassPool::unmapped(0);
        assert!(pool.try_get(1).is_none());
        assert_eq!(pool.get_or_map(5000).unwrap().len(), 5000);
        assert_eq!(pool.stats().mapped_afresh, 1);
    }
}
