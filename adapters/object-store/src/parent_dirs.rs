//! Directories above an object: created when they are missing, and made durable.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::store_fault::StoreFault;

/// Creates the directory of `path` and those above it. With `sync`, they are durable when this returns.
pub(crate) fn create_parent_dirs(path: &Path, sync: bool) -> Result<(), StoreFault> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    let entries = sync.then(|| ChangedDirs::new(path));
    fs::create_dir_all(parent)
        .map_err(|error| StoreFault::of_new("create the directory", parent, error))?;
    entries.map_or(Ok(()), |entries| entries.sync())
}

/// The directories that change when an entry at a path is created: its parent and, if that is created too,
/// all up to the first one that existed.
#[derive(Debug)]
pub(crate) struct ChangedDirs {
    parent: PathBuf,
    /// The first directory that existed.
    last: PathBuf,
}

impl ChangedDirs {
    /// Call this before the entry at `path` is created.
    pub(crate) fn new(path: &Path) -> ChangedDirs {
        let parent = path.parent().unwrap_or(path);
        let last = parent.ancestors().find(|dir| dir.exists());
        ChangedDirs {
            parent: parent.to_owned(),
            last: last.unwrap_or(parent).to_owned(),
        }
    }

    /// Makes the entries durable.
    pub(crate) fn sync(&self) -> Result<(), StoreFault> {
        for dir in self.parent.ancestors() {
            sync_dir(dir)?;
            if dir == self.last {
                break;
            }
        }
        Ok(())
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreFault> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    match synced {
        // The file system does not sync directories; it has nothing to make durable, or no way to.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced.map_err(|error| StoreFault::of("sync the directory", dir, error)),
    }
}
