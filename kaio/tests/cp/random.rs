//! Files at random.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::shared::{Dir, Numbers};

/// Data, zeroes and holes at places and of lengths at random, often at the edges of blocks.
fn make(dir: &Dir, random: &mut Numbers) {
    let length = random.below(2 << 20);
    let file = File::create(dir.join("source")).unwrap();
    file.set_len(length).unwrap();
    for _ in 0..random.below(6) {
        let grain = [1, 512, 4096, 65536][random.below(4) as usize];
        let at = random.below(length + 1) / grain * grain;
        let count = random.below(300_000).min(length - at) as usize;
        let data = match random.below(3) {
            0 => vec![0; count],
            _ => random.bytes(count),
        };
        file.write_all_at(&data, at).unwrap();
    }
}

#[test]
fn whatever_has_data_zeroes_and_holes_arrives_byte_for_byte() {
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
