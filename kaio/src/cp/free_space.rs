//! [`SpaceCheck`]: checks the free space before anything is written.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use indicatif::BinaryBytes;
use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};

use super::copy_error::CopyError;
use super::cp_args::PAGE;
use crate::paths::parent;

/// The space that a run allocates on each file system.
#[derive(Debug, Default)]
pub(super) struct SpaceCheck {
    /// For each device, a directory on it and the number of bytes.
    needed: HashMap<u64, (PathBuf, u64)>,
    /// The last directory and its device: successive files are often in the same directory.
    last: Option<(PathBuf, u64)>,
}

impl SpaceCheck {
    /// Adds a file of `bytes` bytes in `dir`, which may not exist yet.
    pub(super) fn add(&mut self, dir: &Path, bytes: u64) -> Result<(), CopyError> {
        let device = match &self.last {
            Some((last, device)) if last == dir => *device,
            _ => {
                let (existing, device) = nearest(dir)?;
                self.needed.entry(device).or_insert((existing, 0));
                self.last = Some((dir.into(), device));
                device
            }
        };
        if let Some((_, needed)) = self.needed.get_mut(&device) {
            *needed = needed.saturating_add(bytes.next_multiple_of(PAGE));
        }
        Ok(())
    }

    /// Checks every file system.
    ///
    /// # Errors
    ///
    /// A file system has too little space, or is read-only.
    pub(super) fn check(&self) -> Result<(), CopyError> {
        for (dir, needed) in self.needed.values() {
            // If the space is unknown, a full disk is reported during the copy.
            if let Ok(stats) = statvfs(dir) {
                refuse(dir, *needed, &stats)?;
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
