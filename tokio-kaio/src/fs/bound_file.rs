//! [`BoundFile`]: a file with the handle of the context that runs its operations.

use std::fmt;
use std::future::Future;
#[cfg(feature = "bytes")]
use std::ops::Range;
use std::time::Duration;

#[cfg(feature = "bytes")]
use bytes::Bytes;
use intrusive_collections::linked_list::AtomicLink;
use lock_api::RawMutex;
use tokio::time::Instant;

use super::{File, FileReader, FileWriter};
use crate::{
    AioCommandError, AlignedBuf, GenericAioContextHandle, IoBuf, IoBufMut, IoPriority, Part,
    PartMut, ReadFlags, SizeClassPool, SyncRequestAdapter, WriteFlags,
};
#[cfg(feature = "bytes")]
use crate::{Coalesce, RangeStream};

/// A [`File`] and a [handle](GenericAioContextHandle). It has the methods of `File` that take a handle,
/// without that argument. Made by [`File::with_handle`].
///
/// Cheap to clone: it owns a clone of the file and of the handle, and keeps a
/// [detached](crate::GenericAioContext::detach) context open. The other methods of the file are at
/// [`file()`](BoundFile::file).
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::time::Duration;
/// use tokio_kaio::{AioContextBuilder, AlignedBuf, BoundFile, File, ReadFlags, WriteFlags};
///
/// struct Table {
///     pages: BoundFile, // with the type parameters of `AioContextHandle`
/// }
///
/// impl Table {
///     async fn page(&self, number: u64) -> io::Result<AlignedBuf> {
///         let mut page = AlignedBuf::new(4096)?;
///         let pages = self.pages.with_timeout(Duration::from_secs(60));
///         pages.read_exact_at(number * 4096, &mut page, 4096, ReadFlags::empty()).await?;
///         Ok(page)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table");
/// # std::fs::write(&path, vec![7; 8192])?;
/// let handle = AioContextBuilder::new(64).build_detached()?;
/// let table = Table { pages: File::open(path, false).await?.with_handle(&handle) };
/// assert!(table.page(1).await?.iter().all(|&byte| byte == 7));
/// # Ok(())
/// # }
/// ```
pub struct BoundFile<M: RawMutex = parking_lot::RawMutex, A = SyncRequestAdapter, L = AtomicLink> {
    file: File,
    handle: GenericAioContextHandle<M, A, L>,
}

impl File {
    /// Binds a clone of this file to a clone of `handle`: the result has the methods that take a handle,
    /// without that argument. See [`BoundFile`].
    pub fn with_handle<M: RawMutex, A, L>(
        &self,
        handle: &GenericAioContextHandle<M, A, L>,
    ) -> BoundFile<M, A, L> {
        BoundFile {
            file: self.clone(),
            handle: handle.clone(),
        }
    }
}

impl<M: RawMutex, A, L> BoundFile<M, A, L> {
    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The handle that runs the operations.
    pub fn handle(&self) -> &GenericAioContextHandle<M, A, L> {
        &self.handle
    }

    /// Returns the file and the handle.
    pub fn into_parts(self) -> (File, GenericAioContextHandle<M, A, L>) {
        (self.file, self.handle)
    }

    /// Returns the same file with a handle
    /// [with this priority](GenericAioContextHandle::with_priority).
    #[must_use = "this file is not changed; the returned one has the priority"]
    pub fn with_priority(&self, priority: IoPriority) -> Self {
        self.with(self.handle.with_priority(priority))
    }

