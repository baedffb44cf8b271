//! [`Place`]: where a file goes, and what is there before.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::args::{Args, PAGE};
use super::source;
use super::trouble::Trouble;
use crate::paths::identity;

/// Where a file goes.
#[derive(Debug)]
pub(super) enum Place {
    /// To a name, which may be another file's so far.
    File {
        /// Not that of a symbolic link.
        path: PathBuf,
        replaced: Option<Box<Metadata>>,
    },
    /// Onto a block device.
    Device {
        path: PathBuf,
        length: u64,
        metadata: Box<Metadata>,
    },
}

impl Place {
    /// Where `source` goes, if it is to be copied to `target`.
    pub(super) fn of(
        args: &Args,
        source: &Path,
        metadata: &Metadata,
        target: &Path,
        is_found: bool,
    ) -> Result<Place, Trouble> {
        let Some(mut there) = there(target)? else {
            return Ok(Place::File {
                path: target.into(),
                replaced: None,
            });
        };
        let mut path = target.to_path_buf();
        if there.is_symlink() {
            path = fs::canonicalize(target).map_err(|error| dangling(target, &error))?;
            there = fs::metadata(&path).map_err(|error| dangling(target, &error))?;
        }
        refuse_same(source, metadata, target, &there)?;
        let kind = there.file_type();
        if kind.is_dir() {
            return Err(is_a_directory(source, target));
        }
        if kind.is_block_device() && !is_found {
            return Place::device(args, path, there);
        }
        if !kind.is_file() {
            let nor = if is_found { "" } else { " nor a block device" };
            return Err(is_of_no_kind(target, nor));
        }
        match accessat(CWD, &path, Access::WRITE_OK, AtFlags::EACCESS) {
            Err(Errno::ACCESS) if !args.force => {
                return Err(Trouble::new(format!(
                    "{} is write-protected; --force (-f) replaces it",
                    target.display()
                )));
            }
            Err(Errno::PERM) => {
                return Err(Trouble::new(format!(
                    "{} is immutable; chattr -i it, or copy to another name",
                    target.display()
                )));
            }
            _ => {}
        }
        Ok(Place::File {
            path,
            replaced: Some(Box::new(there)),
        })
    }

    fn device(args: &Args, path: PathBuf, metadata: Metadata) -> Result<Place, Trouble> {
        if !args.force {
            return Err(Trouble::new(format!(
                "{} is a block device; --force (-f) writes over what is on it",
                path.display()
            )));
        }
        let length = source::device_length(&path)?;
        Ok(Place::Device {
            path,
            length,
            metadata: Box::new(metadata),
        })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Place::File { path, .. } | Place::Device { path, .. } => path,
        }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Place::File { .. })
    }

    /// What is there now.
    pub(super) fn replaced(&self) -> Option<&Metadata> {
        match self {
            Place::File { replaced, .. } => replaced.as_deref(),
            Place::Device { metadata, .. } => Some(metadata),
        }
    }

    /// A device has to have room; a file may not be longer than the process is allowed.
    pub(super) fn refuse_too_long(&self, source: &Path, bytes: u64) -> Result<(), Trouble> {
        match self {
            Place::Device { path, length, .. } if bytes > *length => Err(Trouble::new(format!(
                "{} has {bytes} bytes, and {} has room for {length}; take a larger device",
                source.display(),
                path.display()
            ))),
            Place::Device { .. } => Ok(()),
            Place::File { path, .. } => {
                // Until it has its length, it is of whole blocks; the signal for one byte too many
                // would end the process.
                let whole = bytes.next_multiple_of(PAGE);
                let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
                match limit.filter(|limit| whole > *limit) {
                    None => Ok(()),
                    Some(limit) => Err(Trouble::new(format!(
                        "{} would have {whole} bytes, in whole blocks, and the limit for files is \
                         {limit}; raise it (ulimit -f)",
                        path.display()
                    ))),
                }
            }
        }
    }
}

/// What has this name, without following it.
pub(super) fn there(target: &Path) -> Result<Option<Metadata>, Trouble> {
    match fs::symlink_metadata(target) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Trouble::of("look at", target, &error)),
    }
}

pub(super) fn refuse_same(
    source: &Path,
    metadata: &Metadata,
    target: &Path,
    there: &Metadata,
) -> Result<(), Trouble> {
    let is_device = |metadata: &Metadata| metadata.file_type().is_block_device();
    let one_device = is_device(metadata) && is_device(there) && metadata.rdev() == there.rdev();
    if identity(metadata) != identity(there) && !one_device {
        return Ok(());
    }
    Err(Trouble::new(format!(
        "{} and {} are the same file; copy to another name",
        source.display(),
        target.display()
    )))
}

pub(super) fn is_a_directory(source: &Path, target: &Path) -> Trouble {
    Trouble::new(format!(
        "{} is a directory, and {} is none; remove it, or copy to another name",
        target.display(),
        source.display()
    ))
}

/// What a copy replaces is told apart from what only has a name in the file system.
pub(super) fn is_of_no_kind(target: &Path, nor: &str) -> Trouble {
    Trouble::new(format!(
        "{} is neither a regular file nor a directory{nor}; copy to another name",
        target.display()
    ))
}

fn dangling(target: &Path, error: &std::io::Error) -> Trouble {
    match error.kind() {
        ErrorKind::NotFound => Trouble::new(format!(
            "{} is a symbolic link to what is not there; remove it, or copy to where it points",
            target.display()
        )),
        _ => Trouble::of("follow", target, error),
    }
}
