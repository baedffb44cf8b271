//! Byte ranges as `Bytes`: the same as `std::fs` reads, whatever the ranges, the file, the backend and the
//! memory.
#![cfg(feature = "bytes")]
#![allow(clippy::single_range_in_vec_init)] // a list of one range is meant

use std::fs::OpenOptions;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::*;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, poll};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::Instant;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, AioOpenOptionsExt, Coalesce, File,
    LocalAioContextHandle, RangeStream, SizeClassPool, local_aio_context,
};

/// What `std::fs` reads.
fn expected<'c>(content: &'c [u8], range: &Range<u64>) -> &'c [u8] {
    let at = |offset: u64| (offset.min(content.len() as u64)) as usize;
    &content[at(range.start)..at(range.end)]
}

fn random_ranges(random: &mut StdRng, file_len: u64) -> Vec<Range<u64>> {
    let count = random.random_range(0..30);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for _ in 0..count {
        let start = match random.random_range(0..5) {
            0 => file_len.saturating_sub(random.random_range(0..3)),
            1 => file_len + random.random_range(0..9000),
            // Close to another.
            2 if !ranges.is_empty() => ranges[random.random_range(0..ranges.len())].end,
            _ => random.random_range(0..=file_len),
        };
        let len = match random.random_range(0..6) {
            0 => 0,
            1 => random.random_range(0..10),
            2 => LEN * random.random_range(0..4),
            3 => u64::MAX - start,
            _ => random.random_range(0..70_000),
        };
        ranges.push(start..start.saturating_add(len));
    }
    ranges
}

fn random_coalesce(random: &mut StdRng) -> Coalesce {
    let mut coalesce = Coalesce::new();
    if random.random() {
        coalesce = coalesce.max_gap(random.random_range(0..20_000));
    }
    if random.random() {
        coalesce = coalesce.max_read(random.random_range(0..100_000));
    }
    if random.random() {
        coalesce = coalesce.max_overhead(random.random_range(0..10));
    }
    if random.random() {
        coalesce = coalesce.max_in_flight(random.random_range(0..200_000));
    }
    coalesce
}

/// All memory has returned to the pool.
async fn assert_returned(handle: &AioContextHandle) {
    let pool = handle.buffers();
    wait_until(|| pool.stats().in_use == 0, || pool.stats()).await;
}

#[test]
fn random_ranges_are_what_the_standard_library_reads() {
    Fixture::new(8).everywhere().run(async |case| {
        let (handle, path) = (&case.handle, &case.path);
        for seed in 0..12 {
            let mut random = StdRng::seed_from_u64(seed);
            let content = content([0, 1, 511, 4096, 70_001, 300_007][seed as usize % 6]);
            std::fs::write(path, &content).unwrap();
            // A new file, whose alignment may not be known at the first call.
            let file = open_rw(case.dir, "data").await;
            let small = SizeClassPool::new(64 << 10).unwrap();
            let handle = match seed % 3 {
                0 => &handle.with_buffers(&small),
                1 => &handle.with_timeout(HANG),
                _ => handle,
            };
            for round in 0..4 {
                let ranges = random_ranges(&mut random, content.len() as u64);
                let place = || format!("seed {seed}, round {round}, {:?}: {ranges:?}", case.mode);
                for range in ranges.iter().take(8) {
                    let bytes = file.read_range(handle, range.clone()).await.unwrap();
                    assert!(bytes == expected(&content, range), "{range:?}, {}", place());
                }
                let coalesce = random_coalesce(&mut random);
                let read = file
                    .read_ranges_with(handle, &ranges, coalesce)
                    .await
                    .unwrap();
                let by_default = file.read_ranges(handle, &ranges).await.unwrap();
                assert_eq!((read.len(), by_default.len()), (ranges.len(), ranges.len()));
                for (index, range) in ranges.iter().enumerate() {
                    let expected = expected(&content, range);
                    let same = read[index] == expected && by_default[index] == expected;
                    assert!(same, "{index} of {}", place());
                }
                let mut seen = vec![false; ranges.len()];
                let mut stream = file.stream_ranges(handle, &ranges, coalesce);
                while let Some((index, bytes)) = stream.try_next().await.unwrap() {
                    assert!(bytes == expected(&content, &ranges[index]), "{}", place());
                    assert!(!std::mem::replace(&mut seen[index], true), "twice");
                }
                assert!(seen.iter().all(|&seen| seen), "{}", place());
                assert!(stream.next().await.is_none());
            }
            assert_returned(handle).await;
        }
    });
}

