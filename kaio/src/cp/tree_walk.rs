//! Plans the content of a directory, for `--recursive`.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::copy_error::CopyError;
use super::copy_plan::{CopyPlan, Directory, TargetLocation};
use super::cp_args::CpArgs;
use super::destination;
use crate::paths::identity;

/// A directory whose entries are not planned yet.
#[derive(Debug)]
struct PendingDirectory {
    source: PathBuf,
    target: PathBuf,
    /// The canonical path of the target.
    canonical_target: PathBuf,
    root: Option<usize>,
    is_new: bool,
}

/// Adds `source` and its content to the plan.
///
/// # Errors
///
/// `source` itself can't be copied. Errors of its content are in [`CopyPlan::failed`].
pub(super) fn walk(
    plan: &mut CopyPlan,
    args: &CpArgs,
    source: &Path,
    metadata: &Metadata,
    location: TargetLocation<'_>,
) -> Result<(), CopyError> {
    refuse_into_itself(source, metadata, location)?;
    let mut pending = vec![enter(plan, source, location, true)?];
    while let Some(dir) = pending.pop() {
        if let Err(error) = list(plan, args, &dir, &mut pending) {
            let error = CopyError::of("list", &dir.source, &error);
            plan.failed.push((dir.source, error));
        }
    }
    Ok(())
}

/// Plans the entries of a directory, and adds its subdirectories to `pending`.
fn list(
    plan: &mut CopyPlan,
    args: &CpArgs,
    dir: &PendingDirectory,
    pending: &mut Vec<PendingDirectory>,
) -> std::io::Result<()> {
    let mut names = fs::read_dir(&dir.source)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort_unstable();
    for name in names {
        let (source, target) = (dir.source.join(&name), dir.target.join(&name));
        let location = TargetLocation {
            target: &target,
            dir: &dir.canonical_target,
            root: dir.root,
            is_dir_new: dir.is_new,
        };
        let done = match fs::symlink_metadata(&source) {
            Err(error) => Err(CopyError::of("examine", &source, &error)),
            Ok(metadata) if metadata.is_dir() => {
                enter(plan, &source, location, false).map(|dir| pending.push(dir))
            }
            Ok(metadata) if metadata.is_symlink() => plan.add_symlink(&source, &metadata, location),
            Ok(metadata) => plan.add_file(args, &source, &metadata, location, true),
        };
        if let Err(error) = done {
            plan.failed.push((source, error));
        }
    }
    Ok(())
}

/// Plans a directory itself. The target of a directory on the command line may be a link to a directory.
fn enter(
    plan: &mut CopyPlan,
    source: &Path,
    location: TargetLocation<'_>,
    is_named: bool,
) -> Result<PendingDirectory, CopyError> {
    let target = location.target;
    let existing = match is_named {
        true => fs::metadata(target)
            .ok()
            .map_or_else(|| destination::metadata_of(target), |it| Ok(Some(it)))?,
        false if location.is_dir_new => None,
        false => destination::metadata_of(target)?,
    };
    if existing.as_ref().is_some_and(|existing| !existing.is_dir()) {
        return Err(CopyError::new(format!(
            "{} is a directory, but {} is not; remove it, or copy to another name",
            source.display(),
            target.display()
        )));
    }
    let is_new = existing.is_none();
    let canonical_target = match is_new {
        true => location.dir.join(target.file_name().unwrap_or_default()),
        false => {
            fs::canonicalize(target).map_err(|error| CopyError::of("examine", target, &error))?
        }
    };
    if is_new {
        plan.refuse_protected_dir(location, target)?;
    }
    plan.reserve(source, location, target)?;
    let root = match (is_new, location.root) {
        (true, None) => {
            plan.roots.push(target.into());
            Some(plan.roots.len() - 1)
        }
        (_, root) => root,
    };
    // A tree without files needs a writable file system, too.
    plan.space
        .add(location.dir, if is_new { 1 } else { 0 }, false)?;
    plan.directories.push(Directory {
        source: source.into(),
        target: target.into(),
        is_new,
        root,
    });
    Ok(PendingDirectory {
        source: source.into(),
        target: target.into(),
        canonical_target,
        root,
        is_new,
    })
}

/// Refuses a target within the source: the copy would have to contain itself.
fn refuse_into_itself(
    source: &Path,
    metadata: &Metadata,
    location: TargetLocation<'_>,
) -> Result<(), CopyError> {
    let is_source =
        |path: &Path| fs::metadata(path).is_ok_and(|it| identity(&it) == identity(metadata));
    if is_source(location.target) {
        return Err(CopyError::new(format!(
            "{} and {} are the same directory; copy to another name",
            source.display(),
            location.target.display()
        )));
    }
    let canonical_target =
        fs::canonicalize(location.target).unwrap_or_else(|_| location.dir.into());
    match canonical_target.ancestors().any(is_source) {
        false => Ok(()),
        true => Err(CopyError::new(format!(
            "{} is within {}, which can't be copied into itself; copy it to another directory",
            location.target.display(),
            source.display()
        ))),
    }
}
