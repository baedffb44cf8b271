//! The pairs `unaligned-read` and `unaligned-write`: unaligned transfers, aligned transfers, and aligned
//! transfers through a copy.

use tokio_kaio::{AlignedBuf, ReadFlags, WriteFlags};

use super::variant::{Fixture, Variant};
use crate::{Result, TransferGenerator};

/// Offset of the unaligned transfers within a block.
const OFFSET_IN_BLOCK: u64 = 100;

/// Length of the unaligned transfers, which stay within one block.
const UNALIGNED_LEN: usize = 1000;

/// Reads a whole block into an `AlignedBuf`.
pub(super) struct ReadAligned(AlignedBuf);

impl Variant for ReadAligned {
    const NAME: &'static str = "aligned";

    fn new(fixture: &Fixture) -> Result<ReadAligned> {
        Ok(ReadAligned(AlignedBuf::new(fixture.block)?))
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

/// Reads into a slice.
async fn read(fixture: &Fixture, offset: u64, bytes: &mut [u8]) -> Result<()> {
    let (handle, flags, len) = (&fixture.handle, ReadFlags::empty(), bytes.len());
    Fixture::check(
        fixture
            .file
            .read_bytes_at(handle, offset, bytes, flags)
            .await,
        len,
    )
}

/// Reads a whole block into a slice.
pub(super) struct ReadCopied(Vec<u8>);

impl Variant for ReadCopied {
    const NAME: &'static str = "copied";

    fn new(fixture: &Fixture) -> Result<ReadCopied> {
        Ok(ReadCopied(vec![0; fixture.block]))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        read(fixture, generator.next_transfer().offset, &mut self.0).await
    }
}

/// Reads a part of a block into a slice.
pub(super) struct ReadUnaligned(Vec<u8>);

impl Variant for ReadUnaligned {
    const NAME: &'static str = "unaligned";

    fn new(_: &Fixture) -> Result<ReadUnaligned> {
        Ok(ReadUnaligned(vec![0; UNALIGNED_LEN]))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        read(
            fixture,
            generator.next_transfer().offset + OFFSET_IN_BLOCK,
            &mut self.0,
        )
        .await
    }
}

/// Writes a whole block from an `AlignedBuf`.
pub(super) struct WriteAligned(AlignedBuf);

impl Variant for WriteAligned {
    const NAME: &'static str = "aligned";

    fn new(fixture: &Fixture) -> Result<WriteAligned> {
        let mut buffer = AlignedBuf::new(fixture.block)?;
        buffer.fill(0x5a);
        Ok(WriteAligned(buffer))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let (handle, len, flags) = (&fixture.handle, fixture.block as u64, WriteFlags::empty());
        let offset = generator.next_transfer().offset;
        let written = fixture.file.write_at(handle, offset, &self.0, len, flags);
        Fixture::check(written.await, fixture.block)
    }
}

/// Writes from a slice.
async fn write(fixture: &Fixture, offset: u64, bytes: &[u8]) -> Result<()> {
    let (handle, flags, len) = (&fixture.handle, WriteFlags::empty(), bytes.len());
    let written = fixture
        .file
        .write_bytes_at(handle, offset, bytes, flags)
        .await;
    Fixture::check(written.map(|()| len as u64), len)
}

/// Writes a whole block from a slice.
pub(super) struct WriteCopied(Vec<u8>);

impl Variant for WriteCopied {
    const NAME: &'static str = "copied";

    fn new(fixture: &Fixture) -> Result<WriteCopied> {
        Ok(WriteCopied(vec![0x5a; fixture.block]))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        write(fixture, generator.next_transfer().offset, &self.0).await
    }
}

/// Writes a part of a block from a slice: reads, modifies and writes the block.
pub(super) struct WriteUnaligned(Vec<u8>);

impl Variant for WriteUnaligned {
    const NAME: &'static str = "unaligned";

    fn new(_: &Fixture) -> Result<WriteUnaligned> {
        Ok(WriteUnaligned(vec![0x5a; UNALIGNED_LEN]))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        write(
            fixture,
            generator.next_transfer().offset + OFFSET_IN_BLOCK,
            &self.0,
        )
        .await
    }
}
