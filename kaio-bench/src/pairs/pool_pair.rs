//! The pairs `pool-4k` and `pool-128k`: reads into a buffer of a pool of either kind, a new buffer, and a kept
//! buffer.

use tokio_kaio::{AlignedBuf, BufferPool, ReadFlags, SizeClassPool};

use super::variant::{Fixture, Variant};
use crate::{Result, TransferGenerator};

async fn read(
    fixture: &Fixture,
    generator: &mut TransferGenerator,
    buffer: &mut AlignedBuf,
) -> Result<()> {
    let Fixture {
        handle,
        file,
        block,
        ..
    } = fixture;
    let (offset, flags) = (generator.next_transfer().offset, ReadFlags::empty());
    let read = file.read_at(handle, offset, buffer, *block as u64, flags);
    Fixture::check(read.await, *block)
}

/// Allocates a buffer for each read.
pub(super) struct Fresh;

impl Variant for Fresh {
    const NAME: &'static str = "fresh";

    fn new(_: &Fixture) -> Result<Fresh> {
        Ok(Fresh)
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let mut buffer = AlignedBuf::new(fixture.block)?;
        read(fixture, generator, &mut buffer).await
    }
}

/// Takes a buffer from a pool and returns it after the read.
pub(super) struct Pooled(BufferPool);

impl Variant for Pooled {
    const NAME: &'static str = "pool";

    fn new(fixture: &Fixture) -> Result<Pooled> {
        Ok(Pooled(BufferPool::new(8, fixture.block)?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let mut buffer = self.0.get().await;
        read(fixture, generator, &mut buffer).await
    }
}

/// Takes a buffer from a pool of many sizes, and returns it after the read.
pub(super) struct SizeClasses(SizeClassPool);

impl Variant for SizeClasses {
    const NAME: &'static str = "size-classes";

    fn new(_: &Fixture) -> Result<SizeClasses> {
        Ok(SizeClasses(SizeClassPool::new(64 << 20)?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let mut buffer = self.0.get(fixture.block).await?;
        read(fixture, generator, &mut buffer).await
    }
}

/// Uses one buffer for all reads: the lower bound for a pool.
pub(super) struct Kept(AlignedBuf);

impl Variant for Kept {
    const NAME: &'static str = "kept";

    fn new(fixture: &Fixture) -> Result<Kept> {
        Ok(Kept(AlignedBuf::new(fixture.block)?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        read(fixture, generator, &mut self.0).await
    }
}
