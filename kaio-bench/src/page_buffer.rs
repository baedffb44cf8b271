//! [`PageBuffer`]: a page-aligned buffer for direct I/O.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A page-aligned buffer for `O_DIRECT`. All of its pages are resident when it is created.
pub struct PageBuffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer owns its memory and lends it only through `&self` and `&mut self`.
unsafe impl Send for PageBuffer {}
// SAFETY: as above.
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// Allocates `len` bytes.
    ///
    /// # Panics
    ///
    /// If `len` is 0 or exceeds `isize::MAX`.
    pub fn new(len: usize) -> PageBuffer {
        assert_ne!(len, 0);
        let layout =
            Layout::from_size_align(len, 4096).expect("the length fits in the address space");
        // SAFETY: the length is not 0.
        let start = unsafe { alloc::alloc(layout) };
        let Some(start) = NonNull::new(start) else {
            alloc::handle_alloc_error(layout)
        };
        // SAFETY: `len` bytes were allocated at `start` above.
        unsafe { start.write_bytes(0x5a, len) };
        PageBuffer { start, layout }
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `self` owns this many initialised bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `self` owns this many initialised bytes.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        // SAFETY: `new` allocated the memory with this layout, and only `drop` frees it.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageBuffer({} bytes)", self.layout.size())
    }
}