    /// Returns the same file with a handle
    /// [with this deadline](GenericAioContextHandle::with_deadline).
    #[must_use = "this file is not changed; the returned one has the deadline"]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        self.with(self.handle.with_deadline(deadline))
    }

    /// Returns the same file with a handle
    /// [with this timeout](GenericAioContextHandle::with_timeout).
    #[must_use = "this file is not changed; the returned one has the timeout"]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.with(self.handle.with_timeout(timeout))
    }

    /// Returns the same file with a handle
    /// [with this pool](GenericAioContextHandle::with_buffers).
    #[must_use = "this file is not changed; the returned one has the pool"]
    pub fn with_buffers(&self, pool: &SizeClassPool) -> Self {
        self.with(self.handle.with_buffers(pool))
    }

    fn with(&self, handle: GenericAioContextHandle<M, A, L>) -> Self {
        BoundFile {
            file: self.file.clone(),
            handle,
        }
    }

    /// Reads up to `len` bytes at `offset`: [`File::read_at`].
    pub fn read_at<'a>(
        &'a self,
        offset: u64,
        buffer: &'a mut AlignedBuf,
        len: u64,
        flags: ReadFlags,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + use<'a, M, A, L> {
        self.file.read_at(&self.handle, offset, buffer, len, flags)
    }

    /// Writes up to `len` bytes at `offset`: [`File::write_at`].
    pub fn write_at<'a>(
        &'a self,
        offset: u64,
        buffer: &'a AlignedBuf,
        len: u64,
        flags: WriteFlags,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + use<'a, M, A, L> {
        self.file.write_at(&self.handle, offset, buffer, len, flags)
    }

    /// Reads exactly `len` bytes at `offset`: [`File::read_exact_at`].
    pub async fn read_exact_at(
        &self,
        offset: u64,
        buffer: &mut AlignedBuf,
        len: u64,
        flags: ReadFlags,
    ) -> Result<(), AioCommandError> {
        let read = self
            .file
            .read_exact_at(&self.handle, offset, buffer, len, flags);
        read.await
    }

    /// Reads `len` bytes at `offset`, or up to the end of the file: [`File::read_full_at`].
    pub async fn read_full_at(
        &self,
        offset: u64,
        buffer: &mut AlignedBuf,
        len: u64,
        flags: ReadFlags,
    ) -> Result<u64, AioCommandError> {
        let read = self
            .file
            .read_full_at(&self.handle, offset, buffer, len, flags);
        read.await
    }

    /// Writes all of `len` bytes at `offset`: [`File::write_all_at`].
    pub async fn write_all_at(
        &self,
        offset: u64,
        buffer: &AlignedBuf,
        len: u64,
        flags: WriteFlags,
    ) -> Result<(), AioCommandError> {
        let write = self
            .file
            .write_all_at(&self.handle, offset, buffer, len, flags);
        write.await
    }

    /// Reads into several buffers: [`File::read_vectored_at`].
    pub fn read_vectored_at<'a>(
        &'a self,
        offset: u64,
        buffers: &'a mut [PartMut<'a>],
        flags: ReadFlags,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + use<'a, M, A, L> {
        self.file
            .read_vectored_at(&self.handle, offset, buffers, flags)
    }

    /// Writes several buffers: [`File::write_vectored_at`].
    pub fn write_vectored_at<'a>(
        &'a self,
        offset: u64,
        buffers: &'a [Part<'a>],
        flags: WriteFlags,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + use<'a, M, A, L> {
        self.file
            .write_vectored_at(&self.handle, offset, buffers, flags)
    }

    /// Reads into an owned buffer: [`File::read_owned_at`].
    pub async fn read_owned_at<B: IoBufMut>(
        &self,
        offset: u64,
        buffer: B,
        flags: ReadFlags,
    ) -> (Result<u64, AioCommandError>, B) {
        let read = self.file.read_owned_at(&self.handle, offset, buffer, flags);
        read.await
    }

    /// Fills an owned buffer: [`File::read_exact_owned_at`].
    pub async fn read_exact_owned_at<B: IoBufMut>(
        &self,
        offset: u64,
        buffer: B,
        flags: ReadFlags,
    ) -> (Result<(), AioCommandError>, B) {
        let read = self
            .file
            .read_exact_owned_at(&self.handle, offset, buffer, flags);
        read.await
    }

    /// Fills an owned buffer, or reads up to the end of the file: [`File::read_full_owned_at`].
    pub async fn read_full_owned_at<B: IoBufMut>(
        &self,
        offset: u64,
        buffer: B,
        flags: ReadFlags,
    ) -> (Result<u64, AioCommandError>, B) {
        let read = self
            .file
            .read_full_owned_at(&self.handle, offset, buffer, flags);
        read.await
    }

    /// Writes an owned buffer: [`File::write_owned_at`].
    pub async fn write_owned_at<B: IoBuf>(
        &self,
        offset: u64,
        buffer: B,
        flags: WriteFlags,
    ) -> (Result<u64, AioCommandError>, B) {
        let write = self
            .file
            .write_owned_at(&self.handle, offset, buffer, flags);
        write.await
    }

    /// Writes all of an owned buffer: [`File::write_all_owned_at`].
    pub async fn write_all_owned_at<B: IoBuf>(
        &self,
        offset: u64,
        buffer: B,
        flags: WriteFlags,
    ) -> (Result<(), AioCommandError>, B) {
        let write = self
            .file
            .write_all_owned_at(&self.handle, offset, buffer, flags);
        write.await
    }

    /// Reads into several owned buffers: [`File::read_vectored_owned_at`].
    pub async fn read_vectored_owned_at<B: IoBufMut>(
        &self,
        offset: u64,
        buffers: Vec<B>,
        flags: ReadFlags,
    ) -> (Result<u64, AioCommandError>, Vec<B>) {
        let read = self
            .file
            .read_vectored_owned_at(&self.handle, offset, buffers, flags);
        read.await
    }

    /// Writes several owned buffers: [`File::write_vectored_owned_at`].
    pub async fn write_vectored_owned_at<B: IoBuf>(
        &self,
        offset: u64,
        buffers: Vec<B>,
        flags: WriteFlags,
    ) -> (Result<u64, AioCommandError>, Vec<B>) {
        let write = self
            .file
            .write_vectored_owned_at(&self.handle, offset, buffers, flags);
        write.await
    }

    /// Reads at any offset into a slice of any length: [`File::read_bytes_at`].
    pub async fn read_bytes_at(
        &self,
        offset: u64,
        buffer: &mut [u8],
        flags: ReadFlags,
    ) -> Result<u64, AioCommandError> {
        let read = self.file.read_bytes_at(&self.handle, offset, buffer, flags);
        read.await
    }

    /// Writes a slice of any length at any offset: [`File::write_bytes_at`].
    pub async fn write_bytes_at(
        &self,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<(), AioCommandError> {
        let write = self.file.write_bytes_at(&self.handle, offset, data, flags);
        write.await
    }

    /// Reads a byte range: [`File::read_range`].
    #[cfg(feature = "bytes")]
    pub async fn read_range(&self, range: Range<u64>) -> Result<Bytes, AioCommandError> {
        self.file.read_range(&self.handle, range).await
    }

    /// Makes data and metadata durable: [`File::sync_all`].
    pub async fn sync_all(&self) -> Result<(), AioCommandError> {
        self.file.sync_all(&self.handle).await
    }

    /// Makes data durable: [`File::sync_data`].
    pub async fn sync_data(&self) -> Result<(), AioCommandError> {
        self.file.sync_data(&self.handle).await
    }

    /// Waits for the earlier requests on this file: [`File::drain`].
    pub async fn drain(&self) {
        self.file.drain(&self.handle).await;
    }
}

