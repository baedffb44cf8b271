//! [`OwnedBatch`]: operations that are submitted together, and own their buffers, files and handle.
#![allow(unsafe_code)]

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use lock_api::RawMutex;
use tokio::task::coop;

use super::batch::Running;
use super::{GenericAioContextHandle, TransferMode};
use crate::backend::OpCode;
use crate::command::{check_end, io_op};
use crate::config::Types;
use crate::op::{FileRef, IoBuffer, IoRequest, OpenFile, OwnedBuffer};
use crate::trace::OpSpan;
use crate::{AioCommandError, File, IoBuf, IoBufMut, ReadFlags, WriteFlags};

/// Collects operations that own their buffers. Submits as many as there are slots for with one system call.
/// Created by [`owned_batch`](GenericAioContextHandle::owned_batch).
///
/// Like a [`Batch`](crate::Batch), but it borrows nothing: its [stream](OwnedBatch::stream) is `'static`, can be
/// returned from a function or moved to another task, and yields the buffers with the results. `B` is the
/// type of the buffers: [`AlignedBuf`](crate::AlignedBuf), `Vec<u8>`, a [`Slice`](crate::Slice) or any other [`IoBuf`]. The
/// operations are those on [owned buffers](File::read_owned_at), and return the same buffers.
///
/// Nothing is submitted before the first poll of [`all`](OwnedBatch::all) or [`stream`](OwnedBatch::stream).
/// Submission and order are those of a [`Batch`](crate::Batch). **A sync does not cover the writes of its
/// batch.**
///
/// # Cancel safety
///
/// Dropping the batch, or its future or stream, is like dropping the future of each unfinished operation:
/// requests in flight go on, and keep their buffers until the kernel is done.
///
/// # Examples
///
/// ```
/// use futures::{Stream, StreamExt};
/// use tokio_kaio::{AioCommandError, AioContextHandle, AlignedBuf, File, aio_context};
///
/// /// The blocks of a file, in order of completion.
/// fn blocks(
///     handle: &AioContextHandle,
///     file: &File,
///     count: u64,
/// ) -> impl Stream<Item = Result<(usize, AlignedBuf), AioCommandError>> + Send + 'static {
///     let mut batch = handle.owned_batch();
///     for block in 0..count {
///         batch.read(file, block * 4096, AlignedBuf::new(4096).expect("memory for a block"));
///     }
///     batch.stream().map(|(index, read, buffer)| read.map(|_| (index, buffer)))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// # std::fs::write(&path, vec![7; 16384])?;
/// let (context, handle) = aio_context(32, true)?;
/// let file = File::open(path, false).await?;
/// let mut blocks = blocks(&handle, &file, 4);
/// drop(file);
/// while let Some(block) = blocks.next().await {
///     let (index, buffer) = block?;
///     println!("block {index}: {} bytes", buffer.size());
/// }
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "a batch does nothing unless you await `all` or poll `stream`"]
pub struct OwnedBatch<B, M: RawMutex, A, L> {
    handle: GenericAioContextHandle<M, A, L>,
    members: Vec<Member<B>>,
}

/// An operation that was not submitted yet.
enum Member<B> {
    Request {
        file: Arc<OpenFile>,
        request: IoRequest,
        mode: TransferMode,
        buffer: MemberBuffer<B>,
    },
    /// The request could not be made.
    Failed(AioCommandError, B),
}

/// See [`OwnedBuffer::finish_read`].
type FinishRead<B> = fn(OwnedBuffer<B>, Option<IoBuffer>, u64) -> B;

/// The buffer of an operation.
enum MemberBuffer<B> {
    /// With the function that returns it, which exists only for buffers that can be read into.
    Read(OwnedBuffer<B>, FinishRead<B>),
    Write(OwnedBuffer<B>),
    /// A sync has none.
    None,
}

impl<M: RawMutex, A, L> GenericAioContextHandle<M, A, L> {
    /// Creates an empty batch of operations that own their buffers. See [`OwnedBatch`].
    pub fn owned_batch<B>(&self) -> OwnedBatch<B, M, A, L> {
        OwnedBatch {
            handle: self.clone(),
            members: Vec::new(),
        }
    }
}

impl<B, M: RawMutex, A, L> OwnedBatch<B, M, A, L> {
    /// Number of operations.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn add(&mut self, member: Member<B>) -> usize {
        self.members.push(member);
        self.members.len() - 1
    }
}

impl<B: IoBufMut, M: RawMutex, A, L> OwnedBatch<B, M, A, L> {
    /// Adds a read at `offset` of as many bytes as `buffer` has room for. Returns the index of the operation in
    /// the batch. See [`File::read_owned_at`].
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer.
    pub fn read(&mut self, file: &File, offset: u64, buffer: B) -> usize {
        self.read_with(file, offset, buffer, ReadFlags::empty())
    }

