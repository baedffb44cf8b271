//! Reads and writes on borrowed buffers.

use std::future::Future;

use lock_api::RawMutex;

use super::File;
use crate::context::TransferMode;
use crate::op::FileRef;
use crate::{
    AioCommandError, AlignedBuf, GenericAioContextHandle, Part, PartMut, RawCommand, ReadFlags,
    WriteFlags,
};

impl File {
    /// Reads `len` bytes at `offset` to the front of `buffer`. Returns the number of bytes read, which is
    /// smaller if the file ends before, and 0 at or past its end. See [`RawCommand::Pread`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The text of a `BadResult` with `EINVAL` says which alignment the file
    /// requires.
    ///
    /// # Cancel safety
    ///
    /// A dropped read leaves `buffer` with its old content, zeroes, or the data that was read: see
    /// [`AlignedBuf`](AlignedBuf#while-an-operation-runs).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer. Nothing has been submitted then.
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
    /// # std::fs::write(&path, vec![7; 6144])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let mut buffer = AlignedBuf::new(8192)?;
    /// let read = file.read_at(&handle, 0, &mut buffer, 8192, ReadFlags::empty()).await?;
    /// assert_eq!(read, 6144); // the file ends there
    /// assert!(buffer[..6144].iter().all(|&byte| byte == 7));
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_at<'a, M: RawMutex, A, L>(
        &'a self,
        aio_handle: &'a GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: &'a mut AlignedBuf,
        len: u64,
        flags: ReadFlags,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + use<'a, M, A, L> {
        let command = RawCommand::Pread {
            offset,
            buffer,
            flags,
            len,
        };
        aio_handle.operation(FileRef::Open(&self.inner.open), command)
    }

    /// Writes the first `len` bytes of `buffer` at `offset`. Returns the number of bytes written, which can
    /// be smaller, for example if the disk fills up. See [`RawCommand::Pwrite`].
    ///
    /// With [`WriteFlags::APPEND`], or on a file that was opened with
    /// [`append`](std::fs::OpenOptions::append), the data is written at the end of the file, whatever
    /// `offset` is. One context submits the appends to a file one at a time, in the order in which they were
    /// made: on some file systems (XFS) the end of the file moves only when an append completes, so appends
    /// in flight together would overwrite each other. Appends of several contexts are not ordered: append
    /// to a file through one context only.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. The text of a `BadResult` with `EINVAL` says which alignment the file
    /// requires.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped in flight, the write continues with the bytes that were submitted, and may
    /// land after a write that is submitted later: see
    /// [`submit_request`](GenericAioContextHandle::submit_request).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer. Nothing has been submitted then.
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
    /// let written = file.write_at(&handle, 4096, &buffer, 4096, WriteFlags::DSYNC).await?;
    /// assert_eq!(written, 4096);
    /// assert!(std::fs::read(&path)?[4096..] == *buffer);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_at<'a, M: RawMutex, A, L>(
        &'a self,
        aio_handle: &'a GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: &'a AlignedBuf,
        len: u64,
        flags: WriteFlags,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + use<'a, M, A, L> {
        let command = RawCommand::Pwrite {
            offset,
            buffer,
            flags: self.write_flags(flags),
            len,
        };
        aio_handle.operation(FileRef::Open(&self.inner.open), command)
    }

    /// Reads exactly `len` bytes at `offset` to the front of `buffer`. A short read is resumed.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. `BadResult` of the kind
    /// [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) if the file ends before; the buffer then has the
    /// bytes up to the end.
    ///
    /// # Cancel safety
    ///
    /// That of [`read_at`](File::read_at).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer. Nothing has been submitted then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::ErrorKind;
    /// use tokio_kaio::{AioCommandError, AlignedBuf, File, ReadFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 8192])?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let file = File::open(path, false).await?;
    /// let (mut buffer, flags) = (AlignedBuf::new(8192)?, ReadFlags::empty());
    /// file.read_exact_at(&handle, 0, &mut buffer, 8192, flags).await?;
    /// assert!(buffer.iter().all(|&byte| byte == 7));
    /// match file.read_exact_at(&handle, 4096, &mut buffer, 8192, flags).await {
    ///     Err(AioCommandError::BadResult(error)) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
    ///     read => panic!("{read:?}"),
    /// }
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_exact_at<M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: &mut AlignedBuf,
        len: u64,
        flags: ReadFlags,
    ) -> Result<(), AioCommandError> {
        let command = RawCommand::Pread {
            offset,
            buffer,
            flags,
            len,
        };
        let file = FileRef::Open(&self.inner.open);
        let moved = aio_handle.resumed_operation(file, command, TransferMode::Exact);
        moved.await.map(drop)
    }

    /// Reads `len` bytes at `offset` to the front of `buffer`, or all bytes up to the end of the file if it ends
    /// before. Returns the number of bytes read. A short read is resumed, so fewer than `len` bytes always mean
    /// the end of the file.
    ///
    /// A single request is short in other cases too: one request moves at most 2 GiB, and some file systems
    /// stop early. [`read_exact_at`](File::read_exact_at) fails at the end of the file.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. An error after some data is the result of the whole read.
    ///
    /// # Cancel safety
    ///
    /// That of [`read_at`](File::read_at).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer. Nothing has been submitted then.
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
    /// let mut buffer = AlignedBuf::new(8192)?;
    /// let flags = ReadFlags::empty();
    /// assert_eq!(file.read_full_at(&handle, 0, &mut buffer, 8192, flags).await?, 5000);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_full_at<M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: &mut AlignedBuf,
        len: u64,
        flags: ReadFlags,
    ) -> Result<u64, AioCommandError> {
        let command = RawCommand::Pread {
            offset,
            buffer,
            flags,
            len,
        };
        let file = FileRef::Open(&self.inner.open);
        aio_handle
            .resumed_operation(file, command, self.full_mode())
            .await
    }

    /// The mode of a read up to the end of the file.
    pub(crate) fn full_mode(&self) -> TransferMode {
        TransferMode::Full {
            // Direct I/O stops at a logical block of the device, unless the file ends.
            block: if self.is_direct { 512 } else { 1 },
        }
    }

    /// Writes all of the first `len` bytes of `buffer` at `offset`. A short write is resumed.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. `ENOSPC`: the disk is full; the data written before stays.
    ///
    /// # Cancel safety
    ///
    /// That of [`write_at`](File::write_at). If the write takes several requests, those that have not been
    /// submitted yet are not submitted any more.
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer. Nothing has been submitted then.
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
    /// let mut buffer = AlignedBuf::new(8192)?;
    /// buffer.fill(7);
    /// file.write_all_at(&handle, 0, &buffer, 8192, WriteFlags::empty()).await?;
    /// assert!(std::fs::read(&path)? == *buffer);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_all_at<M: RawMutex, A, L>(
        &self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffer: &AlignedBuf,
        len: u64,
        flags: WriteFlags,
    ) -> Result<(), AioCommandError> {
        let command = RawCommand::Pwrite {
            offset,
            buffer,
            flags: self.write_flags(flags),
            len,
        };
        let file = FileRef::Open(&self.inner.open);
        let moved = aio_handle.resumed_operation(file, command, TransferMode::Exact);
        moved.await.map(drop)
    }

    /// Reads at `offset` into each of `buffers`, one after another. Returns the number of bytes read, which is
    /// smaller if the file ends before. See [`RawCommand::Preadv`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`].
    ///
    /// # Cancel safety
    ///
    /// That of [`read_at`](File::read_at), for each of the buffers.
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
    /// let mut header = AlignedBuf::new(4096)?;
    /// let mut body = AlignedBuf::new(65536)?;
    /// let buffers = &mut [header.part_mut(..), body.part_mut(..8192)];
    /// let read = file.read_vectored_at(&handle, 0, buffers, ReadFlags::empty()).await?;
    /// assert_eq!(read, 12288);
    /// # assert!(header.iter().chain(&body[..8192]).all(|&byte| byte == 7));
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_vectored_at<'a, M: RawMutex, A, L>(
        &'a self,
        aio_handle: &'a GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffers: &'a mut [PartMut<'a>],
        flags: ReadFlags,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + use<'a, M, A, L> {
        let command = RawCommand::Preadv {
            offset,
            buffers,
            flags,
        };
        aio_handle.operation(FileRef::Open(&self.inner.open), command)
    }

    /// Writes each of `buffers` at `offset`, one after another. Returns the number of bytes written, which can
    /// be smaller. See [`RawCommand::Pwritev`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. If the disk fails after the first 1024 buffers, the write is short instead.
    ///
    /// # Cancel safety
    ///
    /// That of [`write_at`](File::write_at).
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
    /// let (header, body) = (AlignedBuf::new(4096)?, AlignedBuf::new(65536)?);
    /// let buffers = &[header.part(..), body.part(..8192)];
    /// let written = file.write_vectored_at(&handle, 0, buffers, WriteFlags::empty()).await?;
    /// assert_eq!(written, 12288);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_vectored_at<'a, M: RawMutex, A, L>(
        &'a self,
        aio_handle: &'a GenericAioContextHandle<M, A, L>,
        offset: u64,
        buffers: &'a [Part<'a>],
        flags: WriteFlags,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + use<'a, M, A, L> {
        let command = RawCommand::Pwritev {
            offset,
            buffers,
            flags: self.write_flags(flags),
        };
        aio_handle.operation(FileRef::Open(&self.inner.open), command)
    }
}
