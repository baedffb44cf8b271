//! Copies one file, from opening the source to renaming the target.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::block_io::BlockIo;
use super::blocking;
use super::copy_data::{self, CopiedData};
use super::copy_error::CopyError;
use super::copy_plan::FileStep;
use super::cp_args::Sparse;
use super::file_attributes::FileAttributes;
use super::session::Session;
use super::source_file::{self, SourceFile};
use super::target_file::TargetFile;
use super::verify::verify;

/// Copies a file to its destination. Until the run ends, the path of the destination is `staged`.
/// `is_flushed_later`: the file becomes durable at the end of the run, before its directory gets its name.
pub(super) async fn copy_file(
    io: &BlockIo<'_>,
    step: &FileStep,
    staged: PathBuf,
    is_flushed_later: bool,
) -> Result<(), CopyError> {
    let source = SourceFile::open(&step.source, step.is_found).await?;
    io.note_source(&source.path, &source.file);
    // It may have grown since the plan was made.
    step.destination
        .refuse_too_long(&source.path, source.length)?;
    let target = TargetFile::open(&step.destination, staged).await?;
    io.note_target(&target.path, &target.file);

    if target.is_device() && io.args.sparse == Sparse::Always {
        let path = target.path.display();
        let text = "is a block device, which has no holes: --sparse always has no effect";
        io.console.note(&format!("{path} {text}"));
    }
    let moved = match share_blocks(io, step, &source, &target)? {
        Some(moved) => moved,
        None => {
            let sparse = source_file::sparse(io.args, &step.destination);
            copy_data::copy_data(io, &source, &target, sparse).await?
        }
    };
    if source.changed().await? {
        io.warn_changed(&source.path);
    }
    if io.args.verify {
        read_back(io, &target, &moved).await?;
    }
    if !target.is_device() {
        apply_attributes(io, step, &source, &target).await?;
    }
    if !is_flushed_later {
        make_durable(io, &target).await?;
    }
    target.publish(&step.destination).await?;
    add_to_counters(io, &moved);
    Ok(())
}

/// Makes the target a reflink of the source, if `--reflink` and the file system allow that.
fn share_blocks(
    io: &BlockIo<'_>,
    step: &FileStep,
    source: &SourceFile,
    target: &TargetFile,
) -> Result<Option<CopiedData>, CopyError> {
    // Files that are generated when they are read report length 0.
    if target.is_device() || !source.metadata.is_file() || source.length == 0 {
        return Ok(None);
    }
    let device = rustix::fs::fstat(&target.file);
    let device = device.map_err(|errno| CopyError::of("examine", &target.path, &errno.into()))?;
    let is_shared = io.reflinks.clone_file(
        (&source.file, &source.path),
        (&target.file, &target.path),
        (source.metadata.dev(), device.st_dev),
    )?;
    io.console.advance(if is_shared { step.bytes } else { 0 });
    Ok(is_shared.then(|| CopiedData {
        length: source.length,
        shared: source.length,
        ..CopiedData::default()
    }))
}

/// Flushes the target, unless `--no-fsync`.
pub(super) async fn make_durable(io: &BlockIo<'_>, target: &TargetFile) -> Result<(), CopyError> {
    if !io.args.durable() {
        return Ok(());
    }
    let synced = target.file.sync_all(&io.handle).await;
    synced.map_err(|error| CopyError::at("make durable", &target.path, 0, &error))
}

/// Counts a file that was copied.
pub(super) fn add_to_counters(session: &Session<'_>, moved: &CopiedData) {
    let counters = &session.counters;
    counters.files.set(counters.files.get() + 1);
    counters.bytes.set(counters.bytes.get() + moved.length);
    counters.written.set(counters.written.get() + moved.written);
    counters.shared.set(counters.shared.get() + moved.shared);
}

/// Reads the copy back from disk, for `--verify`.
pub(super) async fn read_back(
    io: &BlockIo<'_>,
    target: &TargetFile,
    moved: &CopiedData,
) -> Result<(), CopyError> {
    let (file, path) = (&target.file, &target.path);
    io.note_read_back(path, file);
    // Without a flush, the read could be answered by the cache of the disk, or by the page cache.
    let synced = file.sync_data(&io.handle).await;
    synced.map_err(|error| CopyError::at("make durable", path, 0, &error))?;
    verify(io, file, target.alignment, path, &moved.checks).await?;
    let verified = &io.counters.verified;
    verified.set(verified.get() + moved.checks.iter().map(|check| check.bytes()).sum::<u64>());
    Ok(())
}

/// Gives the copy its mode, and with `--preserve` the other attributes of the source. A file that is
/// replaced passes its attributes on to the copy.
async fn apply_attributes(
    io: &BlockIo<'_>,
    step: &FileStep,
    source: &SourceFile,
    target: &TargetFile,
) -> Result<(), CopyError> {
    let examined = source.file.as_fd().try_clone_to_owned().and_then(|file| {
        FileAttributes::of_copy(
            (&source.metadata, &fs::File::from(file)),
            step.destination.replaced(),
            &target.path,
            io.args.preserve,
            io.umask,
        )
    });
    let attributes = examined.map_err(|error| CopyError::of("examine", &source.path, &error))?;
    set_attributes(io, attributes, target).await
}

/// Sets the attributes of the target.
pub(super) async fn set_attributes(
    io: &BlockIo<'_>,
    attributes: FileAttributes,
    target: &TargetFile,
) -> Result<(), CopyError> {
    let failed = |error| CopyError::of("set mode, owner or times of", &target.path, &error);
    let file = target.file.as_fd().try_clone_to_owned().map_err(failed)?;
    let lost = blocking(move || attributes.apply(&file.into())).await;
    io.attributes_lost(&target.path, &lost.map_err(failed)?);
    Ok(())
}
