//! Reads of ranges and streams.

use std::fs;
use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::object_store::path::Path;
use super::object_store::{
    Error, GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt,
};
use super::{KaioFileSystem, KaioFileSystemBuilder};
use crate::fixture::{are_kept_since, data, disk_dir, is_cached, test_dirs, write_uncached};

const LEN: usize = 3_000_007;

type Settings = fn(KaioFileSystemBuilder) -> KaioFileSystemBuilder;

/// Settings that read in each way.
const WAYS: [Settings; 4] = [
    |builder| builder,
    |builder| builder.with_cached_reads(false),
    |builder| {
        let builder = builder.with_cached_reads(false).with_coalesce_gap(0);
        builder
            .with_coalesce_size(8192)
            .with_chunk_size(5000)
            .with_depth(2)
    },
    |builder| {
        builder
            .with_cached_reads(false)
            .with_small_object_size(u64::MAX)
    },
];

/// Calls `test` with a store and an object of `len` bytes, in each way of reading and in each directory.
async fn with_object(len: usize, test: impl AsyncFn(&KaioFileSystem, &Path, &[u8])) {
    for dir in test_dirs() {
        let data = data(len, 1);
        let (path, location) = (dir.path().join("object"), Path::from("object"));
        for settings in WAYS {
            write_uncached(&path, &data);
            let store = settings(KaioFileSystem::builder().with_prefix(dir.path()));
            test(&store.build().unwrap(), &location, &data).await;
        }
    }
}

fn slice(data: &[u8], range: &Range<u64>) -> Bytes {
    Bytes::copy_from_slice(&data[range.start as usize..range.end as usize])
}

