//! [`AlignedBuf`]: the buffer of every read and write.

use std::ops::{Deref, DerefMut, RangeBounds};
use std::sync::Arc;
use std::{fmt, io, mem};

use super::part::{Part, PartMut};
use super::region::Unmade;
use super::{Exclusive, LockedBufError, Region, Shape};

/// A buffer of fixed size for reads and writes, aligned for direct I/O.
///
/// Operations take `&mut AlignedBuf` to read into and `&AlignedBuf` to write from; others take it
/// over and give it back. It is a slice of bytes, all of them initialized: zeroes at first.
///
/// There are such of all kinds: of the system's pages ([`new`](AlignedBuf::new)), locked into RAM
/// ([`with_size`](AlignedBuf::with_size), or by its other name [`LockedBuf`]), at an address of which
/// more is asked ([`with_alignment`](AlignedBuf::with_alignment)), on huge pages
/// ([`huge`](AlignedBuf::huge)), or of a [`BufferPool`](crate::BufferPool). All but the last take
/// whole pages from the system, and give them back when they are dropped. That takes system calls and
/// page faults: keep buffers and use them again, or have a pool do so.
///
/// # While an operation runs
///
/// A read takes the memory with it and brings it back when its future completes; a write shares
/// it. A future that does not get that far can't harm:
///
/// - A read *dropped* leaves a buffer of the same size whose content is one of three: what it was
///   (the kernel never had the request), zeroes (the kernel still has the old memory, and this is
///   new, of the system's even if the old was a pool's), or what was read (it was done). Never a
///   mixture, and it no longer changes. New memory is locked if the old was and `RLIMIT_MEMLOCK` allows
///   that much more ([`is_locked`](AlignedBuf::is_locked) tells); if there is no memory at all, the
///   buffer is empty.
/// - A read *forgotten* ([`std::mem::forget`]) after it was first polled leaves the buffer empty:
///   [`size`](AlignedBuf::size) is 0, and a transfer of more than that panics.
/// - A write dropped or forgotten in flight goes on reading the memory. The first mutable access
///   before it is done moves the buffer to a copy, so what was submitted is what is written.
///
/// A child made by [`fork(2)`](https://man7.org/linux/man-pages/man2/fork.2.html) does not inherit
/// the memory: touching the buffer there is a segmentation fault.
///
/// # Panics
///
/// Mutable access (`&mut` to the bytes, [`AsMut`]) panics if a write from this buffer was dropped, is
/// still in flight, and there is no memory for the copy that keeps the two apart.
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
    /// `None`: a forgotten read has it, or there was no memory to replace a dropped one's.
    region: Option<Arc<Region>>,
}

