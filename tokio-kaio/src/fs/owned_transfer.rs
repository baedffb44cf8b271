//! Reads and writes on owned buffers, which the operation takes and returns: `(result, buffer)`.

use std::sync::Arc;

use lock_api::RawMutex;

use super::File;
use crate::backend::OpCode;
use crate::command::{check_end, io_op};
use crate::context::TransferMode;
use crate::op::{BufferReturn, FileRef, IoBuffer, IoRequest, OpenFile, OwnedBuffer, OwnedBuffers};
use crate::{AioCommandError, GenericAioContextHandle, IoBuf, IoBufMut, ReadFlags, WriteFlags};

/// Operations on owned buffers: each takes the buffer and returns it with the result.
///
/// Errors and flags are those of [`read_at`](File::read_at) and [`write_at`](File::write_at).
///
/// After [`TimedOut`](AioCommandError::TimedOut) and [`AioStopped`](AioCommandError::AioStopped) the kernel
/// may still use the buffer. The operation then returns a replacement:
///
/// | operation | the kernel still uses the buffer | the kernel never had the buffer |
/// |---|---|---|
/// | a read into any buffer | an empty buffer, the [`Default`] | the buffer |
/// | a write of an [`AlignedBuf`](crate::AlignedBuf) | the buffer, unchanged | the buffer |
/// | a write of any other buffer, including a [`Slice`](crate::Slice) of an `AlignedBuf` | an empty buffer | the buffer |
/// | several buffers of any kind | no buffers: an empty `Vec` | the buffers |
///
/// An empty buffer is valid, also for the next operation, which succeeds and transfers nothing.
///
/// # Cancel safety
///
/// If the future is dropped in flight, the operation continues and keeps the buffer. The buffer is dropped
/// when the kernel is done with it; a buffer of a [`BufferPool`](crate::BufferPool) then returns to its pool.
impl File {
    /// Reads at `offset` as many bytes as `buffer` has room for. Returns the number of bytes read, which is
    /// smaller if the file ends before, and the buffer.
    ///
    /// A `Vec` or `BytesMut` is filled up to its capacity. Its length becomes the number of bytes read, or
    /// stays if it is larger, and the bytes behind the data that was read stay. With direct I/O its memory
    /// may not be aligned enough (`EINVAL`): see [`IoBuf`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The buffer is returned, with one exception:
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped), an
    /// empty buffer is returned if the kernel still uses the original one. A read into an empty buffer
    /// succeeds with 0 bytes, so retry with a new buffer.**
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped in flight, the buffer is dropped when the kernel is done with it.
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer, or starts behind the initialized bytes of it.
    /// Nothing has been submitted then.
    ///
    /// # Examples
    ///
    /// A pooled buffer is shared as `Bytes` (feature `bytes`), and returns to the pool when the last `Bytes`
    /// is dropped:
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

    /// Reads at `offset` until `buffer` is full. Like [`read_owned_at`](File::read_owned_at), but a short read
    /// is resumed.
    ///
    /// # Errors
    ///
    /// The errors of [`read_owned_at`](File::read_owned_at). `BadResult` of the kind
    /// [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) if the file ends before the buffer is full.
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped), an
    /// empty buffer is returned if the kernel still uses the original one. An exact read into an empty
    /// buffer is `Ok` and reads nothing, so retry with a new buffer.**
    ///
    /// # Cancel safety
    ///
    /// That of [`read_owned_at`](File::read_owned_at).
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer, or starts behind the initialized bytes of it.
    /// Nothing has been submitted then.
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

    /// Reads at `offset` until `buffer` is full or the file ends. Returns the number of bytes read, and the
    /// buffer. Like [`read_owned_at`](File::read_owned_at), but a short read is resumed, so a buffer that is not
    /// full always means the end of the file. See [`read_full_at`](File::read_full_at).
    ///
    /// # Errors
    ///
    /// The errors of [`read_owned_at`](File::read_owned_at).
    ///
    /// # Cancel safety
    ///
    /// That of [`read_owned_at`](File::read_owned_at).
    ///
    /// # Panics
    ///
    /// That of [`read_owned_at`](File::read_owned_at).
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
    /// std::fs::write(&path, vec![7; 5000])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let buffer = AlignedBuf::new(8192)?;
    /// let (read, buffer) = file.read_full_owned_at(&handle, 0, buffer, ReadFlags::empty()).await;
    /// assert_eq!((read?, buffer.size()), (5000, 8192));
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_full_owned_at<B: IoBufMut, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: B,
        flags: ReadFlags,
    ) -> (Result<u64, AioCommandError>, B) {
        self.read_into(aio_handle, offset, buffer, flags, self.full_mode())
            .await
    }

    /// Writes the bytes of `buffer` at `offset`. Returns the number of bytes written, which can be smaller,
    /// and the buffer.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The buffer is returned, with one exception:
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped), an
    /// empty buffer is returned if the kernel still uses the original one (only an
    /// [`AlignedBuf`](crate::AlignedBuf) is returned unchanged). A write of an empty buffer is `Ok` and
    /// writes nothing. To retry, keep a copy of the data, for example with `Bytes::clone`, or fill a new
    /// buffer.**
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped in flight, the write continues, and may land after a write that is submitted
    /// later. The buffer is dropped when the kernel is done with it.
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer. Nothing has been submitted then.
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
    /// buffer.fill(8); // for the next write
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

    /// Writes all bytes of `buffer` at `offset`. Like [`write_owned_at`](File::write_owned_at), but a short
    /// write is resumed.
    ///
    /// # Errors
    ///
    /// The errors of [`write_owned_at`](File::write_owned_at). `ENOSPC`: the disk is full; the data written before
    /// stays.
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped), an
    /// empty buffer is returned if the kernel still uses the original one (only an
    /// [`AlignedBuf`](crate::AlignedBuf) is returned unchanged). A write of an empty buffer is `Ok` and
    /// writes nothing. To retry, keep a copy of the data, for example with `Bytes::clone`, or fill a new
    /// buffer.**
    ///
    /// # Cancel safety
    ///
    /// That of [`write_owned_at`](File::write_owned_at).
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer. Nothing has been submitted then.
    ///
    /// # Examples
    ///
    /// A write of `Bytes` (feature `bytes`) that is retried after a timeout, with a clone for each attempt. A
    /// write that timed out may still land until [`drain`](File::drain) returns.
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
    ///     let clone = data.clone(); // the same memory; the returned buffer may be empty
    ///     let (written, _) = file.write_all_owned_at(&hasty, 0, clone, WriteFlags::DSYNC).await;
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

    /// Reads at `offset` into each of `buffers`, one after another, as many bytes as they have room for.
    /// Returns the number of bytes read, which is smaller if the file ends before, and the buffers. More
    /// than 1024 buffers (`IOV_MAX`) take several requests: see
    /// [`RawCommand::Preadv`](crate::RawCommand::Preadv).
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The buffers are returned, with one exception:
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped), an
    /// empty `Vec` is returned if the kernel still uses the buffers, whatever their type. A read into no
    /// buffers succeeds with 0 bytes, so retry with new buffers.**
    ///
    /// # Cancel safety
    ///
    /// That of [`read_owned_at`](File::read_owned_at).
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer, or starts behind the initialized bytes of it.
    /// Nothing has been submitted then.
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
            run_request(&self.inner.open, aio_handle, request, TransferMode::Single).await;
        let moved = *result.as_ref().unwrap_or(&0);
        (result, OwnedBuffers::finish_read(memory, moved))
    }

    /// Writes the bytes of each of `buffers` at `offset`, one after another. Returns the number of bytes
    /// written, which can be smaller, and the buffers. More than 1024 buffers (`IOV_MAX`) take several
    /// requests: see [`RawCommand::Pwritev`](crate::RawCommand::Pwritev).
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The buffers are returned, with one exception:
    ///
    /// **After [`TimedOut`](AioCommandError::TimedOut) or [`AioStopped`](AioCommandError::AioStopped), an
    /// empty `Vec` is returned if the kernel still uses the buffers, whatever their type. A write of no
    /// buffers is `Ok` and writes nothing. To retry, keep a copy of the data, for example with
    /// `Bytes::clone`, or fill new buffers.**
    ///
    /// # Cancel safety
    ///
    /// That of [`write_owned_at`](File::write_owned_at).
    ///
    /// # Panics
    ///
    /// If a [`Slice`](crate::Slice) is not within its buffer. Nothing has been submitted then.
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
    /// // All of the first buffer, and a range of the second.
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
            run_request(&self.inner.open, aio_handle, request, TransferMode::Single).await;
        (result, OwnedBuffers::finish(memory))
    }

    pub(super) async fn read_into<B: IoBufMut, M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: B,
        flags: ReadFlags,
        mode: TransferMode,
    ) -> (Result<u64, AioCommandError>, B) {
        let (request, owned) = match io_op(OpCode::Read, flags.bits(), offset, 0) {
            Ok(op) => match OwnedBuffer::read(op, buffer) {
                Ok(request) => request,
                Err((error, buffer)) => return (Err(AioCommandError::IoSubmit(error)), buffer),
            },
            Err(error) => return (Err(error), buffer),
        };
        let (result, memory) = run_request(&self.inner.open, aio_handle, request, mode).await;
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
        let (result, memory) = run_request(&self.inner.open, aio_handle, request, mode).await;
        (result, owned.finish(memory))
    }
}

/// Runs a request that has the caller's buffer. Returns the buffer with the result. `None`: the kernel
/// still uses it.
pub(super) async fn run_request<M: RawMutex, A, L>(
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
