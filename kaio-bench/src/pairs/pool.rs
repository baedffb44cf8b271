//! Memory for a read: new for each, of a pool, or one buffer that is kept.

use tokio_kaio::{AlignedBuf, BufferPool, ReadFlags};

use super::way::{Bench, Way};
use crate::{Lane, Result};

async fn read(bench: &Bench, lane: &mut Lane, buffer: &mut AlignedBuf) -> Result<()> {
    let Bench {
        handle,
        file,
        block,
    } = bench;
    let (offset, flags) = (lane.next().offset, ReadFlags::empty());
    let read = file.read_at(handle, offset, buffer, *block as u64, flags);
    Bench::check(read.await, *block)
}

/// New for each.
pub(super) struct Fresh;

impl Way for Fresh {
    const NAME: &'static str = "fresh";

    fn new(_: &Bench) -> Result<Fresh> {
        Ok(Fresh)
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let mut buffer = AlignedBuf::new(bench.block)?;
        read(bench, lane, &mut buffer).await
    }
}

/// Of a pool, where it is again afterwards.
pub(super) struct Pooled(BufferPool);

impl Way for Pooled {
    const NAME: &'static str = "pool";

    fn new(bench: &Bench) -> Result<Pooled> {
        Ok(Pooled(BufferPool::new(8, bench.block)?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let mut buffer = self.0.get().await;
        read(bench, lane, &mut buffer).await
    }
}

/// The same for all: what a pool can't be better than.
pub(super) struct Kept(AlignedBuf);

impl Way for Kept {
    const NAME: &'static str = "kept";

    fn new(bench: &Bench) -> Result<Kept> {
        Ok(Kept(AlignedBuf::new(bench.block)?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        read(bench, lane, &mut self.0).await
    }
}
