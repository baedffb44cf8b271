//! [`StagedFile`]: a file that appears under its name when it is whole.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokio::runtime::Handle;

use super::File;
use super::dispatch::run_blocking;
use super::temp_entry::TempEntry;
use crate::blocking_pool::spawn_blocking;

/// A file that appears under its name when it is whole.
///
/// A staged file is written like any other [`File`], but nobody finds it until it is
/// [published](StagedFile::publish) under the path of the target, in one step: others see the old file or the
/// new one, and never a part of it. Dropped before, it leaves nothing.
///
/// Use it for objects that are uploaded in parts, for snapshots, for configuration, for the tables of a
/// storage engine.
///
/// # Where the file is
///
/// In the directory of the target. Where the file system can do that (`O_TMPFILE`: ext4, XFS, btrfs, tmpfs
/// and others), the file has no name until it is published: it is gone when its last descriptor is closed,
/// even if the process is killed. Otherwise it has a hidden name, `.NAME.kaio-NUMBER`, with an unpredictable
/// number and NAME from the target. A process that is killed leaves it, and so may a crash of the system. A
/// file without a name gets such a name for the moment before the rename, if it replaces another file, or has
/// to be made durable.
///
/// The directory is opened once, so publishing works whatever the length of its path, and if the directory
/// was renamed meanwhile: the file appears in the renamed directory. If the directory was removed, publishing
/// fails with `ENOENT`.
///
/// The target itself is not looked at before the file is published. If it is a symbolic link, then the link
/// is replaced, and not the file that it leads to, as with
/// [`rename(2)`](https://man7.org/linux/man-pages/man2/rename.2.html).
///
/// # What a crash leaves
///
/// With [`StagedFileBuilder::sync`](crate::StagedFileBuilder::sync), publishing makes first the file and then
/// the directory durable. After a crash the target is the old file or the whole new one, and the new one if
/// publishing had returned. Without `sync`, the file system decides in which order data and name reach the
/// disk, and a crash may leave a file whose data is missing. The repository's `docs/durability.md` says what
/// ext4 and XFS do.
///
/// # If it is dropped
///
/// A `StagedFile` that was not published is removed: its temporary name, if it has one, and its blocks, once
/// all clones of its [`File`] are dropped. This can take a while for a large file, so it runs on tokio's
/// blocking pool, after `drop` has returned. [`discard`](StagedFile::discard) waits for it. Where there is no
/// runtime, or the pool takes no job, it runs on the dropping thread.
///
/// A forked child can't publish the file of its parent, and removes nothing when it drops it.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{PublishMode, StagedFileBuilder, WriteFlags, aio_context};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("object");
/// let (context, handle) = aio_context(8, true)?;
/// let staged = StagedFileBuilder::new(&path).len(10_000).sync(true).create().await?;
/// let part = [7; 5_000];
/// for offset in [0, 5_000] {
///     staged.file().write_bytes_at(&handle, offset, &part, WriteFlags::empty()).await?;
/// }
/// assert!(!path.exists());
/// staged.publish(PublishMode::CreateNew).await?;
/// assert_eq!(std::fs::read(&path)?, [7; 10_000]); // and durable
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[doc(alias = "O_TMPFILE")]
#[doc(alias = "rename")]
#[derive(Debug)]
pub struct StagedFile {
    /// `None` only while it is consumed or dropped.
    unpublished: Option<Box<Unpublished>>,
}

/// The file, and where it will appear. Dropped, it is removed on the dropping thread.
#[derive(Debug)]
pub(super) struct Unpublished {
    /// First, so that the name is removed before the file is closed.
    pub(super) entry: TempEntry,
    pub(super) file: File,
    /// The path of the target, for error texts.
    pub(super) path: PathBuf,
    /// The name of the target.
    pub(super) name: CString,
    /// Whether file and directory are made durable.
    pub(super) syncs: bool,
    /// Permissions that the owner has only until the file is published.
    pub(super) extra_mode: u32,
}

impl StagedFile {
    pub(super) fn new(unpublished: Box<Unpublished>) -> StagedFile {
        StagedFile {
            unpublished: Some(unpublished),
        }
    }

    /// Empties the staged file, which then removes nothing when dropped.
    pub(super) fn take(&mut self) -> Box<Unpublished> {
        match self.unpublished.take() {
            Some(unpublished) => unpublished,
            None => unreachable!("a staged file is only emptied when it is consumed"),
        }
    }

    /// Whether the file is on a simulated disk.
    #[cfg(feature = "simulation")]
    pub(super) fn is_simulated(&self) -> bool {
        self.unpublished().entry.is_simulated()
    }

