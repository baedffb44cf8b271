//! One piece of page-aligned memory, and who may touch it.
//!
//! A [`Region`] is always behind an `Arc`. What the kernel *reads* (a write's data) is shared with
//! the request: [`Region::bytes`] may be looked at meanwhile, nobody can change them. What the
//! kernel *writes* (a read's target) moves to the request as [`Exclusive`], of which there is one.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{self, Ordering};

use crate::sys::{Mapping, Process};

/// Zeroed, page-aligned memory that a forked child does not inherit.
#[derive(Debug)]
pub(crate) struct Region {
    mapping: ManuallyDrop<Mapping>,
    len: usize,
    locked: bool,
    owner: Process,
}

impl Region {
    /// `len` bytes, not locked.
    ///
    /// # Errors
    ///
    /// `EINVAL`: `len` is 0. `ENOMEM`: there is no such room.
    pub(crate) fn new(len: usize) -> io::Result<Region> {
        let mapping = Mapping::anonymous(len)?;
        // Kernels that can't would also hand the pages to a child; nothing here breaks then.
        let _ = mapping.dont_fork();
        Ok(Region {
            mapping: ManuallyDrop::new(mapping),
            len,
            locked: false,
            owner: Process::current(),
        })
    }

    /// Locks the memory into RAM.
    ///
    /// # Errors
    ///
    /// See [`Mapping::lock`].
    pub(crate) fn lock(&mut self) -> io::Result<()> {
        self.mapping.lock()?;
        self.locked = true;
        Ok(())
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape {
            len: self.len,
            locked: self.locked,
        }
    }

    /// A copy of this one; locked if this one is and the limit allows it.
    pub(crate) fn copy(&self) -> io::Result<Region> {
        let mut region = self.shape().make()?;
        region.bytes_mut().copy_from_slice(self.bytes());
        Ok(region)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.locked
    }

    /// For the kernel, which makes a pointer of it.
    pub(crate) fn address(&self) -> u64 {
        self.mapping.start().as_ptr().expose_provenance() as u64
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` mapped bytes. Nobody writes them while `self` is borrowed: `bytes_mut`
        // wants `&mut`, and the kernel writes only to a region inside `Exclusive`, which has no
        // way to a `&Region`.
        unsafe { slice::from_raw_parts(self.mapping.start().as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` mapped bytes, and `&mut self`: no other reference, no request (it would
        // hold another `Arc`, or be an `Exclusive`).
        unsafe { slice::from_raw_parts_mut(self.mapping.start().as_ptr(), self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // In a forked child the addresses may by now belong to something else.
        if self.owner == Process::current() {
            // SAFETY: dropped here only, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.mapping) };
        }
    }
}

/// What it takes to make a region like another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    len: usize,
    locked: bool,
}

impl Shape {
    /// Zeroed memory of this shape; not locked where the limit does not allow it.
    pub(crate) fn make(self) -> io::Result<Region> {
        let mut region = Region::new(self.len)?;
        if self.locked {
            // Locking is a convenience: the kernel pins the pages of every transfer.
            let _ = region.lock();
        }
        Ok(region)
    }
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
        let region = Region::new(10_000).unwrap();
        assert_eq!(region.bytes().len(), 10_000);
        assert!(region.bytes().iter().all(|&b| b == 0));
        assert_eq!(region.address() % 4096, 0);
    }

    #[test]
    fn a_shared_region_is_not_exclusive() {
        let region = Arc::new(Region::new(1).unwrap());
        let shared = region.clone();
        let region = Exclusive::new(region).unwrap_err();
        drop(shared);
        Exclusive::new(region).unwrap();
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for len in [0, usize::MAX, usize::MAX / 2] {
            Region::new(len).unwrap_err();
        }
    }
}
