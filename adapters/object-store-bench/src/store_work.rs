//! [`Work`]: the reads and writes that are measured.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::library_reads::LibraryFile;
use crate::paired_rounds::Cache;

/// The name of the object that is read.
pub(crate) const OBJECT: &str = "object";

/// The name of the object that `LocalFileSystem` reads, if each store has its own.
pub(crate) const LOCAL_OBJECT: &str = "local-object";

type Failed = Box<dyn std::error::Error + Send + Sync>;
type Task = Pin<Box<dyn Future<Output = Result<(), Failed>> + Send>>;

/// Makes the same reads as a work, without a store.
type LibraryRun = fn(LibraryFile, &Round) -> Task;

/// Something to measure, on any store.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// With which states of the page cache.
    pub(crate) caches: &'static [Cache],
    pub(crate) run: fn(Round) -> Task,
    pub(crate) library: Option<LibraryRun>,
}

/// One round of a work.
pub(crate) struct Round {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The name of the object that is read.
    pub(crate) object: &'static str,
    /// Length of the object in bytes.
    pub(crate) len: u64,
    /// Whether streams read all of the object.
    pub(crate) scans_all: bool,
    /// Both stores get the same ranges in a round.
    pub(crate) seed: u64,
    /// Per cent of the requests.
    pub(crate) share: u64,
}

const READ: &[Cache] = &[Cache::Cold, Cache::Cached, Cache::Limited];
const READ_IN_MEMORY: &[Cache] = &[Cache::Cold, Cache::Cached];
const WRITE: &[Cache] = &[Cache::Written];
const CACHED: &[Cache] = &[Cache::Cached];

pub(crate) const WORKS: &[Work] = &[
    Work {
        name: "stream",
        about: "get 256 MiB, into_stream()",
        caches: READ,
        run: |round| Box::pin(stream_object(round)),
        library: None,
    },
    Work {
        name: "bytes",
        about: "get 256 MiB, bytes()",
        caches: READ_IN_MEMORY,
        run: |round| Box::pin(whole_object(round)),
        library: None,
    },
    Work {
        name: "range-4k",
        about: "20,000 x get_range of 4 KiB, 32 at a time",
        caches: READ,
        run: |round| Box::pin(single_ranges(round, 20_000, 4 << 10)),
        library: Some(|file, round| {
            Box::pin(each(file, round.ranges(round.count(20_000), 4 << 10)))
        }),
    },
    Work {
        name: "range-64k",
        about: "6,000 x get_range of 64 KiB, 32 at a time",
        caches: READ,
        run: |round| Box::pin(single_ranges(round, 6_000, 64 << 10)),
        library: Some(|file, round| {
            Box::pin(each(file, round.ranges(round.count(6_000), 64 << 10)))
        }),
    },
    Work {
        name: "ranges-8k",
        about: "40 x get_ranges of 100 x 8 KiB, far apart",
        caches: READ,
        run: |round| Box::pin(many_ranges(round, 40, 8 << 10)),
        library: Some(|file, round| {
            Box::pin(hundreds(file, round.ranges(round.count(40) * 100, 8 << 10)))
        }),
    },
    Work {
        name: "ranges-128k",
        about: "10 x get_ranges of 100 x 128 KiB",
        caches: READ,
        run: |round| Box::pin(many_ranges(round, 10, 128 << 10)),
        library: Some(|file, round| {
            Box::pin(hundreds(
                file,
                round.ranges(round.count(10) * 100, 128 << 10),
            ))
        }),
    },
    Work {
        name: "put-64m",
        about: "put of 64 MiB, durable",
        caches: WRITE,
        run: |round| Box::pin(put(round, 1, 64 << 20)),
        library: None,
    },
    Work {
        name: "put-1m",
        about: "16 x put 1 MiB, durable, one after another",
        caches: WRITE,
        run: |round| Box::pin(put(round, 16, 1 << 20)),
        library: None,
    },
    Work {
        name: "multipart",
        about: "8 parts of 8 MiB at a time, durable",
        caches: WRITE,
        run: |round| Box::pin(multipart(round)),
        library: None,
    },
    Work {
        name: "small-objects",
        about: "4,000 x get of 1,000 objects of 8 KiB, 32 at a time",
        caches: CACHED,
        run: |round| Box::pin(small_objects(round)),
        library: None,
    },
];

