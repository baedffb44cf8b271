//! [`TargetFile`]: the copy, under a temporary name until it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kaio_bench::temp_path::TempPath;
use rustix::fs::OFlags;
use tokio_kaio::{AioOpenOptionsExt, File};

use super::blocking;
use super::copy_error::CopyError;
use super::destination::{self, Destination};
use super::short_path::ShortPath;
use crate::paths::{creation_forbidden, identity, parent};

/// A file or device that is open for writing.
#[derive(Debug)]
pub(super) struct TargetFile {
    pub(super) file: File,
    /// The alignment of writes: a divisor of offset and length.
    pub(super) alignment: u64,
    /// The final path.
    pub(super) path: PathBuf,
    /// The file under its temporary name. `None`: a device.
    leftover: Option<StagedPath>,
}

impl TargetFile {
    /// Opens the device, or creates the file under a temporary name. `staged` is the path that the file
    /// gets when it is complete. It differs from the final path within a new directory, which has a
    /// temporary name itself.
    pub(super) async fn open(
        destination: &Destination,
        staged: PathBuf,
    ) -> Result<TargetFile, CopyError> {
        let path = destination.path().to_path_buf();
        let (file, leftover) = match destination {
            Destination::Device { metadata, .. } => (open_device(&path, metadata).await?, None),
            Destination::File { .. } => {
                let (file, leftover) = open_new(&path, staged).await?;
                (file, Some(leftover))
            }
        };
        let alignment = file.alignment().await;
        let alignment = alignment.map_err(|error| CopyError::of("open", &path, &error))?;
        Ok(TargetFile {
            alignment: alignment.offset.max(alignment.read_offset),
            file,
            path,
            leftover,
        })
    }

    pub(super) fn is_device(&self) -> bool {
        self.leftover.is_none()
    }

    /// Gives the file its name. It replaces the file that `destination` describes.
    pub(super) async fn publish(self, destination: &Destination) -> Result<(), CopyError> {
        let Some(leftover) = self.leftover else {
            return Ok(());
        };
        let renamed = leftover.replace(destination)?;
        let renamed = blocking(renamed).await;
        renamed.map_err(|error| CopyError::of("replace", &self.path, &error))
    }
}

/// A file, directory or link under a temporary name, which is removed if the process ends before it is
/// renamed.
#[derive(Debug)]
pub(super) struct StagedPath {
    temp: TempPath,
    /// Keeps the directory of a long path open.
    place: ShortPath,
}

impl StagedPath {
    /// The temporary path.
    pub(super) fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Gives it its name: that of the path for which it was made.
    ///
    /// # Errors
    ///
    /// Those of [`TempPath::rename`].
    pub(super) fn rename(self) -> io::Result<()> {
        self.temp.rename(self.place.path())
    }

    /// Returns the call that renames it.
    ///
    /// # Errors
    ///
    /// What is there is not what `destination` describes: another program has replaced it.
    pub(super) fn replace(
        self,
        destination: &Destination,
    ) -> Result<impl FnOnce() -> io::Result<()> + Send + 'static, CopyError> {
        let existing = destination::metadata_of(self.place.path())?;
        if existing.as_ref().map(identity) != destination.replaced().map(identity) {
            return Err(CopyError::new(format!(
                "another program replaced {} during the copy; check it, and copy again",
                destination.path().display()
            )));
        }
        Ok(move || self.rename())
    }
}

/// Calls `make` with a hidden temporary name next to `path`. What `make` creates is removed if the process
/// ends before it is renamed.
///
/// # Errors
///
/// Those of `make`. If a name is taken, `make` is called again with another one.
pub(super) fn make_next_to<T>(
    path: &Path,
    make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(StagedPath, T)> {
    let prefix = prefix(path.file_name().unwrap_or_default());
    let place = ShortPath::of(path)?;
    let (temp, made) = TempPath::make_in(parent(place.path()), prefix, make)?;
    Ok((StagedPath { temp, place }, made))
}

/// `.NAME.kaio-`, with NAME cut so that the temporary name is not too long for a file system.
fn prefix(name: &OsStr) -> OsString {
    const LONGEST: usize = 100;
    let mut end = name.len().min(LONGEST);
    // Not within a character: some file systems refuse names that are not UTF-8.
    while name
        .to_str()
        .is_some_and(|text| !text.is_char_boundary(end))
    {
        end -= 1;
    }
    OsString::from_vec([b".", &name.as_bytes()[..end], b".kaio-"].concat())
}

/// The error for a file or directory at `path` that can't be created.
pub(super) fn creation_error(path: &Path, error: &io::Error) -> CopyError {
    match error.kind() {
        ErrorKind::PermissionDenied => CopyError::new(format!(
            "can't create a file next to {}: {error}; the copy is written there under a temporary name, \
             which requires write permission for the directory",
            path.display()
        )),
        // Some file systems of the kernel answer like this to any name.
        ErrorKind::NotFound => match creation_forbidden(parent(path)) {
            Some(why) => CopyError::new(format!(
                "can't create {}: {why}; copy to another directory",
                path.display()
            )),
            None => CopyError::of("create", path, error),
        },
        _ => CopyError::of("create", path, error),
    }
}

/// Creates a file that other users can't access until it gets its own mode.
pub(super) fn create_private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)
}

async fn open_new(path: &Path, staged: PathBuf) -> Result<(File, StagedPath), CopyError> {
    let failed = |error: io::Error| creation_error(path, &error);
    let create = |path: &Path| create_private_file(path)?.metadata();
    let made = blocking(move || make_next_to(&staged, create)).await;
    let (leftover, made) = made.map_err(failed)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let file = options.aio_open_or_buffered(leftover.path().into(), false);
    let file = file.await.map_err(failed)?;
    let opened = file.metadata().await.map_err(failed)?;
    // Another program may have replaced the file between the two calls.
    if identity(&opened) != identity(&made) {
        return Err(CopyError::new(format!(
            "another program replaced the temporary file next to {}; copy again",
            path.display()
        )));
    }
    Ok((file, leftover))
}

async fn open_device(path: &Path, planned: &Metadata) -> Result<File, CopyError> {
    let mut options = OpenOptions::new();
    // For a device, O_EXCL means: fail if it is mounted.
    options.read(true).write(true);
    options.custom_flags(OFlags::EXCL.bits() as i32);
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::ResourceBusy => CopyError::new(format!(
            "can't open {}: it is in use: mounted, or part of a RAID or of LVM; unmount it first",
            path.display()
        )),
        _ => CopyError::of("open", path, &error),
    };
    let file = options.aio_open_or_buffered(path.into(), false).await;
    let file = file.map_err(failed)?;
    let opened = file.metadata().await.map_err(failed)?;
    // The path may lead to another file by now, whose content would be lost.
    if !opened.file_type().is_block_device() || opened.rdev() != planned.rdev() {
        return Err(CopyError::new(format!(
            "{} is no longer the same block device; check it, and copy again",
            path.display()
        )));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_is_hidden_and_never_too_long() {
        assert_eq!(prefix(OsStr::new("big.img")), ".big.img.kaio-");
        let long = "ä".repeat(127);
        let cut = prefix(OsStr::new(&long)).into_string().unwrap();
        assert_eq!(cut, format!(".{}.kaio-", "ä".repeat(50)));
        let cut = prefix(OsStr::new(&format!("a{long}")))
            .into_string()
            .unwrap();
        assert_eq!(cut, format!(".a{}.kaio-", "ä".repeat(49)));
        assert_eq!(prefix(OsStr::from_bytes(&[0xff; 255])).len(), 107);
    }
}
