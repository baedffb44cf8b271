//! Copies random files.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cp_fixture::{Dir, Numbers};

/// Creates a file with data, zeroes and holes at random offsets, often at block boundaries.
fn make(dir: &Dir, random: &mut Numbers) {
    let length = random.below(2 << 20);
    let file = File::create(dir.join("source")).unwrap();
    file.set_len(length).unwrap();
    for _ in 0..random.below(6) {
        let alignment = [1, 512, 4096, 65536][random.below(4) as usize];
        let at = random.below(length + 1) / alignment * alignment;
        let count = random.below(300_000).min(length - at) as usize;
        let data = match random.below(3) {
            0 => vec![0; count],
            _ => random.bytes(count),
        };
        file.write_all_at(&data, at).unwrap();
    }
}

#[test]
fn random_files_with_data_zeroes_and_holes_are_copied_exactly() {
    let dir = Dir::new();
    for seed in 0..60 {
        let mut random = Numbers(seed);
        make(&dir, &mut random);
        let sparse = ["auto", "always", "never"][random.below(3) as usize];
        let bs = ["4k", "20k", "64k", "1M"][random.below(4) as usize];
        let depth = (1 + random.below(20)).to_string();
        let args = [
            "--sparse", sparse, "--bs", bs, "--depth", &depth, "--verify", "source", "copy",
        ];
        dir.copies(&args);
        assert!(
            dir.read("copy") == dir.read("source"),
            "seed {seed}: {args:?}"
        );
    }
    assert_eq!(dir.names(), ["copy", "source"]);
}
