//! Reads and writes on buffers that are handed over: `(result, buffer)`.

use std::sync::Arc;

use lock_api::RawMutex;

use super::File;
use crate::backend::OpCode;
use crate::command::{check_end, io_op};
use crate::context::TransferMode;
use crate::op::{BufferReturn, FileRef, IoBuffer, IoRequest, OpenFile, OwnedBuffer, OwnedBuffers};
use crate::{AioCommandError, GenericAioContextHandle, IoBuf, IoBufMut, ReadFlags, WriteFlags};

/// Operations on buffers of the caller's own, which are handed over and come back with the result.
///
/// What is said of errors and flags at [`read_at`](File::read_at) and [`write_at`](File::write_at) holds
/// here, too.
///
/// After [`TimedOut`](AioCommandError::TimedOut) and [`AioStopped`](AioCommandError::AioStopped) the
/// kernel may still have the buffer. What comes back in its place:
///
/// | | the kernel still has it | it never got that far |
/// |---|---|---|
/// | a read, into anything | an empty one, the [`Default`] | the buffer |
/// | a write of an [`AlignedBuf`](crate::AlignedBuf) | the buffer, whole | the buffer |
/// | a write of anything else, a [`Slice`](crate::Slice) of an `AlignedBuf` too | an empty one | the buffer |
/// | several buffers, of any kind | no buffers: an empty `Vec` | the buffers |
///
/// Nothing is wrong with an empty one, to the next operation either: it succeeds, and moves nothing.
///
/// # Cancel safety
///
/// Dropped in flight, an operation goes on, with the buffer, which is dropped when the kernel is done
/// with it: one of a [`BufferPool`](crate::BufferPool) goes back there then.
impl File {
    /// Reads at `offset` as many bytes as `buffer` has room for; returns how many were read, and the
    /// buffer.
    ///
    /// A `Vec` or `BytesMut` has room for its capacity, and is as long as what was read then, or as
    /// before if that is longer: what lies behind stays. With direct I/O its memory may not be aligned
    /// enough (`EINVAL`): see [`IoBuf`](crate::IoBuf).
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The buffer comes back in any case but one:
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped) an
    /// empty buffer comes back where the kernel still has the other, and a read into an empty one
    /// succeeds with 0 bytes: try again with a new buffer.**
    ///
    /// # Cancel safety
    ///
    /// Dropped in flight, the buffer is dropped when the kernel is done with it.
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer, or starts behind what is initialized of it;
    /// nothing has been submitted then.
    ///
    /// # Examples
    ///
    /// A buffer of a pool, given away as `Bytes` (feature `bytes`) and back in the pool when nobody has
    /// any of it:
    ///
    /// ```
    /// use tokio_kaio::{BufferPool, File, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let pool = BufferPool::new(4, 4096)?;
    /// let buffer = pool.get().await;
    /// let (read, buffer) = file.read_owned_at(&handle, 0, buffer, ReadFlags::empty()).await;
    /// # #[cfg(feature = "bytes")] {
    /// let bytes = bytes::Bytes::from(buffer).slice(..read? as usize);
    /// assert_eq!((bytes.len(), pool.available()), (4096, 3));
    /// drop(bytes);
    /// assert_eq!(pool.available(), 4);
    /// # }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_owned_at<B: IoBufMut, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: B,
        flags: ReadFlags,
    ) -> (Result<u64, AioCommandError>, B) {
        self.read_into(aio_handle, offset, buffer, flags, TransferMode::Single)
            .await
    }

    /// The same, until the buffer is full: a read that comes back short is resumed.
    ///
    /// # Errors
    ///
    /// As [`read_owned_at`](File::read_owned_at), and `BadResult` with
    /// [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) where the file ends before.
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped) an
    /// empty buffer comes back where the kernel still has the other, and an exact read into an empty one
    /// is `Ok` with nothing read: try again with a new buffer.**
    ///
    /// # Cancel safety
    ///
    /// As [`read_owned_at`](File::read_owned_at).
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer, or starts behind what is initialized of it;
    /// nothing has been submitted then.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 8192])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let buffer = AlignedBuf::new(8192)?;
    /// let (read, buffer) = file.read_exact_owned_at(&handle, 0, buffer, ReadFlags::empty()).await;
    /// read?;
    /// assert!(buffer.iter().all(|&byte| byte == 7));
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_exact_owned_at<B: IoBufMut, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: B,
        flags: ReadFlags,
    ) -> (Result<(), AioCommandError>, B) {
        let (result, buffer) = self
            .read_into(aio_handle, offset, buffer, flags, TransferMode::Exact)
            .await;
        (result.map(drop), buffer)
    }

    /// Writes all bytes of `buffer` at `offset`; returns how many were written, which can be fewer,
    /// and the buffer.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The buffer comes back in any case but one:
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped) an
    /// empty buffer comes back where the kernel still has the other (an
    /// [`AlignedBuf`](crate::AlignedBuf) alone comes back whole), and a write of an empty one is `Ok` with
    /// nothing written: keep the data, as by `Bytes::clone`, or fill a new buffer, to write it again.**
    ///
    /// # Cancel safety
    ///
    /// Dropped in flight, the write goes on, and may land after one that is submitted later; the
    /// buffer is dropped when the kernel is done with it.
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer, before anything is submitted.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::create(&path, false).await?;
    /// let mut buffer = AlignedBuf::new(4096)?;
    /// buffer.fill(7);
    /// let (written, mut buffer) = file.write_owned_at(&handle, 0, buffer, WriteFlags::DSYNC).await;
    /// assert_eq!(written?, 4096);
    /// assert!(std::fs::read(&path)? == *buffer);
    /// buffer.fill(8); // for the next one
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_owned_at<B: IoBuf, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: B,
        flags: WriteFlags,
    ) -> (Result<u64, AioCommandError>, B) {
        self.write_from(aio_handle, offset, buffer, flags, TransferMode::Single)
            .await
    }

    /// The same, until all is written: a write that comes back short is resumed.
    ///
    /// # Errors
    ///
    /// As [`write_owned_at`](File::write_owned_at), `ENOSPC` where the disk is full; what was written
    /// before stays.
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped) an
    /// empty buffer comes back where the kernel still has the other (an
    /// [`AlignedBuf`](crate::AlignedBuf) alone comes back whole), and a write of an empty one is `Ok` with
    /// nothing written: keep the data, as by `Bytes::clone`, or fill a new buffer, to write it again.**
    ///
    /// # Cancel safety
    ///
    /// As [`write_owned_at`](File::write_owned_at).
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer, before anything is submitted.
    ///
    /// # Examples
    ///
    /// A write that is tried again, of `Bytes` (feature `bytes`), of which a clone is handed over. What has
    /// timed out may still land; only after [`drain`](File::drain) it can't any more.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio_kaio::{AioCommandError, AlignedBuf, File, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::create(&path, false).await?;
    /// let mut block = AlignedBuf::new(4096)?;
    /// block.fill(7);
    /// let hasty = handle.with_timeout(Duration::from_secs(2));
    /// # #[cfg(feature = "bytes")] {
    /// let data = bytes::Bytes::from(block);
    /// loop {
    ///     let handed_over = data.clone(); // the same memory; what comes back may be empty
    ///     let (written, _) = file.write_all_owned_at(&hasty, 0, handed_over, WriteFlags::DSYNC).await;
    ///     match written {
    ///         Err(AioCommandError::TimedOut) => file.drain(&handle).await,
    ///         done => break done?,
    ///     }
    /// }
    /// assert_eq!(std::fs::read(&path)?, data);
    /// # }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_all_owned_at<B: IoBuf, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: B,
        flags: WriteFlags,
    ) -> (Result<(), AioCommandError>, B) {
        let (result, buffer) = self
            .write_from(aio_handle, offset, buffer, flags, TransferMode::Exact)
            .await;
        (result.map(drop), buffer)
    }

    /// Reads at `offset` to each of `buffers`, one after the other, as many bytes as they have room
    /// for; returns how many were read, fewer where the file ends, and the buffers. More than `IOV_MAX`,
    /// 1024, take several requests: see [`RawCommand::Preadv`](crate::RawCommand::Preadv).
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The buffers come back in any case but one:
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped) an
    /// empty `Vec` comes back where the kernel still has the buffers, of whatever kind, and a read into
    /// none succeeds with 0 bytes: try again with new buffers.**
    ///
    /// # Cancel safety
    ///
    /// As [`read_owned_at`](File::read_owned_at).
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer, or starts behind what is initialized of it;
    /// nothing has been submitted then.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 12288])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let buffers = vec![AlignedBuf::new(4096)?, AlignedBuf::new(8192)?];
    /// let (read, buffers) = file.read_vectored_owned_at(&handle, 0, buffers, ReadFlags::empty()).await;
    /// assert_eq!(read?, 12288);
    /// assert!(buffers.iter().flat_map(|buffer| buffer.iter()).all(|&byte| byte == 7));
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_vectored_owned_at<B: IoBufMut, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffers: Vec<B>,
        flags: ReadFlags,
    ) -> (Result<u64, AioCommandError>, Vec<B>) {
        let request = match io_op(OpCode::Read, flags.bits(), offset, 0) {
            Ok(op) => OwnedBuffers::read(op, buffers),
            Err(error) => return (Err(error), buffers),
        };
        let (result, memory) =
            run_on(&self.inner.open, aio_handle, request, TransferMode::Single).await;
        let moved = *result.as_ref().unwrap_or(&0);
        (result, OwnedBuffers::finish_read(memory, moved))
    }

    /// Writes all bytes of each of `buffers` at `offset`, one after the other; returns how many were
    /// written, which can be fewer, and the buffers. More than `IOV_MAX`, 1024, take several requests:
    /// see [`RawCommand::Pwritev`](crate::RawCommand::Pwritev).
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The buffers come back in any case but one:
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped) an
    /// empty `Vec` comes back where the kernel still has the buffers, of whatever kind, and a write of
    /// none is `Ok` with nothing written: keep the data, as by `Bytes::clone`, or fill new buffers, to
    /// write it again.**
    ///
    /// # Cancel safety
    ///
    /// As [`write_owned_at`](File::write_owned_at).
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer, before anything is submitted.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AlignedBuf, File, IoBuf, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::create(&path, false).await?;
    /// // All of one, and a range of the other.
    /// let buffers = vec![AlignedBuf::new(8192)?.into_slice(..), AlignedBuf::new(8192)?.into_slice(..4096)];
    /// let (written, buffers) = file.write_vectored_owned_at(&handle, 0, buffers, WriteFlags::empty()).await;
    /// assert_eq!(written?, 12288);
    /// assert_eq!(buffers.len(), 2);
    /// assert_eq!(std::fs::metadata(&path)?.len(), 12288);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_vectored_owned_at<B: IoBuf, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffers: Vec<B>,
        flags: WriteFlags,
    ) -> (Result<u64, AioCommandError>, Vec<B>) {
        let flags = self.write_flags(flags);
        let request = match io_op(OpCode::Write, flags.bits(), offset, 0) {
            Ok(op) => OwnedBuffers::write(op, buffers),
            Err(error) => return (Err(error), buffers),
        };
        let (result, memory) =
            run_on(&self.inner.open, aio_handle, request, TransferMode::Single).await;
        (result, OwnedBuffers::finish(memory))
    }

    async fn read_into<B: IoBufMut, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: B,
        flags: ReadFlags,
        mode: TransferMode,
    ) -> (Result<u64, AioCommandError>, B) {
        let (request, owned) = match io_op(OpCode::Read, flags.bits(), offset, 0) {
            Ok(op) => match OwnedBuffer::read(op, buffer) {
                Ok(lent) => lent,
                Err((error, buffer)) => return (Err(AioCommandError::IoSubmit(error)), buffer),
            },
            Err(error) => return (Err(error), buffer),
        };
        let (result, memory) = run_on(&self.inner.open, aio_handle, request, mode).await;
        let moved = *result.as_ref().unwrap_or(&0);
        (result, owned.finish_read(memory, moved))
    }

    async fn write_from<B: IoBuf, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: B,
        flags: WriteFlags,
        mode: TransferMode,
    ) -> (Result<u64, AioCommandError>, B) {
        let flags = self.write_flags(flags);
        let (request, owned) = match io_op(OpCode::Write, flags.bits(), offset, 0) {
            Ok(op) => OwnedBuffer::write(op, buffer),
            Err(error) => return (Err(error), buffer),
        };
        let (result, memory) = run_on(&self.inner.open, aio_handle, request, mode).await;
        (result, owned.finish(memory))
    }
}

/// Runs what has the caller's memory; gives that back, unless the kernel has kept it.
pub(super) async fn run_on<M: RawMutex, A, L>(
    file: &Arc<OpenFile>,
    aio_handle: &GenericAioContextHandle<M, A, L>,
    request: IoRequest,
    mode: TransferMode,
) -> (Result<u64, AioCommandError>, Option<IoBuffer>) {
    if let Err(error) = check_end(&request.op) {
        return (Err(error), Some(request.buffer));
    }
    let request = (request, BufferReturn::Caller, mode);
    let mut operation = aio_handle.request_operation(FileRef::Open(file), request);
    let result = (&mut operation).await;
    (result, operation.as_mut().take_buffer())
}
