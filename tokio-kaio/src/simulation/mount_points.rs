//! The mount points of the simulated disks of this process: directories that exist inside the process only.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::DiskState;
use super::disk::Disk;

/// The directory of all mount points.
const ROOT: &str = "/simulated-disk";

/// The disks by their names below [`ROOT`], and the number of the last one that has a number.
#[derive(Debug)]
struct MountPoints {
    disks: BTreeMap<String, Weak<Disk>>,
    last: u64,
}

static MOUNT_POINTS: Mutex<MountPoints> = Mutex::new(MountPoints {
    disks: BTreeMap::new(),
    last: 0,
});

/// Makes the disk of this state, and gives it a mount point: that of its name, or else one with a number that no
/// other disk has had.
///
/// A disk that has the name loses its mount point, if it has no power any more. Otherwise it keeps it.
pub(super) fn mount(state: DiskState) -> Arc<Disk> {
    let mut points = lock();
    let name = match &state.config().name {
        Some(name) if !points.has_power(name.as_str()) => name.as_str().to_owned(),
        _ => {
            points.last += 1;
            points.last.to_string()
        }
    };
    let disk = Arc::new(Disk::new(Path::new(ROOT).join(&name), state));
    points.disks.retain(|_, disk| disk.strong_count() > 0);
    points.disks.insert(name, Arc::downgrade(&disk));
    disk
}

/// Takes its mount point from a disk. No path leads to it any more.
pub(super) fn unmount(disk: &Arc<Disk>) {
    let mut points = lock();
    let disk = Arc::downgrade(disk);
    points.disks.retain(|_, other| !other.ptr_eq(&disk));
}

/// Returns whether the path may be below a mount point. If not, it is a path of the kernel.
#[inline]
pub(super) fn may_be_below(path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    path.strip_prefix(ROOT.as_bytes())
        .is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Returns whether this is the name of the directory of all mount points.
pub(super) fn is_root(name: &OsStr) -> bool {
    ROOT.strip_prefix('/').is_some_and(|root| name == root)
}

/// Returns the disk of this name, if it still exists.
pub(super) fn disk(name: &str) -> Option<Arc<Disk>> {
    lock().disks.get(name).and_then(Weak::upgrade)
}

/// Returns all disks.
pub(super) fn disks() -> Vec<Arc<Disk>> {
    lock().disks.values().filter_map(Weak::upgrade).collect()
}

impl MountPoints {
    /// Whether there is a disk of this name whose power is on.
    fn has_power(&self, name: &str) -> bool {
        let disk = self.disks.get(name).and_then(Weak::upgrade);
        disk.is_some_and(|disk| !disk.lock().is_off())
    }
}

fn lock() -> MutexGuard<'static, MountPoints> {
    MOUNT_POINTS.lock().unwrap_or_else(PoisonError::into_inner)
}
