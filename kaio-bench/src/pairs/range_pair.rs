//! The pairs `read-range` and `read-ranges`: byte ranges as `Bytes`.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::task::spawn_blocking;
use tokio_kaio::{BufferPool, ReadFlags};

use super::variant::{Fixture, Variant};
use crate::{Result, TransferGenerator};

/// Ranges of one iteration of `read-range`, all in flight.
pub(super) const UNALIGNED: usize = 32;

/// Ranges of one iteration of `read-ranges`.
pub(super) const RANGES: usize = 100;

/// Bytes of each range of `read-ranges`.
pub(super) const RANGE_LEN: usize = 8192;

/// Where the ranges of `read-range` start within a block, so that they are in two blocks.
const OFFSET_IN_BLOCK: u64 = 100;

/// The start of a range of a block's length, in two blocks of the file.
fn unaligned(fixture: &Fixture, generator: &mut TransferGenerator) -> u64 {
    let offset = generator.next_transfer().offset;
    offset.saturating_sub(fixture.block as u64) + OFFSET_IN_BLOCK
}

fn check(bytes: &Bytes, fixture: &Fixture) -> Result<()> {
    Fixture::check(Ok(bytes.len() as u64), fixture.block)
}

/// Reads 32 ranges at a time with `read_range`.
pub(super) struct ReadRange;

impl Variant for ReadRange {
    const NAME: &'static str = "read-range";

    fn new(_: &Fixture) -> Result<ReadRange> {
        Ok(ReadRange)
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let reads = (0..UNALIGNED).map(|_| {
            let start = unaligned(fixture, generator);
            let range = start..start + fixture.block as u64;
            fixture.file.read_range(&fixture.handle, range)
        });
        let mut results = join_all(reads).await.into_iter();
        results.try_for_each(|bytes| check(&bytes?, fixture))
    }
}

/// Reads the two blocks of each range into a buffer of a pool, and slices it: the lower bound.
pub(super) struct ReadAtPool(BufferPool);

impl Variant for ReadAtPool {
    const NAME: &'static str = "read-at-pool";

    fn new(fixture: &Fixture) -> Result<ReadAtPool> {
        Ok(ReadAtPool(BufferPool::new(UNALIGNED, 2 * fixture.block)?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let reads = (0..UNALIGNED).map(|_| {
            let start = unaligned(fixture, generator) - OFFSET_IN_BLOCK;
            let (handle, pool) = (&fixture.handle, &self.0);
            async move {
                let (mut buffer, flags) = (pool.get().await, ReadFlags::empty());
                let len = buffer.size() as u64;
                let read = fixture.file.read_at(handle, start, &mut buffer, len, flags);
                Fixture::check(read.await, buffer.size())?;
                let range = OFFSET_IN_BLOCK as usize..OFFSET_IN_BLOCK as usize + fixture.block;
                Ok(Bytes::from(buffer).slice(range))
            }
        });
        let mut results = join_all(reads).await.into_iter();
        results.try_for_each(|bytes: Result<Bytes>| check(&bytes?, fixture))
    }
}

/// Copies each range to a `Vec` with `read_bytes_at`.
pub(super) struct ReadBytesAt;

impl Variant for ReadBytesAt {
    const NAME: &'static str = "read-bytes-at";

    fn new(_: &Fixture) -> Result<ReadBytesAt> {
        Ok(ReadBytesAt)
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let reads = (0..UNALIGNED).map(|_| {
            let start = unaligned(fixture, generator);
            async move {
                let (mut bytes, flags) = (vec![0; fixture.block], ReadFlags::empty());
                let file = &fixture.file;
                let read = file.read_bytes_at(&fixture.handle, start, &mut bytes, flags);
                Fixture::check(read.await, fixture.block)?;
                Ok(Bytes::from(bytes))
            }
        });
        let mut results = join_all(reads).await.into_iter();
        results.try_for_each(|bytes: Result<Bytes>| check(&bytes?, fixture))
    }
}

/// Reads all ranges with one call.
pub(super) struct ReadRanges;

impl Variant for ReadRanges {
    const NAME: &'static str = "read-ranges";

    fn new(_: &Fixture) -> Result<ReadRanges> {
        Ok(ReadRanges)
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let ranges: Vec<_> = (0..RANGES)
            .map(|_| generator.next_transfer().offset)
            .map(|start| start..start + fixture.block as u64)
            .collect();
        let results = fixture.file.read_ranges(&fixture.handle, &ranges).await?;
        results.iter().try_for_each(|bytes| check(bytes, fixture))
    }
}

/// Awaits a call for each range, all joined.
pub(super) struct JoinedRanges;

impl Variant for JoinedRanges {
    const NAME: &'static str = "joined";

    fn new(_: &Fixture) -> Result<JoinedRanges> {
        Ok(JoinedRanges)
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let reads = (0..RANGES).map(|_| {
            let start = generator.next_transfer().offset;
            let range = start..start + fixture.block as u64;
            fixture.file.read_range(&fixture.handle, range)
        });
        let mut results = join_all(reads).await.into_iter();
        results.try_for_each(|bytes| check(&bytes?, fixture))
    }
}

/// Reads all ranges one after another with `pread(2)`, in one job of tokio's blocking pool, with direct I/O.
pub(super) struct PreadLoop(Arc<File>);

impl Variant for PreadLoop {
    const NAME: &'static str = "pread-loop";

    fn new(fixture: &Fixture) -> Result<PreadLoop> {
        let file = fixture.file.as_fd().try_clone_to_owned()?;
        Ok(PreadLoop(Arc::new(file.into())))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let starts: Vec<_> = (0..RANGES)
            .map(|_| generator.next_transfer().offset)
            .collect();
        let (file, pool, len) = (
            Arc::clone(&self.0),
            fixture.handle.buffers().clone(),
            fixture.block,
        );
        let job = spawn_blocking(move || -> Result<Vec<Bytes>> {
            let mut results = Vec::with_capacity(RANGES);
            for start in starts {
                let mut buffer = pool.get_or_map(len)?;
                file.read_exact_at(&mut buffer, start)?;
                results.push(Bytes::from(buffer));
            }
            Ok(results)
        });
        job.await??
            .iter()
            .try_for_each(|bytes| check(bytes, fixture))
    }
}
