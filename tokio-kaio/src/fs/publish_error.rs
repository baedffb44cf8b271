//! [`PublishError`]: why [`StagedFile::publish`] failed, and what there is now.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::File;
use super::staged_file::StagedFile;

/// Why [`StagedFile::publish`] failed, and the file.
///
/// Either the target is as it was, and the error has the [`StagedFile`], which can be
/// [published again](PublishError::into_staged). Or the file was published, but its directory could not be
/// made durable: the error has the published [`File`](PublishError::into_file).
///
/// Converts to [`io::Error`] with `?`, which drops both: an unpublished file is removed.
///
/// # Examples
///
/// ```
/// use std::io;
/// use tokio_kaio::{PublishMode, StagedFile};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("object");
/// # std::fs::write(&path, "old")?;
/// let staged = StagedFile::create(&path).await?;
/// let error = staged.publish(PublishMode::CreateNew).await.unwrap_err();
/// assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
/// assert!(!error.is_published());
/// if let Some(staged) = error.into_staged() {
///     staged.publish(PublishMode::Replace).await?;
/// }
/// # assert_eq!(std::fs::read(&path)?, b"");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PublishError {
    path: PathBuf,
    error: io::Error,
    file: Remaining,
}

/// What a [`PublishError`] has.
#[derive(Debug)]
enum Remaining {
    Staged(StagedFile),
    Published(File),
    /// The runtime dropped the job, and the file with it.
    Removed,
}

impl PublishError {
    pub(super) fn not_published(path: PathBuf, error: io::Error, staged: StagedFile) -> Self {
        let file = Remaining::Staged(staged);
        PublishError { path, error, file }
    }

    pub(super) fn not_durable(path: PathBuf, error: io::Error, file: File) -> Self {
        let file = Remaining::Published(file);
        PublishError { path, error, file }
    }

    pub(super) fn removed(path: PathBuf, error: io::Error) -> Self {
        let file = Remaining::Removed;
        PublishError { path, error, file }
    }

    /// Returns the kind of the [error](PublishError::io_error).
    pub fn kind(&self) -> io::ErrorKind {
        self.error.kind()
    }

    /// Returns the error of the system call that failed.
    pub fn io_error(&self) -> &io::Error {
        &self.error
    }

    /// Returns whether the file has the name of the target, though after a crash it may not.
    pub fn is_published(&self) -> bool {
        matches!(self.file, Remaining::Published(_))
    }

    /// Returns the file, which can be published again, if it was not published. After `EIO` it should not:
    /// some of its data may be lost. `None`: it was published; or the runtime has shut down before the file
    /// was published, and it was removed.
    pub fn into_staged(self) -> Option<StagedFile> {
        match self.file {
            Remaining::Staged(staged) => Some(staged),
            _ => None,
        }
    }

    /// Returns the file if it was published.
    pub fn into_file(self) -> Option<File> {
        match self.file {
            Remaining::Published(file) => Some(file),
            _ => None,
        }
    }

    fn hint(&self) -> &'static str {
        match self.kind() {
            io::ErrorKind::IsADirectory => "; remove the directory of that name, and publish again",
            io::ErrorKind::NotFound => {
                "; its directory or its temporary name was removed: stage the file again"
            }
            _ => "",
        }
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, error) = (self.path.display(), &self.error);
        match &self.file {
            Remaining::Published(_) => write!(
                f,
                "{path}: the file is published, but its directory can't be synced, so a crash may undo that: \
                 {error}; sync the directory again (sync_dir)"
            ),
            _ if self.kind() == io::ErrorKind::AlreadyExists => write!(
                f,
                "{path}: the file is not published, because there is a file of that name: {error}; publish it \
                 with PublishMode::Replace, or stage it under another name"
            ),
            _ => write!(
                f,
                "{path}: the file is not published, and what was there is unchanged: {error}{}",
                self.hint()
            ),
        }
    }
}

impl Error for PublishError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

/// Drops the file. If it was not published, it is removed.
impl From<PublishError> for io::Error {
    fn from(error: PublishError) -> io::Error {
        let text = error.to_string();
        let PublishError { error, .. } = error;
        io::Error::new(error.kind(), ErrorText { text, error })
    }
}

/// A [`PublishError`] without the file.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct ErrorText {
    text: String,
    #[source]
    error: io::Error,
}
