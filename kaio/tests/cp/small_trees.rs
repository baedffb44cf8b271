//! Copies of many small files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::cp_fixture::{Dir, Numbers, bytes, is_root, mode, names, text};

/// Creates `tree` with `count` files of up to 70 KB in a few directories.
fn tree(dir: &Dir, count: usize) {
    let mut random = Numbers(count as u64);
    for number in 0..count {
        dir.dir(&format!("tree/{}", number % 7));
        let length = match number % 10 {
            0 => 0,
            1 => 65_536,
            2 => 65_537,
            _ => random.below(9000) as usize,
        };
        dir.file(
            &format!("tree/{}/{number}", number % 7),
            random.bytes(length),
        );
    }
}

fn assert_same(dir: &Dir, count: usize, copy: &str) {
    for number in 0..count {
        let name = format!("{}/{number}", number % 7);
        assert!(
            dir.read(&format!("tree/{name}")) == dir.read(&format!("{copy}/{name}")),
            "{name}"
        );
    }
    for number in 0..7 {
        let name = number.to_string();
        let copies = names(&dir.join(copy).join(&name));
        assert_eq!(copies, names(&dir.join("tree").join(name)));
    }
}

#[test]
fn many_small_files_are_copied_to_a_new_directory_and_into_an_existing_one() {
    let dir = Dir::new();
    tree(&dir, 500);
    for options in [
        &["-r"][..],
        &["-rp"],
        &["-r", "--no-fsync"],
        &["-r", "--verify"],
    ] {
        dir.copies(&[options, &["tree", "copy"]].concat());
        assert_same(&dir, 500, "copy");
        // The second copy replaces every file.
        dir.copies(&[options, &["tree/.", "copy"]].concat());
        assert_same(&dir, 500, "copy");
        assert_eq!(dir.names(), ["copy", "tree"]);
        fs::remove_dir_all(dir.join("copy")).unwrap();
    }
}

#[test]
fn replaced_small_files_keep_their_modes_and_new_ones_have_those_of_the_sources() {
    let dir = Dir::new();
    tree(&dir, 60);
    fs::set_permissions(dir.join("tree/1/1"), Permissions::from_mode(0o604)).unwrap();
    dir.dir("copy/2");
    let replaced = dir.file("copy/2/2", "old");
    fs::set_permissions(&replaced, Permissions::from_mode(0o660)).unwrap();
    dir.copies(&["-r", "tree/.", "copy"]);
    assert_same(&dir, 60, "copy");
    assert_eq!(mode(dir.join("copy/1/1")), 0o604);
    assert_eq!(mode(replaced), 0o660);
}

#[test]
fn the_summary_counts_small_files_and_says_that_the_page_cache_was_used() {
    let dir = Dir::new();
    tree(&dir, 30);
    let summary = |args: &[&str]| -> Value {
        let output = dir.cp(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let small = summary(&["-r", "tree/3", "copy", "--reflink", "never"]);
    let bytes: u64 = names(&dir.join("tree/3"))
        .iter()
        .map(|name| dir.read(&format!("tree/3/{name}")).len() as u64)
        .sum();
    assert_eq!(small["files"], names(&dir.join("tree/3")).len());
    assert_eq!(
        (&small["bytes"], &small["written_bytes"]),
        (&bytes.into(), &bytes.into())
    );
    assert_eq!(small["direct"], false);
    assert_eq!(small["durable"], true);
    assert_eq!(small["failed"], Value::Array(vec![]));
}

#[test]
fn a_small_file_that_can_not_be_read_does_not_prevent_the_other_copies() {
    if is_root() {
        eprintln!("skipped: root may read any file");
        return;
    }
    let dir = Dir::new();
    tree(&dir, 40);
    fs::set_permissions(dir.join("tree/3/3"), Permissions::from_mode(0o000)).unwrap();
    let output = dir.cp(&["-r", "tree", "copy"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("can't open tree/3/3") && said.contains("1 not copied"),
        "{said}"
    );
    assert_eq!(
        names(&dir.join("copy/3")).len() + 1,
        names(&dir.join("tree/3")).len()
    );
}

#[test]
fn files_without_bytes_and_of_the_largest_small_size_are_copied_among_others() {
    let dir = Dir::new();
    dir.dir("into");
    for (name, length) in [
        ("a", 0),
        ("b", 1),
        ("c", 65_535),
        ("d", 65_536),
        ("e", 65_537),
    ] {
        dir.file(name, bytes(length));
    }
    dir.copies(&["a", "b", "c", "d", "e", "/proc/version", "into"]);
    for name in ["a", "b", "c", "d", "e"] {
        assert!(
            dir.read(&format!("into/{name}")) == dir.read(name),
            "{name}"
        );
    }
    assert_eq!(dir.read("into/version"), fs::read("/proc/version").unwrap());
    assert_eq!(names(&dir.join("into")).len(), 6);
}
