//! [`AioOpenOptionsExt`]: opening files for direct I/O.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::File;
use super::direct::make_direct;
use super::file::off_runtime;

/// Opens files for direct I/O through [`std::fs::OpenOptions`].
pub trait AioOpenOptionsExt {
    /// Opens the file at `path` as the options say, with `O_DIRECT` added; with `is_sync`, also
    /// with `O_SYNC`, so that each write completes when data and metadata are durable.
    ///
    /// Runs on tokio's blocking pool.
    ///
    /// # Custom flags
    ///
    /// Flags of one's own, set with [`OpenOptionsExt::custom_flags`], are kept without `is_sync`.
    /// With it they are replaced: the standard library does not let them be read. To have both,
    /// add `O_SYNC` to your own flags and leave `is_sync` `false`.
    ///
    /// # Cancel safety
    ///
    /// The file may still be opened, created and truncated after the future is dropped; it is
    /// closed again.
    ///
    /// # Errors
    ///
    /// Those of [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html).
    /// [`io::ErrorKind::InvalidInput`] (`EINVAL`), with a text that says which:
    ///
    /// - The file system can't do direct I/O, or not on this file: `statx` says so, or, where `statx` says
    ///   nothing, a read of 64 KiB at the start of the file is refused. On ext4 these are files with data
    ///   journaling, encryption or verity, and small ones whose data are in the inode.
    ///   [`aio_open_or_buffered`](AioOpenOptionsExt::aio_open_or_buffered) opens them.
    /// - The path leads to something that is neither a regular file nor a block device.
    ///
    /// What the options create or truncate has been created or truncated by then. `EAGAIN`: no
    /// [thread](File#threads) of the blocking pool can be started.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::fs::{self, OpenOptions};
    /// use tokio_kaio::AioOpenOptionsExt;
    ///
    /// # async fn open() -> std::io::Result<()> {
    /// let mut options = OpenOptions::new();
    /// options.read(true).write(true).create(true);
    /// let file = options.aio_open("table".into(), false).await?;
    /// # Ok(())
    /// # }
    /// ```
    fn aio_open(
        self,
        path: PathBuf,
        is_sync: bool,
    ) -> impl Future<Output = io::Result<File>> + Send;

    /// Opens the file at `path` as [`aio_open`](AioOpenOptionsExt::aio_open) does, or, where there is
    /// no direct I/O, for buffered I/O, as the same options without `O_DIRECT` do.
    /// [`File::is_direct`] tells which it has become.
    ///
    /// The file is opened buffered in just those cases in which `aio_open` reports that the file system
    /// can't do direct I/O, or not on this file.
    ///
    /// `O_DIRECT` among flags of one's own is asked for in the opening itself, and nothing falls back
    /// from that.
    ///
    /// A buffered file is used like any other. What differs:
    ///
    /// - Kernel AIO refuses each read of some files of procfs, those of a process among them
    ///   (`/proc/self/status`), with `EINVAL`. A context on
    ///   [`Backend::ThreadPool`](crate::Backend::ThreadPool) reads them.
    /// - Its [submit policy](File::set_submit_policy) is
    ///   [`SubmitPolicy::Offload`](crate::SubmitPolicy::Offload): the kernel does the whole of a
    ///   buffered request inside its submission, so that has to be on a thread of the blocking pool.
    ///   Where nearly all reads are of what the page cache has,
    ///   [`NoWaitFirst`](crate::SubmitPolicy::NoWaitFirst) has these done at once.
    /// - Its [`alignment`](File::alignment) is 1.
    /// - Writes are in the page cache when they are done. A failure to write them out later is
    ///   reported by [`sync_all`](File::sync_all) or [`sync_data`](File::sync_data).
    ///
    /// # Cancel safety
    ///
    /// That of [`aio_open`](AioOpenOptionsExt::aio_open).
    ///
    /// # Errors
    ///
    /// Those of [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html).
    /// [`io::ErrorKind::InvalidInput`] with a text that says so: what is there is neither a regular
    /// file nor a block device, and has no direct I/O.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::{self, OpenOptions};
    /// use tokio_kaio::AioOpenOptionsExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let mut options = OpenOptions::new();
    /// options.read(true).write(true).create(true);
    /// let file = options.aio_open_or_buffered(path.clone(), false).await?;
    /// if !file.is_direct() {
    ///     eprintln!("{}: no direct I/O here, it will be slower", path.display());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    fn aio_open_or_buffered(
        self,
        path: PathBuf,
        is_sync: bool,
    ) -> impl Future<Output = io::Result<File>> + Send;
}

impl AioOpenOptionsExt for OpenOptions {
    async fn aio_open(mut self, path: PathBuf, is_sync: bool) -> io::Result<File> {
        if is_sync {
            self.custom_flags(libc::O_SYNC);
        }
        off_runtime(move || {
            let file = self.open(&path)?;
            // Not through `custom_flags`, which would replace the caller's.
            match make_direct(&file) {
                Ok(appends) => Ok(File::new(file, appends)),
                Err(reason) => Err(reason.into_error(path)),
            }
        })
        .await
    }

    async fn aio_open_or_buffered(mut self, path: PathBuf, is_sync: bool) -> io::Result<File> {
        if is_sync {
            self.custom_flags(libc::O_SYNC);
        }
        off_runtime(move || {
            let file = self.open(&path)?;
            match make_direct(&file) {
                Ok(appends) => Ok(File::new(file, appends)),
                Err(reason) if reason.may_be_buffered() => File::buffered(file),
                Err(reason) => Err(reason.into_error(path)),
            }
        })
        .await
    }
}

/// So that the options need no name: `OpenOptions::new().read(true).aio_open(…)`.
impl AioOpenOptionsExt for &mut OpenOptions {
    fn aio_open(
        self,
        path: PathBuf,
        is_sync: bool,
    ) -> impl Future<Output = io::Result<File>> + Send {
        self.clone().aio_open(path, is_sync)
    }

    fn aio_open_or_buffered(
        self,
        path: PathBuf,
        is_sync: bool,
    ) -> impl Future<Output = io::Result<File>> + Send {
        self.clone().aio_open_or_buffered(path, is_sync)
    }
}

/// The name that `file` was opened by, or has now; for the text of an error.
pub(super) fn name_of(file: &fs::File) -> PathBuf {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::read_link(&link).unwrap_or_else(|_| link.into())
}
