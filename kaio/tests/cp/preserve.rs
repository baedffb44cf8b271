//! `--preserve`.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::shared::{Dir, bytes, is_root};

/// A mode, an owner where that can be, and times of long ago.
fn mark(path: &Path, mode: u32, nanoseconds: u32) {
    if is_root() {
        chown(path, Some(12345), Some(23456)).unwrap();
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    let times = FileTimes::new()
        .set_accessed(time(1_000_000_000))
        .set_modified(time(900_000_000));
    File::open(path).unwrap().set_times(times).unwrap();
}

fn assert_like(one: &Path, other: &Path) {
    let what = |path| {
        let it = fs::symlink_metadata(path).unwrap();
        (it.mode(), it.uid(), it.gid(), it.mtime(), it.mtime_nsec())
    };
    assert_eq!(what(one), what(other), "{}", one.display());
}

#[test]
fn mode_owner_and_times_come_along_to_the_nanosecond() {
    let dir = Dir::new();
    let source = dir.file("source", bytes(100_001));
    mark(&source, 0o6751, 123_456_789);
    dir.file("copy", "of old");
    let before = fs::metadata(&source).unwrap();
    dir.copies(&["-p", "--verify", "source", "copy"]);
    assert_like(&source, &dir.join("copy"));
    let copy = fs::metadata(dir.join("copy")).unwrap();
    assert_eq!(
        (copy.atime(), copy.atime_nsec()),
        (before.atime(), before.atime_nsec())
    );
}

#[test]
fn so_do_extended_attributes() {
    let dir = Dir::new();
    dir.dir("tree");
    let source = dir.file("tree/source", "x");
    if let Err(error) = xattr::set(&source, "user.mark", b"mine") {
        eprintln!("skipped: no extended attributes here: {error}");
        return;
    }
    xattr::set(dir.join("tree"), "user.empty", b"").unwrap();
    dir.copies(&["-rp", "tree", "copy"]);
    let value = |path, name| xattr::get(dir.join(path), name).unwrap();
    assert_eq!(value("copy/source", "user.mark").unwrap(), b"mine");
    assert_eq!(value("copy", "user.empty").unwrap(), b"");
    dir.copies(&["-r", "tree", "plain"]);
    assert_eq!(value("plain/source", "user.mark"), None);
}

#[test]
fn directories_and_links_have_theirs_too() {
    let dir = Dir::new();
    dir.dir("tree/sub");
    dir.file("tree/sub/file", "x");
    symlink("sub", dir.join("tree/link")).unwrap();
    mark(&dir.join("tree/sub/file"), 0o400, 1);
    mark(&dir.join("tree/sub"), 0o2750, 2);
    mark(&dir.join("tree"), 0o711, 3);
    dir.copies(&["-rp", "tree", "copy"]);
    dir.dir("merged/tree/sub");
    dir.copies(&["-rp", "tree", "merged"]);
    for copy in ["copy", "merged/tree"] {
        for name in ["", "sub", "sub/file", "link"] {
            assert_like(&dir.join("tree").join(name), &dir.join(copy).join(name));
        }
    }
}