#[test]
fn a_range_past_the_end_is_empty_and_a_reversed_one_is_an_error() {
    Fixture::new(8)
        .every_dir()
        .every_backend()
        .content(content(5000))
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            for range in [
                0..0,
                7..7,
                5000..5001,
                5000..u64::MAX,
                u64::MAX - 1..u64::MAX,
                u64::MAX..u64::MAX,
            ] {
                assert!(file.read_range(&handle, range).await.unwrap().is_empty());
            }
            assert_eq!(
                file.read_ranges(&handle, &[]).await.unwrap(),
                Vec::<Bytes>::new()
            );
            #[allow(clippy::reversed_empty_ranges)]
            let reversed = 50..7;
            let before = handle.metrics().submitted;
            for error in [
                file.read_range(&handle, reversed.clone())
                    .await
                    .unwrap_err(),
                file.read_ranges(&handle, &[0..5, reversed])
                    .await
                    .unwrap_err(),
            ] {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                assert!(
                    error.to_string().contains("50..7 ends before it starts"),
                    "{error}"
                );
            }
            assert_eq!(handle.metrics().submitted, before);
        });
}

#[test]
fn a_long_range_is_one_piece_of_memory() {
    let len = (9 << 20) + 1234;
    Fixture::new(4)
        .every_dir()
        .every_backend()
        .content(content(len))
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let content = content(len);
            let range = 4321..len as u64 + 99;
            let bytes = file.read_range(&handle, range.clone()).await.unwrap();
            assert!(bytes == content[4321..]);
            let in_use = handle.buffers().stats().in_use;
            assert!(
                in_use > 9 << 20 && in_use < 11 << 20,
                "no copy, and no second block: {in_use}"
            );
            drop(bytes);
            let read = file
                .read_ranges(&handle, &[5..6, range, 6 << 20..(6 << 20) + 5])
                .await
                .unwrap();
            assert!(read[0] == content[5..6] && read[1] == content[4321..]);
            assert!(read[2] == content[6 << 20..][..5]);
            drop(read);
            assert_returned(&handle).await;
        });
}

#[test]
fn small_results_do_not_keep_large_buffers() {
    Fixture::new(8)
        .every_backend()
        .content(content(1 << 20))
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let in_use = || handle.buffers().stats().in_use;
            let ranges: Vec<_> = (0..10_u64).map(|i| i * 50_000..i * 50_000 + 100).collect();
            let small = file.read_ranges(&handle, &ranges).await.unwrap();
            assert_eq!(in_use(), 0, "all are copies");
            let shared = file.read_range(&handle, 1000..9000).await.unwrap();
            assert_eq!(in_use(), 16 << 10);
            let short = file
                .read_range(&handle, (1 << 20) - 50..2 << 20)
                .await
                .unwrap();
            assert_eq!(short.len(), 50);
            assert_eq!(in_use(), 16 << 10, "the short one is a copy");
            drop(shared);

            let coalesce = Coalesce::new().max_overhead(usize::MAX);
            let kept = file
                .read_ranges_with(&handle, &ranges, coalesce)
                .await
                .unwrap();
            assert!(in_use() > 400_000 && kept == small);
            let halves = [0..8192_u64, 8192..16384];
            let halves = file.read_ranges(&handle, &halves).await.unwrap();
            assert_eq!(
                halves[0].as_ptr().wrapping_add(8192),
                halves[1].as_ptr(),
                "one buffer"
            );
            let copied = Coalesce::new().max_overhead(0);
            let before = in_use();
            let copies = file
                .read_ranges_with(&handle, &[0..16384], copied)
                .await
                .unwrap();
            assert_eq!((in_use(), copies[0].len()), (before, 16384));
        });
}

#[test]
fn neighbours_share_a_read_and_all_reads_a_system_call() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(64)
        .inline()
        .every_dir()
        .content(content(4 << 20))
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            file.alignment().await.unwrap();
            let before = handle.metrics();
            let close: Vec<_> = (0..100_u64)
                .rev()
                .map(|i| i * 9000..i * 9000 + 100)
                .collect();
            file.read_ranges(&handle, &close).await.unwrap();
            assert_eq!(handle.metrics().submitted - before.submitted, 1);

            let before = handle.metrics();
            let apart: Vec<_> = (0..40_u64)
                .map(|i| i * 100_000..i * 100_000 + 5000)
                .collect();
            file.read_ranges(&handle, &apart).await.unwrap();
            let after = handle.metrics();
            assert_eq!(after.submitted - before.submitted, 40);
            assert_eq!(after.batches - before.batches, 1);
        });
}

