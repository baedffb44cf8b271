//! [`IoBuf`] and [`IoBufMut`]: buffers of the caller's that operations own while they run.
#![allow(unsafe_code)]

use super::AlignedBuf;

/// A buffer that an operation can own while the kernel writes its bytes to a file.
///
/// Operations on owned buffers take the buffer and return it: `(result, buffer)`. While an operation runs,
/// its request owns the buffer. If the future is dropped, the request drops the buffer when the kernel is
/// done with it. If the operation ends while the kernel still has the buffer, at its deadline or because
/// the runtime ends, the operation returns the [`Default`] instead, which must be an empty buffer: an
/// operation on that moves nothing, and is no error. (A write of a whole [`AlignedBuf`] always returns it,
/// since the memory is shared.)
///
/// Implemented for [`AlignedBuf`], `Vec<u8>`, `Box<[u8]>`, `&'static [u8]`, a
/// [`Slice`](crate::Slice) of any of them and, with the feature `bytes`, `Bytes` and `BytesMut`. An
/// operation on the first allocates nothing; on others it makes two small allocations.
///
/// Direct I/O requires aligned memory ([`File::alignment`](crate::File::alignment)); the kernel refuses
/// other memory with `EINVAL`. The allocator aligns a `Vec` enough for a device that requires 4 bytes, but
/// mostly not for one that requires 512. Use an `AlignedBuf` there, or
/// [`read_bytes_at`](crate::File::read_bytes_at), which copies. tmpfs and
/// [buffered](crate::File::is_direct) files accept any memory.
///
/// # Safety
///
/// [`stable_ptr`](IoBuf::stable_ptr) points to [`bytes_init`](IoBuf::bytes_init) initialized bytes,
/// which stay valid and unchanged where they are until the buffer is dropped or used in another way
/// than being moved: moving it must not move them.
///
/// # Examples
///
/// ```
/// use tokio_kaio::IoBuf;
///
/// /// Blocks of a cache, which others may read at the same time.
/// #[derive(Default)]
/// struct Block(std::sync::Arc<[u8]>);
///
/// // SAFETY: what is behind the `Arc` stays where it is, and nobody changes it.
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
    /// Where the bytes are.
    fn stable_ptr(&self) -> *const u8;

    /// How many there are: what a write writes.
    fn bytes_init(&self) -> usize;

    /// A range of the buffer as a buffer, which has the whole with it:
    /// [`into_inner`](crate::Slice::into_inner). (Not `slice`, which `Bytes` has of its own.)
    ///
    /// # Panics
    ///
    /// If the range is not within [`bytes_init`](IoBuf::bytes_init) or, to read into, is not within
    /// [`bytes_total`](IoBufMut::bytes_total) or starts past `bytes_init`, as one of a `Vec` that is
    /// empty: bytes before it would be left uninitialized. It is checked when it is used.
    #[must_use = "it has the buffer, which is dropped with it"]
    fn into_slice(self, range: impl std::ops::RangeBounds<usize>) -> crate::Slice<Self>
    where
        Self: Sized,
    {
        crate::Slice::new(self, range)
    }

    /// As [`bytes_init`](IoBuf::bytes_init), but that a range which goes further is no mistake.
    #[doc(hidden)]
    fn bytes_init_so_far(&self) -> usize {
        self.bytes_init()
    }
}

/// A buffer that can be handed over, for the kernel to read a file's bytes into.
///
/// # Safety
///
/// As for [`IoBuf`]; and [`stable_mut_ptr`](IoBufMut::stable_mut_ptr), to the same place, points to
/// [`bytes_total`](IoBufMut::bytes_total) bytes that may be written, initialized or not, and that
/// nobody else reads or writes until the buffer is used again.
pub unsafe trait IoBufMut: IoBuf {
    /// Where the bytes go.
    fn stable_mut_ptr(&mut self) -> *mut u8;

    /// How many there is room for: what a read reads at most.
    fn bytes_total(&self) -> usize;

    /// Tells that the first `len` bytes have been initialized. Those that were before stay so.
    ///
    /// # Safety
    ///
    /// They have, and are not more than there is room for.
    unsafe fn set_init(&mut self, len: usize);
}

// SAFETY: the bytes are in the vector's allocation, which moving the vector leaves alone.
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
            // SAFETY: the caller's promise.
            unsafe { self.set_len(len) };
        }
    }
}

// SAFETY: the bytes are in the box's allocation, which moving the box leaves alone.
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

// SAFETY: static, and nobody changes what is behind a shared reference.
unsafe impl IoBuf for &'static [u8] {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: the bytes are in a mapping, which moving the buffer leaves alone, and changed through
// `&mut` only.
unsafe impl IoBuf for AlignedBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.size()
    }
}

// SAFETY: as above; mutable access makes the buffer the only one that has the memory.
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
mod of_bytes {
    use bytes::{Bytes, BytesMut};

    use super::{AlignedBuf, IoBuf, IoBufMut};

    // SAFETY: the bytes are immutable, and stay where they are as long as one `Bytes` has them.
    unsafe impl IoBuf for Bytes {
        fn stable_ptr(&self) -> *const u8 {
            self.as_ptr()
        }

        fn bytes_init(&self) -> usize {
            self.len()
        }
    }

    // SAFETY: the bytes are in an allocation that moving the handle leaves alone, and this handle's
    // own.
    unsafe impl IoBuf for BytesMut {
        fn stable_ptr(&self) -> *const u8 {
            self.as_ptr()
        }

        fn bytes_init(&self) -> usize {
            self.len()
        }
    }

    // SAFETY: as above; all of its capacity is its own.
    unsafe impl IoBufMut for BytesMut {
        fn stable_mut_ptr(&mut self) -> *mut u8 {
            self.as_mut_ptr()
        }

        fn bytes_total(&self) -> usize {
            self.capacity()
        }

        unsafe fn set_init(&mut self, len: usize) {
            if len > self.len() {
                // SAFETY: the caller's promise.
                unsafe { self.set_len(len) };
            }
        }
    }

    /// Without a copy. The memory goes back, to its pool if it is of one, when the last `Bytes` that
    /// has some of it is dropped.
    ///
    /// It is made by [`Bytes::from_owner`], so [`Bytes::is_unique`] is always `false` of it, and
    /// [`Bytes::try_into_mut`] always fails, even of the only one; [`BytesMut::from`] copies. To know
    /// whether anybody else reads it, count the readers yourself, as by an
    /// [`Arc`](std::sync::Arc) around it.
    ///
    /// A cache that keeps `Bytes` of a pool's buffers keeps these buffers, and be it for a slice of a few
    /// bytes. The pool has to have as many as the cache keeps and the requests in flight take, or
    /// [`BufferPool::get`](crate::BufferPool::get) waits for ever; with [`tokio::time::timeout`] it does
    /// not.
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
