//! [`AlignedBuf`]: the buffer of every read and write.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::{fmt, io, mem};

use super::region::RegionError;
use super::{Exclusive, LockedBufError, Region, Shape};

/// A buffer of fixed size for reads and writes, aligned for direct I/O.
///
/// Operations take `&mut AlignedBuf` to read into and `&AlignedBuf` to write from. Operations on
/// [owned buffers](crate::IoBuf) take the buffer itself and return it. The buffer is a slice of bytes, which
/// are all initialized, to zeroes at first.
///
/// The constructors differ in the memory that they allocate: ordinary pages ([`new`](AlignedBuf::new)), pages
/// that are locked into RAM ([`with_size`](AlignedBuf::with_size), also known as [`LockedBuf`]), memory with a
/// larger alignment ([`with_alignment`](AlignedBuf::with_alignment)), or huge pages
/// ([`huge`](AlignedBuf::huge)). All of them map whole pages and unmap them when the buffer is dropped. That
/// takes system calls and page faults, so reuse buffers, or take them from a
/// [`BufferPool`](crate::BufferPool).
///
/// # While an operation runs
///
/// A read owns the memory of the buffer until its future completes; a write shares the memory. This keeps
/// the memory safe when a future is dropped or forgotten:
///
/// - A *dropped* read leaves a buffer of the same size with one of three contents: the old content (the
///   kernel never had the request), zeroes (the kernel still uses the old memory, so this memory is new, and
///   not from the pool even if the old memory was), or the data that was read (the read was complete). The
///   content is never a mixture, and does not change any more. New memory is locked if the old memory was and
///   `RLIMIT_MEMLOCK` permits it: see [`is_locked`](AlignedBuf::is_locked). If there is no memory, the
///   buffer is empty.
/// - A read that was polled and then *forgotten* ([`std::mem::forget`]) leaves the buffer empty:
///   [`size`](AlignedBuf::size) is 0, and a transfer of more than 0 bytes panics.
/// - A write that is dropped or forgotten in flight continues to use the memory. If the buffer is accessed
///   mutably before the write is complete, the buffer moves to a copy, so the write writes the bytes that
///   were submitted.
///
/// A child process made by [`fork(2)`](https://man7.org/linux/man-pages/man2/fork.2.html) does not inherit
/// the memory: it gets a segmentation fault when it touches the buffer.
///
/// # Panics
///
/// Mutable access (`&mut` to the bytes, [`AsMut`]) panics if a dropped write from this buffer is still in
/// flight and there is no memory for the copy.
///
/// # Examples
///
/// ```
/// use tokio_kaio::AlignedBuf;
///
/// let mut buffer = AlignedBuf::new(8192)?;
/// buffer[..5].copy_from_slice(b"hello");
/// assert_eq!(buffer.size(), 8192);
/// assert_eq!(&buffer[..6], b"hello\0");
/// assert_eq!(buffer.as_ptr().addr() % 4096, 0);
/// # Ok::<(), tokio_kaio::LockedBufError>(())
/// ```
///
/// [`LockedBuf`]: crate::LockedBuf
#[derive(Default)]
pub struct AlignedBuf {
    /// `None`: a read has the memory, or there was no memory to replace that of a dropped read.
    region: Option<Arc<Region>>,
}

/// The name of [`AlignedBuf`] in `linux-aio-tokio`, where [`with_size`](AlignedBuf::with_size), which locks
/// the memory into RAM, is the only constructor.
///
/// # Examples
///
/// ```
/// use tokio_kaio::LockedBuf;
///
/// let mut buffer = LockedBuf::with_size(4096)?;
/// buffer.as_mut()[..5].copy_from_slice(b"hello");
/// assert_eq!(buffer.size(), 4096);
/// assert_eq!(&buffer.as_ref()[..6], b"hello\0");
/// assert!(buffer.is_locked());
/// # Ok::<(), tokio_kaio::LockedBufError>(())
/// ```
pub type LockedBuf = AlignedBuf;