#[test]
fn more_ranges_than_slots_and_pool_are_read() {
    for waits in [true, false] {
        let fixture = Fixture::new(4).build(|builder| builder.wait_for_slot(waits));
        fixture
            .everywhere()
            .content(content(1 << 20))
            .run(async |case| {
                let (file, content) = (case.file, content(1 << 20));
                let handle = case
                    .handle
                    .with_buffers(&SizeClassPool::new(32 << 10).unwrap());
                let ranges: Vec<_> = (0..500_u64).map(|i| i * 2003..i * 2003 + 1500).collect();
                let apart = Coalesce::new().max_gap(0).max_read(4096);
                let read = file
                    .read_ranges_with(&handle, &ranges, apart)
                    .await
                    .unwrap();
                for (range, bytes) in ranges.iter().zip(&read) {
                    assert!(bytes == expected(&content, range));
                }
                drop(read);
                assert_returned(&handle).await;
            });
    }
}

#[test]
fn without_a_slot_and_without_reads_of_its_own_the_call_fails() {
    Fixture::new(1)
        .build(|builder| builder.wait_for_slot(false))
        .content(content(9000))
        .every_backend()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let slot = occupy_slot(&handle).await;
            let refused = file.read_ranges(&handle, &[0..10]).await.unwrap_err();
            assert!(
                matches!(refused, AioCommandError::CapacityExceeded),
                "{refused:?}"
            );
            slot.release().await;
            file.read_ranges(&handle, &[0..10]).await.unwrap();
        });
}

#[test]
fn a_stream_takes_bounded_memory_if_its_results_are_dropped() {
    Fixture::new(16)
        .every_dir()
        .every_backend()
        .content(content(24 << 20))
        .run(async |case| {
            let pool = SizeClassPool::new(2 << 20).unwrap();
            let handle = case.handle.with_buffers(&pool);
            let ranges: Vec<_> = (0..300_u64)
                .map(|i| i * 80_000..i * 80_000 + 70_000)
                .collect();
            let coalesce = Coalesce::new().max_gap(0).max_in_flight(1 << 20);
            let mut stream = case.file.stream_ranges(&handle, &ranges, coalesce);
            let mut total = 0;
            while let Some((_, bytes)) = stream.try_next().await.unwrap() {
                total += bytes.len();
                assert!(pool.stats().in_use <= 3 << 19);
            }
            assert_eq!((total, pool.stats().mapped_afresh), (300 * 70_000, 0));
        });
}

#[test]
fn dropped_calls_and_streams_lose_no_slot_and_no_memory() {
    Fixture::new(4)
        .everywhere()
        .content(content(1 << 20))
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let mut random = StdRng::seed_from_u64(7);
            for _ in 0..30 {
                let ranges = random_ranges(&mut random, 1 << 20);
                let coalesce = random_coalesce(&mut random);
                let mut stream = file.stream_ranges(&handle, &ranges, coalesce);
                for _ in 0..random.random_range(0..ranges.len() + 1) {
                    match random.random() {
                        true => drop(stream.next().await),
                        false => drop(poll!(stream.next())),
                    }
                }
                drop(stream);
                let mut one = Box::pin(file.read_range(&handle, 5..100_000));
                let _ = poll!(one.as_mut());
                drop(one);
                let mut all = Box::pin(file.read_ranges(&handle, &ranges));
                let _ = poll!(all.as_mut());
            }
            assert_returned(&handle).await;
        });
}

#[test]
fn a_deadline_ends_the_call() {
    Fixture::new(4)
        .every_backend()
        .content(content(100_000))
        .run(async |case| {
            let handle = case
                .handle
                .with_deadline(Instant::now() - Duration::from_secs(1));
            for known in [false, true] {
                let one = case.file.read_range(&handle, 5..10).await;
                let all = case.file.read_ranges(&handle, &[5..10]).await;
                for error in [one.unwrap_err(), all.unwrap_err()] {
                    assert!(
                        matches!(error, AioCommandError::TimedOut),
                        "{known}: {error:?}"
                    );
                }
                case.file.alignment().await.unwrap();
            }
        });
}

