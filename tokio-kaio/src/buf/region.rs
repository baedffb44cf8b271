//! One piece of memory that the kernel may touch, and who else may.
//!
//! A [`Region`] is always behind an `Arc`. What the kernel *reads* (a write's data) is shared with
//! the request: [`Region::bytes`] may be looked at meanwhile, nobody can change them. What the
//! kernel *writes* (a read's target) moves to the request as [`Exclusive`], of which there is one.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{self, Ordering};

use super::buffer_pool::Place;
use crate::sys::{Mapping, Process};

/// Memory that is initialized, aligned as its [`Shape`] says, and not inherited by a forked child.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    shape: Shape,
    source: ManuallyDrop<Source>,
    owner: Process,
}

// SAFETY: plain memory, not bound to a thread. It is written through `&mut Region` or by the kernel,
// which has an `Exclusive` then.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// What the memory goes back to.
#[derive(Debug)]
enum Source {
    /// The system.
    Mapping(#[allow(dead_code, reason = "unmapped when it is dropped")] Mapping),
    /// A pool.
    Place(#[allow(dead_code, reason = "free again when it is dropped")] Place),
}

impl Region {
    /// A place in a pool's memory: `shape.len` bytes at `start`, which are valid and nobody else's as
    /// long as `place` is there.
    pub(super) fn placed(start: NonNull<u8>, shape: Shape, place: Place) -> Region {
        Region {
            start,
            shape,
            source: ManuallyDrop::new(Source::Place(place)),
            owner: Process::current(),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// A copy of this one; locked if this one is and the limit allows it.
    pub(crate) fn copy(&self) -> io::Result<Region> {
        let mut region = self.shape.make()?;
        region.bytes_mut().copy_from_slice(self.bytes());
        Ok(region)
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.len
    }

    /// For the kernel, which makes a pointer of it.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes of its own, initialized when they were mapped. Nobody writes them
        // while `self` is borrowed: `bytes_mut` wants `&mut`, and the kernel writes only to a region
        // inside `Exclusive`, which has no way to a `&Region`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.shape.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes of its own, and `&mut self`: no other reference, no request (it would
        // hold another `Arc`, or be an `Exclusive`).
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.shape.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // In a forked child the addresses may by now belong to something else.
        if self.owner == Process::current() {
            // SAFETY: dropped here only, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.source) };
        }
    }
}

/// What it takes to make a region, or one like another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes, at least 1.
    pub(crate) len: usize,
    /// Of its address: a power of two.
    pub(crate) alignment: usize,
    /// In RAM to stay.
    pub(crate) locked: bool,
    /// On huge pages, as far as there are any.
    pub(crate) huge: bool,
}

impl Shape {
    /// `len` bytes as they come from the system.
    pub(crate) fn plain(len: usize) -> Shape {
        Shape {
            len,
            alignment: 1,
            locked: false,
            huge: false,
        }
    }

    /// Panics if `alignment` is no power of two.
    pub(super) fn aligned_to(self, alignment: usize) -> Shape {
        assert!(
            alignment.is_power_of_two(),
            "an alignment should be a power of two, not {alignment}"
        );
        Shape { alignment, ..self }
    }

    /// Zeroed memory of this shape; not locked where the limit does not allow it.
    ///
    /// # Errors
    ///
    /// `EINVAL`: no bytes. `ENOMEM`: there is no such room.
    pub(crate) fn make(self) -> io::Result<Region> {
        let made = self.make_mapped()?;
        // Locking is a convenience: the kernel pins the pages of every transfer.
        let locked = self.locked && made.lock().is_ok();
        Ok(self.region(made, locked))
    }

    /// The same, locked if it is to be, or not at all.
    pub(crate) fn make_strictly(self) -> Result<Region, Unmade> {
        let made = self.make_mapped().map_err(Unmade::NoMemory)?;
        if self.locked {
            made.lock().map_err(Unmade::NotLocked)?;
        }
        Ok(self.region(made, self.locked))
    }

    /// Mapped, not locked yet.
    pub(super) fn make_mapped(self) -> io::Result<Mapping> {
        let mapping = Mapping::aligned(self.len, self.alignment, self.huge)?;
        // Kernels that can't would also hand the pages to a child; nothing here breaks then.
        let _ = mapping.dont_fork();
        Ok(mapping)
    }

    fn region(self, mapping: Mapping, locked: bool) -> Region {
        Region {
            start: mapping.start(),
            shape: Shape { locked, ..self },
            source: ManuallyDrop::new(Source::Mapping(mapping)),
            owner: Process::current(),
        }
    }
}

/// Why there is no region.
#[derive(Debug)]
pub(crate) enum Unmade {
    NoMemory(io::Error),
    NotLocked(io::Error),
}

/// The only handle on a region, and no way to look into it: the kernel may be writing there.
#[derive(Debug)]
pub(crate) struct Exclusive(Arc<Region>);

impl Exclusive {
    /// Gives the region back where somebody else shares it.
    pub(crate) fn new(region: Arc<Region>) -> Result<Exclusive, Arc<Region>> {
        // Nobody makes a `Weak` of a region, so a count of 1 is this one, and stays so. The fence
        // pairs with the drop of the last other one, which comes after its use of the memory.
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

    /// Back to memory that can be looked at. The kernel must be done with it: the request table
    /// gives a region out, to the buffer that it goes back to, only for requests that are done or
    /// never went out.
    pub(crate) fn release(self) -> Arc<Region> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_zeroed_and_page_aligned() {
        let region = Shape::plain(10_000).make().unwrap();
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
            let mut region = shape.make().unwrap();
            assert_eq!(region.address() % alignment as u64, 0, "{alignment}");
            region.bytes_mut().fill(7);
        }
    }

    #[test]
    fn a_shared_region_is_not_exclusive() {
        let region = Arc::new(Shape::plain(1).make().unwrap());
        let shared = region.clone();
        let region = Exclusive::new(region).unwrap_err();
        drop(shared);
        Exclusive::new(region).unwrap();
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for len in [0, usize::MAX, usize::MAX / 2] {
            Shape::plain(len).make().unwrap_err();
            let aligned = Shape {
                alignment: 1 << 30,
                ..Shape::plain(len)
            };
            aligned.make().unwrap_err();
        }
    }
}
