//! [`Slice`]: a range of a buffer that is handed over.
#![allow(unsafe_code)]

use std::ops::{Bound, RangeBounds};

use super::part::within;
use super::{IoBuf, IoBufMut};

/// A range of a buffer, handed over with it: [`IoBuf::into_slice`].
///
/// # Examples
///
/// A header and what follows it, read into one buffer, one after the other:
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
    /// `None`: as far as the buffer goes.
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

    /// The whole buffer.
    pub fn into_inner(self) -> B {
        self.buffer
    }

    /// The whole buffer, to look at.
    pub fn get_ref(&self) -> &B {
        &self.buffer
    }

    /// The whole buffer, to change. The range stays as it is.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.buffer
    }

    fn len_of(&self, size: usize) -> usize {
        let end = self.end.unwrap_or(size);
        within(self.start..end, size).len()
    }
}

// SAFETY: a part of the bytes of a buffer for which it holds. `len_of` has checked that the part is
// within before it gives out any pointer.
unsafe impl<B: IoBuf> IoBuf for Slice<B> {
    fn stable_ptr(&self) -> *const u8 {
        self.buffer.stable_ptr().wrapping_add(self.start)
    }

    fn bytes_init(&self) -> usize {
        self.len_of(self.buffer.bytes_init())
    }

    fn bytes_init_so_far(&self) -> usize {
        let init = self.buffer.bytes_init_so_far();
        let end = self.end.unwrap_or(init);
        init.min(end).saturating_sub(self.start)
    }
}

// SAFETY: as above. A part that starts within what is initialized, or right behind it, leaves no hole.
unsafe impl<B: IoBufMut> IoBufMut for Slice<B> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.buffer.stable_mut_ptr().wrapping_add(self.start)
    }

    /// # Panics
    ///
    /// If the range is not within the buffer, or starts behind what is initialized of it: there would
    /// be a hole.
    fn bytes_total(&self) -> usize {
        let init = self.buffer.bytes_init_so_far();
        assert!(
            self.start <= init,
            "a slice from {} of a buffer of which {init} bytes are initialized",
            self.start
        );
        self.len_of(self.buffer.bytes_total())
    }

    unsafe fn set_init(&mut self, len: usize) {
        // SAFETY: those before the slice are initialized, as `bytes_total` has seen, and the caller
        // promises for those in it.
        unsafe { self.buffer.set_init(self.start + len) };
    }
}
