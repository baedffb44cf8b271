//! `Bytes` for a [`FileWriter`]: [`FileWriter::write_bytes`], and its [`Sink`].

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_sink::Sink;
use lock_api::RawMutex;
use tokio::task::coop;

use super::FileWriter;
use super::in_flight_write::Write;
use super::write_behind::{Failure, Filling, Setup, WriteBehind};
use super::write_plan::Piece;
use crate::backend::OpCode;
use crate::command::io_op;
use crate::context::TransferMode;
use crate::op::OwnedBuffer;

/// The shortest `Bytes` that are written where they are. Shorter ones are collected, for longer writes.
const MIN_IN_PLACE: usize = 64 << 10;

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
                    self.state.set_pending(data);
                }
            }
            ready!(self.state.poll_pending(cx));
            Poll::Ready(self.state.check())
        })
        .await
    }

    /// Waits until `Bytes` can be accepted.
    fn poll_next_item(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let budget = ready!(coop::poll_proceed(cx));
        ready!(self.state.poll_writable(cx))?;
        ready!(self.state.poll_pending(cx));
        budget.made_progress();
        Poll::Ready(self.state.check())
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
        let state = &mut self.get_mut().state;
        state.check()?;
        state.set_pending(data);
        // Starts what there is room for. No task waits for the rest before the next call, nor for an edge,
        // for which other writers may wait.
        if !state.is_at_edge() {
            let _ = state.poll_pending(&mut Context::from_waker(Waker::noop()));
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().state.poll_flush_all(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().state.poll_end(cx)
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> WriteBehind<M, A, L> {
    /// Accepts `data` if nothing is pending. The caller polls [`poll_pending`](Self::poll_pending) then.
    pub(super) fn set_pending(&mut self, data: bytes::Bytes) {
        debug_assert!(self.pending.is_empty());
        self.pending = data;
    }

    /// Moves the pending bytes to chunks, and writes those that are full. Aligned memory is written where it
    /// is.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.pending.is_empty() {
            ready!(coop::poll_proceed(cx)).made_progress();
            ready!(self.poll_space(cx));
            if self.has_failed() {
                break; // which has cleared the pending bytes
            }
            if self.filling.is_none() {
                let in_place = self.len_in_place();
                if in_place > 0 {
                    let data = self.pending.split_to(in_place);
                    self.write_in_place(data);
                    continue;
                }
            }
            let mut data = mem::take(&mut self.pending);
            let copied = self.fill(&data);
            bytes::Buf::advance(&mut data, copied);
            match self.failure {
                Failure::None => self.pending = data,
                // Accepted, but never written.
                _ => self.next = self.next.saturating_add(data.len() as u64),
            }
        }
        Poll::Ready(())
    }

    /// Returns whether the next byte is written as part of an edge.
    pub(super) fn is_at_edge(&self) -> bool {
        match (&self.filling, &self.setup) {
            (Some(filling), _) => matches!(filling, Filling::Edge { .. }),
            (None, Setup::Done { plan, .. }) => matches!(plan.piece(self.next), Piece::Edge(_)),
            (None, _) => true, // not known
        }
    }

    /// Returns how many pending bytes can be written next where they are: whole blocks, aligned in the file
    /// and in memory, and not few.
    fn len_in_place(&self) -> usize {
        let Setup::Done {
            plan,
            memory_alignment,
        } = self.setup
        else {
            return 0;
        };
        let is_aligned = self.pending.as_ptr().addr() % memory_alignment == 0;
        match plan.piece(self.next) {
            Piece::Blocks(len) if is_aligned && self.pending.len() >= MIN_IN_PLACE => {
                plan.whole_blocks(self.pending.len().min(len))
            }
            _ => 0,
        }
    }

    fn write_in_place(&mut self, data: bytes::Bytes) {
        let range = self.next..self.next.saturating_add(data.len() as u64);
        self.next = range.end;
        match io_op(OpCode::Write, 0, range.start, 0) {
            Ok(op) => {
                let (request, _) = OwnedBuffer::write(op, data);
                let write = self.owner.start(request, TransferMode::Exact);
                self.start(range, Write::InPlace(write));
            }
            Err(error) => self.fail("writing", range, error),
        }
    }
}
