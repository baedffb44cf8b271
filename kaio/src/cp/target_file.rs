//! [`TargetFile`]: the copy, under a temporary name until it is complete.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tokio_kaio::{AioOpenOptionsExt, File, PublishMode, StagedFile};

use super::blocking;
use super::copy_error::CopyError;
use super::destination::Destination;
use super::staged_path::{StagedPath, creation_error, replaced_meanwhile};

/// A file or device that is open for writing.
#[derive(Debug)]
pub(super) struct TargetFile {
    pub(super) file: File,
    /// The alignment of writes: a divisor of offset and length.
    pub(super) alignment: u64,
    /// The final path.
    pub(super) path: PathBuf,
    /// The file under its temporary name. `None`: a device.
    unpublished: Option<(StagedPath, StagedFile)>,
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
        let (file, unpublished) = match destination {
            Destination::Device { metadata, .. } => (open_device(&path, metadata).await?, None),
            Destination::File { .. } => {
                let created = blocking(move || StagedPath::create_file(&staged)).await;
                let created = created.map_err(|error| creation_error(&path, &error))?;
                (created.1.file().clone(), Some(created))
            }
        };
        let alignment = file.alignment().await;
        let alignment = alignment.map_err(|error| CopyError::of("open", &path, &error))?;
        Ok(TargetFile {
            alignment: alignment.offset.max(alignment.read_offset),
            file,
            path,
            unpublished,
        })
    }

    pub(super) fn is_device(&self) -> bool {
        self.unpublished.is_none()
    }

    /// Gives the file its name. It replaces the file that `destination` describes.
    pub(super) async fn publish(self, destination: &Destination) -> Result<(), CopyError> {
        let Some((staged_path, staged_file)) = self.unpublished else {
            return Ok(());
        };
        staged_path.refuse_replaced(destination)?;
        let mode = match destination.replaced() {
            Some(_) => PublishMode::Replace,
            None => PublishMode::CreateNew,
        };
        let published = blocking(move || staged_path.publish_file(staged_file, mode)).await;
        published.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => replaced_meanwhile(&self.path),
            _ => CopyError::of("replace", &self.path, &error),
        })
    }
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
