//! [`FileStream`]: a [`FileReader`] as a stream of `Bytes`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use futures_core::stream::FusedStream;
use intrusive_collections::linked_list::AtomicLink;
use lock_api::RawMutex;

use super::FileReader;
use crate::SyncRequestAdapter;

/// The chunks of a [`FileReader`] as [`Bytes`], in order. Made by [`FileReader::into_stream`]. Needs the
/// feature `bytes`.
///
/// Each chunk is given out in the buffer that the kernel has filled, without a copy, and the next read gets
/// another buffer. So the memory in use is that of the reader, and that of the `Bytes` which the caller
/// keeps. **A slice of a chunk keeps the memory of the whole chunk.**
///
/// The stream ends at the end of the range or the file, and after an error, which is its last item. To go on
/// after an error, make a new reader with [`with_range`](FileReader::with_range).
///
/// # Cancel safety
///
/// [`next`](https://docs.rs/futures/0.3/futures/stream/trait.StreamExt.html#method.next) is cancel safe: no
/// chunk is lost if its future is dropped.
///
/// # Panics
///
/// The first poll, outside a tokio runtime; never if the context has its
/// [own thread](crate::AioContextBuilder::own_thread).
///
/// # Examples
///
/// ```
/// use futures::TryStreamExt;
/// use tokio_kaio::{File, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// # std::fs::write(&path, vec![7; 150_000])?;
/// let (context, handle) = aio_context(32, true)?;
/// let file = File::open(path, false).await?;
/// let mut chunks = file.reader(&handle).with_chunk_size(64 << 10).into_stream();
/// let mut lengths = Vec::new();
/// while let Some(chunk) = chunks.try_next().await? {
///     lengths.push(chunk.len());
/// }
/// assert_eq!(lengths, [65_536, 65_536, 18_928]);
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct FileStream<M = parking_lot::RawMutex, A = SyncRequestAdapter, L = AtomicLink>
where
    M: RawMutex + 'static,
    A: 'static,
    L: 'static,
{
    /// `None` after the end.
    reader: Option<FileReader<M, A, L>>,
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> FileReader<M, A, L> {
    /// Converts the reader into a stream of its chunks, from its position on. See [`FileStream`]. Needs the
    /// feature `bytes`.
    pub fn into_stream(self) -> FileStream<M, A, L> {
        FileStream { reader: Some(self) }
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> Stream for FileStream<M, A, L> {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        let Some(reader) = &mut stream.reader else {
            return Poll::Ready(None);
        };
        let next = ready!(reader.poll_next_bytes(cx));
        if !matches!(next, Some(Ok(_))) {
            stream.reader = None;
        }
        Poll::Ready(next)
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> FusedStream for FileStream<M, A, L> {
    fn is_terminated(&self) -> bool {
        self.reader.is_none()
    }
}
