//! What is refused, before anything is written: each names the path and the way out.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use crate::shared::{Dir, bytes, is_root, kaio, text};

#[test]
fn a_directory_without_recursive() {
    let dir = Dir::new();
    dir.dir("tree");
    dir.refuses(&["tree", "copy"], &["tree is a directory", "--recursive"]);
}

#[test]
fn the_same_file_also_through_links() {
    let dir = Dir::new();
    dir.file("file", "x");
    fs::hard_link(dir.join("file"), dir.join("hard")).unwrap();
    symlink("file", dir.join("soft")).unwrap();
    for target in ["file", "./file", "hard", "soft", "."] {
        dir.refuses(
            &["file", target],
            &["file and ", "the same file", "another name"],
        );
    }
    dir.refuses(&["soft", "file"], &["the same file"]);
}

#[test]
fn a_directory_into_itself() {
    let dir = Dir::new();
    dir.dir("tree/sub");
    symlink("tree/sub", dir.join("link")).unwrap();
    for target in ["tree", "tree/sub", "tree/new", "link"] {
        dir.refuses(&["-r", "tree", target], &["can't be copied into itself"]);
    }
    dir.refuses(&["-r", "tree", "."], &["the same directory"]);
}

#[test]
fn a_file_over_a_directory_and_the_other_way_round() {
    let dir = Dir::new();
    dir.file("name", "x");
    dir.dir("tree/name");
    dir.refuses(
        &["name", "tree"],
        &["tree/name is a directory", "remove it"],
    );
    dir.refuses(
        &["-r", "tree", "name"],
        &["tree is a directory, and name is none"],
    );
}

#[test]
fn two_sources_of_one_name() {
    let dir = Dir::new();
    dir.dir("a");
    dir.dir("b");
    dir.dir("into");
    dir.file("a/name", "a");
    dir.file("b/name", "b");
    dir.refuses(
        &["a/name", "b/name", "into"],
        &["b/name", "into/name", "another source"],
    );
    dir.file("into/real", "old");
    symlink("real", dir.join("into/name")).unwrap();
    dir.file("a/real", "a");
    dir.refuses(&["a/name", "a/real", "into"], &["another source"]);
}

#[test]
fn several_sources_without_a_directory() {
    let dir = Dir::new();
    dir.file("a", "a");
    dir.file("b", "b");
    dir.refuses(&["a", "b", "c"], &["c is no directory", "mkdir"]);
}

#[test]
fn what_is_not_there() {
    let dir = Dir::new();
    dir.file("a", "a");
    symlink("nowhere", dir.join("dangling")).unwrap();
    dir.refuses(&["nothing", "b"], &["can't read nothing: No such file"]);
    dir.refuses(
        &["dangling", "b"],
        &["dangling", "symbolic link to what is not there", "-r"],
    );
    dir.refuses(
        &["a", "dangling"],
        &["dangling", "symbolic link to what is not there"],
    );
    dir.refuses(&["a", "no/such/b"], &["no/such/b", "mkdir -p"]);
    dir.refuses(&["a", "b/"], &["b/ is no directory"]);
    dir.refuses(&["a", "a/b"], &["a/b"]);
}

#[test]
fn what_is_neither_a_file_nor_a_block_device() {
    let dir = Dir::new();
    dir.file("a", "a");
    let fifo = Command::new("mkfifo").arg(dir.join("fifo")).status();
    assert!(fifo.unwrap().success());
    dir.refuses(&["fifo", "b"], &["fifo is a FIFO", "cp -a"]);
    dir.refuses(&["/dev/null", "b"], &["/dev/null is a character device"]);
    dir.refuses(&["a", "fifo"], &["fifo is neither a regular file"]);
    dir.refuses(
        &["-f", "a", "/dev/null"],
        &["/dev/null is neither a regular file"],
    );
}

#[test]
fn a_directory_that_is_not_there_and_is_to_be_one() {
    let dir = Dir::new();
    dir.file("a", "a");
    dir.dir("tree");
    dir.refuses(&["a", "new/."], &["new/. is no directory", "mkdir"]);
    dir.refuses(&["-r", "tree", "new/."], &["new/. is no directory"]);
}

#[test]
fn a_link_over_what_is_no_file() {
    let dir = Dir::new();
    symlink("nowhere", dir.join("link")).unwrap();
    let fifo = Command::new("mkfifo").arg(dir.join("fifo")).status();
    assert!(fifo.unwrap().success());
    dir.refuses(&["-r", "link", "fifo"], &["fifo is neither a regular file"]);
}

#[test]
fn a_file_that_is_immutable() {
    let dir = Dir::new();
    dir.file("a", "a");
    let b = dir.file("b", "b");
    let chattr = |how| Command::new("chattr").arg(how).arg(&b).status();
    if !chattr("+i").is_ok_and(|status| status.success()) {
        eprintln!("skipped: nothing can be made immutable here");
        return;
    }
    let output = dir.cp(&["-f", "a", "b"]);
    assert!(chattr("-i").unwrap().success());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("b is immutable; chattr -i it"), "{said}");
}

#[test]
fn an_error_that_nobody_can_be_told_is_no_panic() {
    let dir = Dir::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = Command::new(kaio())
        .args(["cp", "nothing", "copy"])
        .current_dir(dir.path())
        .stderr(full)
        .status();
    assert_eq!(status.unwrap().code(), Some(1));
}

#[test]
fn more_than_the_limit_for_files() {
    let dir = Dir::new();
    dir.file("a", bytes(3 << 20));
    // In units of 512 or 1024 bytes, as the shell has it.
    let output = dir.limited_cp("ulimit -f 1024", "a b");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("b would have 3145728 bytes") && said.contains("ulimit -f"),
        "{said}"
    );
    assert_eq!(dir.names(), ["a"]);
}

#[test]
fn a_file_that_is_write_protected_unless_forced() {
    if is_root() {
        eprintln!("skipped: root may write to any file");
        return;
    }
    let dir = Dir::new();
    dir.file("a", "a");
    let b = dir.file("b", "b");
    fs::set_permissions(b, Permissions::from_mode(0o400)).unwrap();
    dir.refuses(&["a", "b"], &["b is write-protected", "--force"]);
    dir.copies(&["-f", "a", "b"]);
    assert_eq!(dir.read("b"), b"a");
}

#[test]
fn options_that_are_none_are_wrong_usage() {
    let dir = Dir::new();
    dir.file("a", "a");
    for args in [
        &["a"][..],
        &[],
        &["--bs", "1000", "a", "b"],
        &["--depth", "0", "a", "b"],
        &["--sparse", "some", "a", "b"],
        &["--limit", "0", "a", "b"],
    ] {
        assert_eq!(dir.cp(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(dir.names(), ["a"]);
}
