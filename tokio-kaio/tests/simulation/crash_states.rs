//! Power cuts: which states they can leave, and which they can't.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;
use tokio_kaio::simulation::{SimDisk, SimDiskBuilder};
use tokio_kaio::{ReadFlags, WriteFlags, rename, sync_dir, try_exists};

use crate::common::with_hang_guard;
use crate::support::{BLOCK, Simulated, blocks, open};

/// Runs `workload` on a file of `len` durable zeroes, on one disk for each of 200 seeds. Returns the bytes that
/// the power cuts have left.
async fn cuts(
    len: u64,
    disk: impl Fn() -> SimDiskBuilder,
    workload: impl AsyncFn(&Simulated, &tokio_kaio::File),
) -> Vec<Vec<u8>> {
    let mut left = Vec::new();
    for seed in 0..200 {
        let before = Simulated::of(disk().seed(seed));
        let file = before.file("file").await;
        file.set_len(len).await.unwrap();
        file.sync_all(&before.handle).await.unwrap();
        sync_dir(before.disk.path()).await.unwrap();
        workload(&before, &file).await;
        left.push(content(&before.rebooted(), "file").await);
    }
    left
}

async fn content(of: &Simulated, name: &str) -> Vec<u8> {
    let file = of.file(name).await;
    let len = file.metadata().await.unwrap().len();
    let mut bytes = vec![0xee; len as usize];
    let read = file.read_bytes_at(&of.handle, 0, &mut bytes, ReadFlags::empty());
    assert_eq!(read.await.unwrap(), len);
    bytes
}

#[tokio::test(start_paused = true)]
async fn every_subset_of_the_blocks_of_a_write_can_survive() {
    let left = cuts(3 * BLOCK, SimDisk::builder, async |of, file| {
        let ones = blocks(1, 3);
        file.write_at(&of.handle, 0, &ones, 3 * BLOCK, WriteFlags::empty())
            .await
            .unwrap();
    });
    let subsets: BTreeSet<Vec<u8>> = left
        .await
        .iter()
        .map(|bytes| bytes.iter().copied().step_by(BLOCK as usize).collect())
        .collect();
    assert_eq!(subsets.len(), 8, "{subsets:?}");
}

