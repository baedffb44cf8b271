//! [`ReadOp`] and [`WriteOp`]: one read or write that owns its buffer, its file and its handle.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use lock_api::RawMutex;

use crate::backend::OpCode;
use crate::command::io_op;
use crate::context::{OpOwner, OwnedOp, TransferMode};
use crate::op::{BufferReturn, IoBuffer, IoRequest};
use crate::{AioCommandError, AlignedBuf, ReadFlags, WriteFlags};

/// A read. Resolves to the number of bytes read, and the buffer, which is empty if the kernel still uses its
/// memory. Submitted by its first poll.
pub(super) struct ReadOp<M: RawMutex + 'static, A: 'static, L: 'static>(Transfer<M, A, L>);

/// A write. Resolves to the number of bytes written, and the buffer. Submitted by its first poll.
pub(super) struct WriteOp<M: RawMutex + 'static, A: 'static, L: 'static>(Transfer<M, A, L>);

struct Transfer<M: RawMutex + 'static, A: 'static, L: 'static> {
    state: State<M, A, L>,
    /// Without its memory while a read is in progress.
    buffer: AlignedBuf,
}

#[allow(clippy::large_enum_variant)] // the large one is the usual one
enum State<M: RawMutex + 'static, A: 'static, L: 'static> {
    Running(OwnedOp<M, A, L>),
    /// The request could not be made.
    Failed(AioCommandError),
    Complete,
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> ReadOp<M, A, L> {
    /// Creates a read of `len` bytes to the front of `buffer`, which has at least that size.
    pub(super) fn new(
        owner: &Arc<OpOwner<M, A, L>>,
        offset: u64,
        mut buffer: AlignedBuf,
        len: u64,
        flags: ReadFlags,
        mode: TransferMode,
    ) -> ReadOp<M, A, L> {
        let request = io_op(OpCode::Read, flags.bits(), offset, len).and_then(|op| {
            let request = IoRequest::read(op, &mut buffer);
            let (request, _) = request.map_err(AioCommandError::IoSubmit)?;
            Ok(request)
        });
        ReadOp(Transfer::new(owner, request, buffer, mode))
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> WriteOp<M, A, L> {
    /// Creates a write of the first `len` bytes of `buffer`, which has at least that size.
    pub(super) fn new(
        owner: &Arc<OpOwner<M, A, L>>,
        offset: u64,
        buffer: AlignedBuf,
        len: u64,
        flags: WriteFlags,
        mode: TransferMode,
    ) -> WriteOp<M, A, L> {
        let request = io_op(OpCode::Write, flags.bits(), offset, len);
        let request = request.map(|op| IoRequest::write(op, &buffer));
        WriteOp(Transfer::new(owner, request, buffer, mode))
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> Transfer<M, A, L> {
    fn new(
        owner: &Arc<OpOwner<M, A, L>>,
        request: Result<IoRequest, AioCommandError>,
        buffer: AlignedBuf,
        mode: TransferMode,
    ) -> Transfer<M, A, L> {
        let state = match request {
            Ok(request) => State::Running(owner.start(request, mode)),
            Err(error) => State::Failed(error),
        };
        Transfer { state, buffer }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Result<u64, AioCommandError>, AlignedBuf)> {
        let result = match &mut self.state {
            State::Running(operation) => {
                let (result, memory) = ready!(Pin::new(operation).poll(cx));
                restore(&mut self.buffer, memory);
                self.state = State::Complete;
                result
            }
            State::Failed(_) => match std::mem::replace(&mut self.state, State::Complete) {
                State::Failed(error) => Err(error),
                _ => unreachable!("the state was just matched"),
            },
            State::Complete => panic!("an operation was polled after it had completed"),
        };
        Poll::Ready((result, std::mem::take(&mut self.buffer)))
    }
}

/// Returns the memory of a read to its buffer. A write shares the memory, which has never left the buffer.
fn restore(buffer: &mut AlignedBuf, memory: Option<IoBuffer>) {
    if let Some(memory @ (IoBuffer::Exclusive(_) | IoBuffer::Vectored(_))) = memory {
        BufferReturn::Buffer(buffer).give_back(memory);
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> Future for ReadOp<M, A, L> {
    type Output = (Result<u64, AioCommandError>, AlignedBuf);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx)
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> Future for WriteOp<M, A, L> {
    type Output = (Result<u64, AioCommandError>, AlignedBuf);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LocalRequestAdapter, NoopLock, SyncRequestAdapter};
    use intrusive_collections::linked_list::{AtomicLink, Link};

    #[test]
    fn operations_that_own_their_file_and_handle_move_to_other_tasks() {
        fn is_send<T: Send + Unpin + 'static>() {}
        fn is_static<T: Unpin + 'static>() {}
        is_send::<ReadOp<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>>();
        is_send::<WriteOp<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>>();
        is_static::<ReadOp<NoopLock, LocalRequestAdapter, Link>>();
    }

    #[tokio::test]
    #[cfg_attr(miri, ignore = "Miri makes no AIO system calls")]
    async fn a_write_and_a_read_return_their_buffers() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let file = match crate::File::from_std(tempfile::tempfile_in(&dir).unwrap()) {
            Ok(file) => file,
            Err(error) => return eprintln!("skipped: no direct I/O here: {error}"),
        };
        let (context, handle) = crate::aio_context(2, true).unwrap();
        let owner = OpOwner::new(Arc::clone(file.open_file()), handle);
        let mut buffer = AlignedBuf::new(8192).unwrap();
        buffer.fill(7);
        let (flags, mode) = (WriteFlags::empty(), TransferMode::Exact);
        let (written, buffer) = WriteOp::new(&owner, 4096, buffer, 4096, flags, mode).await;
        assert_eq!((written.unwrap(), buffer.size()), (4096, 8192));
        drop(file); // the operation has its own reference
        let (flags, mode) = (ReadFlags::empty(), TransferMode::Full { block: 512 });
        let (read, buffer) = ReadOp::new(&owner, 0, buffer, 8192, flags, mode).await;
        assert_eq!(read.unwrap(), 8192);
        assert!(buffer[..4096] == [0; 4096] && buffer[4096..] == [7; 4096]);
        // A write past the largest offset of a file is refused, and returns its buffer, too.
        let (flags, mode) = (WriteFlags::empty(), TransferMode::Exact);
        let (refused, buffer) = WriteOp::new(&owner, u64::MAX, buffer, 4096, flags, mode).await;
        assert!(refused.is_err() && buffer.size() == 8192);
        // Dropped in flight, on the only handle and the only reference to the file.
        let (flags, mode) = (ReadFlags::empty(), TransferMode::Single);
        let mut dropped = ReadOp::new(&owner, 0, buffer, 4096, flags, mode);
        drop(owner);
        std::future::poll_fn(|cx| {
            let _ = Pin::new(&mut dropped).poll(cx);
            Poll::Ready(())
        })
        .await;
        drop(dropped);
        context.close().await; // waits for the request
    }
}