#[test]
fn a_failed_read_names_its_place_or_reason_and_ends_the_stream() {
    Fixture::new(4)
        .everywhere()
        .content(content(100_000))
        .run(async |case| {
            let mut options = OpenOptions::new();
            let write_only = options.write(true).aio_open(case.path.clone(), false);
            let write_only = write_only.await.unwrap();
            let error = write_only
                .read_range(&case.handle, 5..10)
                .await
                .unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error:?}");
            let ranges = [1..2, 90_000..90_001];
            let coalesce = Coalesce::new().max_gap(0);
            let mut stream = write_only.stream_ranges(&case.handle, &ranges, coalesce);
            let error = stream.next().await.unwrap().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error:?}");
            assert!(stream.next().await.is_none());
        });
}

#[tokio::test]
async fn ranges_of_a_buffered_file_and_in_other_tasks() {
    let (context, handle) = tokio_kaio::aio_context(8, true).unwrap();
    let path = PathBuf::from("/proc/version");
    let content = std::fs::read(&path).unwrap();
    let mut options = OpenOptions::new();
    let file = options.read(true).aio_open_or_buffered(path, false);
    let file = file.await.unwrap();
    assert!(!file.is_direct());
    assert!(file.read_range(&handle, 3..20).await.unwrap() == content[3..20]);
    let mut tasks = JoinSet::new();
    for start in 0..5 {
        let ranges = [start..10_u64, 2..3];
        let stream: RangeStream = file.stream_ranges(&handle, &ranges, Coalesce::new());
        tasks.spawn(async move {
            (
                start as usize,
                stream.try_collect::<Vec<_>>().await.unwrap(),
            )
        });
    }
    while let Some(task) = tasks.join_next().await {
        let (start, mut results) = task.unwrap();
        results.sort();
        assert_eq!(results.len(), 2);
        assert!(results[0].1 == content[start..10] && results[1].1 == content[2..3]);
    }
    drop(file);
    with_hang_guard(context.close()).await;
}

/// Also what the blocking pool is needed for: the end of the file, for a long range.
#[test]
fn a_context_with_its_own_thread_reads_ranges_outside_a_runtime() {
    let content = content((5 << 20) + 77);
    let dir = disk_dir();
    let path = dir.path().join("data");
    std::fs::write(&path, &content).unwrap();
    let builder = AioContextBuilder::new(4).own_thread();
    let (context, handle) = builder.build().unwrap();
    let file = current_thread().block_on(File::open(&path, false)).unwrap();
    futures::executor::block_on(async {
        let handles = [handle.clone(), handle.with_timeout(HANG)];
        for handle in handles {
            let bound = file.with_handle(&handle);
            assert!(bound.read_range(5..u64::MAX).await.unwrap() == content[5..]);
            let ranges = [3..4, 7..6 << 20];
            for read in [
                bound.read_ranges(&ranges).await.unwrap(),
                bound
                    .read_ranges_with(&ranges, Coalesce::new())
                    .await
                    .unwrap(),
            ] {
                assert!(read[0] == content[3..4] && read[1] == content[7..]);
            }
            let stream = bound.stream_ranges(&ranges, Coalesce::new());
            assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap().len(), 2);
        }
        let pool = SizeClassPool::new(8192).unwrap();
        let bound = file.with_handle(&handle).with_buffers(&pool);
        assert_eq!(
            bound.read_range(100..4000).await.unwrap(),
            &content[100..4000]
        );
        assert_eq!(pool.stats().taken, 1);
        context.close().await;
    });
}

#[test]
fn a_context_of_one_thread_reads_ranges_too() {
    async fn read(handle: LocalAioContextHandle, file: File) -> Vec<Bytes> {
        let one = file.read_range(&handle, 10..20).await.unwrap();
        let many = file.read_ranges(&handle, &[10..20, 5..6]).await.unwrap();
        assert_eq!(many[0], one);
        many
    }
    let dir = disk_dir();
    current_thread().block_on(LocalSet::new().run_until(async {
        let file = file_with_content(&dir, 9999).await;
        let (context, handle, background) = local_aio_context(4, true).unwrap();
        spawn_local(background);
        let many = spawn_local(read(handle, file)).await.unwrap();
        assert!(many[1] == content(6)[5..]);
        with_hang_guard(context.close()).await;
    }));
}
