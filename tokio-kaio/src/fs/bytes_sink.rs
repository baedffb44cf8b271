//! `Bytes` for a [`FileWriter`]: [`FileWriter::write_bytes`], and its [`Sink`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_sink::Sink;
use lock_api::RawMutex;
use tokio::task::coop;

use super::FileWriter;

impl<M: RawMutex + 'static, A: 'static, L: 'static> FileWriter<M, A, L> {
    /// Accepts all of `data`, like `write_all`, and waits while there
    /// is no room. Needs the feature `bytes`.
    ///
    /// 64 KiB or more are written without a copy if they are aligned: their address, and their offset in the
    /// file. Chunks of a [`FileStream`](crate::FileStream) are.
    ///
    /// # Errors
    ///
    /// Those of earlier writes. See [`FileWriter`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, either nothing or all of `data` was accepted:
    /// [`position`](FileWriter::position) says which. Later calls write the bytes that were accepted.
    ///
    /// # Examples
    ///
    /// ```
    /// use bytes::Bytes;
    /// use tokio_kaio::{File, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(32, true)?;
    /// let file = File::create(&path, false).await?;
    /// let mut writer = file.writer(&handle);
    /// for part in ["one, ", "two, ", "three"] {
    ///     writer.write_bytes(Bytes::from_static(part.as_bytes())).await?;
    /// }
    /// writer.finish().await?;
    /// assert_eq!(std::fs::read(path)?, b"one, two, three");
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_bytes(&mut self, data: Bytes) -> io::Result<()> {
        let mut data = Some(data);
        poll_fn(|cx| {
            if data.is_some() {
                ready!(self.poll_next_item(cx))?;
                if let Some(data) = data.take() {
                    self.set_pending(data);
                }
            }
            ready!(self.poll_pending(cx));
            Poll::Ready(self.check())
        })
        .await
    }

    /// Waits until `Bytes` can be accepted.
    fn poll_next_item(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let budget = ready!(coop::poll_proceed(cx));
        ready!(self.poll_writable(cx))?;
        ready!(self.poll_pending(cx));
        budget.made_progress();
        Poll::Ready(self.check())
    }
}

/// Closing the sink is a `shutdown`. Needs the feature `bytes`.
impl<M: RawMutex + 'static, A: 'static, L: 'static> Sink<Bytes> for FileWriter<M, A, L> {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_next_item(cx)
    }

    /// # Panics
    ///
    /// If it was not preceded by a `poll_ready` that returned `Ready(Ok(()))`.
    fn start_send(self: Pin<&mut Self>, data: Bytes) -> io::Result<()> {
        let writer = self.get_mut();
        writer.check()?;
        writer.set_pending(data);
        // Starts what there is room for. No task waits for the rest before the next call, nor for an edge,
        // for which other writers may wait.
        if !writer.is_at_edge() {
            let _ = writer.poll_pending(&mut Context::from_waker(Waker::noop()));
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush_all(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_end(cx)
    }
}