#[cfg(feature = "bytes")]
impl<M: RawMutex + 'static, A: 'static, L: 'static> BoundFile<M, A, L> {
    /// Reads many byte ranges: [`File::read_ranges`].
    pub async fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, AioCommandError> {
        self.file.read_ranges(&self.handle, ranges).await
    }

    /// Reads many byte ranges, merged as `coalesce` says: [`File::read_ranges_with`].
    pub async fn read_ranges_with(
        &self,
        ranges: &[Range<u64>],
        coalesce: Coalesce,
    ) -> Result<Vec<Bytes>, AioCommandError> {
        let read = self.file.read_ranges_with(&self.handle, ranges, coalesce);
        read.await
    }

    /// Returns a stream of many byte ranges: [`File::stream_ranges`].
    pub fn stream_ranges(&self, ranges: &[Range<u64>], coalesce: Coalesce) -> RangeStream<M, A, L> {
        self.file.stream_ranges(&self.handle, ranges, coalesce)
    }
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> BoundFile<M, A, L> {
    /// Returns a reader that reads ahead: [`File::reader`].
    pub fn reader(&self) -> FileReader<M, A, L> {
        self.file.reader(&self.handle)
    }

    /// Returns a writer that writes behind: [`File::writer`].
    pub fn writer(&self) -> FileWriter<M, A, L> {
        self.file.writer(&self.handle)
    }
}

impl<M: RawMutex, A, L> Clone for BoundFile<M, A, L> {
    fn clone(&self) -> Self {
        self.with(self.handle.clone())
    }
}

impl<M: RawMutex, A, L> fmt::Debug for BoundFile<M, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundFile")
            .field("file", &self.file)
            .field("handle", &self.handle)
            .finish()
    }
}
