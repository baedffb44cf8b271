//! [`Source`]: what is copied from.

use std::fs::{self, Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom as From, seek};
use tokio_kaio::{AioOpenOptionsExt, File};

use super::args::{Args, Sparse};
use super::place::Place;
use super::plan::FileStep;
use super::trouble::Trouble;
use super::{extents, plan};
use crate::paths;

/// An open file or device, to be read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// As it was when it was opened.
    pub(super) metadata: Metadata,
    pub(super) length: u64,
    /// Of reads: their offset and length are multiples of it.
    pub(super) grain: u64,
}

impl Source {
    pub(super) async fn open(step: &FileStep) -> Result<Source, Trouble> {
        let path = &step.source;
        let failed = |error| Trouble::of("open", path, &error);
        let mut flags = OFlags::empty();
        if step.is_found {
            // Whatever has come there since is not followed, and not waited for.
            flags |= OFlags::NOFOLLOW | OFlags::NONBLOCK;
        }
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits() as i32);
        let file = options.aio_open_or_buffered(path.clone(), false).await;
        let file = file.map_err(failed)?;
        let metadata = file.metadata().await.map_err(failed)?;
        refuse_others(path, &metadata, step.is_found)?;
        let length = length(path, &metadata)?;
        let grain = file.alignment().await.map_err(failed)?;
        Ok(Source {
            grain: grain.offset.max(grain.read_offset),
            file,
            path: path.clone(),
            metadata,
            length,
        })
    }

    /// Whether it is another now than when it was opened: its length, its time, both or neither.
    ///
    /// # Errors
    ///
    /// Those of [`refuse_shorter`](Source::refuse_shorter).
    pub(super) async fn changed(&self) -> Result<bool, Trouble> {
        let Some(now) = self.refuse_shorter().await? else {
            return Ok(false);
        };
        let state = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        Ok(state(&now) != state(&self.metadata))
    }

    /// What it is now; `None`: a device, which has no state of its own.
    ///
    /// # Errors
    ///
    /// It has fewer bytes now than when it was opened. Whatever has none of a length that it tells, as
    /// files of procfs, never has.
    pub(super) async fn refuse_shorter(&self) -> Result<Option<Metadata>, Trouble> {
        let failed = |error| Trouble::of("look at", &self.path, &error);
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
        Err(Trouble::new(format!(
            "{} became shorter while it was copied: {} bytes, and {length} now; copy it when nobody \
             writes to it",
            self.path.display(),
            self.length
        )))
    }
}

/// How much a file will take, as far as it can be known.
#[derive(Debug)]
pub(super) struct Footprint {
    pub(super) length: u64,
    /// What is read of it.
    pub(super) read: u64,
    /// What is allocated for it.
    pub(super) allocated: u64,
}

pub(super) fn extent(
    args: &Args,
    source: &Path,
    metadata: &Metadata,
    place: &Place,
) -> Result<Footprint, Trouble> {
    let length = length(source, metadata)?;
    let has_holes = metadata.is_file() && metadata.blocks().saturating_mul(512) < length;
    let sparse = sparse(args, place);
    let read = match has_holes && sparse != Sparse::Never {
        false => length,
        true => {
            let file = fs::File::open(source).map_err(|error| plan::unreadable(source, &error))?;
            let data = extents::data_bytes(&file, length);
            data.map_err(|error| Trouble::of("find the holes of", source, &error))?
        }
    };
    Ok(Footprint {
        length,
        read,
        // Which blocks are zeroes is seen when they are read.
        allocated: if sparse == Sparse::Always { 0 } else { read },
    })
}

/// What counts for a place: on a device, what is not written is what was there before.
pub(super) fn sparse(args: &Args, place: &Place) -> Sparse {
    match place.is_file() {
        true => args.sparse,
        false => Sparse::Never,
    }
}

pub(super) fn refuse_others(
    source: &Path,
    metadata: &Metadata,
    is_found: bool,
) -> Result<(), Trouble> {
    let kind = metadata.file_type();
    if kind.is_file() || (kind.is_block_device() && !is_found) {
        return Ok(());
    }
    let what = match () {
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() => "a character device",
        () if kind.is_block_device() => "a block device in a directory",
        () if kind.is_dir() => "a directory now",
        () => "no regular file",
    };
    Err(Trouble::new(format!(
        "{} is {what}, which kaio cp does not copy; cp -a does",
        source.display()
    )))
}

fn length(path: &Path, metadata: &Metadata) -> Result<u64, Trouble> {
    match metadata.file_type().is_block_device() {
        true => device_length(path),
        false => Ok(metadata.len()),
    }
}

/// How many bytes a block device has.
pub(super) fn device_length(path: &Path) -> Result<u64, Trouble> {
    let length = paths::length(path);
    length.map_err(|error| Trouble::of("open", path, &error))
}
