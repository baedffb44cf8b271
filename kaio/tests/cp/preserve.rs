//! Tests of `--preserve`.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::cp_fixture::{Dir, bytes, is_root};

/// Sets a mode, old times, and as root an owner.
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
fn mode_owner_and_times_to_the_nanosecond_are_preserved() {
    let dir = Dir::new();
    let source = dir.file("source", bytes(100_001));
    mark(&source, 0o6751, 123_456_789);
    dir.file("copy", "old content");
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
fn extended_attributes_are_preserved() {
    let dir = Dir::new();
    dir.dir("tree");
    let source = dir.file("tree/source", "x");
    if let Err(error) = xattr::set(&source, "user.mark", b"mine") {
        eprintln!("skipped: extended attributes are not supported: {error}");
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
fn attributes_of_directories_and_links_are_preserved() {
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

/// An ACL: mode 0640, and user 12345 may read.
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),
        (2, 4, 12345),
        (4, 0, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ];
    let entry = |(tag, may, id): (u16, u16, u32)| {
        let (tag, may, id) = (tag.to_le_bytes(), may.to_le_bytes(), id.to_le_bytes());
        [&tag[..], &may, &id].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.map(entry).concat()].concat()
}

#[test]
fn a_default_acl_of_the_directory_is_not_added_to_preserved_or_replaced_files() {
    let dir = Dir::new();
    let source = dir.file("source", "x");
    mark(&source, 0o640, 0);
    dir.dir("tree");
    dir.dir("into");
    let replaced = dir.file("into/replaced", "old");
    std::fs::set_permissions(replaced, Permissions::from_mode(0o640)).unwrap();
    if let Err(error) = xattr::set(dir.join("into"), "system.posix_acl_default", &acl()) {
        eprintln!("skipped: ACLs are not supported: {error}");
        return;
    }
    dir.copies(&["-p", "source", "into"]);
    dir.copies(&["-rp", "tree", "into"]);
    dir.copies(&["source", "into/replaced"]);
    dir.copies(&["source", "into/inherits"]);
    let has = |name, which| xattr::get(dir.join(name), which).unwrap().is_some();
    for name in ["into/source", "into/replaced", "into/tree"] {
        assert!(!has(name, "system.posix_acl_access"), "{name}");
        assert!(!has(name, "system.posix_acl_default"), "{name}");
    }
    assert!(has("into/inherits", "system.posix_acl_access"));
    // A file that has an ACL keeps it.
    xattr::set(dir.join("into/replaced"), "system.posix_acl_access", &acl()).unwrap();
    dir.copies(&["source", "into/replaced"]);
    dir.copies(&["-p", "into/replaced", "copy"]);
    for name in ["into/replaced", "copy"] {
        let kept = xattr::get(dir.join(name), "system.posix_acl_access").unwrap();
        assert_eq!(kept, Some(acl()), "{name}");
    }
}

#[test]
fn a_directory_that_can_not_be_listed_does_not_prevent_the_other_copies() {
    if is_root() {
        eprintln!("skipped: root may list any directory");
        return;
    }
    let dir = Dir::new();
    dir.dir("tree/closed");
    dir.file("tree/file", "x");
    mark(&dir.join("tree/closed"), 0o300, 0);
    let output = dir.cp(&["-rp", "tree", "copy"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(dir.read("copy/file"), b"x");
    for tree in ["tree/closed", "copy/closed"] {
        assert_eq!(fs::metadata(dir.join(tree)).unwrap().mode() & 0o777, 0o300);
        fs::set_permissions(dir.join(tree), Permissions::from_mode(0o700)).unwrap();
    }
}