impl AlignedBuf {
    /// Allocates a buffer of `size` bytes, aligned to a page, which is enough for direct I/O on nearly every
    /// device. It is not locked.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: the size is 0, or there is not enough memory.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::AlignedBuf;
    ///
    /// let buffer = AlignedBuf::new(8192)?;
    /// assert!(buffer.len() == 8192 && buffer.iter().all(|&byte| byte == 0));
    /// # Ok::<(), tokio_kaio::LockedBufError>(())
    /// ```
    pub fn new(size: usize) -> Result<AlignedBuf, LockedBufError> {
        AlignedBuf::allocate(Shape::plain(size))
    }

    /// Allocates a buffer of `size` bytes, aligned to a page and locked into RAM. Locked memory is not swapped
    /// out, and the first transfer causes no page faults. No operation requires it: the kernel pins the pages
    /// of every transfer.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: the size is 0, or there is not enough memory.
    /// [`LockedBufError::MemLock`]: `RLIMIT_MEMLOCK` does not permit it. See
    /// [`mlock(2)`](https://man7.org/linux/man-pages/man2/mlock.2.html).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::AlignedBuf;
    ///
    /// assert!(AlignedBuf::with_size(4096)?.is_locked());
    /// # Ok::<(), tokio_kaio::LockedBufError>(())
    /// ```
    pub fn with_size(size: usize) -> Result<AlignedBuf, LockedBufError> {
        AlignedBuf::allocate(Shape {
            locked: true,
            ..Shape::plain(size)
        })
    }

    /// Allocates a buffer of `size` bytes at an address that is a multiple of `alignment` and of the page
    /// size. It is not locked.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: the size is 0, or there is not enough memory.
    ///
    /// # Panics
    ///
    /// If `alignment` is not a power of two.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::AlignedBuf;
    ///
    /// let buffer = AlignedBuf::with_alignment(4096, 1 << 20)?;
    /// assert_eq!(buffer.as_ptr().addr() % (1 << 20), 0);
    /// # Ok::<(), tokio_kaio::LockedBufError>(())
    /// ```
    pub fn with_alignment(size: usize, alignment: usize) -> Result<AlignedBuf, LockedBufError> {
        AlignedBuf::allocate(Shape::plain(size).aligned_to(alignment))
    }

    /// Allocates a buffer of `size` bytes on transparent huge pages if the system has them
    /// (`/sys/kernel/mm/transparent_hugepage`), else on ordinary pages. It is not locked. The memory consists
    /// of whole huge pages of 2 MiB, so this is for large buffers. They cause fewer page faults, and less work
    /// for the kernel, which has to look up every page of a transfer. See
    /// [`madvise(2)`](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_HUGEPAGE`.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`]: the size is 0, or there is not enough memory.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::AlignedBuf;
    ///
    /// let buffer = AlignedBuf::huge(4 << 20)?;
    /// assert_eq!(buffer.as_ptr().addr() % (2 << 20), 0);
    /// # Ok::<(), tokio_kaio::LockedBufError>(())
    /// ```
    pub fn huge(size: usize) -> Result<AlignedBuf, LockedBufError> {
        AlignedBuf::allocate(Shape {
            huge: true,
            ..Shape::plain(size)
        })
    }

    pub(super) fn allocate(shape: Shape) -> Result<AlignedBuf, LockedBufError> {
        if shape.len == 0 {
            return Err(LockedBufError::zero_size());
        }
        match shape.allocate_strict() {
            Ok(region) => Ok(AlignedBuf::from_region(region)),
            Err(RegionError::Map(error)) => Err(LockedBufError::MapAnon(error)),
            Err(RegionError::Lock(error)) => Err(LockedBufError::MemLock(error)),
        }
    }

    pub(super) fn from_region(region: Region) -> AlignedBuf {
        AlignedBuf {
            region: Some(Arc::new(region)),
        }
    }

