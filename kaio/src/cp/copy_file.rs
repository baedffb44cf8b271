//! Copies one file, from opening the source to renaming the target.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

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
pub(super) async fn copy_file(
    session: &Session<'_>,
    step: &FileStep,
    staged: PathBuf,
) -> Result<(), CopyError> {
    let source = SourceFile::open(step).await?;
    session.note_source(&source.path, &source.file);
    // It may have grown since the plan was made.
    step.destination
        .refuse_too_long(&source.path, source.length)?;
    let target = TargetFile::open(&step.destination, staged.clone()).await?;
    session.note_target(&target.path, &target.file);

    if target.is_device() && session.args.sparse == Sparse::Always {
        let path = target.path.display();
        let text = "is a block device, which has no holes: --sparse always has no effect";
        session.console.note(&format!("{path} {text}"));
    }
    let sparse = source_file::sparse(session.args, &step.destination);
    let moved = copy_data::copy_data(session, &source, &target, sparse).await?;
    if source.changed().await? {
        session.console.warn(&format!(
            "{} changed while it was copied; the copy may mix old and new content",
            source.path.display()
        ));
    }
    if session.args.verify {
        read_back(session, &target, &moved).await?;
    }
    if !target.is_device() {
        apply_attributes(session, step, &source, &target).await?;
    }
    if session.args.durable() {
        let synced = target.file.sync_all(&session.handle).await;
        synced.map_err(|error| CopyError::at("make durable", &target.path, 0, &error))?;
    }
    target.publish(&step.destination, staged).await?;

    let counters = &session.counters;
    counters.files.set(counters.files.get() + 1);
    counters.bytes.set(counters.bytes.get() + moved.length);
    counters.written.set(counters.written.get() + moved.written);
    Ok(())
}

async fn read_back(
    session: &Session<'_>,
    target: &TargetFile,
    moved: &CopiedData,
) -> Result<(), CopyError> {
    let (file, path) = (&target.file, &target.path);
    session.note_read_back(path, file);
    // Without a flush, the read could be answered by the cache of the disk, or by the page cache.
    let synced = file.sync_data(&session.handle).await;
    synced.map_err(|error| CopyError::at("make durable", path, 0, &error))?;
    verify(session, file, target.alignment, path, &moved.checks).await?;
    let verified = &session.counters.verified;
    verified.set(verified.get() + moved.checks.iter().map(|check| check.bytes()).sum::<u64>());
    Ok(())
}

/// Gives the copy its mode, and with `--preserve` the other attributes of the source. A file that is
/// replaced passes its attributes on to the copy.
async fn apply_attributes(
    session: &Session<'_>,
    step: &FileStep,
    source: &SourceFile,
    target: &TargetFile,
) -> Result<(), CopyError> {
    let failed = |error| CopyError::of("set mode, owner or times of", &target.path, &error);
    let duplicate = |file: &tokio_kaio::File| -> io::Result<fs::File> {
        Ok(file.as_fd().try_clone_to_owned()?.into())
    };
    let attributes = match step.destination.replaced() {
        _ if session.args.preserve => duplicate(&source.file)
            .and_then(|file| FileAttributes::preserved(&source.metadata, &file))
            .map_err(|error| CopyError::of("examine", &source.path, &error))?,
        Some(replaced) => FileAttributes::for_replaced(replaced, &target.path),
        None => FileAttributes::for_new(&source.metadata, session.umask),
    };
    let file = duplicate(&target.file).map_err(failed)?;
    let lost = blocking(move || attributes.apply(&file))
        .await
        .map_err(failed)?;
    session.attributes_lost(&target.path, &lost);
    Ok(())
}
