//! Hard links, which `--preserve` keeps.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::cp_fixture::{Dir, bytes, text};

fn inode(dir: &Dir, name: &str) -> u64 {
    fs::metadata(dir.join(name)).unwrap().ino()
}

/// Creates `tree`: a small and a large file, each with three names in two directories.
fn tree(dir: &Dir) {
    dir.dir("tree/sub");
    for (name, length) in [("small", 5000), ("large", 300_000)] {
        dir.file(&format!("tree/{name}"), bytes(length));
        for link in [format!("tree/{name}-2"), format!("tree/sub/{name}")] {
            fs::hard_link(dir.join(format!("tree/{name}")), dir.join(link)).unwrap();
        }
    }
}

fn assert_linked(dir: &Dir, copy: &str) {
    for name in ["small", "large"] {
        let first = inode(dir, &format!("{copy}/{name}"));
        assert_ne!(first, inode(dir, &format!("tree/{name}")));
        for link in [format!("{copy}/{name}-2"), format!("{copy}/sub/{name}")] {
            assert_eq!(inode(dir, &link), first, "{link}");
            assert!(
                dir.read(&link) == dir.read(&format!("tree/{name}")),
                "{link}"
            );
        }
    }
    assert_ne!(
        inode(dir, &format!("{copy}/small")),
        inode(dir, &format!("{copy}/large"))
    );
}

#[test]
fn names_of_one_file_are_names_of_one_copy() {
    let dir = Dir::new();
    tree(&dir);
    for options in [&["-rp"][..], &["-rp", "--no-fsync"], &["-rp", "--verify"]] {
        dir.copies(&[options, &["tree", "copy"]].concat());
        assert_linked(&dir, "copy");
        // The second copy replaces every name.
        dir.copies(&[options, &["tree/.", "copy"]].concat());
        assert_linked(&dir, "copy");
        fs::remove_dir_all(dir.join("copy")).unwrap();
    }
    assert_eq!(dir.names(), ["tree"]);
}

#[test]
fn names_on_the_command_line_are_linked_too() {
    let dir = Dir::new();
    dir.file("one", "content");
    fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
    dir.dir("into");
    dir.copies(&["-p", "one", "two", "into"]);
    assert_eq!(inode(&dir, "into/one"), inode(&dir, "into/two"));
}

#[test]
fn hard_links_are_counted_and_copied_once() {
    let dir = Dir::new();
    tree(&dir);
    let output = dir.cp(&["-rp", "--json", "tree", "copy"]);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&summary["files"], &summary["hard_links"]),
        (&2.into(), &4.into())
    );
    assert_eq!(summary["bytes"], 305_000);
    let said = dir.copies(&["-rp", "tree", "other"]);
    assert!(said.contains("4 hard links"), "{said}");
}

#[test]
fn a_further_name_is_a_copy_of_its_own_if_the_first_is_refused() {
    let dir = Dir::new();
    dir.dir("tree");
    dir.file("tree/a", "content");
    fs::hard_link(dir.join("tree/a"), dir.join("tree/b")).unwrap();
    // The first name can't be created, because a directory is there.
    dir.dir("into/tree/a");
    let output = dir.cp(&["-rp", "tree", "into"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("into/tree/a is a directory"), "{said}");
    assert_eq!(dir.read("into/tree/b"), b"content");
}