    /// Returns the number of bytes. 0 after a read into the buffer was forgotten.
    pub fn size(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.len())
    }

    /// Returns whether the memory is locked into RAM. `false` for a [`LockedBuf`](crate::LockedBuf) whose
    /// memory was replaced or copied after an operation was dropped, if `RLIMIT_MEMLOCK` did not permit to
    /// lock the new memory.
    pub fn is_locked(&self) -> bool {
        let locked = |region: &Arc<Region>| region.shape().locked;
        self.region.as_ref().is_some_and(locked)
    }

    /// Returns the memory, for a write to share. `None`: the buffer is empty.
    pub(crate) fn share(&self) -> Option<Arc<Region>> {
        self.region.clone()
    }

    /// Takes the memory out of the buffer, for a read to fill. [`give_back`](AlignedBuf::give_back) returns it.
    /// `None`: the buffer is empty.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: an abandoned write still uses the memory, and there is no memory for a copy. The buffer is
    /// unchanged.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> io::Result<Option<Exclusive>> {
        let Some(region) = self.region.take() else {
            return Ok(None);
        };
        match Exclusive::new(region) {
            Ok(exclusive) => Ok(Some(exclusive)),
            Err(shared) => self.take_copy(shared),
        }
    }

    /// Takes a copy of memory that an abandoned write still uses.
    #[cold]
    fn take_copy(&mut self, shared: Arc<Region>) -> io::Result<Option<Exclusive>> {
        match shared.copy() {
            // The copy was made here, so it has no other owner.
            Ok(copy) => Ok(Exclusive::new(Arc::new(copy)).ok()),
            Err(error) => {
                self.region = Some(shared);
                Err(error)
            }
        }
    }

    /// Puts back memory that was taken. The buffer is empty.
    #[inline(always)]
    pub(crate) fn give_back(&mut self, region: Exclusive) {
        let previous = self.region.replace(region.release());
        debug_assert!(previous.is_none());
        mem::forget(previous); // it is `None`; this saves the code to drop it
    }

    /// Allocates new memory in place of memory that the kernel still uses. The buffer stays empty if there is
    /// no memory.
    pub(crate) fn replace(&mut self, shape: Shape) {
        self.region = shape.allocate().ok().map(Arc::new);
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.region.as_ref().map_or(&[], |region| region.bytes())
    }
}

impl AsMut<[u8]> for AlignedBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        let Some(region) = &mut self.region else {
            return &mut [];
        };
        if Arc::get_mut(region).is_none() {
            let copy = region.copy().unwrap_or_else(|error| {
                panic!("no memory for a copy of a buffer that a dropped write still uses: {error}")
            });
            *region = Arc::new(copy);
        }
        match Arc::get_mut(region) {
            Some(region) => region.bytes_mut(),
            None => unreachable!("a new region has one owner"),
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut()
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf")
            .field("size", &self.size())
            .field("locked", &self.is_locked())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_during_a_write_changes_a_copy() {
        let mut buffer = AlignedBuf::new(3).unwrap();
        buffer.copy_from_slice(b"old");
        let in_flight = buffer.share().unwrap();
        buffer[0] = b'b';
        assert_eq!(in_flight.bytes(), b"old");
        assert_eq!(&*buffer, b"bld");
    }

    #[test]
    fn without_a_write_in_flight_the_buffer_keeps_its_memory() {
        let mut buffer = AlignedBuf::new(3).unwrap();
        let before = buffer.as_ptr();
        drop(buffer.share());
        assert_eq!(buffer.as_mut().as_ptr(), before);
    }

    #[test]
    fn a_read_during_a_write_fills_a_copy() {
        let mut buffer = AlignedBuf::new(3).unwrap();
        let in_flight = buffer.share().unwrap();
        let target = buffer.take().unwrap().unwrap();
        assert_ne!(target.address(), in_flight.address());
    }

    #[test]
    fn a_buffer_is_empty_until_its_taken_memory_is_given_back() {
        let mut buffer = AlignedBuf::new(3).unwrap();
        let taken = buffer.take().unwrap().unwrap();
        assert_eq!((buffer.size(), buffer.as_ref().len()), (0, 0));
        assert_eq!(buffer.as_mut().len(), 0);
        buffer.give_back(taken);
        assert_eq!(buffer.size(), 3);
    }
}
