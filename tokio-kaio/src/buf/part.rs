//! [`Part`] and [`PartMut`]: ranges of buffers for vectored operations.

use std::ops::{Bound, Range, RangeBounds};

use super::AlignedBuf;

/// A range of a buffer to write from, created by [`AlignedBuf::part`]. `Part::from` converts a whole buffer.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    pub(crate) buffer: &'a AlignedBuf,
    pub(crate) range: Range<usize>,
}

/// A range of a buffer to read into, created by [`AlignedBuf::part_mut`]. `PartMut::from` converts a whole buffer.
///
/// A dropped read affects the whole buffer, not only the range: see
/// [`AlignedBuf`](AlignedBuf#while-an-operation-runs).
#[derive(Debug)]
pub struct PartMut<'a> {
    pub(crate) buffer: &'a mut AlignedBuf,
    pub(crate) range: Range<usize>,
}

impl AlignedBuf {
    /// Returns a range of the buffer to write from.
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

    /// Returns a range of the buffer to read into.
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
}

impl<'a> Part<'a> {
    pub(super) fn new(buffer: &'a AlignedBuf, range: impl RangeBounds<usize>) -> Part<'a> {
        let range = checked_range(range, buffer.size());
        Part { buffer, range }
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Returns whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl<'a> PartMut<'a> {
    pub(super) fn new(buffer: &'a mut AlignedBuf, range: impl RangeBounds<usize>) -> PartMut<'a> {
        let range = checked_range(range, buffer.size());
        PartMut { buffer, range }
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Returns whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl<'a> From<&'a AlignedBuf> for Part<'a> {
    fn from(buffer: &'a AlignedBuf) -> Part<'a> {
        Part::new(buffer, ..)
    }
}

impl<'a> From<&'a mut AlignedBuf> for PartMut<'a> {
    fn from(buffer: &'a mut AlignedBuf) -> PartMut<'a> {
        PartMut::new(buffer, ..)
    }
}

/// Converts `range` to a range within a buffer of `size` bytes.
///
/// # Panics
///
/// If `range` is not within the buffer.
pub(super) fn checked_range(range: impl RangeBounds<usize>, size: usize) -> Range<usize> {
    let start = match range.start_bound() {
        Bound::Included(&start) => Some(start),
        Bound::Excluded(&before) => before.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.checked_add(1),
        Bound::Excluded(&end) => Some(end),
        Bound::Unbounded => Some(size),
    };
    match (start, end) {
        (Some(start), Some(end)) if start <= end && end <= size => start..end,
        _ => panic!(
            "range {:?}..{:?} is not within a buffer of {size} bytes",
            range.start_bound(),
            range.end_bound()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_every_kind_are_converted() {
        assert_eq!(checked_range(.., 5), 0..5);
        assert_eq!(checked_range(1..3, 5), 1..3);
        assert_eq!(checked_range(1..=3, 5), 1..4);
        assert_eq!(checked_range(5.., 5), 5..5);
        let after_one = (Bound::Excluded(1), Bound::Unbounded);
        assert_eq!(checked_range(after_one, 5), 2..5);
    }

    #[test]
    fn a_range_that_is_not_within_the_buffer_panics() {
        #[allow(clippy::reversed_empty_ranges)]
        for range in [0..6, 6..6, 3..2, 0..usize::MAX] {
            std::panic::catch_unwind(|| checked_range(range, 5)).unwrap_err();
        }
        std::panic::catch_unwind(|| checked_range(0..=usize::MAX, 5)).unwrap_err();
    }
}
