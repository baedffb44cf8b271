//! [`StagedFile::publish`]: gives a staged file its name.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;

#[cfg(feature = "simulation")]
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::File;
use super::dispatch::current_runtime;
use super::publish_error::PublishError;
use super::staged_file::{StagedFile, Unpublished};
use crate::blocking_pool::{no_thread, spawn_blocking};

/// What [`StagedFile::publish`] does if there is a file under the path of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PublishMode {
    /// Replaces the file. Those who have it open keep the old one.
    Replace,

    /// Fails with [`AlreadyExists`](io::ErrorKind::AlreadyExists). A symbolic link counts as a file, even if
    /// it leads nowhere. Of several who publish at the same time, one succeeds.
    CreateNew,
}

impl StagedFile {
    /// Publishes the file under the path of the target, in one step, in one job on tokio's blocking pool.
    ///
    /// With [`StagedFileBuilder::sync`](crate::StagedFileBuilder::sync), the file is made durable before, and
    /// its directory afterwards. Writes that have not completed before are not waited for.
    ///
    /// Returns the file, open for reading and writing. Its [`metadata_at_open`](File::metadata_at_open) is
    /// that of the empty file.
    ///
    /// # Errors
    ///
    /// [`PublishError`] says whether the file was published. If not, the target is as it was, and the error
    /// has the staged file: it can be published again, and is removed if it is dropped.
    ///
    /// Not published:
    ///
    /// - [`io::ErrorKind::AlreadyExists`]: there is a file, with [`PublishMode::CreateNew`].
    /// - `EISDIR`: the target is a directory. `EBUSY`: it is a mount point.
    /// - `ENOENT`: the directory was removed.
    /// - `EACCES`, `EPERM`: the directory is no longer writable; the target belongs to another user and the
    ///   directory is sticky; the file was given to another user, and `fs.protected_hardlinks` forbids
    ///   to link it: see [`StagedFileBuilder::named`](crate::StagedFileBuilder::named); the directory is
    ///   append-only (`chattr +a`), and the target exists or is to be made durable.
    /// - `EIO`, `ENOSPC`, `EDQUOT`: the file could not be made durable, or the directory has no space for
    ///   the name. After `EIO` some data may be lost: don't publish the file again, write it again.
    /// - `EAGAIN`: no [thread](File#threads) can be started.
    /// - [`io::ErrorKind::InvalidInput`]: the process is a forked child of the one that created the file.
    ///
    /// `EXDEV` does not occur, because the file is in the directory of the target.
    ///
    /// Published: `EIO`, the directory could not be synced.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it was polled, the file is removed. If it is dropped later, the file
    /// is published all the same, unless that fails: then it is removed. There is no state between.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// Copy if the target does not exist:
    ///
    /// ```
    /// use std::io;
    /// use tokio_kaio::{PublishMode, StagedFile};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("object");
    /// let staged = StagedFile::create(&path).await?;
    /// // … write …
    /// match staged.publish(PublishMode::CreateNew).await {
    ///     Ok(_) => {}
    ///     Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {} // somebody was faster
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "renameat2")]
    #[doc(alias = "linkat")]
    #[doc(alias = "persist")]
    pub async fn publish(mut self, mode: PublishMode) -> Result<File, PublishError> {
        let runtime = current_runtime();
        #[cfg(feature = "simulation")]
        if self.is_simulated() {
            return publish_simulated(&runtime, self.take(), mode).await;
        }
        let path = self.target().to_path_buf();
        let (sender, receiver) = oneshot::channel();
        // Not `self`: a job that the pool drops must not start another one.
        let unpublished = self.take();
        let job = spawn_blocking(&runtime, (unpublished, sender), move |job| {
            let (unpublished, sender) = job;
            let _ = sender.send(publish(unpublished, mode)); // the future may have been dropped
        });
        if let Err((unpublished, _)) = job {
            let staged = StagedFile::new(unpublished);
            return Err(PublishError::not_published(path, no_thread(), staged));
        }
        receiver.await.unwrap_or_else(|_| {
            let error = io::Error::other("the tokio runtime has shut down; the file is removed");
            Err(PublishError::removed(path, error))
        })
    }

    /// Does what [`publish`](StagedFile::publish) does, on the calling thread, which may wait for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`publish`](StagedFile::publish), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::fs::FileExt;
    /// use tokio_kaio::{PublishMode, StagedFile};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("object");
    /// let staged = StagedFile::create_blocking(&path)?;
    /// staged.file().set_len_blocking(4096)?;
    /// let file = staged.publish_blocking(PublishMode::CreateNew)?;
    /// assert_eq!(file.metadata_blocking()?.len(), 4096);
    /// # Ok(())
    /// # }
    /// ```
    pub fn publish_blocking(mut self, mode: PublishMode) -> Result<File, PublishError> {
        publish(self.take(), mode)
    }
}

