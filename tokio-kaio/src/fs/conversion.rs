//! [`File`] from what is open already, and back; one open file with several owners.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::File;
use super::direct::make_direct;
use super::open_options::name_of;
use crate::op::OpenFile;

impl File {
    /// Returns another owner of the same open file. The descriptor is not duplicated. All owners share the
    /// [submit policy](File::set_submit_policy) and what was learned about the file, and their appends keep
    /// their order. The file is closed with its last owner.
    ///
    /// # Errors
    ///
    /// At present none.
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
        Ok(File {
            inner: Arc::clone(&self.inner),
            ..*self
        })
    }

    /// Takes over a file that is open already, and adds `O_DIRECT` to its flags. Whether it is
    /// synchronous stays as it was opened. Whether it appends (`O_APPEND`) is asked here, once: if
    /// somebody sets that flag later (`F_SETFL`), the kernel appends, but writes are not kept in order as
    /// [appends](File::write_at) are.
    ///
    /// The flag belongs to the open file, not to the descriptor: duplicates of it, as
    /// [`std::fs::File::try_clone`] makes them, do direct I/O from now on, too. What is dirty in the
    /// page cache is written out by the first direct I/O that meets it.
    ///
    /// It asks the file what [`aio_open`](crate::AioOpenOptionsExt::aio_open) asks, on the thread at hand:
    /// where `statx` does not say whether the file does direct I/O, 64 KiB are read, which may wait for
    /// the disk.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] (`EINVAL`), with a text that says which: the file system can't do
    /// direct I/O, or not on this file; or what is open is neither a regular file nor a block device. `EBADF`: opened with
    /// `O_PATH`. The descriptor is closed then, and the flags of the open file, which others may share,
    /// are as they were.
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
            Ok(appends) => Ok(File::new(file, appends)),
            Err(reason) => Err(reason.into_error(name_of(&file))),
        }
    }

    /// The file as the standard library has it. It still has `O_DIRECT`, unless it never had
    /// ([`File::is_direct`]): what is read and written through it must be aligned, memory included,
    /// or is refused with `EINVAL`.
    ///
    /// Its descriptor is the one that this file has, or a duplicate where that is in use: by a
    /// [clone](File::try_clone), or by requests that are still out, their futures dropped or not.
    ///
    /// # Errors
    ///
    /// `EMFILE`: no descriptor is left for a duplicate. The file is closed then, unless others have
    /// it.
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
        // A clone of the file or a request on it may share it.
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
