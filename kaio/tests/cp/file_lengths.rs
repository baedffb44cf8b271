//! Copies files of various lengths.

use crate::cp_fixture::{Dir, bytes};

const MIB: usize = 1 << 20;

#[test]
fn files_of_any_length_are_copied_exactly() {
    let dir = Dir::new();
    let lengths = [
        0,
        1,
        511,
        512,
        513,
        4095,
        4096,
        4097,
        65535,
        65536,
        65537,
        MIB - 1,
        MIB,
        MIB + 1,
    ];
    for length in lengths {
        let source = bytes(length);
        dir.file("source", &source);
        for options in [&["--bs", "64k", "--no-fsync"][..], &["--no-fsync"]] {
            dir.copies(&[options, &["source", "copy"]].concat());
            assert!(dir.read("copy") == source, "{length}, {options:?}");
        }
    }
    assert_eq!(dir.names(), ["copy", "source"]);
}

#[test]
fn a_file_of_many_blocks_with_a_partial_last_block_is_copied() {
    let dir = Dir::new();
    let source = bytes(9 * MIB + 12345);
    dir.file("source", &source);
    for options in [
        &["--verify"][..],
        &["--bs", "4k", "--depth", "64"],
        &["--bs", "12k", "--depth", "1"],
        &["--sparse", "always"],
        &["--sparse", "never"],
    ] {
        dir.copies(&[options, &["source", "copy"]].concat());
        assert!(dir.read("copy") == source, "{options:?}");
    }
}

#[test]
fn files_of_procfs_are_copied_completely() {
    let dir = Dir::new();
    for path in ["/proc/version", "/proc/self/limits"] {
        dir.copies(&["-f", path, "copy"]);
        let copy = dir.read("copy");
        assert!(!copy.is_empty() && copy.last() == Some(&b'\n'), "{path}");
    }
    dir.copies(&["-f", "--verify", "/proc/version", "copy"]);
    assert_eq!(dir.read("copy"), std::fs::read("/proc/version").unwrap());
}

#[test]
fn the_copy_of_a_file_of_sysfs_has_the_length_of_its_content() {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let Ok(content) = std::fs::read(path) else {
        eprintln!("skipped: {path} does not exist");
        return;
    };
    let dir = Dir::new();
    dir.copies(&[path, "copy"]);
    assert_eq!(dir.read("copy"), content);
}