fn publish(mut unpublished: Box<Unpublished>, mode: PublishMode) -> Result<File, PublishError> {
    if let Err(error) = unpublished.publish(mode) {
        let path = unpublished.path.clone();
        let staged = StagedFile::new(unpublished);
        return Err(PublishError::not_published(path, error, staged));
    }
    let synced = match unpublished.syncs {
        true => unpublished.entry.sync_dir(),
        false => Ok(()),
    };
    published(*unpublished, synced)
}

/// Does what [`publish`] does with a file of a simulated disk, in a task, which goes on if the future is
/// dropped.
#[cfg(feature = "simulation")]
async fn publish_simulated(
    runtime: &Handle,
    mut unpublished: Box<Unpublished>,
    mode: PublishMode,
) -> Result<File, PublishError> {
    let path = unpublished.path.clone();
    let task = runtime.spawn(async move {
        if let Err(error) = unpublished.publish_simulated(mode).await {
            let path = unpublished.path.clone();
            let staged = StagedFile::new(unpublished);
            return Err(PublishError::not_published(path, error, staged));
        }
        let synced = match unpublished.syncs {
            true => unpublished.entry.sync_dir_async().await,
            false => Ok(()),
        };
        published(*unpublished, synced)
    });
    task.await.unwrap_or_else(|_| {
        let error = io::Error::other("the tokio runtime has shut down; the file is removed");
        Err(PublishError::removed(path, error))
    })
}

/// Returns the file, whose directory was or was not synced.
fn published(unpublished: Unpublished, synced: io::Result<()>) -> Result<File, PublishError> {
    let Unpublished { path, file, .. } = unpublished;
    match synced {
        Ok(()) => Ok(file),
        Err(error) => Err(PublishError::not_durable(path, error, file)),
    }
}

impl Unpublished {
    fn publish(&mut self, mode: PublishMode) -> io::Result<()> {
        if !self.entry.is_of_this_process() {
            let text = "the process that created the file can publish it, and not a forked child";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.remove_extra_mode()?;
        if self.syncs {
            self.ensure_name()?;
            self.file.sync_all_blocking()?;
        }
        self.give_name(mode)
    }

    /// Gives the file a temporary name before it is synced.
    ///
    /// btrfs skipped the sync of a file without a name (`btrfs_log_inode_parent` in kernels before 2025): a
    /// crash removes such a file. The sync of the directory would make its name durable later, and not its data.
    fn ensure_name(&mut self) -> io::Result<()> {
        self.entry.ensure_name(self.file.open_file(), &self.name)
    }

    fn give_name(&mut self, mode: PublishMode) -> io::Result<()> {
        let file = self.file.open_file();
        match mode {
            PublishMode::Replace => self.entry.replace(file, &self.name),
            PublishMode::CreateNew => self.entry.create_new(file, &self.name),
        }
    }

    /// Does what [`publish`](Unpublished::publish) does with a file of a simulated disk, and waits for the disk.
    #[cfg(feature = "simulation")]
    async fn publish_simulated(&mut self, mode: PublishMode) -> io::Result<()> {
        if self.syncs {
            self.ensure_name()?;
            if let Some(simulated) = self.file.open_file().simulated() {
                simulated.sync_all_async().await?;
            }
        }
        self.give_name(mode)
    }

    /// Gives the file the permissions that it was meant to have, unless somebody has changed them.
    fn remove_extra_mode(&self) -> io::Result<()> {
        const PERMISSIONS: u32 = 0o7777;
        if self.extra_mode == 0 {
            return Ok(());
        }
        let created = self.file.metadata_at_open().permissions().mode();
        let current = self.file.metadata_blocking()?.permissions().mode();
        if (created ^ current) & PERMISSIONS != 0 {
            return Ok(());
        }
        let mode = current & PERMISSIONS & !self.extra_mode;
        self.file
            .set_permissions_blocking(Permissions::from_mode(mode))
    }
}
