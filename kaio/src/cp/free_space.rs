//! [`SpaceCheck`]: checks the free space before anything is written.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use indicatif::BinaryBytes;
use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};

use super::copy_error::CopyError;
use super::cp_args::PAGE;
use super::file_system_type;
use crate::paths::parent;

/// The space that a run allocates on each file system.
#[derive(Debug, Default)]
pub(super) struct SpaceCheck {
    /// By device.
    targets: HashMap<u64, TargetFileSystem>,
    /// The last directory and its device: successive files are often in the same directory.
    last: Option<(PathBuf, u64)>,
}

/// A file system that the run writes to.
#[derive(Debug)]
struct TargetFileSystem {
    /// A directory on it.
    dir: PathBuf,
    /// The bytes that the run allocates.
    needed: u64,
    has_reflinks: bool,
}

impl SpaceCheck {
    /// Adds a file of `bytes` bytes in `dir`, which may not exist yet. `is_shared`: its blocks may be shared
    /// with the source, if the file system can do that. Then it may take no space.
    pub(super) fn add(&mut self, dir: &Path, bytes: u64, is_shared: bool) -> Result<(), CopyError> {
        let device = self.device_of(dir)?;
        if let Some(target) = self.targets.get_mut(&device) {
            let bytes = match is_shared && target.has_reflinks {
                true => 0,
                false => bytes.next_multiple_of(PAGE),
            };
            target.needed = target.needed.saturating_add(bytes);
        }
        Ok(())
    }

    /// The device of `dir`, which may not exist yet.
    pub(super) fn device_of(&mut self, dir: &Path) -> Result<u64, CopyError> {
        match &self.last {
            Some((last, device)) if last == dir => Ok(*device),
            _ => {
                let (dir_found, device) = nearest(dir)?;
                let target = || TargetFileSystem {
                    has_reflinks: has_reflinks(&dir_found),
                    dir: dir_found,
                    needed: 0,
                };
                self.targets.entry(device).or_insert_with(target);
                self.last = Some((dir.into(), device));
                Ok(device)
            }
        }
    }

    /// A directory on each file system that the run writes to.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.targets.values().map(|target| &*target.dir)
    }

    /// Checks every file system.
    ///
    /// # Errors
    ///
    /// A file system has too little space, or is read-only.
    pub(super) fn check(&self) -> Result<(), CopyError> {
        for target in self.targets.values() {
            // If the space is unknown, a full disk is reported during the copy.
            if let Ok(stats) = statvfs(&target.dir) {
                refuse(&target.dir, target.needed, &stats)?;
            }
        }
        Ok(())
    }
}

fn refuse(dir: &Path, needed: u64, stats: &StatVfs) -> Result<(), CopyError> {
    if stats.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(CopyError::new(format!(
            "the file system of {} is mounted read-only; remount it writable (mount -o remount,rw), or \
             copy to another file system",
            dir.display()
        )));
    }
    // Root may use the reserved blocks, too.
    let blocks = match rustix::process::geteuid().is_root() {
        true => stats.f_bfree,
        false => stats.f_bavail,
    };
    let free = blocks.saturating_mul(stats.f_frsize);
    // A file system without blocks, such as ramfs, does not count them.
    if stats.f_blocks == 0 || needed <= free {
        return Ok(());
    }
    Err(CopyError::new(format!(
        "too little space in {}: {} to copy, and {} free; free some space, or copy to another file \
         system. Nothing was written",
        dir.display(),
        BinaryBytes(needed),
        BinaryBytes(free)
    )))
}

/// Whether files in `dir` can share blocks. XFS and ocfs2 may be without that feature: then a full disk is
/// reported during the copy.
fn has_reflinks(dir: &Path) -> bool {
    use file_system_type::{BCACHEFS, BTRFS, OCFS2, XFS};
    file_system_type::of(dir).is_some_and(|kind| [BCACHEFS, BTRFS, OCFS2, XFS].contains(&kind))
}

/// The nearest existing directory, `dir` or an ancestor of it, and its device.
fn nearest(dir: &Path) -> Result<(PathBuf, u64), CopyError> {
    let mut existing = dir;
    loop {
        match fs::metadata(existing) {
            Ok(metadata) => return Ok((existing.into(), metadata.dev())),
            Err(_) if parent(existing) != existing => existing = parent(existing),
            Err(error) => return Err(CopyError::of("examine", existing, &error)),
        }
    }
}
