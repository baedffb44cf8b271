//! [`UringBuffer`]: memory for direct I/O, with the traits of the crates that bring none of their
//! own.

// The traits are promises on where memory stays, so that they are unsafe to make.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use kaio_bench::Buffer;

/// The memory of kaio-bench's own engines. The value moves; its memory does not.
#[derive(Debug)]
pub(crate) struct UringBuffer(Buffer);

impl UringBuffer {
    /// `len` bytes.
    pub(crate) fn new(len: usize) -> UringBuffer {
        UringBuffer(Buffer::new(len))
    }
}

// SAFETY: the address is that of an allocation which the value owns as long as it lives, wherever
// it moves; all of its bytes are initialized.
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

// SAFETY: as above.
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
        // SAFETY: the two have one layout, and the borrow is that of `self`. As with `Vec`'s, whoever
        // gets it leaves initialized what is.
        unsafe { &mut *(bytes as *mut [MaybeUninit<u8>]) }
    }
}
