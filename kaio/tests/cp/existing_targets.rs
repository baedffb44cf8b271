//! Copies to existing targets, and the attributes of the copy.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::cp_fixture::{Dir, bytes, is_root, mode};

#[test]
fn a_replaced_file_keeps_its_mode() {
    let dir = Dir::new();
    dir.file("source", bytes(100_000));
    dir.file("copy", "old content");
    fs::set_permissions(dir.join("copy"), Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(dir.join("copy"), dir.join("other")).unwrap();

    dir.copies(&["source", "copy"]);

    assert!(dir.read("copy") == dir.read("source"));
    assert_eq!(mode(dir.join("copy")), 0o640);
    assert_eq!(dir.read("other"), b"old content"); // another hard link to the old file
    assert_eq!(dir.names(), ["copy", "other", "source"]);
}

#[test]
fn a_replaced_file_keeps_its_owner_and_attributes() {
    let dir = Dir::new();
    dir.file("source", "new");
    let copy = dir.file("copy", "old");
    let marked = xattr::set(&copy, "user.mark", b"mine").is_ok();
    if is_root() {
        std::os::unix::fs::chown(&copy, Some(12345), Some(23456)).unwrap();
    }
    let before = fs::metadata(&copy).unwrap();
    dir.copies(&["source", "copy"]);
    let after = fs::metadata(&copy).unwrap();
    assert_ne!(after.ino(), before.ino());
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    match marked {
        true => assert_eq!(xattr::get(&copy, "user.mark").unwrap().unwrap(), b"mine"),
        false => eprintln!("skipped: extended attributes are not supported"),
    }
}

#[test]
fn a_new_file_has_the_sources_mode_under_the_umask() {
    let dir = Dir::new();
    let source = dir.file("source", "x");
    fs::set_permissions(source, Permissions::from_mode(0o4777)).unwrap();
    let script = "umask 027; exec \"$0\" cp -q source copy";
    let shell = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(crate::cp_fixture::kaio())
        .current_dir(dir.path())
        .status();
    assert!(shell.unwrap().success());
    assert_eq!(mode(dir.join("copy")), 0o750);
}

#[test]
fn a_link_as_target_is_followed_and_kept() {
    let dir = Dir::new();
    dir.dir("far");
    dir.file("far/real", "old");
    dir.file("source", "new");
    symlink("far/real", dir.join("link")).unwrap();
    dir.copies(&["source", "link"]);
    assert_eq!(dir.read("far/real"), b"new");
    assert_eq!(
        fs::read_link(dir.join("link")).unwrap().to_str(),
        Some("far/real")
    );
    assert_eq!(dir.names(), ["far", "link", "source"]);
}

#[test]
fn several_sources_are_copied_into_a_directory() {
    let dir = Dir::new();
    dir.file("a", "a");
    dir.file("b", "b");
    dir.dir("into");
    symlink("into", dir.join("link")).unwrap();
    for target in ["into", "into/", "link"] {
        dir.copies(&["a", "b", target]);
        assert_eq!(
            (dir.read("into/a"), dir.read("into/b")),
            (vec![b'a'], vec![b'b'])
        );
    }
}

#[test]
fn a_link_as_the_source_is_followed_without_recursive_and_copied_with_it() {
    let dir = Dir::new();
    dir.file("real", "content");
    symlink("real", dir.join("link")).unwrap();
    dir.copies(&["link", "followed"]);
    assert!(
        fs::symlink_metadata(dir.join("followed"))
            .unwrap()
            .is_file()
    );
    dir.copies(&["-r", "link", "copied"]);
    assert_eq!(
        fs::read_link(dir.join("copied")).unwrap().to_str(),
        Some("real")
    );
}

#[test]
fn a_name_of_maximum_length_can_be_copied_to() {
    let dir = Dir::new();
    dir.file("source", "x");
    for name in ["n".repeat(255), format!("{}a", "ä".repeat(127))] {
        dir.copies(&["source", &name]);
        assert_eq!(dir.read(&name), b"x");
    }
}

#[test]
fn one_refused_source_prevents_the_whole_run() {
    let dir = Dir::new();
    dir.file("good", "good");
    dir.dir("into/bad");
    dir.file("bad", "bad");
    // Sources on the command line are checked before anything is written.
    dir.refuses(&["good", "bad", "into"], &["into/bad", "is a directory"]);
}
