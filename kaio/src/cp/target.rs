//! [`Target`]: what is copied to, under a temporary name until it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::{Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kaio_bench::temp_path::TempPath;
use rustix::fs::OFlags;
use tokio_kaio::{AioOpenOptionsExt, File};

use super::blocking;
use super::place::{self, Place};
use super::trouble::Trouble;
use crate::paths::{identity, parent};

/// An open file or device, to be written.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) file: File,
    /// Of writes: their offset and length are multiples of it.
    pub(super) grain: u64,
    /// What it is called in the end.
    pub(super) path: PathBuf,
    /// Its temporary name. `None`: a device.
    leftover: Option<TempPath>,
}

impl Target {
    /// `staged` is the name that a file is going to have for now: in a new directory, which is made
    /// under a temporary name, another one than in the end.
    pub(super) async fn open(place: &Place, staged: PathBuf) -> Result<Target, Trouble> {
        let path = place.path().to_path_buf();
        let (file, leftover) = match place {
            Place::Device { metadata, .. } => (open_device(&path, metadata).await?, None),
            Place::File { .. } => {
                let (file, leftover) = open_new(&path, staged).await?;
                (file, Some(leftover))
            }
        };
        let grain = file.alignment().await;
        let grain = grain.map_err(|error| Trouble::of("open", &path, &error))?;
        Ok(Target {
            grain: grain.offset.max(grain.read_offset),
            file,
            path,
            leftover,
        })
    }

    pub(super) fn is_device(&self) -> bool {
        self.leftover.is_none()
    }

    /// Gives it its name, `staged`, in place of what was there when `place` was looked at.
    pub(super) async fn publish(self, place: &Place, staged: PathBuf) -> Result<(), Trouble> {
        let Some(leftover) = self.leftover else {
            return Ok(());
        };
        if identity_of(&staged)? != place.replaced().map(identity) {
            return Err(Trouble::new(format!(
                "{} was replaced by somebody else while it was copied to; look at it, and copy again",
                self.path.display()
            )));
        }
        let renamed = blocking(move || leftover.rename(&staged)).await;
        renamed.map_err(|error| Trouble::of("replace", &self.path, &error))
    }
}

fn identity_of(path: &Path) -> Result<Option<(u64, u64)>, Trouble> {
    let there = place::there(path)?;
    Ok(there.as_ref().map(identity))
}

/// Makes something in the directory of `path`, of a hidden name of its own. It is gone if the process
/// is ended before it has another.
///
/// # Errors
///
/// Those of `make`, which is called again with another name where one is taken.
pub(super) fn make_beside<T>(
    path: &Path,
    make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(TempPath, T)> {
    let prefix = prefix(path.file_name().unwrap_or_default());
    TempPath::make_in(parent(path), prefix, make)
}

/// `.NAME.kaio-`, of a NAME that is cut where the whole would be longer than any file system has it.
fn prefix(name: &OsStr) -> OsString {
    const LONGEST: usize = 100;
    let mut end = name.len().min(LONGEST);
    // Not within a character: some file systems refuse what is no text.
    while name
        .to_str()
        .is_some_and(|text| !text.is_char_boundary(end))
    {
        end -= 1;
    }
    OsString::from_vec([b".", &name.as_bytes()[..end], b".kaio-"].concat())
}

async fn open_new(path: &Path, staged: PathBuf) -> Result<(File, TempPath), Trouble> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::PermissionDenied => Trouble::new(format!(
            "can't create a file beside {}: {error}; a copy is written under a temporary name there, \
             and takes the permission to write to the directory",
            path.display()
        )),
        _ => Trouble::of("create", path, &error),
    };
    let create = |path: &Path| {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(path)?.metadata()
    };
    let made = blocking(move || make_beside(&staged, create)).await;
    let (leftover, made) = made.map_err(failed)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let file = options.aio_open_or_buffered(leftover.path().into(), false);
    let file = file.await.map_err(failed)?;
    let opened = file.metadata().await.map_err(failed)?;
    // Between the two, its name may have been given to something else.
    if identity(&opened) != identity(&made) {
        return Err(Trouble::new(format!(
            "somebody else writes to the temporary file beside {}; copy again",
            path.display()
        )));
    }
    Ok((file, leftover))
}

async fn open_device(path: &Path, planned: &Metadata) -> Result<File, Trouble> {
    let mut options = OpenOptions::new();
    // For a device, O_EXCL is: not while something is mounted on it.
    options.read(true).write(true);
    options.custom_flags(OFlags::EXCL.bits() as i32);
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::ResourceBusy => Trouble::new(format!(
            "can't open {}: it is in use: mounted, or part of a RAID or of LVM; unmount it first",
            path.display()
        )),
        _ => Trouble::of("open", path, &error),
    };
    let file = options.aio_open_or_buffered(path.into(), false).await;
    let file = file.map_err(failed)?;
    let opened = file.metadata().await.map_err(failed)?;
    // What has its name now may be a file, of which the content would be lost.
    if !opened.file_type().is_block_device() || opened.rdev() != planned.rdev() {
        return Err(Trouble::new(format!(
            "{} is not the block device any more that it was; look at it, and copy again",
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