    fn unpublished(&self) -> &Unpublished {
        match &self.unpublished {
            Some(unpublished) => unpublished,
            None => unreachable!("a staged file is only emptied when it is consumed"),
        }
    }

    /// Returns the file, to write it, or to set its permissions, owner, times or extended attributes.
    ///
    /// A [clone](File#clones) of it can go to other tasks. Clones stay usable when the staged file is
    /// published or dropped. Only writes that have completed before belong to the published file for sure:
    /// wait for those whose future was dropped with [`File::drain`].
    ///
    /// Where the file has no name yet, error texts call it `/DIRECTORY/#NUMBER (deleted)`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{PublishMode, StagedFile};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("object");
    /// let staged = StagedFile::create(&path).await?;
    /// staged.file().set_len(1 << 20).await?;
    /// let file = staged.publish(PublishMode::CreateNew).await?;
    /// assert_eq!(file.metadata().await?.len(), 1 << 20);
    /// # Ok(())
    /// # }
    /// ```
    pub fn file(&self) -> &File {
        &self.unpublished().file
    }

    /// Returns the path under which the file will appear, as it was given.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::StagedFile;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("object");
    /// let staged = StagedFile::create_blocking(&path)?;
    /// assert_eq!(staged.target(), path);
    /// # Ok(())
    /// # }
    /// ```
    pub fn target(&self) -> &Path {
        &self.unpublished().path
    }

    /// Returns the temporary path of the file, beside the target. `None`: it has no name
    /// ([`StagedFileBuilder::named`](crate::StagedFileBuilder::named)).
    ///
    /// A program that handles signals needs it, to remove the file before it ends. The path is wrong after
    /// the directory was renamed, and, as the directory of the target is part of it, may be too long to be
    /// used.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::StagedFileBuilder;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("object");
    /// let staged = StagedFileBuilder::new(path).named(true).create_blocking()?;
    /// assert!(staged.temp_path().is_some_and(|path| path.exists()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn temp_path(&self) -> Option<PathBuf> {
        let Unpublished { entry, path, .. } = self.unpublished();
        let name = OsStr::from_bytes(entry.name()?.to_bytes());
        Some(path.with_file_name(name))
    }

    /// Removes the file, on tokio's blocking pool, and waits until it is removed. Its blocks are freed when
    /// the last [clone](File#clones) of the file is dropped.
    ///
    /// # Errors
    ///
    /// The temporary name, which the text contains, could not be removed: `EACCES`, `EROFS`, `EIO`.
    /// `EAGAIN`: no [thread](File#threads) can be started; the file was removed on the calling thread.
    ///
    /// # Cancel safety
    ///
    /// The file is removed, even if the future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::StagedFile;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// let staged = StagedFile::create(dir.path().join("object")).await?;
    /// staged.discard().await?; // the upload was aborted
    /// assert_eq!(std::fs::read_dir(dir.path())?.count(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn discard(mut self) -> io::Result<()> {
        let unpublished = self.take();
        #[cfg(feature = "simulation")]
        if unpublished.entry.is_simulated() {
            return discard(*unpublished);
        }
        run_blocking(move || discard(*unpublished)).await
    }

    /// Does what [`discard`](StagedFile::discard) does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`discard`](StagedFile::discard), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::StagedFile;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// let staged = StagedFile::create_blocking(dir.path().join("object"))?;
    /// staged.discard_blocking()?;
    /// assert_eq!(std::fs::read_dir(dir.path())?.count(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn discard_blocking(mut self) -> io::Result<()> {
        discard(*self.take())
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let Some(unpublished) = self.unpublished.take() else {
            return;
        };
        #[cfg(feature = "simulation")]
        if unpublished.entry.is_simulated() {
            return drop(unpublished);
        }
        // In a forked child another thread may have held the locks of the runtime.
        let runtime = match unpublished.entry.is_of_this_process() {
            true => Handle::try_current().ok(),
            false => None,
        };
        match runtime {
            // Without a thread, the job comes back and is dropped here.
            Some(runtime) => drop(spawn_blocking(&runtime, unpublished, drop)),
            None => drop(unpublished),
        }
    }
}

fn discard(mut unpublished: Unpublished) -> io::Result<()> {
    unpublished.entry.remove().map_err(|(name, error)| {
        let text = format!(
            "{}: the temporary file {name} beside it can't be removed: {error}; remove it by hand",
            unpublished.path.display(),
        );
        io::Error::new(error.kind(), text)
    })
}
