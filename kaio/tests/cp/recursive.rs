//! Tests of `--recursive`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use crate::cp_fixture::{Dir, bytes, mode, text};

/// Creates `tree`: directories, one of them empty, files, a link and a dangling link.
fn tree(dir: &Dir) {
    dir.dir("tree/a/b");
    dir.dir("tree/empty");
    for number in 0..40 {
        dir.file(&format!("tree/a/{number}"), bytes(number * 1000));
    }
    dir.file("tree/a/b/.hidden", "x");
    symlink("a/b", dir.join("tree/link")).unwrap();
    symlink("nowhere", dir.join("tree/dangling")).unwrap();
}

/// Asserts that both trees have the same names, types and content.
fn assert_same(dir: &Dir, one: &str, other: &str) {
    let diff = Command::new("diff")
        .args(["-r", "--no-dereference", one, other])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(diff.status.success(), "{}", text(&diff.stdout));
}

#[test]
fn a_tree_is_copied_with_links_and_empty_directories() {
    let dir = Dir::new();
    tree(&dir);
    fs::set_permissions(dir.join("tree/a/b"), Permissions::from_mode(0o500)).unwrap();
    dir.copies(&["-r", "tree", "copy"]);
    assert_same(&dir, "tree", "copy");
    assert_eq!(
        fs::read_link(dir.join("copy/link")).unwrap().to_str(),
        Some("a/b")
    );
    assert_eq!(mode(dir.join("copy/a/b")), 0o500);
    assert_eq!(mode(dir.join("copy/a")), mode(dir.join("tree/a")));
    assert_eq!(dir.names(), ["copy", "tree"]);
    for copy in ["tree/a/b", "copy/a/b"] {
        fs::set_permissions(dir.join(copy), Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn a_tree_is_copied_into_an_existing_directory_and_with_a_dot_its_content() {
    let dir = Dir::new();
    tree(&dir);
    dir.dir("into");
    dir.copies(&["-r", "tree", "into"]);
    assert_same(&dir, "tree", "into/tree");
    dir.dir("content");
    dir.copies(&["-r", "tree/.", "content"]);
    assert_same(&dir, "tree", "content");
}

#[test]
fn a_tree_is_merged_into_an_existing_tree() {
    let dir = Dir::new();
    tree(&dir);
    dir.dir("into/tree/a");
    dir.file("into/tree/a/7", "old content");
    dir.file("into/tree/mine", "mine");
    symlink("elsewhere", dir.join("into/tree/link")).unwrap();
    dir.copies(&["-r", "tree", "into"]);
    assert_eq!(dir.read("into/tree/mine"), b"mine");
    fs::remove_file(dir.join("into/tree/mine")).unwrap();
    assert_same(&dir, "tree", "into/tree");
}

#[test]
fn entries_that_can_not_be_copied_are_reported_and_the_rest_is_copied() {
    let dir = Dir::new();
    tree(&dir);
    let fifo = Command::new("mkfifo").arg(dir.join("tree/a/fifo")).status();
    assert!(fifo.unwrap().success());
    let output = dir.cp(&["-r", "--json", "tree", "copy"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("error: tree/a/fifo is a FIFO"), "{said}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["failed"][0]["path"], "tree/a/fifo");
    assert_eq!(summary["files"], 41);
    fs::remove_file(dir.join("tree/a/fifo")).unwrap();
    assert_same(&dir, "tree", "copy");
}

#[test]
fn entries_of_a_different_type_are_not_replaced() {
    let dir = Dir::new();
    tree(&dir);
    dir.dir("into/tree/a/7");
    dir.file("into/tree/empty", "a file");
    let output = dir.cp(&["-r", "tree", "into"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("into/tree/a/7 is a directory"), "{said}");
    assert!(said.contains("into/tree/empty is not"), "{said}");
    assert!(said.contains("2 not copied"), "{said}");
    assert_eq!(dir.read("into/tree/empty"), b"a file");
    assert_eq!(dir.read("into/tree/a/b/.hidden"), b"x");
}

#[test]
fn without_preserve_hard_links_become_files_of_their_own() {
    let dir = Dir::new();
    dir.dir("tree");
    dir.file("tree/one", "content");
    fs::hard_link(dir.join("tree/one"), dir.join("tree/two")).unwrap();
    dir.copies(&["-r", "tree", "copy"]);
    fs::write(dir.join("copy/one"), "changed").unwrap();
    assert_eq!(dir.read("copy/two"), b"content");
}

#[test]
fn with_too_few_descriptors_the_error_has_a_hint_and_no_files_are_left() {
    let dir = Dir::new();
    dir.dir("tree/a/b/c");
    for name in ["x", "a/x", "a/b/x", "a/b/c/x"] {
        dir.file(&format!("tree/{name}"), "x");
    }
    let mut failed = 0;
    for limit in 5..20 {
        let output = dir.limited_cp(&format!("ulimit -n {limit}"), "-r tree copy");
        let said = text(&output.stderr);
        if said.contains("can't open") {
            failed += 1;
            assert!(
                said.contains("raise the limit (ulimit -n)"),
                "{limit}: {said}"
            );
        }
        // Files that could be copied exist under their names.
        let _ = fs::remove_dir_all(dir.join("copy"));
        assert_eq!(dir.names(), ["tree"], "{limit}: {said}");
    }
    assert!(failed > 0);
}

#[test]
fn a_few_descriptors_are_enough() {
    let dir = Dir::new();
    tree(&dir);
    let output = dir.limited_cp("ulimit -n 24", "-rpq --verify --depth 64 tree copy");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_same(&dir, "tree", "copy");
}