    /// Adds a read as [`read`](OwnedBatch::read) does, with flags.
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer.
    pub fn read_with(&mut self, file: &File, offset: u64, buffer: B, flags: ReadFlags) -> usize {
        self.push_read(file, offset, buffer, flags, TransferMode::Single)
    }

    /// Adds a read as [`read`](OwnedBatch::read) does, which resumes short reads: it is short only at the end
    /// of the file. See [`File::read_full_owned_at`].
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer.
    pub fn read_full(&mut self, file: &File, offset: u64, buffer: B) -> usize {
        self.push_read(file, offset, buffer, ReadFlags::empty(), file.full_mode())
    }

    fn push_read(
        &mut self,
        file: &File,
        offset: u64,
        buffer: B,
        flags: ReadFlags,
        mode: TransferMode,
    ) -> usize {
        let made = match io_op(OpCode::Read, flags.bits(), offset, 0) {
            Ok(op) => OwnedBuffer::read(op, buffer)
                .map_err(|(error, buffer)| (AioCommandError::IoSubmit(error), buffer)),
            Err(error) => Err((error, buffer)),
        };
        let member = match made {
            Ok((request, owned)) => Member::Request {
                file: Arc::clone(file.open_file()),
                request,
                mode,
                buffer: MemberBuffer::Read(owned, OwnedBuffer::finish_read),
            },
            Err((error, buffer)) => Member::Failed(error, buffer),
        };
        self.add(member)
    }
}

impl<B: IoBuf, M: RawMutex, A, L> OwnedBatch<B, M, A, L> {
    /// Adds a write of the bytes of `buffer` at `offset`. Returns the index of the operation in the batch. See
    /// [`File::write_owned_at`].
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer.
    pub fn write(&mut self, file: &File, offset: u64, buffer: B) -> usize {
        self.write_with(file, offset, buffer, WriteFlags::empty())
    }

    /// Adds a write as [`write`](OwnedBatch::write) does, with flags.
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer.
    pub fn write_with(&mut self, file: &File, offset: u64, buffer: B, flags: WriteFlags) -> usize {
        self.push_write(file, offset, buffer, flags, TransferMode::Single)
    }

    /// Adds a write as [`write`](OwnedBatch::write) does, which resumes short writes. See
    /// [`File::write_all_owned_at`].
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer.
    pub fn write_all(&mut self, file: &File, offset: u64, buffer: B) -> usize {
        self.push_write(
            file,
            offset,
            buffer,
            WriteFlags::empty(),
            TransferMode::Exact,
        )
    }

    fn push_write(
        &mut self,
        file: &File,
        offset: u64,
        buffer: B,
        flags: WriteFlags,
        mode: TransferMode,
    ) -> usize {
        let flags = file.write_flags(flags);
        let member = match io_op(OpCode::Write, flags.bits(), offset, 0) {
            Ok(op) => {
                let (request, owned) = OwnedBuffer::write(op, buffer);
                Member::Request {
                    file: Arc::clone(file.open_file()),
                    request,
                    mode,
                    buffer: MemberBuffer::Write(owned),
                }
            }
            Err(error) => Member::Failed(error, buffer),
        };
        self.add(member)
    }

    /// Adds a sync of data and of the metadata that is needed to read it. Returns the index of the operation in
    /// the batch; the buffer in its result is empty. See [`File::sync_data`].
    pub fn sync_data(&mut self, file: &File) -> usize {
        self.push_sync(file, OpCode::Fdatasync)
    }

    /// Adds a sync of data and metadata. Returns the index of the operation in the batch; the buffer in its
    /// result is empty. See [`File::sync_all`].
    pub fn sync_all(&mut self, file: &File) -> usize {
        self.push_sync(file, OpCode::Fsync)
    }

    fn push_sync(&mut self, file: &File, opcode: OpCode) -> usize {
        self.add(Member::Request {
            file: Arc::clone(file.open_file()),
            request: IoRequest::sync(opcode),
            mode: TransferMode::Single,
            buffer: MemberBuffer::None,
        })
    }
}

