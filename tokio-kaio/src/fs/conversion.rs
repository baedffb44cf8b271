//! Conversions between [`File`] and open files of the standard library; [`File::try_clone`].

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::File;
use super::direct::make_direct;
use super::file::path_of;
use crate::op::OpenFile;

impl File {
    /// Returns a [clone](File#clones), as [`std::fs::File::try_clone`] does. `clone` can't fail, so prefer it.
    ///
    /// # Errors
    ///
    /// None.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::fd::AsRawFd;
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let log = File::create(path, false).await?;
    /// let flusher = log.try_clone()?;
    /// assert_eq!(log.as_raw_fd(), flusher.as_raw_fd());
    /// tokio::spawn(async move { flusher.set_len(4096).await }).await??;
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_clone(&self) -> io::Result<File> {
        Ok(self.clone())
    }

    /// Converts an open file, and adds `O_DIRECT` to its flags. Whether the file is synchronous stays as it
    /// was opened. Whether it appends (`O_APPEND`) is queried once, here: if somebody sets that flag later
    /// (`F_SETFL`), the kernel appends, but the writes are not ordered as [appends](File::write_at) are.
    ///
    /// `O_DIRECT` belongs to the open file, not to the descriptor: its duplicates, such as those by
    /// [`std::fs::File::try_clone`], do direct I/O from now on, too. The first direct I/O to a range with
    /// dirty pages in the page cache writes these out.
    ///
    /// The same checks as in [`aio_open`](crate::AioOpenOptionsExt::aio_open) run on the calling thread: if
    /// `statx` does not report whether the file does direct I/O, up to 64 KiB are read, which may wait for
    /// the disk.
    ///
    /// # Errors
    ///
    /// On an error the descriptor is closed, and the flags of the open file, which others may share, are
    /// unchanged.
    ///
    /// - [`io::ErrorKind::InvalidInput`] (`EINVAL`), with a text that says which: the file system can't do
    ///   direct I/O, or not on this file; or the descriptor is neither of a regular file nor of a block
    ///   device.
    /// - `EBADF`: the file was opened with `O_PATH`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, LockedBuf, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (context, handle) = aio_context(32, true)?;
    /// # let dir = tempfile::tempdir_in(".")?;
    /// # let dir = dir.path();
    /// let scratch = File::from_std(tempfile::tempfile_in(dir)?)?;
    /// let block = LockedBuf::with_size(4096)?;
    /// scratch.write_at(&handle, 0, &block, 4096, WriteFlags::empty()).await?;
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_std(file: fs::File) -> io::Result<File> {
        match make_direct(&file) {
            Ok(facts) => Ok(File::new(file, facts)),
            Err(reason) => Err(reason.into_error(path_of(&file))),
        }
    }

    /// Converts the file to one of the standard library. It still has `O_DIRECT`, unless the file is
    /// [buffered](File::is_direct): reads and writes must be aligned, including their memory, or fail with
    /// `EINVAL`.
    ///
    /// The descriptor is that of this file, or a duplicate if that is still in use: by a
    /// [clone](File::try_clone), or by requests that are in flight, even if their futures were dropped.
    ///
    /// # Errors
    ///
    /// `EMFILE`: the limit of open descriptors does not permit a duplicate. The file is closed
    /// then, unless it has other owners.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let log = File::create(path, false).await?;
    /// let log: std::fs::File = log.into_std()?;
    /// log.set_len(4096)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_std(self) -> io::Result<fs::File> {
        // Clones of the file and requests on it share the open file.
        let open = match Arc::try_unwrap(self.inner) {
            Ok(inner) => inner.open,
            Err(shared) => Arc::clone(&shared.open),
        };
        match Arc::try_unwrap(open) {
            Ok(file) => Ok(OpenFile::into_file(file)),
            Err(shared) => shared.file().try_clone(),
        }
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.file().as_fd()
    }
}

/// See [`File::from_std`].
impl TryFrom<fs::File> for File {
    type Error = io::Error;

    fn try_from(file: fs::File) -> io::Result<File> {
        File::from_std(file)
    }
}

/// See [`File::from_std`].
impl TryFrom<OwnedFd> for File {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<File> {
        File::from_std(fd.into())
    }
}

/// See [`File::into_std`].
impl TryFrom<File> for fs::File {
    type Error = io::Error;

    fn try_from(file: File) -> io::Result<fs::File> {
        file.into_std()
    }
}

/// See [`File::into_std`].
impl TryFrom<File> for OwnedFd {
    type Error = io::Error;

    fn try_from(file: File) -> io::Result<OwnedFd> {
        file.into_std().map(OwnedFd::from)
    }
}