impl Round {
    fn count(&self, all: u64) -> u64 {
        (all * self.share / 100).max(1)
    }

    /// `count` ranges of `len` bytes at any offset.
    fn ranges(&self, count: u64, len: u64) -> Vec<Range<u64>> {
        let mut random = SmallRng::seed_from_u64(self.seed);
        let range = |_| {
            let start = random.random_range(0..self.len - len);
            start..start + len
        };
        (0..count).map(range).collect()
    }
}

fn first_part(round: &Round) -> Range<u64> {
    match round.scans_all {
        true => 0..round.len,
        false => 0..round.len.min(256 << 20),
    }
}

async fn stream_object(round: Round) -> Result<(), Failed> {
    let options = object_store::GetOptions {
        range: Some(first_part(&round).into()),
        ..Default::default()
    };
    let object = round
        .store
        .get_opts(&Path::from(round.object), options)
        .await?;
    let wanted = object.range.end - object.range.start;
    let mut chunks = object.into_stream();
    let mut len = 0;
    while let Some(chunk) = chunks.try_next().await? {
        len += chunk.len() as u64;
    }
    assert_eq!(len, wanted);
    Ok(())
}

async fn whole_object(round: Round) -> Result<(), Failed> {
    let range = first_part(&round);
    let bytes = round
        .store
        .get_range(&Path::from(round.object), range.clone())
        .await?;
    assert_eq!(bytes.len() as u64, range.end);
    Ok(())
}

async fn single_ranges(round: Round, count: u64, len: u64) -> Result<(), Failed> {
    let ranges = round.ranges(round.count(count), len);
    let store = &round.store;
    stream::iter(ranges)
        .map(async |range| {
            let bytes = store.get_range(&Path::from(round.object), range).await?;
            assert_eq!(bytes.len() as u64, len);
            Ok(())
        })
        .buffer_unordered(32)
        .try_collect()
        .await
}

async fn many_ranges(round: Round, calls: u64, len: u64) -> Result<(), Failed> {
    let ranges = round.ranges(round.count(calls) * 100, len);
    for ranges in ranges.chunks(100) {
        let read = round
            .store
            .get_ranges(&Path::from(round.object), ranges)
            .await?;
        assert!(read.len() == 100 && read.iter().all(|bytes| bytes.len() as u64 == len));
    }
    Ok(())
}

/// What is written. Made once, because to allocate and fill it takes as long as to write it.
static PAYLOAD: LazyLock<Bytes> = LazyLock::new(|| vec![7; 64 << 20].into());

async fn put(round: Round, count: u64, len: usize) -> Result<(), Failed> {
    let payload = PAYLOAD.slice(..len);
    for _ in 0..count {
        round
            .store
            .put(&Path::from("put"), payload.clone().into())
            .await?;
    }
    round.store.delete(&Path::from("put")).await?;
    Ok(())
}

async fn multipart(round: Round) -> Result<(), Failed> {
    let payload = PAYLOAD.slice(..8 << 20);
    let mut upload = round.store.put_multipart(&Path::from("put")).await?;
    let parts: Vec<_> = (0..8)
        .map(|_| upload.put_part(payload.clone().into()))
        .collect();
    futures_util::future::try_join_all(parts).await?;
    upload.complete().await?;
    round.store.delete(&Path::from("put")).await?;
    Ok(())
}

async fn small_objects(round: Round) -> Result<(), Failed> {
    let count = round.count(1_000);
    let name = |index| Path::from(format!("small/{index}"));
    let store = &round.store;
    stream::iter(0..count * 4)
        .map(async |index| {
            let bytes = store.get(&name(index % count)).await?.bytes().await?;
            assert_eq!(bytes.len(), 8 << 10);
            Ok(())
        })
        .buffer_unordered(32)
        .try_collect()
        .await
}

async fn each(file: LibraryFile, ranges: Vec<Range<u64>>) -> Result<(), Failed> {
    Ok(file.read_each(ranges).await?)
}

async fn hundreds(file: LibraryFile, ranges: Vec<Range<u64>>) -> Result<(), Failed> {
    Ok(file.read_hundreds(ranges).await?)
}
