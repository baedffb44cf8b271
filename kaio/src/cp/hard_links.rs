//! Keeps the hard links between the files of a run, for `--preserve`.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::copy_error::CopyError;
use super::copy_plan::CopyPlan;
use super::destination::Destination;
use super::new_directories::NewDirectories;
use super::short_path::ShortPath;
use super::staged_path::make_next_to;
use crate::paths::identity;

/// A further name of a file that the run copies.
#[derive(Debug)]
pub(super) struct HardLink {
    pub(super) source: PathBuf,
    pub(super) destination: Destination,
    pub(super) root: Option<usize>,
    /// The index in [`CopyPlan::files`] of the file that is copied.
    pub(super) first: usize,
}

/// The files with several names, by their identity and the device of their copy: a hard link can't lead to
/// another device.
#[derive(Debug, Default)]
pub(super) struct KnownFiles(HashMap<((u64, u64), u64), usize>);

impl KnownFiles {
    /// Returns the index of the step that copies the same file to the same `device`. If there is none,
    /// `next` is that step.
    pub(super) fn first(&mut self, metadata: &Metadata, device: u64, next: usize) -> Option<usize> {
        let key = (identity(metadata), device);
        let known = self.0.get(&key).copied();
        if known.is_none() {
            self.0.insert(key, next);
        }
        known
    }
}

/// Whether a file has further names.
pub(super) fn has_further_names(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.nlink() > 1
}

/// Creates the hard link. `is_copied`: the file was copied.
///
/// # Errors
///
/// The file was not copied, or the file system has no hard links.
pub(super) fn create(
    link: &HardLink,
    plan: &CopyPlan,
    roots: &NewDirectories,
    is_copied: bool,
) -> Result<(), CopyError> {
    let (target, first) = (link.destination.path(), &plan.files[link.first]);
    if !is_copied {
        return Err(CopyError::new(format!(
            "{} is another name of {}, which was not copied",
            link.source.display(),
            first.source.display()
        )));
    }
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => CopyError::new(format!(
            "can't create {} as a hard link to {}: {error}; if the file system has no hard links, omit \
             --preserve",
            target.display(),
            first.destination.path().display()
        )),
        _ => CopyError::of("create", target, &error),
    };
    let copy = ShortPath::of(&roots.staged(first.root, first.destination.path()));
    let copy = copy.map_err(failed)?;
    let staged = roots.staged(link.root, target);
    let (leftover, ()) =
        make_next_to(&staged, |path| fs::hard_link(copy.path(), path)).map_err(failed)?;
    let rename = leftover.replace(&link.destination)?;
    rename().map_err(|error| CopyError::of("replace", target, &error))
}
