//! [`Slice`]: a range of an owned buffer.
#![allow(unsafe_code)]

use std::ops::{Bound, RangeBounds};

use super::part::checked_range;
use super::{IoBuf, IoBufMut};

/// A range of an owned buffer, together with the buffer. Created by [`IoBuf::into_slice`].
///
/// # Examples
///
/// Reads a header, and then the rest of a file, into one buffer:
///
/// ```
/// use tokio_kaio::{IoBuf, File, AlignedBuf, ReadFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// # std::fs::write(&path, vec![7; 16384])?;
/// # let (context, handle) = aio_context(8, true)?;
/// let file = File::open(path, false).await?;
/// let flags = ReadFlags::empty();
/// let header = AlignedBuf::new(16384)?.into_slice(..4096);
/// let (read, header) = file.read_owned_at(&handle, 0, header, flags).await;
/// assert_eq!(read?, 4096);
/// let rest = header.into_inner().into_slice(4096..);
/// let (read, rest) = file.read_owned_at(&handle, 4096, rest, flags).await;
/// assert_eq!(read?, 12288);
/// let whole = rest.into_inner();
/// assert!(whole.iter().all(|&byte| byte == 7));
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Slice<B> {
    buffer: B,
    start: usize,
    /// `None`: the end of the buffer.
    end: Option<usize>,
}

impl<B> Slice<B> {
    pub(super) fn new(buffer: B, range: impl RangeBounds<usize>) -> Slice<B> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => Some(last.saturating_add(1)),
            Bound::Excluded(&end) => Some(end),
            Bound::Unbounded => None,
        };
        Slice { buffer, start, end }
    }

    /// Returns the whole buffer.
    pub fn into_inner(self) -> B {
        self.buffer
    }

    /// Returns a reference to the whole buffer.
    pub fn get_ref(&self) -> &B {
        &self.buffer
    }

    /// Returns a mutable reference to the whole buffer. The range does not change.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.buffer
    }

    /// Returns the number of bytes of the range within `size` bytes. Panics if it is not within.
    fn checked_len(&self, size: usize) -> usize {
        let end = self.end.unwrap_or(size);
        checked_range(self.start..end, size).len()
    }
}

// SAFETY: a part of the bytes of a buffer that is an `IoBuf` itself. `checked_len` checks that the part is
// within the buffer before the bytes behind the pointer are used.
unsafe impl<B: IoBuf> IoBuf for Slice<B> {
    fn stable_ptr(&self) -> *const u8 {
        self.buffer.stable_ptr().wrapping_add(self.start)
    }

    fn bytes_init(&self) -> usize {
        self.checked_len(self.buffer.bytes_init())
    }

    fn bytes_init_so_far(&self) -> usize {
        let init = self.buffer.bytes_init_so_far();
        let end = self.end.unwrap_or(init);
        init.min(end).saturating_sub(self.start)
    }
}

// SAFETY: as above. A part that starts within the initialized bytes, or directly behind them, leaves no gap.
unsafe impl<B: IoBufMut> IoBufMut for Slice<B> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.buffer.stable_mut_ptr().wrapping_add(self.start)
    }

    /// # Panics
    ///
    /// If the range is not within the buffer, or starts behind its initialized bytes, which would leave a gap
    /// of uninitialized bytes.
    fn bytes_total(&self) -> usize {
        let init = self.buffer.bytes_init_so_far();
        assert!(
            self.start <= init,
            "a slice that starts at {} of a buffer with {init} initialized bytes",
            self.start
        );
        self.checked_len(self.buffer.bytes_total())
    }

    unsafe fn set_init(&mut self, len: usize) {
        // SAFETY: the bytes before the slice are initialized, as `bytes_total` checks; the caller guarantees
        // it for the bytes of the slice.
        unsafe { self.buffer.set_init(self.start + len) };
    }
}
