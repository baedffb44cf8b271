//! [`StagedFileBuilder`]: creates a [`StagedFile`] with options.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::allocation::Allocate;
use super::dispatch::run_on_path;
use super::staged_file::{StagedFile, Unpublished};
use super::staging_dir::StagingDir;
use super::temp_entry::TempEntry;

/// The longest name of a file in bytes, on all file systems that Linux has.
const NAME_MAX: usize = 255;

/// The permissions that the owner needs to write the file.
const OWNER: u32 = 0o600;

/// Creates a [`StagedFile`] with more options than [`StagedFile::create`].
///
/// # Examples
///
/// ```
/// use tokio_kaio::{PublishMode, StagedFileBuilder};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("object");
/// // A private object of 1 MiB, durable when it is published.
/// let builder = StagedFileBuilder::new(&path).mode(0o600).len(1 << 20).sync(true);
/// let staged = builder.create().await?;
/// // … write …
/// staged.publish(PublishMode::Replace).await?;
/// # assert_eq!(std::fs::metadata(&path)?.len(), 1 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder creates no file until `create` is called"]
pub struct StagedFileBuilder {
    target: PathBuf,
    mode: u32,
    len: u64,
    syncs: bool,
    is_named: bool,
}

impl StagedFileBuilder {
    /// Creates a builder for a file that will appear under the path `target`.
    pub fn new(target: impl AsRef<Path>) -> StagedFileBuilder {
        StagedFileBuilder {
            target: target.as_ref().to_path_buf(),
            mode: 0o666,
            len: 0,
            syncs: false,
            is_named: false,
        }
    }

    /// Sets the permissions of the published file, 0o666 by default. As with
    /// [`OpenOptionsExt::mode`](std::os::unix::fs::OpenOptionsExt::mode), the kernel removes the
    /// `umask(2)` from them, or applies the default ACL of the directory. To set permissions regardless of
    /// that, use [`File::set_permissions`](crate::File::set_permissions) before publishing.
    ///
    /// If the owner may not read and write the file according to `mode`, the owner may until it is published.
    pub fn mode(mut self, mode: u32) -> StagedFileBuilder {
        self.mode = mode;
        self
    }

    /// Sets the length of the file, and allocates its blocks when it is created, so that a full disk is an
    /// error before anything is written, and [writes do not wait](crate::File::allocate) for blocks. 0 by
    /// default.
    ///
    /// The file is `len` bytes long from then on, and reads as zeroes, unlike with
    /// [`FileWriter::with_allocation`](crate::FileWriter::with_allocation). If less is written, cut it with
    /// [`File::set_len`](crate::File::set_len) before publishing. Where the file system can't allocate
    /// (`EOPNOTSUPP`), the file only gets that length.
    pub fn len(mut self, len: u64) -> StagedFileBuilder {
        self.len = len;
        self
    }

    /// Sets whether [`publish`](StagedFile::publish) makes file and directory durable. By default it does
    /// not. With `true` the directory has to be readable.
    pub fn sync(mut self, sync: bool) -> StagedFileBuilder {
        self.syncs = sync;
        self
    }

    /// Sets whether the file has a hidden temporary name in its directory from the start. By default it has
    /// one only where files without a name are not supported.
    ///
    /// Such a file can be given to another user without `CAP_FOWNER` (`fs.protected_hardlinks`), and replaces
    /// its target by a single rename. It is left behind if the process is killed.
    pub fn named(mut self, named: bool) -> StagedFileBuilder {
        self.is_named = named;
        self
    }

    /// Creates the file, on tokio's blocking pool. See [`StagedFile::create`] for errors, cancel safety
    /// and panics.
    pub async fn create(self) -> io::Result<StagedFile> {
        let target = self.target.clone();
        run_on_path(target, move |_| self.create_blocking()).await
    }

    /// Does what [`create`](StagedFileBuilder::create) does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`StagedFile::create`], except `EAGAIN`.
    pub fn create_blocking(self) -> io::Result<StagedFile> {
        match self.try_create() {
            Ok(unpublished) => Ok(StagedFile::new(Box::new(unpublished))),
            Err(error) => {
                let (path, advice) = (self.target, advice(&error));
                let kind = error.kind();
                let error = CreateError {
                    path,
                    error,
                    advice,
                };
                Err(io::Error::new(kind, error))
            }
        }
    }

    fn try_create(&self) -> io::Result<Unpublished> {
        let (parent, name) = split(&self.target)?;
        let dir = StagingDir::open(parent, self.syncs)?;
        // From here on, dropping `entry` removes what was created.
        let (entry, file) = TempEntry::create(dir, &name, self.mode | OWNER, self.is_named)?;
        let file = file
            .into_file()
            .map_err(|reason| reason.into_error(self.target.clone()))?;
        if self.len > 0 {
            match file.allocate_blocking(Allocate::Extend, 0, self.len) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    file.set_len_blocking(self.len)?;
                }
                allocated => allocated?,
            }
        }
        Ok(Unpublished {
            entry,
            file,
            path: self.target.clone(),
            name,
            syncs: self.syncs,
            extra_mode: OWNER & !self.mode,
        })
    }
}

