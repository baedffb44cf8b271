//! Blocks and cached pages of a file: `allocate`, `sync_range`, `advise`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::common::*;
use tokio_kaio::{
    Advice, AioContextBuilder, AioContextHandle, Allocate, File, ReadFlags, SubmitPolicy,
    SyncRange, WriteFlags,
};

/// A file with `blocks` blocks, allocated and written, and a context to read it with.
async fn written(dir: &tempfile::TempDir, blocks: usize) -> File {
    write_patterned(&dir.path().join("data"), blocks);
    open_rw(dir, "data").await
}

/// Allocates; `false`, with a line that says so, if the file system does not support this mode.
async fn allocated(file: &File, mode: Allocate, offset: u64, len: u64) -> bool {
    match file.allocate(mode, offset, len).await {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            eprintln!("skipped on one file system: it does not have {mode:?}");
            false
        }
        Err(error) => panic!("{mode:?}: {error}"),
    }
}

async fn len(file: &File) -> u64 {
    file.metadata().await.unwrap().len()
}

async fn bytes_on_disk(file: &File) -> u64 {
    file.metadata().await.unwrap().blocks() * 512
}

/// Whether each block holds what was written, or zeroes.
async fn blocks_of(file: &File, handle: &AioContextHandle, count: u64) -> String {
    let mut bytes = buffer(BLOCK);
    let mut found = String::new();
    for block in 0..count {
        let read = file.read_at(handle, block * LEN, &mut bytes, LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), LEN);
        found.push(match bytes.as_ref() {
            data if is_pattern(block, data) => 'd',
            data if data.iter().all(|byte| *byte == 0) => '0',
            _ => '?',
        });
    }
    found
}

#[test]
fn allocate_extends_a_file_with_blocks_that_read_as_zeroes() {
    Fixture::new(1).inline().every_dir().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let file = written(dir, 2).await;
        if allocated(&file, Allocate::Extend, LEN, 3 * LEN).await {
            assert_eq!(len(&file).await, 4 * LEN);
            assert!(bytes_on_disk(&file).await >= 4 * LEN);
            assert_eq!(blocks_of(&file, &handle, 4).await, "dd00");
        }
    });
}

#[tokio::test]
async fn allocate_can_keep_the_length_of_the_file() {
    for dir in test_dirs() {
        let file = written(&dir, 2).await;
        if allocated(&file, Allocate::KeepSize, 2 * LEN, 6 * LEN).await {
            assert_eq!(len(&file).await, 2 * LEN);
            assert!(bytes_on_disk(&file).await >= 8 * LEN);
        }
    }
}

#[test]
fn a_punched_hole_reads_as_zeroes_and_frees_its_blocks() {
    Fixture::new(1).inline().every_dir().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let file = written(dir, 4).await;
        let before = bytes_on_disk(&file).await;
        if allocated(&file, Allocate::PunchHole, LEN, 2 * LEN).await {
            file.sync_all(&handle).await.unwrap();
            assert_eq!(len(&file).await, 4 * LEN);
            assert_eq!(blocks_of(&file, &handle, 4).await, "d00d");
            let after = bytes_on_disk(&file).await;
            if dirs_from_env().is_empty() {
                assert!(after < before, "{before} {after}");
            }

            let again = patterned_buffer(1, BLOCK);
            let wrote = file.write_at(&handle, LEN, &again, LEN, WriteFlags::empty());
            assert_eq!(wrote.await.unwrap(), LEN);
            assert_eq!(blocks_of(&file, &handle, 4).await, "dd0d");
        }
    });
}

#[test]
fn a_range_is_zeroed_with_or_without_a_new_length() {
    Fixture::new(1).inline().every_dir().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        for (mode, blocks) in [(Allocate::ZeroRange, 6), (Allocate::ZeroRangeKeepSize, 4)] {
            let file = written(dir, 4).await;
            if allocated(&file, mode, 2 * LEN, 4 * LEN).await {
                assert_eq!(len(&file).await, blocks * LEN, "{mode:?}");
                let found = blocks_of(&file, &handle, blocks).await;
                assert_eq!(found, &"dd0000"[..blocks as usize], "{mode:?}");
            }
        }
    });
}

