//! The mount points of the simulated disks of this process: directories that exist inside the process only.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::DiskState;
use super::disk::Disk;

/// The directory of all mount points.
const ROOT: &str = "/simulated-disk";

/// The disks by their number, and the number of the last one.
#[derive(Debug)]
struct MountPoints {
    disks: BTreeMap<u64, Weak<Disk>>,
    last: u64,
}

static MOUNT_POINTS: Mutex<MountPoints> = Mutex::new(MountPoints {
    disks: BTreeMap::new(),
    last: 0,
});

/// Makes the disk of this state, and gives it a mount point.
pub(super) fn mount(state: DiskState) -> Arc<Disk> {
    let mut points = lock();
    points.last += 1;
    let number = points.last;
    let disk = Disk::new(Path::new(ROOT).join(number.to_string()), state);
    let disk = Arc::new(disk);
    points.disks.retain(|_, disk| disk.strong_count() > 0);
    points.disks.insert(number, Arc::downgrade(&disk));
    disk
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

/// Returns the disk of this number, if it still exists.
pub(super) fn disk(number: u64) -> Option<Arc<Disk>> {
    lock().disks.get(&number).and_then(Weak::upgrade)
}

/// Returns all disks.
pub(super) fn disks() -> Vec<Arc<Disk>> {
    lock().disks.values().filter_map(Weak::upgrade).collect()
}

fn lock() -> MutexGuard<'static, MountPoints> {
    MOUNT_POINTS.lock().unwrap_or_else(PoisonError::into_inner)
}
