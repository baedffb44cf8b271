//! What is in a directory, for `--recursive`.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::args::Args;
use super::place;
use super::plan::{Directory, Plan, Spot};
use super::trouble::Trouble;
use crate::paths::identity;

/// A directory that is still to be looked into.
#[derive(Debug)]
struct Found {
    source: PathBuf,
    target: PathBuf,
    /// The target's true name.
    true_target: PathBuf,
    root: Option<usize>,
}

/// Adds `source` and all that is in it to the plan, as `spot`.
///
/// # Errors
///
/// What concerns `source` itself. What is wrong beneath is left out, and told in the plan.
pub(super) fn walk(
    plan: &mut Plan,
    args: &Args,
    source: &Path,
    metadata: &Metadata,
    spot: Spot<'_>,
) -> Result<(), Trouble> {
    refuse_into_itself(source, metadata, spot)?;
    let mut found = vec![enter(plan, source, spot, true)?];
    while let Some(dir) = found.pop() {
        if let Err(error) = list(plan, args, &dir, &mut found) {
            let error = Trouble::of("list", &dir.source, &error);
            plan.failed.push((dir.source, error));
        }
    }
    Ok(())
}

/// Plans what is in a directory; directories in it are added to `found`.
fn list(plan: &mut Plan, args: &Args, dir: &Found, found: &mut Vec<Found>) -> std::io::Result<()> {
    let mut names = fs::read_dir(&dir.source)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort_unstable();
    for name in names {
        let (source, target) = (dir.source.join(&name), dir.target.join(&name));
        let spot = Spot {
            target: &target,
            dir: &dir.true_target,
            root: dir.root,
        };
        let done = match fs::symlink_metadata(&source) {
            Err(error) => Err(Trouble::of("look at", &source, &error)),
            Ok(metadata) if metadata.is_dir() => {
                enter(plan, &source, spot, false).map(|dir| found.push(dir))
            }
            Ok(metadata) if metadata.is_symlink() => plan.add_symlink(&source, &metadata, spot),
            Ok(metadata) => plan.add_file(args, &source, &metadata, spot, true),
        };
        if let Err(error) = done {
            plan.failed.push((source, error));
        }
    }
    Ok(())
}

/// Plans the directory itself. The one that is named may be a link to where it goes.
fn enter(plan: &mut Plan, source: &Path, spot: Spot<'_>, is_named: bool) -> Result<Found, Trouble> {
    let target = spot.target;
    let there = match is_named {
        true => fs::metadata(target)
            .ok()
            .map_or_else(|| place::there(target), |it| Ok(Some(it)))?,
        false => place::there(target)?,
    };
    if there.as_ref().is_some_and(|there| !there.is_dir()) {
        return Err(Trouble::new(format!(
            "{} is a directory, and {} is none; remove it, or copy to another name",
            source.display(),
            target.display()
        )));
    }
    let is_new = there.is_none();
    let true_target = match is_new {
        true => spot.dir.join(target.file_name().unwrap_or_default()),
        false => {
            fs::canonicalize(target).map_err(|error| Trouble::of("look at", target, &error))?
        }
    };
    plan.take(source, spot, target)?;
    let root = match (is_new, spot.root) {
        (true, None) => {
            plan.roots.push(target.into());
            Some(plan.roots.len() - 1)
        }
        (_, root) => root,
    };
    // Also a tree of no file needs a file system that can be written to.
    plan.space.add(spot.dir, if is_new { 1 } else { 0 })?;
    plan.directories.push(Directory {
        source: source.into(),
        target: target.into(),
        is_new,
        root,
    });
    Ok(Found {
        source: source.into(),
        target: target.into(),
        true_target,
        root,
    })
}

/// A copy of a directory within itself would have to have itself.
fn refuse_into_itself(source: &Path, metadata: &Metadata, spot: Spot<'_>) -> Result<(), Trouble> {
    let is_source =
        |path: &Path| fs::metadata(path).is_ok_and(|it| identity(&it) == identity(metadata));
    if is_source(spot.target) {
        return Err(Trouble::new(format!(
            "{} and {} are the same directory; copy to another name",
            source.display(),
            spot.target.display()
        )));
    }
    let true_target = fs::canonicalize(spot.target).unwrap_or_else(|_| spot.dir.into());
    match true_target.ancestors().any(is_source) {
        false => Ok(()),
        true => Err(Trouble::new(format!(
            "{} is within {}, which can't be copied into itself; copy it to elsewhere",
            spot.target.display(),
            source.display()
        ))),
    }
}
