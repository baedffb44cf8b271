//! [`Space`]: whether there is room, before anything is written.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use indicatif::BinaryBytes;
use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};

use super::args::PAGE;
use super::trouble::Trouble;
use crate::paths::parent;

/// What is going to be allocated, on each file system.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// By device: a directory there, and bytes.
    needed: HashMap<u64, (PathBuf, u64)>,
    /// The last directory that was asked for, and its device: many files are in the same.
    last: Option<(PathBuf, u64)>,
}

impl Space {
    /// A file of so many bytes goes to `dir`, which need not be there yet.
    pub(super) fn add(&mut self, dir: &Path, bytes: u64) -> Result<(), Trouble> {
        let device = match &self.last {
            Some((last, device)) if last == dir => *device,
            _ => {
                let (there, device) = nearest(dir)?;
                self.needed.entry(device).or_insert((there, 0));
                self.last = Some((dir.into(), device));
                device
            }
        };
        if let Some((_, needed)) = self.needed.get_mut(&device) {
            *needed = needed.saturating_add(bytes.next_multiple_of(PAGE));
        }
        Ok(())
    }

    /// # Errors
    ///
    /// There is too little, or nothing can be written at all.
    pub(super) fn check(&self) -> Result<(), Trouble> {
        for (dir, needed) in self.needed.values() {
            // A file system that does not tell will do when it is full.
            if let Ok(told) = statvfs(dir) {
                refuse(dir, *needed, &told)?;
            }
        }
        Ok(())
    }
}

fn refuse(dir: &Path, needed: u64, told: &StatVfs) -> Result<(), Trouble> {
    if told.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(Trouble::new(format!(
            "the file system of {} is mounted read-only; remount it writable (mount -o remount,rw), or \
             copy elsewhere",
            dir.display()
        )));
    }
    // Root may have what is reserved, too.
    let blocks = match rustix::process::geteuid().is_root() {
        true => told.f_bfree,
        false => told.f_bavail,
    };
    let free = blocks.saturating_mul(told.f_frsize);
    // One of no blocks at all does not count them: ramfs.
    if told.f_blocks == 0 || needed <= free {
        return Ok(());
    }
    Err(Trouble::new(format!(
        "too little space in {}: {} to be copied, and {} free; free some, or copy to elsewhere. Nothing \
         has been written",
        dir.display(),
        BinaryBytes(needed),
        BinaryBytes(free)
    )))
}

/// The directory itself, or of those that it is in the first that is there; and its device.
fn nearest(dir: &Path) -> Result<(PathBuf, u64), Trouble> {
    let mut there = dir;
    loop {
        match fs::metadata(there) {
            Ok(metadata) => return Ok((there.into(), metadata.dev())),
            Err(_) if parent(there) != there => there = parent(there),
            Err(error) => return Err(Trouble::of("look at", there, &error)),
        }
    }
}