#[tokio::test]
async fn ranges_are_returned_in_the_order_of_the_call() {
    let mut random = SmallRng::seed_from_u64(1);
    let mut calls = vec![
        vec![0..16, 16..32, 32..48],
        vec![100..120, 0..50, 40..60, 0..50, 110..130],
        vec![5..5, 0..LEN as u64, 4095..4097, LEN as u64 - 1..LEN as u64],
        vec![],
    ];
    for _ in 0..20 {
        let count = random.random_range(1..40);
        let longest = 1 << random.random_range(1..18);
        let range = |_| {
            let start = random.random_range(0..LEN as u64);
            start..(start + random.random_range(0..longest)).min(LEN as u64)
        };
        calls.push((0..count).map(range).collect());
    }
    with_object(LEN, async |store, location, data| {
        for ranges in &calls {
            let read = store.get_ranges(location, ranges).await.unwrap();
            assert_eq!(read.len(), ranges.len());
            for (range, bytes) in ranges.iter().zip(read) {
                assert!(bytes == slice(data, range), "{range:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_has_every_byte_of_its_range() {
    with_object(LEN, async |store, location, data| {
        for range in [
            0..LEN as u64,
            1..LEN as u64 - 1,
            4096..8192,
            1_048_575..2_097_153,
        ] {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range.clone())),
                ..Default::default()
            };
            let result = store.get_opts(location, options).await.unwrap();
            assert_eq!(
                (result.range.clone(), result.meta.size),
                (range.clone(), LEN as u64)
            );
            assert!(matches!(result.payload, GetResultPayload::Stream(_)));
            let chunks: Vec<Bytes> = result.into_stream().try_collect().await.unwrap();
            assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
            assert!(chunks.concat() == slice(data, &range), "{range:?}");
        }
        assert!(store.get(location).await.unwrap().bytes().await.unwrap() == data);
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_range_is_clipped_and_a_start_past_the_end_is_an_error() {
    with_object(20_000, async |store, location, data| {
        let clipped = store.get_range(location, 19_990..30_000).await.unwrap();
        assert!(clipped == data[19_990..]);
        let suffix = GetOptions {
            range: Some(GetRange::Suffix(5)),
            ..Default::default()
        };
        let suffix = store.get_opts(location, suffix).await.unwrap();
        assert!(suffix.bytes().await.unwrap() == data[19_995..]);
        let offset = GetOptions {
            range: Some(GetRange::Offset(7)),
            ..Default::default()
        };
        let offset = store.get_opts(location, offset).await.unwrap();
        assert!(offset.bytes().await.unwrap() == data[7..]);
        store.get_range(location, 20_000..20_001).await.unwrap_err();
        #[allow(clippy::reversed_empty_ranges)]
        store.get_range(location, 9..8).await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn get_ranges_refuses_ranges_that_end_past_the_object() {
    with_object(20_000, async |store, location, _| {
        let past = store.get_ranges(location, &[0..1, 19_999..20_001]).await;
        let text = past.unwrap_err().to_string();
        assert!(text.contains("20001") && text.contains("20000"), "{text}");
        #[allow(clippy::reversed_empty_ranges)]
        let inverted = store.get_ranges(location, &[9..8]).await;
        assert!(matches!(inverted, Err(Error::Generic { .. })));
        let empty = store.get_ranges(location, &[30_000..30_000]).await.unwrap();
        assert_eq!(empty, [Bytes::new()]);
    })
    .await;
}

#[tokio::test]
async fn empty_and_short_objects_are_read() {
    for len in [0, 1, 4095, 4096, 4097, 16_384] {
        with_object(len, async |store, location, data| {
            let result = store.get(location).await.unwrap();
            assert_eq!(result.meta.size, len as u64);
            assert!(result.bytes().await.unwrap() == data);
            assert_eq!(store.head(location).await.unwrap().size, len as u64);
        })
        .await;
    }
}

#[tokio::test]
async fn conditions_on_the_tag_and_the_time_are_checked() {
    with_object(20_000, async |store, location, _| {
        let meta = store.head(location).await.unwrap();
        let get = async |options| store.get_opts(location, options).await;
        let same = GetOptions {
            if_match: meta.e_tag.clone(),
            ..Default::default()
        };
        get(same).await.unwrap();
        let other = GetOptions {
            if_match: Some("other".into()),
            ..Default::default()
        };
        assert!(matches!(get(other).await, Err(Error::Precondition { .. })));
        let new = GetOptions {
            if_none_match: meta.e_tag.clone(),
            ..Default::default()
        };
        assert!(matches!(get(new).await, Err(Error::NotModified { .. })));
        let since = GetOptions {
            if_modified_since: Some(meta.last_modified),
            ..Default::default()
        };
        assert!(matches!(get(since).await, Err(Error::NotModified { .. })));
    })
    .await;
}

#[tokio::test]
async fn uncached_data_is_read_directly_and_cached_data_from_the_page_cache() {
    let dir = disk_dir();
    let path = dir.path().join("object");
    write_uncached(&path, &data(1 << 20, 1));
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let location = Path::from("object");
    let read = async || {
        store
            .get_ranges(&location, &[0..100_000, 500_000..600_000])
            .await
            .unwrap()
    };
    let start = Instant::now();
    let cold = read().await;
    let after_cold = store.metrics();
    if after_cold.direct.count == 0 || after_cold.cached.count > 0 {
        return eprintln!(
            "skipped: no direct I/O, or the kernel has kept the file cached: {after_cold}"
        );
    }
    assert_eq!(
        (after_cold.direct.count, after_cold.direct.bytes),
        (2, 200_000)
    );
    assert_eq!(after_cold.blocking.count, 0);
    fs::read(&path).unwrap(); // fills the page cache
    assert!(read().await == cold);
    let warm = store.metrics();
    if are_kept_since(start) {
        assert_eq!((warm.descriptors_opened, warm.descriptors_reused), (1, 1));
    }
    if !is_cached(&path) {
        return;
    }
    if warm.cached.count == 0 {
        return eprintln!("skipped: the kernel does not say what is cached");
    }
    assert_eq!((warm.cached.count, warm.direct.count), (2, 2));
}

#[tokio::test]
async fn data_that_others_have_cached_is_found_after_many_direct_reads() {
    let dir = disk_dir();
    let path = dir.path().join("object");
    let content = data(1 << 20, 1);
    write_uncached(&path, &content);
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let location = Path::from("object");
    let read = async |index: u64| {
        let range = index % 250 * 4096 + 5..index % 250 * 4096 + 4000;
        let bytes = store.get_range(&location, range.clone()).await.unwrap();
        assert!(bytes == slice(&content, &range));
    };
    for index in 0..200 {
        read(index).await;
    }
    let cold = store.metrics();
    if cold.direct.count < 200 {
        return eprintln!("skipped: no direct I/O, or the kernel has kept the file cached: {cold}");
    }
    fs::read(&path).unwrap();
    for index in 0..8 {
        read(index).await;
    }
    let first = store.metrics().cached.count;
    for index in 0..8 {
        read(index).await;
    }
    let warm = store.metrics();
    if !is_cached(&path) {
        return;
    }
    if first == 0 {
        return eprintln!("skipped: the kernel does not say what is cached");
    }
    assert_eq!(warm.cached.count, first + 8); // asked for each range again
}

#[tokio::test]
async fn a_large_range_that_others_have_cached_is_found_at_once() {
    let dir = disk_dir();
    let path = dir.path().join("object");
    let content = data(1 << 20, 1);
    write_uncached(&path, &content);
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let location = Path::from("object");
    for index in 0..200 {
        let range = index % 250 * 4096..index % 250 * 4096 + 4000;
        store.get_range(&location, range).await.unwrap();
    }
    let cold = store.metrics();
    if cold.direct.count < 200 {
        return eprintln!("skipped: no direct I/O, or the kernel has kept the file cached: {cold}");
    }
    fs::read(&path).unwrap();
    for _ in 0..4 {
        let range = 5..100_000;
        let bytes = store.get_range(&location, range.clone()).await.unwrap();
        assert!(bytes == slice(&content, &range));
    }
    let warm = store.metrics();
    if !is_cached(&path) {
        return;
    }
    if warm.cached.count == 0 {
        return eprintln!("skipped: the kernel does not say what is cached");
    }
    assert_eq!(warm.direct.count, cold.direct.count);
}

#[tokio::test]
async fn a_small_object_is_read_through_the_page_cache() {
    let dir = disk_dir();
    write_uncached(&dir.path().join("object"), &data(16_383, 1));
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let object = store.get(&Path::from("object")).await.unwrap();
    assert_eq!(object.bytes().await.unwrap(), data(16_383, 1));
    let metrics = store.metrics();
    assert_eq!(metrics.direct.count, 0);
    assert_eq!(metrics.blocking.count + metrics.cached.count, 1);
}

#[tokio::test]
async fn a_result_that_is_small_beside_its_buffer_does_not_keep_it() {
    let dir = disk_dir();
    write_uncached(&dir.path().join("object"), &data(4 << 20, 1));
    let pool = tokio_kaio::SizeClassPool::new(16 << 20).unwrap();
    let store = KaioFileSystem::builder()
        .with_prefix(dir.path())
        .with_buffers(&pool);
    let store = store.with_cached_reads(false).build().unwrap();
    let ranges = [0..8, 60_000..60_008, 120_000..120_008];
    let read = store
        .get_ranges(&Path::from("object"), &ranges)
        .await
        .unwrap();
    assert_eq!(read.concat().len(), 24);
    assert_eq!(pool.stats().in_use, 0);
    assert!(pool.stats().taken > 0 || store.metrics().direct.count == 0);
}

#[tokio::test]
async fn a_dropped_stream_or_read_leaves_the_store_usable() {
    let dir = disk_dir();
    let content = data(LEN, 1);
    write_uncached(&dir.path().join("object"), &content);
    let store = KaioFileSystem::builder().with_prefix(dir.path());
    let store = store
        .with_cached_reads(false)
        .with_chunk_size(65_536)
        .with_coalesce_size(0);
    let store = store.build().unwrap();
    let location = Path::from("object");
    for chunks in 0..4 {
        let stream = store.get(&location).await.unwrap().into_stream();
        let taken: Vec<_> = stream.take(chunks).try_collect().await.unwrap();
        assert!(content.starts_with(&taken.concat()));
        let ranges = store.get_ranges(&location, &[0..10_000, 1_000_000..1_010_000]);
        let polled = futures::poll!(Box::pin(ranges));
        assert!(polled.is_pending() || polled.is_ready()); // dropped here, in flight or not
    }
    assert!(store.get(&location).await.unwrap().bytes().await.unwrap() == content);
}

#[tokio::test]
async fn an_object_of_an_impossible_time_is_read() {
    for dir in test_dirs() {
        let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
        let location = Path::from("object");
        for seconds in [
            i64::MIN,
            -99_999_999_999_999,
            -1,
            99_999_999_999_999,
            i64::MAX,
        ] {
            fs::write(dir.path().join("object"), data(20_000, 1)).unwrap();
            let file = fs::File::open(dir.path().join("object")).unwrap();
            let time = rustix::fs::Timespec {
                tv_sec: seconds,
                tv_nsec: 5,
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::futimens(&file, &times).unwrap();
            let object = store.get(&location).await.unwrap();
            assert_eq!(object.meta.last_modified.timestamp() < 0, seconds < 0);
            assert!(object.bytes().await.unwrap() == data(20_000, 1));
        }
    }
}
