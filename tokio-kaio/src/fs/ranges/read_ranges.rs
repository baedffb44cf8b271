//! [`File::read_range`], [`File::read_ranges`] and [`File::stream_ranges`].

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::slice;

use bytes::Bytes;
use futures_core::Stream;
use lock_api::RawMutex;

use super::coalesce::Coalesce;
use super::range_setup::RangeSetup;
use super::range_stream::RangeStream;
use crate::error::check_range;
use crate::fs::File;
use crate::{AioCommandError, GenericAioContextHandle, ReadFlags};

/// Byte ranges as [`Bytes`] (feature `bytes`).
///
/// Neither offset nor length has to be aligned. The blocks that contain a range are read into memory of
/// [`handle.buffers()`](GenericAioContextHandle::buffers), and the result is a slice of that memory, without a
/// copy. The memory returns to the pool when the last slice of it is dropped. Results that are much smaller than
/// their buffer are copied out ([`Coalesce::max_overhead`]). If consumers keep more than the pool's limit, further
/// buffers are mapped and unmapped by themselves, so no call waits for memory.
///
/// A range is short only at the end of the file. An empty range, and one that starts at or past the end of the
/// file, has an empty result. A range that ends before it starts is an error (`EINVAL`), since it is always a
/// mistake. `offset..u64::MAX` reads to the end of the file.
impl File {
    /// Reads a byte range.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. `IoSubmit` also contains `EINVAL`: the range ends before it starts; `ENOMEM`:
    /// there is no memory for the result; and the errors of [`alignment`](File::alignment).
    ///
    /// # Cancel safety
    ///
    /// A dropped read returns its memory to the pool when the kernel is done with it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the alignment of the file is not known yet, or the range is longer than
    /// 4 MiB; never on a context with its [own thread](crate::AioContextBuilder::own_thread).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("names");
    /// std::fs::write(&path, "Ada, Grace, Barbara")?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// assert_eq!(file.read_range(&handle, 5..10).await?, "Grace");
    /// assert_eq!(file.read_range(&handle, 12..1000).await?, "Barbara");
    /// assert_eq!(file.read_range(&handle, 1000..2000).await?, "");
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_range<M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        range: Range<u64>,
    ) -> Result<Bytes, AioCommandError> {
        check_range(&range)?;
        let limited = aio_handle.limited();
        let (deadline, aio_handle) = aio_handle.or_limited(&limited);
        let ranges = slice::from_ref(&range);
        let setup = match RangeSetup::known(self, ranges) {
            Some(setup) => setup,
            None => {
                let query = RangeSetup::query(self, ranges);
                aio_handle.with_time_limit(deadline, query).await?
            }
        };
        let blocks = setup.blocks(&range);
        if blocks.is_empty() {
            return Ok(Bytes::new());
        }
        let buffer = setup.buffer(aio_handle.buffers(), blocks.end - blocks.start)?;
        let (flags, mode) = (ReadFlags::empty(), self.full_mode());
        let read = self.read_into(aio_handle, blocks.start, buffer, flags, mode);
        let (found, buffer) = read.await;
        let end = blocks.start + found?;
        // No overflow: the buffer has a length of `usize`.
        let at = |offset: u64| (offset.min(end) - blocks.start) as usize;
        Ok(Coalesce::new().bytes_of(buffer, at(range.start), at(range.end)))
    }

    /// Reads many byte ranges. Returns their bytes in the order of `ranges`, which may be unsorted, overlap, or
    /// be empty.
    ///
    /// Ranges that lie close together share a read, and all reads are in flight together, submitted with one
    /// system call if the context has slots for them. Uses the defaults of [`Coalesce`]: see
    /// [`read_ranges_with`](File::read_ranges_with).
    ///
    /// # Errors
    ///
    /// Those of [`read_range`](File::read_range); the first one ends the call. The text names the place of the
    /// read that failed.
    ///
    /// # Cancel safety
    ///
    /// Dropped reads return their memory to the pool when the kernel is done with it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the alignment of the file is not known yet, or a range is longer than
    /// 4 MiB; never on a context with its [own thread](crate::AioContextBuilder::own_thread).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("names");
    /// std::fs::write(&path, "Ada, Grace, Barbara")?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let names = file.read_ranges(&handle, &[12..19, 0..3, 5..10]).await?;
    /// assert_eq!(names, ["Barbara", "Ada", "Grace"]);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_ranges<M: RawMutex + 'static, A: 'static, L: 'static>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, AioCommandError> {
        self.read_ranges_with(aio_handle, ranges, Coalesce::new())
            .await
    }

    /// Reads many byte ranges as [`read_ranges`](File::read_ranges) does, merged as `coalesce` says.
    ///
    /// # Errors
    ///
    /// Those of [`read_ranges`](File::read_ranges).
    ///
    /// # Cancel safety
    ///
    /// That of [`read_ranges`](File::read_ranges).
    ///
    /// # Panics
    ///
    /// The same as [`read_ranges`](File::read_ranges).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{Coalesce, File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 1 << 20])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// // 40 KB lie between the ranges: by default, they would share a read.
    /// let apart = Coalesce::new().max_gap(4096);
    /// let bytes = file.read_ranges_with(&handle, &[0..100, 40_000..40_100], apart).await?;
    /// assert!(bytes.iter().all(|bytes| bytes.len() == 100));
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_ranges_with<M: RawMutex + 'static, A: 'static, L: 'static>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        ranges: &[Range<u64>],
        coalesce: Coalesce,
    ) -> Result<Vec<Bytes>, AioCommandError> {
        let mut results = vec![Bytes::new(); ranges.len()];
        let mut stream = RangeStream::new(self, aio_handle, ranges, coalesce);
        while let Some(result) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
            let (index, bytes) = result?;
            results[index] = bytes;
        }
        Ok(results)
    }

    /// Returns a stream that reads many byte ranges as [`read_ranges_with`](File::read_ranges_with) does, and
    /// yields the index and the bytes of each as they arrive. It owns its file and handle, so it can be moved
    /// to another task.
    ///
    /// Nothing is submitted before the first poll. The stream reads up to
    /// [`max_in_flight`](Coalesce::max_in_flight) bytes ahead of its consumer, so any number of ranges takes
    /// bounded memory, if the consumer drops the results. A timeout of the handle starts with the first poll,
    /// and covers all reads together.
    ///
    /// # Errors
    ///
    /// Items are the errors of [`read_ranges`](File::read_ranges); the stream ends after the first one.
    ///
    /// # Cancel safety
    ///
    /// A call of `next` that is dropped loses nothing. If the stream is dropped, its reads return their memory
    /// to the pool when the kernel is done with it.
    ///
    /// # Panics
    ///
    /// Polls panic as [`read_ranges`](File::read_ranges) does.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures::TryStreamExt;
    /// use tokio_kaio::{Coalesce, File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 1 << 20])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let ranges = [5..10, 900_000..900_123];
    /// let mut stream = file.stream_ranges(&handle, &ranges, Coalesce::new());
    /// while let Some((index, bytes)) = stream.try_next().await? {
    ///     println!("range {index}: {} bytes", bytes.len());
    /// }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream_ranges<M: RawMutex + 'static, A: 'static, L: 'static>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        ranges: &[Range<u64>],
        coalesce: Coalesce,
    ) -> RangeStream<M, A, L> {
        RangeStream::new(self, aio_handle, ranges, coalesce)
    }
}
