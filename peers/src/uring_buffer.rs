//! [`UringBuffer`]: a buffer for direct I/O with the buffer traits of tokio-uring and compio.

// The traits of tokio-uring are unsafe to implement.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use kaio_bench::PageBuffer;

/// Wraps the buffer of kaio-bench's own engines. Moving the value does not move its memory.
#[derive(Debug)]
pub(crate) struct UringBuffer(PageBuffer);

impl UringBuffer {
    /// Allocates `len` bytes.
    pub(crate) fn new(len: usize) -> UringBuffer {
        UringBuffer(PageBuffer::new(len))
    }
}

// SAFETY: the value owns its allocation, whose address does not change when the value moves; all bytes
// are initialized.
unsafe impl tokio_uring::buf::IoBuf for UringBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }

    fn bytes_total(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: as for `IoBuf`.
unsafe impl tokio_uring::buf::IoBufMut for UringBuffer {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    unsafe fn set_init(&mut self, _: usize) {}
}

impl compio::buf::IoBuf for UringBuffer {
    fn as_init(&self) -> &[u8] {
        &self.0
    }
}

impl compio::buf::SetLen for UringBuffer {
    unsafe fn set_len(&mut self, _: usize) {}
}

impl compio::buf::IoBufMut for UringBuffer {
    fn as_uninit(&mut self) -> &mut [MaybeUninit<u8>] {
        let bytes = &raw mut *self.0;
        // SAFETY: `u8` and `MaybeUninit<u8>` have the same layout, and the result borrows `self`. As for
        // `Vec`, the caller must not write uninitialized bytes.
        unsafe { &mut *(bytes as *mut [MaybeUninit<u8>]) }
    }
}
