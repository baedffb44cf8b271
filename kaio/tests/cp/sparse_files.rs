//! Tests of `--sparse`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cp_fixture::{Dir, allocated, bytes};

const MIB: u64 = 1 << 20;

/// A file of 16 MiB and 77 bytes: data, a hole, data, zeroes, and a hole at the end.
fn source(dir: &Dir) -> Vec<u8> {
    let path = dir.join("source");
    let file = File::create(&path).unwrap();
    file.set_len(16 * MIB + 77).unwrap();
    file.write_all_at(&bytes(MIB as usize), 0).unwrap();
    file.write_all_at(&bytes(MIB as usize), 5 * MIB + 4096)
        .unwrap();
    file.write_all_at(&vec![0; 4 * MIB as usize], 8 * MIB)
        .unwrap();
    file.sync_all().unwrap();
    let has_holes = allocated(&path) < 7 * MIB;
    assert!(
        has_holes,
        "the file system of the build does not support holes"
    );
    std::fs::read(path).unwrap()
}

/// Asserts that the copy has `mib` MiB allocated, and less than one MiB more.
fn assert_allocated(dir: &Dir, mib: u64) {
    let allocated = allocated(dir.join("copy"));
    assert!(
        allocated >= mib * MIB && allocated < (mib + 1) * MIB,
        "{allocated}"
    );
}

#[test]
fn holes_stay_holes_and_zeroes_stay_zeroes() {
    let dir = Dir::new();
    let source = source(&dir);
    let said = dir.copies(&["--verify", "source", "copy"]);
    assert!(dir.read("copy") == source);
    assert_allocated(&dir, 6);
    assert!(said.contains("in holes"), "{said}");
}

#[test]
fn the_rate_does_not_count_holes() {
    let dir = Dir::new();
    source(&dir);
    let output = dir.cp(&["--json", "source", "copy"]);
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |name: &str| summary[name].as_f64().unwrap();
    let counted = number("bytes_per_second") * number("seconds");
    let written = number("written_bytes");
    assert!((counted - written).abs() < 0.01 * written, "{summary}");
    assert!(written < 0.5 * number("bytes"), "{summary}");
}

#[test]
fn with_always_blocks_of_zeroes_become_holes() {
    let dir = Dir::new();
    let source = source(&dir);
    for options in [
        &["--verify"][..],
        &["--bs", "8M"],
        &["--bs", "4k", "--depth", "64"],
    ] {
        dir.copies(&[options, &["--sparse", "always", "source", "copy"]].concat());
        assert!(dir.read("copy") == source);
        assert_allocated(&dir, 2);
    }
}

#[test]
fn with_never_the_copy_has_no_holes() {
    let dir = Dir::new();
    let source = source(&dir);
    dir.copies(&["--sparse", "never", "source", "copy"]);
    assert!(dir.read("copy") == source);
    assert_allocated(&dir, 16);
}

#[test]
fn a_file_that_is_one_hole_stays_a_hole() {
    let dir = Dir::new();
    File::create(dir.join("source"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    dir.copies(&["--verify", "source", "copy"]);
    assert_eq!(std::fs::metadata(dir.join("copy")).unwrap().len(), 1 << 40);
    assert!(allocated(dir.join("copy")) < MIB);
}

#[test]
fn zeroes_in_a_partial_last_block_become_a_hole() {
    let dir = Dir::new();
    dir.file("source", vec![0; 3 * MIB as usize + 5]);
    dir.copies(&["--sparse", "always", "source", "copy"]);
    assert!(dir.read("copy") == dir.read("source"));
    assert!(allocated(dir.join("copy")) < MIB);
}
