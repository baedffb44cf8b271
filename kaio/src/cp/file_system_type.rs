//! The types of file systems that `kaio cp` treats differently.

use std::path::Path;

use rustix::fs::statfs;

pub(super) const BCACHEFS: u64 = 0xca45_1a4e;
pub(super) const BTRFS: u64 = 0x9123_683e;
/// Also that of ext2 and ext3.
pub(super) const EXT4: u64 = 0xef53;
pub(super) const OCFS2: u64 = 0x7461_636f;
pub(super) const TMPFS: u64 = 0x0102_1994;
pub(super) const XFS: u64 = 0x5846_5342;

/// The type of the file system of `path`, as
/// [`statfs(2)`](https://man7.org/linux/man-pages/man2/statfs.2.html) reports it. `None`: unknown.
pub(super) fn of(path: &Path) -> Option<u64> {
    // The field is a signed number on some architectures.
    Some(statfs(path).ok()?.f_type as u64 & 0xffff_ffff)
}
