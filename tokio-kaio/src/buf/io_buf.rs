//! [`IoBuf`] and [`IoBufMut`]: owned buffers, which an operation owns while it runs.
#![allow(unsafe_code)]

use super::AlignedBuf;

/// A buffer that an operation can own while the kernel writes its bytes to a file.
///
/// Operations on owned buffers take the buffer and return it: `(result, buffer)`. While an operation runs,
/// its request owns the buffer. If the future is dropped, the request drops the buffer when the kernel is
/// done with it. If the operation ends while the kernel still uses the buffer, at its deadline or because
/// the runtime ends, the operation returns the [`Default`] instead. The `Default` must be an empty buffer; an
/// operation on it succeeds and transfers nothing. A write of a whole [`AlignedBuf`] always returns the
/// buffer, since the memory is shared.
///
/// Implemented for [`AlignedBuf`], `Vec<u8>`, `Box<[u8]>`, `&'static [u8]`, a
/// [`Slice`](crate::Slice) of any of them and, with the feature `bytes`, `Bytes` and `BytesMut`. An
/// operation on an `AlignedBuf` allocates nothing; an operation on another type makes two small allocations.
///
/// Direct I/O requires aligned memory ([`File::alignment`](crate::File::alignment)); the kernel refuses
/// other memory with `EINVAL`. The allocator aligns a `Vec` enough for a device that requires 4 bytes, but
/// mostly not for a device that requires 512. Use an `AlignedBuf` there, or
/// [`read_bytes_at`](crate::File::read_bytes_at), which copies. tmpfs and
/// [buffered](crate::File::is_direct) files accept any memory.
///
/// # Safety
///
/// [`stable_ptr`](IoBuf::stable_ptr) must point to [`bytes_init`](IoBuf::bytes_init) initialized bytes. The
/// bytes must stay valid, unchanged and at the same address until the buffer is dropped or used in any way
/// other than being moved. Moving the buffer must not move the bytes.
///
/// # Examples
///
/// ```
/// use tokio_kaio::IoBuf;
///
/// /// A block of a cache, which other threads may read at the same time.
/// #[derive(Default)]
/// struct Block(std::sync::Arc<[u8]>);
///
/// // SAFETY: the bytes behind the `Arc` stay at the same address, and nobody changes them.
/// unsafe impl IoBuf for Block {
///     fn stable_ptr(&self) -> *const u8 {
///         self.0.as_ptr()
///     }
///
///     fn bytes_init(&self) -> usize {
///         self.0.len()
///     }
/// }
/// # assert_eq!(Block::default().bytes_init(), 0);
/// ```
pub unsafe trait IoBuf: Default + Send + 'static {
    /// Returns a pointer to the bytes.
    fn stable_ptr(&self) -> *const u8;

    /// Returns the number of initialized bytes, which a write writes.
    fn bytes_init(&self) -> usize;

    /// Converts a range of the buffer to a buffer. [`Slice::into_inner`](crate::Slice::into_inner) returns the
    /// whole. (The method is not called `slice`, since `Bytes` has a method of that name.)
    ///
    /// # Panics
    ///
    /// An operation on the slice panics if the range is not within [`bytes_init`](IoBuf::bytes_init). A read
    /// into the slice panics if the range is not within [`bytes_total`](IoBufMut::bytes_total), or starts
    /// behind `bytes_init`, for example at 1 of an empty `Vec`: the bytes before the range would be left
    /// uninitialized.
    #[must_use = "a dropped slice drops its buffer"]
    fn into_slice(self, range: impl std::ops::RangeBounds<usize>) -> crate::Slice<Self>
    where
        Self: Sized,
    {
        crate::Slice::new(self, range)
    }

    /// Returns [`bytes_init`](IoBuf::bytes_init), but does not panic for a [`Slice`](crate::Slice) that ends
    /// behind the initialized bytes.
    #[doc(hidden)]
    fn bytes_init_so_far(&self) -> usize {
        self.bytes_init()
    }
}

/// A buffer that an operation can own while the kernel reads bytes of a file into it.
///
/// # Safety
///
/// The requirements of [`IoBuf`] hold. [`stable_mut_ptr`](IoBufMut::stable_mut_ptr) must return the same
/// address, of [`bytes_total`](IoBufMut::bytes_total) bytes that may be written, initialized or not. Nobody
/// else may read or write them until the buffer is used again.
pub unsafe trait IoBufMut: IoBuf {
    /// Returns a pointer to the bytes.
    fn stable_mut_ptr(&mut self) -> *mut u8;

    /// Returns the number of bytes that the buffer has room for, which a read reads at most.
    fn bytes_total(&self) -> usize;

