//! Requests that are refused before anything is written. The error names the path, and says what to do.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use crate::cp_fixture::{Dir, bytes, is_root, kaio, text};

#[test]
fn a_directory_without_recursive() {
    let dir = Dir::new();
    dir.dir("tree");
    dir.refuses(&["tree", "copy"], &["tree is a directory", "--recursive"]);
}

#[test]
fn the_same_file_even_through_links() {
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
fn a_file_over_a_directory_and_vice_versa() {
    let dir = Dir::new();
    dir.file("name", "x");
    dir.dir("tree/name");
    dir.refuses(
        &["name", "tree"],
        &["tree/name is a directory", "remove it"],
    );
    dir.refuses(
        &["-r", "tree", "name"],
        &["tree is a directory, but name is not"],
    );
}

#[test]
fn two_sources_with_one_target() {
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
    dir.refuses(&["a", "b", "c"], &["c is not a directory", "mkdir"]);
}

#[test]
fn missing_files() {
    let dir = Dir::new();
    dir.file("a", "a");
    symlink("nowhere", dir.join("dangling")).unwrap();
    dir.refuses(&["nothing", "b"], &["can't read nothing: No such file"]);
    dir.refuses(
        &["dangling", "b"],
        &["dangling", "symbolic link to a missing file", "-r"],
    );
    dir.refuses(
        &["a", "dangling"],
        &["dangling", "symbolic link to a missing file"],
    );
    dir.refuses(&["a", "no/such/b"], &["no/such/b", "mkdir -p"]);
    dir.refuses(&["a", "b/"], &["b/ is not a directory"]);
    dir.refuses(&["a", "a/b"], &["a/b"]);
}

#[test]
fn fifos_and_character_devices() {
    let dir = Dir::new();
    dir.file("a", "a");
    let fifo = Command::new("mkfifo").arg(dir.join("fifo")).status();
    assert!(fifo.unwrap().success());
    dir.refuses(&["fifo", "b"], &["fifo is a FIFO", "cp -a", "kaio cp - "]);
    dir.refuses(&["/dev/null", "b"], &["/dev/null is a character device"]);
    dir.refuses(&["a", "fifo"], &["fifo is neither a regular file"]);
    dir.refuses(
        &["-f", "a", "/dev/null"],
        &["/dev/null is neither a regular file"],
    );
}

#[test]
fn a_missing_directory_with_a_trailing_dot() {
    let dir = Dir::new();
    dir.file("a", "a");
    dir.dir("tree");
    dir.refuses(&["a", "new/."], &["new/. is not a directory", "mkdir"]);
    dir.refuses(&["-r", "tree", "new/."], &["new/. is not a directory"]);
}

#[test]
fn a_link_over_a_fifo() {
    let dir = Dir::new();
    symlink("nowhere", dir.join("link")).unwrap();
    let fifo = Command::new("mkfifo").arg(dir.join("fifo")).status();
    assert!(fifo.unwrap().success());
    dir.refuses(&["-r", "link", "fifo"], &["fifo is neither a regular file"]);
}

/// Sets an attribute of files, and removes it when this is dropped.
struct Chattr<'a>(&'a str, PathBuf);

impl Chattr<'_> {
    /// `None`: not supported.
    fn set(flag: &str, path: PathBuf) -> Option<Chattr<'_>> {
        let done = Command::new("chattr")
            .arg(format!("+{flag}"))
            .arg(&path)
            .output();
        if done.is_ok_and(|output| output.status.success()) {
            return Some(Chattr(flag, path));
        }
        eprintln!("skipped: chattr +{flag} is not supported here");
        None
    }
}

impl Drop for Chattr<'_> {
    fn drop(&mut self) {
        let _ = Command::new("chattr")
            .arg(format!("-{}", self.0))
            .arg(&self.1)
            .status();
    }
}

#[test]
fn an_immutable_or_append_only_file() {
    let dir = Dir::new();
    dir.file("a", "a");
    let b = dir.file("b", "b");
    for (flag, what) in [("i", "b is immutable"), ("a", "b is append-only")] {
        let Some(_chattr) = Chattr::set(flag, b.clone()) else {
            return;
        };
        dir.refuses(
            &["-f", "a", "b"],
            &[what, &format!("run chattr -{flag} on it")],
        );
        dir.refuses(&["-f", "/dev/stdin", "b"], &[what]);
    }
}

#[test]
fn an_immutable_or_append_only_directory() {
    let dir = Dir::new();
    dir.file("a", "a");
    dir.file("large", bytes(200_000));
    symlink("a", dir.join("link")).unwrap();
    dir.dir("tree/sub");
    let into = dir.dir("into");
    for (flag, what) in [("i", "into is immutable"), ("a", "into is append-only")] {
        let Some(_chattr) = Chattr::set(flag, into.clone()) else {
            return;
        };
        let hint = format!("run chattr -{flag} on it");
        for args in [
            &["a", "into"][..],
            &["large", "into/b"],
            &["-r", "tree", "into"],
            &["-r", "link", "into"],
        ] {
            dir.refuses(args, &[what, &hint]);
        }
    }
}

#[test]
fn an_error_while_standard_error_is_full_is_not_a_panic() {
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
fn a_file_above_the_limit_on_file_sizes() {
    let dir = Dir::new();
    dir.file("a", bytes(3 << 20));
    // The unit is 512 or 1024 bytes, depending on the shell.
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
fn a_write_protected_file_without_force() {
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
fn a_target_on_a_file_system_of_the_kernel() {
    let dir = Dir::new();
    dir.file("a", "a");
    dir.file("large", bytes(200_000));
    dir.dir("tree");
    for args in [
        &["a", "/proc/a"][..],
        &["large", "/proc/a"],
        &["-r", "tree", "/proc/new"],
    ] {
        dir.refuses(
            args,
            &[
                "proc is a file system of the kernel",
                "copy to another directory",
            ],
        );
    }
}

#[test]
fn invalid_options_are_wrong_usage() {
    let dir = Dir::new();
    dir.file("a", "a");
    for args in [
        &["a"][..],
        &[],
        &["--bs", "1000", "a", "b"],
        &["--depth", "0", "a", "b"],
        &["--depth", "1,2", "a", "b"],
        &["--sparse", "some", "a", "b"],
        &["--reflink", "sometimes", "a", "b"],
        &["--limit", "0", "a", "b"],
    ] {
        assert_eq!(dir.cp(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(dir.names(), ["a"]);
}
