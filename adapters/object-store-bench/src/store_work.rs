//! [`Work`]: what is measured.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, Result};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// The name of the object that is read.
pub(crate) const OBJECT: &str = "object";

type Run = fn(Round) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Something to measure, on any store.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// With which states of the page cache: `false`: the object is evicted before each round.
    pub(crate) with_cache: &'static [bool],
    pub(crate) run: Run,
}

/// One round of a work.
pub(crate) struct Round {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Length of the object in bytes.
    pub(crate) len: u64,
    /// Both stores get the same ranges in a round.
    pub(crate) seed: u64,
    /// Per cent of the requests.
    pub(crate) share: u64,
}

const READ: &[bool] = &[false, true];
const WRITE: &[bool] = &[true];

pub(crate) const WORKS: &[Work] = &[
    Work {
        name: "stream",
        about: "get 256 MiB, into_stream()",
        with_cache: READ,
        run: |round| Box::pin(stream_object(round)),
    },
    Work {
        name: "bytes",
        about: "get 256 MiB, bytes()",
        with_cache: READ,
        run: |round| Box::pin(whole_object(round)),
    },
    Work {
        name: "range-4k",
        about: "20,000 x get_range of 4 KiB, 32 at a time",
        with_cache: READ,
        run: |round| Box::pin(single_ranges(round, 20_000, 4 << 10)),
    },
    Work {
        name: "range-64k",
        about: "6,000 x get_range of 64 KiB, 32 at a time",
        with_cache: READ,
        run: |round| Box::pin(single_ranges(round, 6_000, 64 << 10)),
    },
    Work {
        name: "ranges-8k",
        about: "40 x get_ranges of 100 x 8 KiB, far apart",
        with_cache: READ,
        run: |round| Box::pin(many_ranges(round, 40, 8 << 10)),
    },
    Work {
        name: "ranges-128k",
        about: "10 x get_ranges of 100 x 128 KiB",
        with_cache: READ,
        run: |round| Box::pin(many_ranges(round, 10, 128 << 10)),
    },
    Work {
        name: "put-64m",
        about: "put of 64 MiB, durable",
        with_cache: WRITE,
        run: |round| Box::pin(put(round, 1, 64 << 20)),
    },
    Work {
        name: "put-1m",
        about: "16 x put 1 MiB, durable, one after another",
        with_cache: WRITE,
        run: |round| Box::pin(put(round, 16, 1 << 20)),
    },
    Work {
        name: "multipart",
        about: "8 parts of 8 MiB at a time, durable",
        with_cache: WRITE,
        run: |round| Box::pin(multipart(round)),
    },
    Work {
        name: "small-objects",
        about: "4,000 x get of 1,000 objects of 8 KiB, 32 at a time",
        with_cache: WRITE,
        run: |round| Box::pin(small_objects(round)),
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
    0..round.len.min(256 << 20)
}

async fn stream_object(round: Round) -> Result<()> {
    let options = object_store::GetOptions {
        range: Some(first_part(&round).into()),
        ..Default::default()
    };
    let object = round.store.get_opts(&Path::from(OBJECT), options).await?;
    let wanted = object.range.end - object.range.start;
    let mut chunks = object.into_stream();
    let mut len = 0;
    while let Some(chunk) = chunks.try_next().await? {
        len += chunk.len() as u64;
    }
    assert_eq!(len, wanted);
    Ok(())
}

async fn whole_object(round: Round) -> Result<()> {
    let range = first_part(&round);
    let bytes = round
        .store
        .get_range(&Path::from(OBJECT), range.clone())
        .await?;
    assert_eq!(bytes.len() as u64, range.end);
    Ok(())
}

async fn single_ranges(round: Round, count: u64, len: u64) -> Result<()> {
    let ranges = round.ranges(round.count(count), len);
    let store = &round.store;
    stream::iter(ranges)
        .map(async |range| {
            let bytes = store.get_range(&Path::from(OBJECT), range).await?;
            assert_eq!(bytes.len() as u64, len);
            Ok(())
        })
        .buffer_unordered(32)
        .try_collect()
        .await
}

async fn many_ranges(round: Round, calls: u64, len: u64) -> Result<()> {
    let ranges = round.ranges(round.count(calls) * 100, len);
    for ranges in ranges.chunks(100) {
        let read = round.store.get_ranges(&Path::from(OBJECT), ranges).await?;
        assert!(read.len() == 100 && read.iter().all(|bytes| bytes.len() as u64 == len));
    }
    Ok(())
}

/// What is written. Made once, because to allocate and fill it takes as long as to write it.
static PAYLOAD: LazyLock<Bytes> = LazyLock::new(|| vec![7; 64 << 20].into());

async fn put(round: Round, count: u64, len: usize) -> Result<()> {
    let payload = PAYLOAD.slice(..len);
    for _ in 0..count {
        round
            .store
            .put(&Path::from("put"), payload.clone().into())
            .await?;
    }
    round.store.delete(&Path::from("put")).await
}

async fn multipart(round: Round) -> Result<()> {
    let payload = PAYLOAD.slice(..8 << 20);
    let mut upload = round.store.put_multipart(&Path::from("put")).await?;
    let parts: Vec<_> = (0..8)
        .map(|_| upload.put_part(payload.clone().into()))
        .collect();
    futures_util::future::try_join_all(parts).await?;
    upload.complete().await?;
    round.store.delete(&Path::from("put")).await
}

async fn small_objects(round: Round) -> Result<()> {
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
