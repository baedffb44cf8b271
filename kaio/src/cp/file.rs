//! Copying one file, from its opening to its name.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::args::Sparse;
use super::blocking;
use super::plan::FileStep;
use super::preserve::Likeness;
use super::session::Session;
use super::source::{self, Source};
use super::target::Target;
use super::transfer::{self, Moved};
use super::trouble::Trouble;
use super::verify::verify;

/// Copies a file to its place, which is called `staged` for now.
pub(super) async fn copy(
    session: &Session<'_>,
    step: &FileStep,
    staged: PathBuf,
) -> Result<(), Trouble> {
    let source = Source::open(step).await?;
    session.note_source(&source.path, &source.file);
    // It may have grown since.
    step.place.refuse_too_long(&source.path, source.length)?;
    let target = Target::open(&step.place, staged.clone()).await?;
    session.note_target(&target.path, &target.file);

    if target.is_device() && session.args.sparse == Sparse::Always {
        let path = target.path.display();
        let text = "has no holes: --sparse always has no effect, and zeroes are written";
        session.talk.note(&format!("{path} {text}"));
    }
    let sparse = source::sparse(session.args, &step.place);
    let moved = transfer::transfer(session, &source, &target, sparse).await?;
    if source.changed().await? {
        session.talk.warn(&format!(
            "{} was changed while it was copied; the copy may be of no one state",
            source.path.display()
        ));
    }
    if session.args.verify {
        read_back(session, &target, &moved).await?;
    }
    if !target.is_device() {
        give_likeness(session, step, &source, &target).await?;
    }
    if session.args.durable() {
        let synced = target.file.sync_all(&session.handle).await;
        synced.map_err(|error| Trouble::at("make durable", &target.path, 0, &error))?;
    }
    target.publish(&step.place, staged).await?;

    let tally = &session.tally;
    tally.files.set(tally.files.get() + 1);
    tally.bytes.set(tally.bytes.get() + moved.length);
    tally.written.set(tally.written.get() + moved.written);
    Ok(())
}

async fn read_back(session: &Session<'_>, target: &Target, moved: &Moved) -> Result<(), Trouble> {
    let (file, path) = (&target.file, &target.path);
    session.note_read_back(path, file);
    // Else it might be the disk's own memory that is read, or the page cache.
    let synced = file.sync_data(&session.handle).await;
    synced.map_err(|error| Trouble::at("make durable", path, 0, &error))?;
    verify(session, file, target.grain, path, &moved.checks).await?;
    let verified = &session.tally.verified;
    verified.set(verified.get() + moved.checks.iter().map(|check| check.bytes()).sum::<u64>());
    Ok(())
}

/// Mode, and what else the file is to have of its source, or of the file that it replaces.
async fn give_likeness(
    session: &Session<'_>,
    step: &FileStep,
    source: &Source,
    target: &Target,
) -> Result<(), Trouble> {
    let failed = |error| Trouble::of("set mode, owner or times of", &target.path, &error);
    let duplicate = |file: &tokio_kaio::File| -> io::Result<fs::File> {
        Ok(file.as_fd().try_clone_to_owned()?.into())
    };
    let likeness = match step.place.replaced() {
        _ if session.args.preserve => duplicate(&source.file)
            .and_then(|file| Likeness::preserved(&source.metadata, &file))
            .map_err(|error| Trouble::of("look at", &source.path, &error))?,
        Some(replaced) => Likeness::of_replaced(replaced, &target.path),
        None => Likeness::of_new(&source.metadata, session.umask),
    };
    let file = duplicate(&target.file).map_err(failed)?;
    let lost = blocking(move || likeness.give(&file))
        .await
        .map_err(failed)?;
    session.attributes_lost(&target.path, &lost);
    Ok(())
}