/// NOWAIT refusals and offloads of 64 sequential writes to `file`, from block 8 on.
async fn refused_and_offloaded(file: &File) -> (u64, u64) {
    let builder = AioContextBuilder::new(1).submit_policy(SubmitPolicy::NoWaitFirst);
    let (context, handle) = builder.build().unwrap();
    let bytes = patterned_buffer(1, BLOCK);
    for block in 8..72 {
        write(&handle, file, block, &bytes).await.unwrap();
    }
    let metrics = handle.metrics();
    context.close().await;
    (metrics.nowait_refusals, metrics.offloads)
}

#[tokio::test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "counts NOWAIT refusals; Plain sets no RWF_NOWAIT"
)]
async fn only_writes_into_holes_are_refused_by_nowait() {
    if !is_kernel_aio_build() {
        return;
    }
    let dir = disk_dir();
    if file_system(dir.path()) != Some(EXT4_MAGIC) {
        eprintln!("skipped: about ext4, which {dir:?} is not on");
        return;
    }
    let hole = open_rw(&dir, "hole").await;
    hole.set_len(72 * LEN).await.unwrap();
    let (refused, _) = refused_and_offloaded(&hole).await;
    assert_ne!(refused, 0);

    // Now and then, a write into allocated blocks is refused too: while the queue of the device is full.
    retry_until(async || {
        let ahead = open_rw(&dir, "ahead").await; // of which nothing is known
        ahead.set_len(0).await.unwrap();
        let mut all = Vec::new();
        for mode in [Allocate::Extend, Allocate::ZeroRange] {
            ahead.allocate(mode, 0, 72 * LEN).await.unwrap();
            all.push(refused_and_offloaded(&ahead).await);
        }
        eprintln!("refused, and offloaded: {all:?}");
        (all == [(0, 0); 2]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_impossible_range_is_an_error_and_changes_nothing() {
    for dir in test_dirs() {
        let file = written(&dir, 2).await;
        let errno = |result: io::Result<()>| result.unwrap_err().raw_os_error();
        for (offset, bytes, expected) in [
            (0, 0, libc::EINVAL),
            (0, u64::MAX, libc::EFBIG),
            (u64::MAX, LEN, libc::EFBIG),
            (i64::MAX as u64, LEN, libc::EFBIG),
        ] {
            let refused = file.allocate(Allocate::Extend, offset, bytes).await;
            assert_eq!(errno(refused), Some(expected), "{offset} {bytes}");
        }
        let past = u64::MAX;
        for (offset, bytes) in [(past, 0), (0, past), (i64::MAX as u64, LEN)] {
            let refused = file.sync_range(offset, bytes, SyncRange::WRITE).await;
            assert_eq!(errno(refused), Some(libc::EINVAL), "{offset} {bytes}");
        }
        let unknown = SyncRange::from_bits_retain(1 << 20);
        let refused = file.sync_range(0, 0, unknown).await;
        assert_eq!(errno(refused), Some(libc::EINVAL));
        for (offset, bytes) in [(past, 0), (0, past)] {
            let refused = file.advise(offset, bytes, Advice::Normal).await;
            assert_eq!(errno(refused), Some(libc::EINVAL), "{offset} {bytes}");
        }
        assert_eq!(len(&file).await, 2 * LEN);
        let path = dir.path().join("data");
        let read_only = File::open(path, false).await.unwrap();
        let refused = read_only.allocate(Allocate::Extend, 0, LEN).await;
        assert_eq!(errno(refused), Some(libc::EBADF));
    }
}

#[test]
fn advice_drops_buffered_writes_from_the_page_cache() {
    Fixture::new(1).inline().every_dir().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let mut bytes = vec![0; BLOCK];
        pattern(0, &mut bytes);
        fs::write(&path, &bytes).unwrap();
        for steps in [SyncRange::WRITE, SyncRange::all(), SyncRange::empty()] {
            file.sync_range(0, LEN, steps).await.unwrap();
        }
        file.sync_range(0, 0, SyncRange::all()).await.unwrap();
        for advice in [
            Advice::Normal,
            Advice::Sequential,
            Advice::Random,
            Advice::NoReuse,
            Advice::WillNeed,
            Advice::DontNeed,
        ] {
            file.advise(0, 0, advice).await.unwrap();
        }
        assert_eq!(blocks_of(&file, &handle, 1).await, "d");
    });
}