#[tokio::test(start_paused = true)]
async fn the_length_can_survive_without_the_data() {
    let left = cuts(0, SimDisk::builder, async |of, file| {
        let ones = blocks(1, 2);
        file.write_at(&of.handle, 0, &ones, 2 * BLOCK, WriteFlags::empty())
            .await
            .unwrap();
    })
    .await;
    let has = |len: u64, first: Option<u8>| {
        let is = |bytes: &Vec<u8>| bytes.len() as u64 == len && bytes.first().copied() == first;
        left.iter().any(is)
    };
    assert!(has(0, None) && has(BLOCK, Some(0)) && has(2 * BLOCK, Some(0)));
    assert!(has(2 * BLOCK, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_rename_can_survive_without_the_content() {
    let (mut empty, mut old, mut new) = (0, 0, 0);
    for seed in 0..200 {
        let before = Simulated::new(seed);
        for (name, byte) in [("current", 1), ("next", 2)] {
            let file = before.file(name).await;
            file.write_at(
                &before.handle,
                0,
                &blocks(byte, 1),
                BLOCK,
                WriteFlags::empty(),
            )
            .await
            .unwrap();
            if name == "current" {
                file.sync_all(&before.handle).await.unwrap();
                sync_dir(before.disk.path()).await.unwrap();
            }
        }
        let path = |name| before.disk.path().join(name);
        rename(path("next"), path("current")).await.unwrap();
        let after = before.rebooted();
        match content(&after, "current").await.first() {
            None | Some(0) => empty += 1,
            Some(1) => old += 1,
            Some(2) => new += 1,
            Some(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(empty > 0 && old > 0 && new > 0, "{empty} {old} {new}");
}

#[tokio::test(start_paused = true)]
async fn without_reordering_a_later_write_does_not_survive_an_earlier_one() {
    // More writes to the second block than a block keeps versions of.
    let disk = || SimDisk::builder().reorder_writes(false);
    let left = cuts(2 * BLOCK, disk, async |of, file| {
        let write = async |block: u64, byte: u8| {
            let (at, data) = (block * BLOCK, blocks(byte, 1));
            let write = file.write_at(&of.handle, at, &data, BLOCK, WriteFlags::empty());
            write.await.unwrap();
        };
        write(0, 1).await;
        for version in 1..=40 {
            write(1, version).await;
        }
    });
    for (seed, bytes) in left.await.iter().enumerate() {
        let (first, second) = (bytes[0], bytes[BLOCK as usize]);
        assert!(first == 1 || second == 0, "seed {seed}: {first} {second}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_to_the_page_cache_can_be_lost_on_a_disk_without_a_volatile_cache() {
    let disk = || SimDisk::builder().volatile_cache(false);
    let left = cuts(100, disk, async |of, file| {
        let write = file.write_bytes_at(&of.handle, 0, b"record", WriteFlags::empty());
        write.await.unwrap();
    });
    let survived = left.await.iter().filter(|bytes| bytes[0] == b'r').count();
    assert!((1..200).contains(&survived), "{survived} of 200");
}

#[tokio::test(start_paused = true)]
async fn small_writes_to_one_sector_survive_in_their_order() {
    let left = cuts(100, SimDisk::builder, async |of, file| {
        for (at, byte) in [(0, b"a"), (50, b"b"), (70, b"c")] {
            let write = file.write_bytes_at(&of.handle, at, byte, WriteFlags::empty());
            write.await.unwrap();
        }
    });
    let states: BTreeSet<[u8; 3]> = left
        .await
        .iter()
        .map(|bytes| [bytes[0], bytes[50], bytes[70]])
        .collect();
    let expected = [[0; 3], [b'a', 0, 0], [b'a', b'b', 0], *b"abc"];
    assert_eq!(states, BTreeSet::from(expected));
}

#[tokio::test(start_paused = true)]
async fn a_durable_write_takes_earlier_bytes_of_its_sector_with_it() {
    let left = cuts(100, SimDisk::builder, async |of, file| {
        for (at, byte, flags) in [
            (0, b"a", WriteFlags::empty()),
            (50, b"b", WriteFlags::DSYNC),
        ] {
            let write = file.write_bytes_at(&of.handle, at, byte, flags);
            write.await.unwrap();
        }
    });
    for bytes in left.await {
        assert_eq!([bytes[0], bytes[50]], *b"ab");
    }
}

fn paused() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

async fn write_and_sync(disk: &SimDisk) {
    let of = Simulated::on(disk.clone());
    let file = open(disk, "file").await.unwrap();
    let ones = blocks(1, 1);
    let write = file.write_at(&of.handle, 0, &ones, BLOCK, WriteFlags::DSYNC);
    write.await.unwrap();
    sync_dir(disk.path()).await.unwrap();
    of.context.close().await;
}

#[test]
fn a_disk_that_outlives_its_runtime_is_deterministic() {
    let run = |pause: Duration| {
        let disk = SimDisk::builder().build();
        for _ in 0..3 {
            paused().block_on(write_and_sync(&disk));
            thread::sleep(pause);
        }
        disk.trace().to_string()
    };
    assert_eq!(run(Duration::ZERO), run(Duration::from_millis(40)));
}

#[test]
fn a_disk_of_a_runtime_with_a_paused_clock_can_be_used_in_one_whose_clock_runs() {
    let disk = SimDisk::builder().build();
    paused().block_on(async {
        sleep(Duration::from_secs(24 * 60 * 60)).await;
        write_and_sync(&disk).await;
    });
    let running = Builder::new_multi_thread().enable_time().build().unwrap();
    running.block_on(async {
        with_hang_guard(write_and_sync(&disk)).await;
        assert!(try_exists(disk.path().join("file")).await.unwrap());
    });
}
