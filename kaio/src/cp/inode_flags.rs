//! Refuses what `chattr` protects.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::copy_error::CopyError;

/// Refuses to replace `target` if `chattr` has made it immutable or append-only.
pub(super) fn refuse_protected_file(target: &Path) -> Result<(), CopyError> {
    let Some((what, option)) = protection(target) else {
        return Ok(());
    };
    Err(CopyError::new(format!(
        "{} is {what}; run chattr {option} on it, or copy to another name",
        target.display()
    )))
}

/// Refuses to create `target` in `dir` if `chattr` has made `dir` immutable, or append-only: then files can
/// be created there, but neither renamed nor removed.
pub(super) fn refuse_protected_dir(target: &Path, dir: &Path) -> Result<(), CopyError> {
    let Some((what, option)) = protection(dir) else {
        return Ok(());
    };
    Err(CopyError::new(format!(
        "can't create {}: the directory {} is {what}, so a complete copy could not be renamed into place; \
         run chattr {option} on it, or copy to another directory",
        target.display(),
        dir.display()
    )))
}

/// How `path` is protected, and the option of chattr that ends it.
fn protection(path: &Path) -> Option<(&'static str, &'static str)> {
    // An error is reported when the copy is created.
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty()).ok()?;
    if found.stx_attributes.contains(StatxAttributes::IMMUTABLE) {
        Some(("immutable", "-i"))
    } else if found.stx_attributes.contains(StatxAttributes::APPEND) {
        Some(("append-only", "-a"))
    } else {
        None
    }
}
