//! Reads and writes on buffers that the caller keeps.

use std::future::Future;

use lock_api::RawMutex;

use super::File;
use crate::op::FileRef;
use crate::{
    AioCommandError, AlignedBuf, GenericAioContextHandle, Part, PartMut, RawCommand, ReadFlags,
    WriteFlags,
};

impl File {
    /// Reads `len` bytes at `offset` to the front of `buffer`; returns how many were read: fewer
    /// where the file ends, 0 at or past its end. See [`RawCommand::Pread`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. `BadResult` with `EINVAL` says which alignment the file wants.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the read leaves `buffer` with its old content, zeroes, or what was read; see
    /// [`AlignedBuf`](AlignedBuf#while-an-operation-runs).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer, before anything is submitted.
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
    /// assert_eq!(read, 6144); // where the file ends
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

    /// Writes the first `len` bytes of `buffer` at `offset`; returns how many were written, which
    /// can be fewer, as where the disk fills up. See [`RawCommand::Pwrite`].
    ///
    /// With [`WriteFlags::APPEND`], or on a file that was opened with
    /// [`append`](std::fs::OpenOptions::append), at its end, whatever `offset` is. Those of one file
    /// that one context makes are submitted one after another, in the order in which they were made,
    /// each when the one before it is done: on some file systems (XFS) the end of the file moves only
    /// then, and those in flight together would be written over one another. Those of several contexts
    /// are not kept apart: append to a file through one.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. `BadResult` with `EINVAL` says which alignment the file wants.
    ///
    /// # Cancel safety
    ///
    /// Dropped in flight, the write goes on with the bytes that it was submitted with, and may
    /// land after one that is submitted later; see
    /// [`submit_request`](GenericAioContextHandle::submit_request).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer, before anything is submitted.
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

    /// Reads exactly `len` bytes at `offset` to the front of `buffer`. A read that comes back short is
    /// resumed where it stopped.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. `BadResult` with [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof)
    /// where the file ends before; the buffer has what there was.
    ///
    /// # Cancel safety
    ///
    /// As [`read_at`](File::read_at).
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer, before anything is submitted.
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
        aio_handle
            .exact_operation(FileRef::Open(&self.inner.open), command)
            .await
    }

    /// Writes all of the first `len` bytes of `buffer` at `offset`. A write that comes back short is
    /// resumed where it stopped.
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]: `ENOSPC` where the disk is full; what was written before stays.
    ///
    /// # Cancel safety
    ///
    /// As [`write_at`](File::write_at); of a write that takes several requests, those that have not
    /// been submitted are not.
    ///
    /// # Panics
    ///
    /// If `len` is larger than the buffer, before anything is submitted.
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
        aio_handle
            .exact_operation(FileRef::Open(&self.inner.open), command)
            .await
    }

    /// Reads at `offset` to each of `buffers`, one after the other; returns how many bytes were read:
    /// fewer where the file ends. See [`RawCommand::Preadv`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`].
    ///
    /// # Cancel safety
    ///
    /// As [`read_at`](File::read_at), for each of the buffers.
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

    /// Writes each of `buffers` at `offset`, one after the other; returns how many bytes were
    /// written, which can be fewer. See [`RawCommand::Pwritev`].
    ///
    /// # Errors
    ///
    /// See [`AioCommandError`]. One of the disk's after the first 1024 buffers makes it short.
    ///
    /// # Cancel safety
    ///
    /// As [`write_at`](File::write_at).
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
