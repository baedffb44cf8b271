//! [`LockedBuf`]: the buffer of every read and write.

use std::sync::Arc;
use std::{fmt, io};

use thiserror::Error;

use super::{Exclusive, Region, Shape};
use crate::sys;

/// Why a [`LockedBuf`] could not be made. [`io::Error::raw_os_error`] of the inner error is the
/// errno, if the kernel had a say.
#[derive(Error, Debug)]
pub enum LockedBufError {
    /// [`mmap(2)`](https://man7.org/linux/man-pages/man2/mmap.2.html) failed: `ENOMEM` where there
    /// is no such room in memory or address space. Also for a size of 0.
    #[error("can't map memory for the buffer: {0}")]
    MapAnon(#[from] io::Error),

    /// [`mlock(2)`](https://man7.org/linux/man-pages/man2/mlock.2.html) failed: `ENOMEM` or
    /// `EPERM` past `RLIMIT_MEMLOCK`, `EAGAIN` where memory is short.
    #[error(
        "can't lock the buffer into RAM: {0}; {limit}, for all locked memory of the process: \
         raise it (ulimit -l, LimitMEMLOCK= of a systemd unit, --ulimit memlock= of a container) \
         or use less",
        limit = MemlockLimit
    )]
    MemLock(#[source] io::Error),
}

/// Says what `RLIMIT_MEMLOCK` is.
struct MemlockLimit;

impl fmt::Display for MemlockLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match sys::memlock_limit() {
            Ok(Some(bytes)) => write!(f, "RLIMIT_MEMLOCK is {bytes} bytes"),
            Ok(None) => write!(f, "RLIMIT_MEMLOCK is unlimited"),
            Err(error) => write!(f, "RLIMIT_MEMLOCK can't be read ({error})"),
        }
    }
}

/// A buffer of fixed size for reads and writes: page-aligned, zeroed, locked into RAM.
///
/// Page alignment is what direct I/O wants of memory on every file system. Locking keeps the pages
/// out of swap and spares the first transfer its page faults.
///
/// # While an operation runs
///
/// A read takes the memory with it and brings it back when its future completes; a write shares
/// it. A future that does not get that far can't harm:
///
/// - A read *dropped* leaves a buffer of the same size whose content is one of three: what it was
///   (the kernel never had the request), zeroes (the kernel still has the old memory, and this is
///   new), or what was read (it was done). Never a mixture, and it no longer changes. New memory
///   is locked too if `RLIMIT_MEMLOCK` allows that much more
///   ([`is_locked`](LockedBuf::is_locked) tells); if there is no memory at all, the buffer is
///   empty.
/// - A read *forgotten* ([`std::mem::forget`]) after it was first polled leaves the buffer empty:
///   [`size`](LockedBuf::size) is 0, and a transfer of more than that panics.
/// - A write dropped or forgotten in flight goes on reading the memory. The first mutable access
///   before it is done moves the buffer to a copy, so what was submitted is what is written.
///
/// A child made by [`fork(2)`](https://man7.org/linux/man-pages/man2/fork.2.html) does not inherit
/// the memory: touching the buffer there is a segmentation fault.
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
/// # Ok::<(), tokio_kaio::LockedBufError>(())
/// ```
pub struct LockedBuf {
    /// `None`: a forgotten read has it, or there was no memory to replace a dropped one's.
    region: Option<Arc<Region>>,
}

impl LockedBuf {
    /// A buffer of `size` bytes. Takes whole pages of locked memory.
    ///
    /// # Errors
    ///
    /// [`LockedBufError::MapAnon`] for a size of 0 or one for which there is no room;
    /// [`LockedBufError::MemLock`] where `RLIMIT_MEMLOCK` does not allow it.
    pub fn with_size(size: usize) -> Result<LockedBuf, LockedBufError> {
        if size == 0 {
            return Err(LockedBufError::MapAnon(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a size of 0 bytes, the least is 1",
            )));
        }
        let mut region = Region::new(size).map_err(LockedBufError::MapAnon)?;
        region.lock().map_err(LockedBufError::MemLock)?;
        Ok(LockedBuf {
            region: Some(Arc::new(region)),
        })
    }

    /// Number of bytes; 0 after a read into it was forgotten.
    pub fn size(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.len())
    }

    /// Whether the memory is locked into RAM: always, unless it had to be replaced because of a
    /// dropped operation, and that would have gone past `RLIMIT_MEMLOCK`.
    pub fn is_locked(&self) -> bool {
        self.region
            .as_ref()
            .is_some_and(|region| region.is_locked())
    }

    /// The memory for a write to share. `None`: the buffer is empty.
    pub(crate) fn share(&self) -> Option<Arc<Region>> {
        self.region.clone()
    }

    /// The memory for a read to fill; [`give_back`](LockedBuf::give_back) follows. `None`: the
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
        let copy = shared.copy();
        self.region = Some(shared);
        // Nobody else can have a copy that was made here.
        Ok(Exclusive::new(Arc::new(copy?)).ok())
    }

    pub(crate) fn give_back(&mut self, region: Exclusive) {
        self.region = Some(region.release());
    }

    /// Makes up for memory that the kernel has kept.
    pub(crate) fn replace(&mut self, shape: Shape) {
        self.region = shape.make().ok().map(Arc::new);
    }
}

impl AsRef<[u8]> for LockedBuf {
    fn as_ref(&self) -> &[u8] {
        self.region.as_ref().map_or(&[], |region| region.bytes())
    }
}

impl AsMut<[u8]> for LockedBuf {
    /// # Panics
    ///
    /// If a write from this buffer was dropped, is still in flight, and there is no memory for the
    /// copy that keeps the two apart.
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

impl fmt::Debug for LockedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockedBuf")
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
        let mut buffer = LockedBuf::with_size(3).unwrap();
        buffer.as_mut().copy_from_slice(b"old");
        let in_flight = buffer.share().unwrap();
        buffer.as_mut()[0] = b'b';
        assert_eq!(in_flight.bytes(), b"old");
        assert_eq!(buffer.as_ref(), b"bld");
    }

    #[test]
    fn without_a_write_in_flight_memory_stays_where_it_is() {
        let mut buffer = LockedBuf::with_size(3).unwrap();
        let before = buffer.as_ref().as_ptr();
        drop(buffer.share());
        assert_eq!(buffer.as_mut().as_ptr(), before);
    }

    #[test]
    fn a_read_during_a_write_fills_a_copy() {
        let mut buffer = LockedBuf::with_size(3).unwrap();
        let in_flight = buffer.share().unwrap();
        let target = buffer.take().unwrap().unwrap();
        assert_ne!(target.address(), in_flight.address());
    }

    #[test]
    fn a_taken_buffer_is_empty_until_it_gets_memory_back() {
        let mut buffer = LockedBuf::with_size(3).unwrap();
        let taken = buffer.take().unwrap().unwrap();
        assert_eq!((buffer.size(), buffer.as_ref().len()), (0, 0));
        assert_eq!(buffer.as_mut().len(), 0);
        buffer.give_back(taken);
        assert_eq!(buffer.size(), 3);
    }
}