    /// Records that the first `len` bytes are initialized. Bytes that were initialized before stay so.
    ///
    /// # Safety
    ///
    /// The first `len` bytes are initialized, and `len` is at most [`bytes_total`](IoBufMut::bytes_total).
    unsafe fn set_init(&mut self, len: usize);
}

// SAFETY: the bytes are in the vector's allocation, which does not move with the vector.
unsafe impl IoBuf for Vec<u8> {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; a vector owns all of its capacity.
unsafe impl IoBufMut for Vec<u8> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    fn bytes_total(&self) -> usize {
        self.capacity()
    }

    unsafe fn set_init(&mut self, len: usize) {
        if len > self.len() {
            // SAFETY: the caller guarantees it.
            unsafe { self.set_len(len) };
        }
    }
}

// SAFETY: the bytes are in the box's allocation, which does not move with the box.
unsafe impl IoBuf for Box<[u8]> {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; all of its bytes are initialized.
unsafe impl IoBufMut for Box<[u8]> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    fn bytes_total(&self) -> usize {
        self.len()
    }

    unsafe fn set_init(&mut self, _len: usize) {}
}

// SAFETY: the bytes are static, and nobody changes them behind a shared reference.
unsafe impl IoBuf for &'static [u8] {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: the bytes are in a mapping, which does not move with the buffer, and change only through `&mut`.
unsafe impl IoBuf for AlignedBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.size()
    }
}

// SAFETY: as above; mutable access makes the buffer the only owner of its memory.
unsafe impl IoBufMut for AlignedBuf {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    fn bytes_total(&self) -> usize {
        self.size()
    }

    unsafe fn set_init(&mut self, _len: usize) {}
}

#[cfg(feature = "bytes")]
mod bytes_impls {
    use bytes::{Bytes, BytesMut};

    use super::{AlignedBuf, IoBuf, IoBufMut};

    // SAFETY: the bytes are immutable, and stay at the same address as long as one `Bytes` refers to them.
    unsafe impl IoBuf for Bytes {
        fn stable_ptr(&self) -> *const u8 {
            self.as_ptr()
        }

        fn bytes_init(&self) -> usize {
            self.len()
        }
    }

    // SAFETY: the bytes are in an allocation, which does not move with the handle, and only this handle
    // accesses them.
    unsafe impl IoBuf for BytesMut {
        fn stable_ptr(&self) -> *const u8 {
            self.as_ptr()
        }

        fn bytes_init(&self) -> usize {
            self.len()
        }
    }

    // SAFETY: as above; only this handle accesses its capacity.
    unsafe impl IoBufMut for BytesMut {
        fn stable_mut_ptr(&mut self) -> *mut u8 {
            self.as_mut_ptr()
        }

        fn bytes_total(&self) -> usize {
            self.capacity()
        }

        unsafe fn set_init(&mut self, len: usize) {
            if len > self.len() {
                // SAFETY: the caller guarantees it.
                unsafe { self.set_len(len) };
            }
        }
    }

    /// Converts the buffer without a copy. The memory is freed, or returns to its pool, when the last `Bytes`
    /// that refers to some of it is dropped.
    ///
    /// The conversion uses [`Bytes::from_owner`]. Therefore [`Bytes::is_unique`] always returns `false`, and
    /// [`Bytes::try_into_mut`] always fails, even if there is no other `Bytes`; [`BytesMut::from`] copies. To
    /// find out whether others still read the memory, count the readers yourself, for example with an
    /// [`Arc`](std::sync::Arc).
    ///
    /// A cache that keeps `Bytes` of pooled buffers keeps these buffers, even for slices of a few bytes. The
    /// pool needs as many buffers as the cache keeps and the requests in flight use; otherwise
    /// [`BufferPool::get`](crate::BufferPool::get) waits forever, unless [`tokio::time::timeout`] limits it.
    ///
    /// # Examples
    ///
    /// ```
    /// use bytes::Bytes;
    /// use tokio_kaio::BufferPool;
    ///
    /// let pool = BufferPool::new(1, 4096)?;
    /// let bytes = Bytes::from(pool.try_get().unwrap());
    /// let kept = bytes.slice(..16);
    /// drop(bytes);
    /// assert!(pool.try_get().is_none() && !kept.is_unique());
    /// drop(kept);
    /// assert_eq!(pool.available(), 1);
    /// # Ok::<(), tokio_kaio::LockedBufError>(())
    /// ```
    impl From<AlignedBuf> for Bytes {
        fn from(buffer: AlignedBuf) -> Bytes {
            Bytes::from_owner(buffer)
        }
    }
}