impl AlignedBuf {
    /// A buffer of `size` bytes, aligned to a page, which is what direct I/O wants at most. Not locked.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`] for a size of 0 or one for which there is no room.
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
        AlignedBuf::make(Shape::plain(size))
    }

    /// A buffer of `size` bytes, aligned to a page and locked into RAM. That keeps it out of swap, and
    /// spares the first transfer its page faults. No operation needs it: the kernel pins the pages of
    /// every transfer.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`] for a size of 0 or one for which there is no room;
    /// [`LockedBufError::MemLock`] where `RLIMIT_MEMLOCK` does not allow it. See
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
        AlignedBuf::make(Shape {
            locked: true,
            ..Shape::plain(size)
        })
    }

    /// A buffer of `size` bytes at an address that is a multiple of `alignment`, and of a page in any
    /// case. Not locked.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`] for a size of 0 or one for which there is no room.
    ///
    /// # Panics
    ///
    /// If `alignment` is no power of two.
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
        AlignedBuf::make(Shape::plain(size).aligned_to(alignment))
    }

    /// A buffer of `size` bytes, not locked, on transparent huge pages, as far as the system has them to give
    /// (`/sys/kernel/mm/transparent_hugepage`), and on ordinary ones else. Takes whole huge pages, of
    /// 2 MiB: for large buffers, which cost fewer page faults so and less work for the kernel, which
    /// has to find every page of a transfer. See
    /// [`madvise(2)`](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_HUGEPAGE`.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`] for a size of 0 or one for which there is no room.
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
        AlignedBuf::make(Shape {
            huge: true,
            ..Shape::plain(size)
        })
    }

    pub(super) fn make(shape: Shape) -> Result<AlignedBuf, LockedBufError> {
        if shape.len == 0 {
            return Err(LockedBufError::no_size());
        }
        match shape.make_strictly() {
            Ok(region) => Ok(AlignedBuf::on(region)),
            Err(Unmade::NoMemory(error)) => Err(LockedBufError::MapAnon(error)),
            Err(Unmade::NotLocked(error)) => Err(LockedBufError::MemLock(error)),
        }
    }

    pub(super) fn on(region: Region) -> AlignedBuf {
        AlignedBuf {
            region: Some(Arc::new(region)),
        }
    }

    /// Number of bytes; 0 after a read into it was forgotten.
    pub fn size(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.len())
    }

    /// Whether the memory is locked into RAM. That of a [`LockedBuf`](crate::LockedBuf) is, unless it
    /// had to be replaced because of a dropped operation, and that would have gone past
    /// `RLIMIT_MEMLOCK`.
    pub fn is_locked(&self) -> bool {
        let locked = |region: &Arc<Region>| region.shape().locked;
        self.region.as_ref().is_some_and(locked)
    }

    /// A range of it, to be written from.
    ///
    /// # Panics
    ///
    /// If the range is not within the buffer.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// # let (context, handle) = aio_context(8, true)?;
    /// let file = File::create(path, false).await?;
    /// let buffer = AlignedBuf::new(16384)?;
    /// let second = &[buffer.part(4096..8192)];
    /// file.write_vectored_at(&handle, 0, second, WriteFlags::empty()).await?;
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn part(&self, range: impl RangeBounds<usize>) -> Part<'_> {
        Part::new(self, range)
    }

    /// A range of it, to be read into.
    ///
    /// # Panics
    ///
    /// If the range is not within the buffer.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::AlignedBuf;
    ///
    /// let mut buffer = AlignedBuf::new(8192)?;
    /// assert_eq!(buffer.part_mut(4096..).len(), 4096);
    /// # Ok::<(), tokio_kaio::LockedBufError>(())
    /// ```
    pub fn part_mut(&mut self, range: impl RangeBounds<usize>) -> PartMut<'_> {
        PartMut::new(self, range)
    }

    /// The memory for a write to share. `None`: the buffer is empty.
    pub(crate) fn share(&self) -> Option<Arc<Region>> {
        self.region.clone()
    }

    /// The memory for a read to fill; [`give_back`](AlignedBuf::give_back) follows. `None`: the
    /// buffer is empty.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: an abandoned write still reads it, and there is no memory for a copy. The buffer
    /// is as it was.
    pub(crate) fn take(&mut self) -> io::Result<Option<Exclusive>> {
        let Some(region) = self.region.take() else {
            return Ok(None);
        };
        let shared = match Exclusive::new(region) {
            Ok(exclusive) => return Ok(Some(exclusive)),
            Err(shared) => shared,
        };
        match shared.copy() {
            // Nobody else can have a copy that was made here.
            Ok(copy) => Ok(Exclusive::new(Arc::new(copy)).ok()),
            Err(error) => {
                self.region = Some(shared);
                Err(error)
            }
        }
    }

    /// Of memory that was taken: there is none now.
    #[inline(always)]
    pub(crate) fn give_back(&mut self, region: Exclusive) {
        let none = self.region.replace(region.release());
        debug_assert!(none.is_none());
        mem::forget(none); // nothing to drop
    }

    /// Makes up for memory that the kernel has kept.
    pub(crate) fn replace(&mut self, shape: Shape) {
        self.region = shape.make().ok().map(Arc::new);
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
                panic!("no memory to copy a buffer that a dropped write still reads: {error}")
            });
            *region = Arc::new(copy);
        }
        match Arc::get_mut(region) {
            Some(region) => region.bytes_mut(),
            None => unreachable!("a region that was just made has one owner"),
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
    fn a_change_during_a_write_goes_to_a_copy() {
        let mut buffer = AlignedBuf::new(3).unwrap();
        buffer.copy_from_slice(b"old");
        let in_flight = buffer.share().unwrap();
        buffer[0] = b'b';
        assert_eq!(in_flight.bytes(), b"old");
        assert_eq!(&*buffer, b"bld");
    }

    #[test]
    fn without_a_write_in_flight_memory_stays_where_it_is() {
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
    fn a_taken_buffer_is_empty_until_it_gets_memory_back() {
        let mut buffer = AlignedBuf::new(3).unwrap();
        let taken = buffer.take().unwrap().unwrap();
        assert_eq!((buffer.size(), buffer.as_ref().len()), (0, 0));
        assert_eq!(buffer.as_mut().len(), 0);
        buffer.give_back(taken);
        assert_eq!(buffer.size(), 3);
    }
}
