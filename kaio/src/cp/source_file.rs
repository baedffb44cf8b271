//! [`SourceFile`]: the file or device that is copied.

use std::fs::{self, Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom as From, seek};
use tokio_kaio::{AioOpenOptionsExt, File};

use super::copy_error::CopyError;
use super::cp_args::{CpArgs, Sparse};
use super::destination::Destination;
use super::{copy_plan, extents};
use crate::paths;

/// A file or device that is open for reading.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// The metadata when the file was opened.
    pub(super) metadata: Metadata,
    pub(super) length: u64,
    /// The alignment of reads: a divisor of offset and length.
    pub(super) alignment: u64,
}

impl SourceFile {
    /// Opens the file at `path`. `is_found`: it was found in a directory.
    pub(super) async fn open(path: &Path, is_found: bool) -> Result<SourceFile, CopyError> {
        let failed = |error| CopyError::of("open", path, &error);
        let mut flags = OFlags::empty();
        if is_found {
            // The entry may have been replaced with a link, or with a FIFO on which open(2) waits.
            flags |= OFlags::NOFOLLOW | OFlags::NONBLOCK;
        }
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits() as i32);
        let file = options.aio_open_or_buffered(path.into(), false).await;
        let file = file.map_err(failed)?;
        let metadata = file.metadata().await.map_err(failed)?;
        refuse_special_files(path, &metadata, is_found)?;
        let length = length(path, &metadata)?;
        let alignment = file.alignment().await.map_err(failed)?;
        Ok(SourceFile {
            alignment: alignment.offset.max(alignment.read_offset),
            file,
            path: path.into(),
            metadata,
            length,
        })
    }

    /// Whether length or modification time have changed since the file was opened.
    ///
    /// # Errors
    ///
    /// Those of [`refuse_shorter`](SourceFile::refuse_shorter).
    pub(super) async fn changed(&self) -> Result<bool, CopyError> {
        let Some(now) = self.refuse_shorter().await? else {
            return Ok(false);
        };
        Ok(has_changed(&self.metadata, &now))
    }

    /// The current metadata; `None`: it is a device, which has no modification time.
    ///
    /// # Errors
    ///
    /// The file is shorter than when it was opened. Files that report length 0, such as those of procfs,
    /// never are.
    pub(super) async fn refuse_shorter(&self) -> Result<Option<Metadata>, CopyError> {
        let failed = |error| CopyError::of("examine", &self.path, &error);
        let (length, now) = match self.metadata.is_file() {
            true => {
                let now = self.file.metadata().await.map_err(failed)?;
                (now.len(), Some(now))
            }
            false => {
                let end = seek(&self.file, From::End(0));
                (end.map_err(|error| failed(error.into()))?, None)
            }
        };
        if length >= self.length {
            return Ok(now);
        }
        Err(became_shorter(&self.path, self.length, length))
    }
}

/// Whether length or modification time differ.
pub(super) fn has_changed(before: &Metadata, now: &Metadata) -> bool {
    let state = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    state(before) != state(now)
}

/// The error for a source that was truncated during the copy.
pub(super) fn became_shorter(path: &Path, from: u64, to: u64) -> CopyError {
    CopyError::new(format!(
        "{} became shorter during the copy: from {from} to {to} bytes; copy it when no program writes to it",
        path.display()
    ))
}

/// The sizes of a file, as far as they are known before it is copied.
#[derive(Debug)]
pub(super) struct SourceSize {
    pub(super) length: u64,
    /// Bytes to read.
    pub(super) read: u64,
    /// Bytes to allocate for the copy.
    pub(super) allocated: u64,
}

pub(super) fn source_size(
    args: &CpArgs,
    source: &Path,
    metadata: &Metadata,
    destination: &Destination,
) -> Result<SourceSize, CopyError> {
    let length = length(source, metadata)?;
    let has_holes = metadata.is_file() && metadata.blocks().saturating_mul(512) < length;
    let sparse = sparse(args, destination);
    let read = match has_holes && sparse != Sparse::Never {
        false => length,
        true => {
            let file =
                fs::File::open(source).map_err(|error| copy_plan::read_error(source, &error))?;
            let data = extents::data_bytes(&file, length);
            data.map_err(|error| CopyError::of("find the holes of", source, &error))?
        }
    };
    Ok(SourceSize {
        length,
        read,
        // With `always`, the blocks of zeroes are not known before the copy.
        allocated: if sparse == Sparse::Always { 0 } else { read },
    })
}

/// The mode for a destination. A device has no holes: bytes that are not written keep their old value.
pub(super) fn sparse(args: &CpArgs, destination: &Destination) -> Sparse {
    match destination.is_file() {
        true => args.sparse,
        false => Sparse::Never,
    }
}

pub(super) fn refuse_special_files(
    source: &Path,
    metadata: &Metadata,
    is_found: bool,
) -> Result<(), CopyError> {
    let kind = metadata.file_type();
    if kind.is_file() || (kind.is_block_device() && !is_found) {
        return Ok(());
    }
    let what = match () {
        () if kind.is_fifo() && !is_found => {
            return Err(CopyError::new(format!(
                "{} is a FIFO, which kaio cp does not copy; use cp -a to copy the FIFO itself, or \
                 kaio cp - TARGET < FIFO to copy what is written to it",
                source.display()
            )));
        }
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() => "a character device",
        () if kind.is_block_device() => "a block device in a directory",
        () if kind.is_dir() => "now a directory",
        () => "not a regular file",
    };
    Err(CopyError::new(format!(
        "{} is {what}, which kaio cp does not copy; use cp -a",
        source.display()
    )))
}

fn length(path: &Path, metadata: &Metadata) -> Result<u64, CopyError> {
    match metadata.file_type().is_block_device() {
        true => device_length(path),
        false => Ok(metadata.len()),
    }
}

/// The length of a block device in bytes.
pub(super) fn device_length(path: &Path) -> Result<u64, CopyError> {
    let length = paths::length(path);
    length.map_err(|error| CopyError::of("open", path, &error))
}
