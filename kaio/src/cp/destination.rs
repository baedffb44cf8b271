//! [`Destination`]: the target of a file, and what exists there.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::copy_error::CopyError;
use super::cp_args::{CpArgs, PAGE};
use super::{inode_flags, source_file};
use crate::paths::identity;

/// The target of a file.
#[derive(Debug)]
pub(super) enum Destination {
    /// A file name, which may exist.
    File {
        /// Not a symbolic link.
        path: PathBuf,
        replaced: Option<Box<Metadata>>,
    },
    /// A block device.
    Device {
        path: PathBuf,
        length: u64,
        metadata: Box<Metadata>,
    },
}

impl Destination {
    /// The destination of `source`, which is copied to `target`.
    pub(super) fn of(
        args: &CpArgs,
        source: &Path,
        metadata: &Metadata,
        target: &Path,
        is_found: bool,
    ) -> Result<Destination, CopyError> {
        let Some(mut existing) = metadata_of(target)? else {
            return Ok(Destination::new_file(target));
        };
        let mut path = target.to_path_buf();
        if existing.is_symlink() {
            path = fs::canonicalize(target).map_err(|error| dangling_symlink(target, &error))?;
            existing = fs::metadata(&path).map_err(|error| dangling_symlink(target, &error))?;
        }
        refuse_same(source, metadata, target, &existing)?;
        let kind = existing.file_type();
        if kind.is_dir() {
            return Err(is_a_directory(source, target));
        }
        if kind.is_block_device() && !is_found {
            return Destination::device(args, path, existing);
        }
        if !kind.is_file() {
            let nor = if is_found { "" } else { " nor a block device" };
            return Err(unsupported_kind(target, nor));
        }
        match accessat(CWD, &path, Access::WRITE_OK, AtFlags::EACCESS) {
            Err(Errno::ACCESS) if !args.force => {
                return Err(CopyError::new(format!(
                    "{} is write-protected; use --force (-f) to replace it",
                    target.display()
                )));
            }
            _ => inode_flags::refuse_protected_file(&path)?,
        }
        Ok(Destination::File {
            path,
            replaced: Some(Box::new(existing)),
        })
    }

    /// A file that does not exist yet.
    pub(super) fn new_file(path: &Path) -> Destination {
        Destination::File {
            path: path.into(),
            replaced: None,
        }
    }

    fn device(args: &CpArgs, path: PathBuf, metadata: Metadata) -> Result<Destination, CopyError> {
        if !args.force {
            return Err(CopyError::new(format!(
                "{} is a block device; use --force (-f) to overwrite its content",
                path.display()
            )));
        }
        let length = source_file::device_length(&path)?;
        Ok(Destination::Device {
            path,
            length,
            metadata: Box::new(metadata),
        })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Destination::File { path, .. } | Destination::Device { path, .. } => path,
        }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Destination::File { .. })
    }

    /// The metadata of the existing target.
    pub(super) fn replaced(&self) -> Option<&Metadata> {
        match self {
            Destination::File { replaced, .. } => replaced.as_deref(),
            Destination::Device { metadata, .. } => Some(metadata),
        }
    }

    /// The length of the device.
    pub(super) fn device_length(&self) -> Option<u64> {
        match self {
            Destination::File { .. } => None,
            Destination::Device { length, .. } => Some(*length),
        }
    }

    /// Refuses `bytes` that don't fit on the device, or exceed the limit on file sizes.
    pub(super) fn refuse_too_long(&self, source: &Path, bytes: u64) -> Result<(), CopyError> {
        match self {
            Destination::Device { path, length, .. } if bytes > *length => {
                Err(CopyError::new(format!(
                    "{} has {bytes} bytes, but {} has only {length}; use a larger device",
                    source.display(),
                    path.display()
                )))
            }
            Destination::Device { .. } => Ok(()),
            Destination::File { path, .. } => {
                // The file has whole blocks until it is truncated to its length.
                let whole = bytes.next_multiple_of(PAGE);
                let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
                match limit.filter(|limit| whole > *limit) {
                    None => Ok(()),
                    Some(limit) => Err(CopyError::new(format!(
                        "{} would have {whole} bytes in whole blocks, but the limit on file sizes is \
                         {limit} bytes; raise it (ulimit -f)",
                        path.display()
                    ))),
                }
            }
        }
    }
}

/// The metadata of `target`, without following a link. `None`: it does not exist.
pub(super) fn metadata_of(target: &Path) -> Result<Option<Metadata>, CopyError> {
    match fs::symlink_metadata(target) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CopyError::of("examine", target, &error)),
    }
}

pub(super) fn refuse_same(
    source: &Path,
    metadata: &Metadata,
    target: &Path,
    existing: &Metadata,
) -> Result<(), CopyError> {
    let is_device = |metadata: &Metadata| metadata.file_type().is_block_device();
    let one_device =
        is_device(metadata) && is_device(existing) && metadata.rdev() == existing.rdev();
    if identity(metadata) != identity(existing) && !one_device {
        return Ok(());
    }
    Err(CopyError::new(format!(
        "{} and {} are the same file; copy to another name",
        source.display(),
        target.display()
    )))
}

pub(super) fn is_a_directory(source: &Path, target: &Path) -> CopyError {
    CopyError::new(format!(
        "{} is a directory, but {} is not; remove it, or copy to another name",
        target.display(),
        source.display()
    ))
}

/// `target` exists, and a copy must not replace such a file. `nor` names another kind that it may.
pub(super) fn unsupported_kind(target: &Path, nor: &str) -> CopyError {
    CopyError::new(format!(
        "{} is neither a regular file nor a directory{nor}; copy to another name",
        target.display()
    ))
}

fn dangling_symlink(target: &Path, error: &std::io::Error) -> CopyError {
    match error.kind() {
        ErrorKind::NotFound => CopyError::new(format!(
            "{} is a symbolic link to a missing file; remove it, or copy to the path that it points to",
            target.display()
        )),
        _ => CopyError::of("follow", target, error),
    }
}
