//! The pair `owned`: reads into owned buffers, which the operation returns, and into a borrowed one.

use tokio_kaio::{AlignedBuf, IoBuf, IoBufMut, ReadFlags, Slice};

use super::variant::{Fixture, Variant};
use crate::{Result, TransferGenerator};

/// Reads into a borrowed buffer.
pub(super) struct Borrowed(AlignedBuf);

impl Variant for Borrowed {
    const NAME: &'static str = "borrowed";

    fn new(fixture: &Fixture) -> Result<Borrowed> {
        Ok(Borrowed(AlignedBuf::new(fixture.block)?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let (handle, len, flags) = (&fixture.handle, fixture.block as u64, ReadFlags::empty());
        let offset = generator.next_transfer().offset;
        let read = fixture
            .file
            .read_at(handle, offset, &mut self.0, len, flags);
        Fixture::check(read.await, fixture.block)
    }
}

/// Reads into an owned buffer. `*buffer` is the default value during the read.
async fn read<B: IoBufMut>(
    fixture: &Fixture,
    generator: &mut TransferGenerator,
    buffer: &mut B,
) -> Result<()> {
    let Fixture { handle, file, .. } = fixture;
    let (offset, flags) = (generator.next_transfer().offset, ReadFlags::empty());
    let owned = std::mem::take(buffer);
    let (read, returned) = file.read_owned_at(handle, offset, owned, flags).await;
    *buffer = returned;
    Fixture::check(read, fixture.block)
}

/// Reads into an owned `AlignedBuf`.
pub(super) struct Owned(AlignedBuf);

impl Variant for Owned {
    const NAME: &'static str = "owned";

    fn new(fixture: &Fixture) -> Result<Owned> {
        Ok(Owned(AlignedBuf::new(fixture.block)?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        read(fixture, generator, &mut self.0).await
    }
}

/// Reads into the aligned part of an owned `Vec`.
pub(super) struct OwnedVec(Slice<Vec<u8>>);

impl Variant for OwnedVec {
    const NAME: &'static str = "owned-vec";

    fn new(fixture: &Fixture) -> Result<OwnedVec> {
        const ALIGNMENT: usize = 4096;
        let vec = vec![0x5a; fixture.block + ALIGNMENT - 1];
        let start = vec.as_ptr().addr().next_multiple_of(ALIGNMENT) - vec.as_ptr().addr();
        Ok(OwnedVec(vec.into_slice(start..start + fixture.block)))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        read(fixture, generator, &mut self.0).await
    }
}