impl StagedFile {
    /// Creates a staged file for the path `target`, on tokio's blocking pool. [`StagedFileBuilder`] has
    /// options: permissions, length, durability.
    ///
    /// Nothing appears under the path, and a file that is there stays. The staged file is open for reading
    /// and writing, and empty. It does direct I/O, or, if the file system can't, I/O through the page cache,
    /// as with [`aio_open_or_buffered`](crate::AioOpenOptionsExt::aio_open_or_buffered);
    /// [`File::is_direct`](crate::File::is_direct) returns which.
    ///
    /// # Errors
    ///
    /// The text names the target. Nothing is left behind.
    ///
    /// - [`io::ErrorKind::InvalidInput`]: the path has no file name (`/`, `..`, `objects/`), or has a zero
    ///   byte.
    /// - The errors of [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html): `ENOENT` and `ENOTDIR`
    ///   if there is no such directory; `EACCES` if it is not writable, or not readable although it has to be
    ///   [synced](StagedFileBuilder::sync); `EPERM` if it is append-only (`chattr +a`) and there are no files
    ///   without a name; `EROFS`, `EDQUOT`, `ENOSPC`; `EMFILE`: two descriptors are
    ///   needed; `ENAMETOOLONG` if the name of the target has more than 255 bytes.
    /// - The errors of [`File::allocate`](crate::File::allocate), for the [length](StagedFileBuilder::len).
    /// - `EAGAIN`: no [thread](crate::File#threads) can be started.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a file that was created is removed.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{PublishMode, StagedFile, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("settings");
    /// # std::fs::write(&path, "colour = red")?;
    /// let (context, handle) = aio_context(8, true)?;
    /// let staged = StagedFile::create(&path).await?;
    /// let settings = b"colour = blue";
    /// staged.file().write_bytes_at(&handle, 0, settings, WriteFlags::empty()).await?;
    /// staged.publish(PublishMode::Replace).await?;
    /// assert_eq!(std::fs::read(&path)?, settings);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create(target: impl AsRef<Path>) -> io::Result<StagedFile> {
        StagedFileBuilder::new(target).create().await
    }

    /// Does what [`create`](StagedFile::create) does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`create`](StagedFile::create), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// See [`publish_blocking`](StagedFile::publish_blocking).
    pub fn create_blocking(target: impl AsRef<Path>) -> io::Result<StagedFile> {
        StagedFileBuilder::new(target).create_blocking()
    }
}

/// Splits a path into directory and file name. Not with [`Path::file_name`], which ignores a slash or a
/// dot at the end: these ask for a directory.
fn split(path: &Path) -> io::Result<(&Path, CString)> {
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
    let bytes = path.as_os_str().as_bytes();
    let (parent, name) = match bytes.iter().rposition(|&byte| byte == b'/') {
        None => (&b"."[..], bytes),
        Some(0) => (&b"/"[..], &bytes[1..]),
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
    };
    if matches!(name, b"" | b"." | b"..") {
        return Err(invalid("the path has no file name at its end"));
    }
    if name.len() > NAME_MAX {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    let name = CString::new(name).map_err(|_| invalid("the path has a zero byte"))?;
    Ok((Path::new(OsStr::from_bytes(parent)), name))
}

#[derive(Debug, Error)]
#[error("{}: no file can be staged: {error}{advice}", .path.display())]
struct CreateError {
    path: PathBuf,
    #[source]
    error: io::Error,
    advice: &'static str,
}

/// Returns the advice for an error of creating the file.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            "; it takes two descriptors: raise RLIMIT_NOFILE (ulimit -n), or close other files"
        }
        Some(libc::ENFILE) => "; raise fs.file-max (sysctl), or close files of other processes",
        Some(libc::ENOENT) => "; create its directory first",
        Some(libc::EACCES) => {
            "; the directory must be writable, and readable if it has to be synced"
        }
        Some(libc::EPERM) => {
            "; a temporary name could not be removed from a directory that is append-only (chattr +a)"
        }
        Some(libc::ENOSPC | libc::EDQUOT) => "; nothing is left of it",
        Some(libc::EFBIG) => {
            "; the length exceeds the largest file of the file system, or RLIMIT_FSIZE (ulimit -f)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_into_directory_and_name() {
        let split = |path: &str| {
            let (parent, name) = split(Path::new(path)).ok()?;
            Some((
                parent.to_str().unwrap().to_owned(),
                name.into_string().unwrap(),
            ))
        };
        let pair = |parent: &str, name: &str| Some((parent.to_owned(), name.to_owned()));
        assert_eq!(split("name"), pair(".", "name"));
        assert_eq!(split("/name"), pair("/", "name"));
        assert_eq!(split("a//b/name"), pair("a//b", "name"));
        assert_eq!(split("../.name"), pair("..", ".name"));
        for path in ["", "/", ".", "..", "name/", "name/.", "a/..", "a\0b"] {
            assert_eq!(split(path), None, "{path:?}");
        }
    }
}