impl<B, M, A, L> OwnedBatch<B, M, A, L>
where
    B: IoBuf,
    M: RawMutex + 'static,
    A: 'static,
    L: 'static,
{
    /// Submits all operations, waits for all, and returns their results and buffers in the order in which they
    /// were added.
    ///
    /// # Errors
    ///
    /// None for the batch as a whole: a failed operation does not affect the others. What is returned in place
    /// of a buffer that the kernel still uses is said at [`File::read_owned_at`].
    pub async fn all(self) -> Vec<(Result<u64, AioCommandError>, B)> {
        let mut results: Vec<_> = self.members.iter().map(|_| None).collect();
        let mut stream = self.stream();
        while let Some((index, result, buffer)) =
            poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await
        {
            results[index] = Some((result, buffer));
        }
        results.into_iter().flatten().collect()
    }

    /// Returns a stream that submits all operations, and yields the index, the result and the buffer of each
    /// operation when it is done.
    pub fn stream(self) -> OwnedBatchResults<B, M, A, L> {
        let OwnedBatch { handle, members } = self;
        let (mut files, mut requests) = (Vec::new(), Vec::new());
        let (mut buffers, mut failed) = (Vec::new(), Vec::new());
        for (index, member) in members.into_iter().enumerate() {
            let (file, request, mode, buffer) = match member {
                Member::Request {
                    file,
                    request,
                    mode,
                    buffer,
                } => (file, request, mode, buffer),
                Member::Failed(error, buffer) => {
                    failed.push((index, Err(error), buffer));
                    continue;
                }
            };
            if let Err(error) = check_end(&request.op) {
                let buffer = buffer.returned(Some(request.buffer), 0);
                failed.push((index, Err(error), buffer));
                continue;
            }
            files.push(file);
            requests.push((request, mode));
            buffers.push((index, buffer));
        }
        let owner = Arc::new(BatchOwner { handle, files });
        // SAFETY: the `Arc` in the same `OwnedBatchResults` keeps the owner alive at this address, and nothing
        // changes or moves the owner. The reference is only in `running`, which is dropped before the `Arc`.
        // If the stream is forgotten, the `Arc` is too, and the owner lives for ever.
        let borrowed: &'static BatchOwner<M, A, L> = unsafe { &*Arc::as_ptr(&owner) };
        let files = borrowed.files.iter().map(FileRef::Open);
        let (mut members, mut spans) = (Vec::new(), Vec::new());
        for (file, (request, mode)) in files.zip(requests) {
            spans.push(OpSpan::of_request(
                &request.op,
                file.fd(),
                borrowed.handle.group_name(),
            ));
            members.push((file, request, mode));
        }
        let operations = borrowed.handle.batch_requests(members);
        let operations = operations.into_iter().zip(spans).map(Some).collect();
        OwnedBatchResults {
            running: Running::new(operations),
            owner,
            buffers: buffers.into_iter().map(Some).collect(),
            failed,
        }
    }
}

impl<B: IoBuf> MemberBuffer<B> {
    /// Returns the buffer of an operation that is done.
    fn returned(self, memory: Option<IoBuffer>, moved: u64) -> B {
        match self {
            MemberBuffer::Read(owned, finish) => finish(owned, memory, moved),
            MemberBuffer::Write(owned) => owned.finish(memory),
            MemberBuffer::None => B::default(),
        }
    }
}

/// The handle and the files of the operations.
struct BatchOwner<M: RawMutex, A, L> {
    handle: GenericAioContextHandle<M, A, L>,
    files: Vec<Arc<OpenFile>>,
}

/// A [`Stream`] of the results of an [`OwnedBatch`], in order of completion. Each item is the index of an
/// operation, its result and its buffer.
#[must_use = "a batch does nothing unless its stream is polled"]
pub struct OwnedBatchResults<B, M: RawMutex + 'static, A: 'static, L: 'static> {
    /// Borrows from `owner`, so it is the first field, which is dropped first.
    running: Running<'static, Types<M>>,
    owner: Arc<BatchOwner<M, A, L>>,
    /// The indices and buffers of the operations in `running`. `None` if the operation is done.
    buffers: Vec<Option<(usize, MemberBuffer<B>)>>,
    /// The results of the operations that were never submitted.
    failed: Vec<(usize, Result<u64, AioCommandError>, B)>,
}

/// The stream never pins a buffer.
impl<B, M: RawMutex + 'static, A: 'static, L: 'static> Unpin for OwnedBatchResults<B, M, A, L> {}

impl<B, M, A, L> Stream for OwnedBatchResults<B, M, A, L>
where
    B: IoBuf,
    M: RawMutex + 'static,
    A: 'static,
    L: 'static,
{
    type Item = (usize, Result<u64, AioCommandError>, B);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let budget = ready!(coop::poll_proceed(cx));
        let this = self.get_mut();
        let limit = this.owner.handle.time_limit();
        let polled = match this.running.poll_next(limit, cx) {
            Poll::Ready(Some((member, result, memory))) => {
                let returned = this.buffers[member].take().map(|(index, buffer)| {
                    let moved = *result.as_ref().unwrap_or(&0);
                    (index, result, buffer.returned(memory, moved))
                });
                Poll::Ready(returned)
            }
            others => match this.failed.pop() {
                Some(failed) => Poll::Ready(Some(failed)),
                None => others.map(|_| None),
            },
        };
        if polled.is_ready() {
            budget.made_progress();
        }
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.running.left() + self.failed.len();
        (left, Some(left))
    }
}

impl<B, M: RawMutex, A, L> fmt::Debug for OwnedBatch<B, M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedBatch")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<B, M: RawMutex, A, L> fmt::Debug for OwnedBatchResults<B, M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedBatchResults")
            .field("left", &(self.running.left() + self.failed.len()))
            .finish_non_exhaustive()
    }
}
