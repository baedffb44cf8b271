//! [`Region`]: a piece of memory that the kernel may access. [`Exclusive`]: a region that the kernel writes.
//!
//! A [`Region`] is always behind an `Arc`. Memory that the kernel *reads* (the data of a write) is shared with
//! the request: [`Region::bytes`] may be read meanwhile, and nobody can change the bytes. Memory that the
//! kernel *writes* (the target of a read) moves to the request as an [`Exclusive`], the only handle to it.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{self, Ordering};

use super::pool_memory::PoolEntry;
use super::size_class_memory::SizeClassBlock;
use crate::sys::{Mapping, Process};

/// Initialized memory, aligned as its [`Shape`] requires, which a forked child does not inherit.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    shape: Shape,
    source: ManuallyDrop<Source>,
    owner: Process,
}

// SAFETY: plain memory, not bound to a thread. Only `&mut Region` writes it, or the kernel, while the request
// has an `Exclusive`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// The owner of the memory, which frees it when dropped.
#[derive(Debug)]
enum Source {
    /// A mapping for this region alone.
    Mapping(#[allow(dead_code, reason = "unmapped when dropped")] Mapping),
    /// A buffer of a pool.
    Pool(#[allow(dead_code, reason = "returned to the pool when dropped")] PoolEntry),
    /// A buffer of a pool with size classes.
    SizeClassPool(#[allow(dead_code, reason = "as above")] SizeClassBlock),
}

impl Region {
    /// Creates a region in a pool's memory: `shape.len` bytes at `start`, which are valid and unused by others
    /// as long as `entry` exists.
    pub(super) fn pooled(start: NonNull<u8>, shape: Shape, entry: PoolEntry) -> Region {
        Region::of_source(start, shape, Source::Pool(entry))
    }

    /// Like [`pooled`](Region::pooled), in the memory of a pool with size classes.
    pub(super) fn of_size_class(start: NonNull<u8>, shape: Shape, block: SizeClassBlock) -> Region {
        Region::of_source(start, shape, Source::SizeClassPool(block))
    }

    fn of_source(start: NonNull<u8>, shape: Shape, source: Source) -> Region {
        Region {
            start,
            shape,
            source: ManuallyDrop::new(source),
            owner: Process::current(),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Copies the region. The copy is locked if this region is and the limit permits it.
    pub(crate) fn copy(&self) -> io::Result<Region> {
        let mut region = self.shape.allocate()?;
        region.bytes_mut().copy_from_slice(self.bytes());
        Ok(region)
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.len
    }

    /// Returns the address for the kernel, which makes a pointer from it.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the region owns these `len` bytes, which were initialized when they were mapped. Nobody
        // writes them while `self` is borrowed: `bytes_mut` takes `&mut self`, and the kernel writes only to
        // a region inside an `Exclusive`, which gives out no `&Region`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.shape.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the region owns these `len` bytes. `&mut self` rules out other references and requests: a
        // request would own another `Arc` or an `Exclusive`.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.shape.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // A forked child did not inherit the memory; its addresses may belong to something else.
        if self.owner == Process::current() {
            // SAFETY: dropped only here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.source) };
        }
    }
}

/// Size and kind of the memory of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Number of bytes, at least 1.
    pub(crate) len: usize,
    /// Alignment of the address in bytes, a power of two.
    pub(crate) alignment: usize,
    /// Whether the memory is locked into RAM.
    pub(crate) locked: bool,
    /// Whether the memory is on huge pages if the system has them.
    pub(crate) huge: bool,
}

impl Shape {
    /// A shape of `len` bytes on ordinary pages, without further requirements.
    pub(crate) fn plain(len: usize) -> Shape {
        Shape {
            len,
            alignment: 1,
            locked: false,
            huge: false,
        }
    }

    /// Returns this shape with another alignment. Panics if `alignment` is not a power of two.
    pub(super) fn aligned_to(self, alignment: usize) -> Shape {
        assert!(
            alignment.is_power_of_two(),
            "an alignment must be a power of two, not {alignment}"
        );
        Shape { alignment, ..self }
    }

    /// Allocates zeroed memory of this shape. It is not locked if the limit does not permit it.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the length is 0. `ENOMEM`: there is not enough memory.
    pub(crate) fn allocate(self) -> io::Result<Region> {
        let mapping = self.map()?;
        // Locking is optional: the kernel pins the pages of every transfer.
        let locked = self.locked && mapping.lock().is_ok();
        Ok(self.region(mapping, locked))
    }

    /// Allocates zeroed memory of this shape. Fails if it has to be locked and can't be.
    pub(crate) fn allocate_strict(self) -> Result<Region, RegionError> {
        let mapping = self.map().map_err(RegionError::Map)?;
        if self.locked {
            mapping.lock().map_err(RegionError::Lock)?;
        }
        Ok(self.region(mapping, self.locked))
    }

    /// Maps memory of this shape, without locking it.
    pub(super) fn map(self) -> io::Result<Mapping> {
        let mapping = Mapping::aligned(self.len, self.alignment, self.huge)?;
        // If this fails, a forked child inherits the pages, which does no harm here.
        let _ = mapping.dont_fork();
        Ok(mapping)
    }

    fn region(self, mapping: Mapping, locked: bool) -> Region {
        let shape = Shape { locked, ..self };
        Region::of_source(mapping.start(), shape, Source::Mapping(mapping))
    }
}

/// Why a region can't be allocated.
#[derive(Debug)]
pub(crate) enum RegionError {
    /// The memory can't be mapped.
    Map(io::Error),
    /// The memory can't be locked.
    Lock(io::Error),
}

/// The only handle to a region. It gives no access to the bytes, since the kernel may be writing them.
#[derive(Debug)]
pub(crate) struct Exclusive(Arc<Region>);

impl Exclusive {
    /// Makes a region exclusive. Returns it unchanged if it has other owners.
    pub(crate) fn new(region: Arc<Region>) -> Result<Exclusive, Arc<Region>> {
        // No code creates a `Weak` of a region, so if the count is 1, this is the only owner, and stays so. The
        // fence pairs with the drop of the last other owner, which came after its use of the memory.
        if Arc::strong_count(&region) == 1 {
            atomic::fence(Ordering::Acquire);
            Ok(Exclusive(region))
        } else {
            Err(region)
        }
    }

    pub(crate) fn address(&self) -> u64 {
        self.0.address()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn shape(&self) -> Shape {
        self.0.shape()
    }

    /// Converts to a region whose bytes can be accessed. The kernel must be done with the memory: the driver
    /// returns the buffer of a request only after its completion, or if it was never submitted.
    pub(crate) fn release(self) -> Arc<Region> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_zeroed_and_page_aligned() {
        let region = Shape::plain(10_000).allocate().unwrap();
        assert_eq!(region.bytes().len(), 10_000);
        assert!(region.bytes().iter().all(|&b| b == 0));
        assert_eq!(region.address() % 4096, 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri unmaps whole mappings only")]
    fn a_region_is_aligned_as_its_shape_says() {
        for alignment in [1, 512, 4096, 1 << 16, 1 << 21, 1 << 24] {
            let shape = Shape {
                alignment,
                ..Shape::plain(3 << 12)
            };
            let mut region = shape.allocate().unwrap();
            assert_eq!(region.address() % alignment as u64, 0, "{alignment}");
            region.bytes_mut().fill(7);
        }
    }

    #[test]
    fn a_shared_region_is_not_exclusive() {
        let region = Arc::new(Shape::plain(1).allocate().unwrap());
        let shared = region.clone();
        let region = Exclusive::new(region).unwrap_err();
        drop(shared);
        Exclusive::new(region).unwrap();
    }

    #[test]
    fn sizes_that_cannot_be_mapped_are_errors() {
        for len in [0, usize::MAX, usize::MAX / 2] {
            Shape::plain(len).allocate().unwrap_err();
            let aligned = Shape {
                alignment: 1 << 30,
                ..Shape::plain(len)
            };
            aligned.allocate().unwrap_err();
        }
    }
}
