//! [`StagedObject`]: a new object under a temporary name, which appears at its path when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio_kaio::Process;

use crate::blocking_call::drop_blocking;
use crate::open_object::ObjectFacts;
use crate::parent_dirs::{create_parent_dirs, sync_dir};
use crate::store_fault::StoreFault;

/// How often the directory of an object is created again, if other calls remove it meanwhile because it is
/// empty.
const ATTEMPTS: usize = 100;

/// A new object under a temporary name. Removed when dropped, unless it was published.
#[derive(Debug)]
pub(crate) struct StagedObject {
    /// Taken when the object is published.
    file: Option<StagedFile>,
    pub(crate) target: PathBuf,
    /// Whether the object and its directory entry are durable when it is published.
    sync: bool,
}

/// The file. Its drop blocks.
#[derive(Debug)]
struct StagedFile {
    file: File,
    /// The same file, for direct writes.
    direct: Option<tokio_kaio::File>,
    path: PathBuf,
    /// Whether the file has its temporary name still. Who clears it removes the name, or has renamed the file.
    is_named: AtomicBool,
    /// A forked child drops copies of what its parent still writes.
    process: Process,
}

impl StagedObject {
    /// Creates an empty file beside `target`, and its directory if it is missing. Blocks.
    ///
    /// The name is that of `target` with `#` and a number, as that of `LocalFileSystem`, which hides such
    /// files.
    pub(crate) fn create(
        target: PathBuf,
        sync: bool,
        direct: bool,
    ) -> Result<StagedObject, StoreFault> {
        let mut number = 1_u64;
        let mut attempts = 0;
        loop {
            let mut path = target.clone().into_os_string();
            path.push(format!("#{number}"));
            let path = PathBuf::from(path);
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            match options.clone().create_new(true).open(&path) {
                Ok(file) => {
                    let direct = match direct {
                        true => {
                            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                            let file = options.open(link);
                            file.and_then(tokio_kaio::File::from_std).ok()
                        }
                        false => None,
                    };
                    let file = StagedFile {
                        file,
                        direct,
                        path,
                        is_named: AtomicBool::new(true),
                        process: Process::current(),
                    };
                    return Ok(StagedObject {
                        file: Some(file),
                        target,
                        sync,
                    });
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::AlreadyExists => number += 1,
                    io::ErrorKind::NotFound if attempts < ATTEMPTS => {
                        attempts += 1;
                        create_parent_dirs(&target, sync)?;
                    }
                    _ => return Err(StoreFault::of_new("create", &path, error)),
                },
            }
        }
    }

    /// The file, for writes through the page cache.
    pub(crate) fn file(&self) -> &File {
        match &self.file {
            Some(staged) => &staged.file,
            None => unreachable!("the file is taken only by methods that consume the object"),
        }
    }

    /// The file for direct writes, if they are possible.
    pub(crate) fn direct(&self) -> Option<&tokio_kaio::File> {
        self.file.as_ref()?.direct.as_ref()
    }

    /// Makes the object appear at its path: replaces what is there, or fails with
    /// [`AlreadyExists`](StoreFault::AlreadyExists). Blocks. Afterwards, the temporary file is gone in any
    /// case.
    ///
    /// A crash leaves the old object or the new one, if the object is durable (`sync`).
    pub(crate) fn publish(mut self, replace: bool) -> Result<ObjectFacts, StoreFault> {
        let target = std::mem::take(&mut self.target);
        let Some(staged) = self.file.take() else {
            unreachable!("the file is taken only by methods that consume the object");
        };
        let metadata = staged.file.metadata();
        let metadata =
            metadata.map_err(|error| StoreFault::of("read the size of", &target, error))?;
        if self.sync {
            let synced = staged.file.sync_all();
            synced.map_err(|error| StoreFault::of("write", &target, error))?;
        }
        let moved = match replace {
            true => fs::rename(&staged.path, &target),
            false => rename_new(&staged.path, &target),
        };
        moved.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StoreFault::AlreadyExists {
                path: target.clone(),
                source: error,
            },
            _ => StoreFault::of("publish", &target, error),
        })?;
        staged.is_named.store(false, Ordering::Relaxed); // nothing to remove
        if self.sync {
            sync_dir(target.parent().unwrap_or(Path::new("/")))?;
        }
        Ok(ObjectFacts::new(&metadata))
    }

    /// Removes the temporary file, and ignores errors. Blocks.
    pub(crate) fn discard(mut self) {
        drop(self.file.take());
    }

    /// Removes the temporary file, which others may still write to. Blocks.
    pub(crate) fn remove(&self) -> Result<(), StoreFault> {
        match &self.file {
            Some(staged) => {
                let removed = staged.remove();
                removed.map_err(|error| StoreFault::of("remove", &staged.path, error))
            }
            None => Ok(()),
        }
    }
}

impl StagedFile {
    /// Removes the temporary name, once: by now, it may be that of another upload.
    fn remove(&self) -> io::Result<()> {
        let is_named = self.is_named.swap(false, Ordering::Relaxed);
        match is_named && self.process == Process::current() {
            true => fs::remove_file(&self.path),
            false => Ok(()),
        }
    }
}

/// Renames a file, unless there is one of the new name. Where the file system can't do that, links it.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
            fs::hard_link(from, to)?;
            let _ = fs::remove_file(from); // the object is there; only the temporary name is left
            Ok(())
        }
        renamed => Ok(renamed?),
    }
}

impl Drop for StagedObject {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            drop_blocking(file);
        }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let _ = self.remove(); // nobody is there to hear of an error
    }
}
