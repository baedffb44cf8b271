//! Transfers that are not aligned, by way of a copy, and aligned ones beside them.

use tokio_kaio::{AlignedBuf, ReadFlags, WriteFlags};

use super::way::{Bench, Way};
use crate::{Lane, Result};

/// Bytes by which a transfer is off a block.
const OFF: u64 = 100;

/// Bytes of a transfer that meets one block only.
const FEW: usize = 1000;

/// A whole block, read to where it is used.
pub(super) struct ReadAligned(AlignedBuf);

impl Way for ReadAligned {
    const NAME: &'static str = "aligned";

    fn new(bench: &Bench) -> Result<ReadAligned> {
        Ok(ReadAligned(AlignedBuf::new(bench.block)?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let (handle, len, flags) = (&bench.handle, bench.block as u64, ReadFlags::empty());
        let offset = lane.next().offset;
        let read = bench.file.read_at(handle, offset, &mut self.0, len, flags);
        Bench::check(read.await, bench.block)
    }
}

/// Reads to a slice.
async fn read(bench: &Bench, offset: u64, bytes: &mut [u8]) -> Result<()> {
    let (handle, flags, len) = (&bench.handle, ReadFlags::empty(), bytes.len());
    Bench::check(
        bench.file.read_bytes_at(handle, offset, bytes, flags).await,
        len,
    )
}

/// A whole block, copied.
pub(super) struct ReadCopied(Vec<u8>);

impl Way for ReadCopied {
    const NAME: &'static str = "copied";

    fn new(bench: &Bench) -> Result<ReadCopied> {
        Ok(ReadCopied(vec![0; bench.block]))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        read(bench, lane.next().offset, &mut self.0).await
    }
}

/// A part of a block, copied.
pub(super) struct ReadUnaligned(Vec<u8>);

impl Way for ReadUnaligned {
    const NAME: &'static str = "unaligned";

    fn new(_: &Bench) -> Result<ReadUnaligned> {
        Ok(ReadUnaligned(vec![0; FEW]))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        read(bench, lane.next().offset + OFF, &mut self.0).await
    }
}

/// A whole block, written from where it is.
pub(super) struct WriteAligned(AlignedBuf);

impl Way for WriteAligned {
    const NAME: &'static str = "aligned";

    fn new(bench: &Bench) -> Result<WriteAligned> {
        let mut buffer = AlignedBuf::new(bench.block)?;
        buffer.fill(0x5a);
        Ok(WriteAligned(buffer))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let (handle, len, flags) = (&bench.handle, bench.block as u64, WriteFlags::empty());
        let offset = lane.next().offset;
        let written = bench.file.write_at(handle, offset, &self.0, len, flags);
        Bench::check(written.await, bench.block)
    }
}

/// Writes from a slice.
async fn write(bench: &Bench, offset: u64, bytes: &[u8]) -> Result<()> {
    let (handle, flags, len) = (&bench.handle, WriteFlags::empty(), bytes.len());
    let written = bench
        .file
        .write_bytes_at(handle, offset, bytes, flags)
        .await;
    Bench::check(written.map(|()| len as u64), len)
}

/// A whole block, copied.
pub(super) struct WriteCopied(Vec<u8>);

impl Way for WriteCopied {
    const NAME: &'static str = "copied";

    fn new(bench: &Bench) -> Result<WriteCopied> {
        Ok(WriteCopied(vec![0x5a; bench.block]))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        write(bench, lane.next().offset, &self.0).await
    }
}

/// A part of a block, which is read, changed and written.
pub(super) struct WriteUnaligned(Vec<u8>);

impl Way for WriteUnaligned {
    const NAME: &'static str = "unaligned";

    fn new(_: &Bench) -> Result<WriteUnaligned> {
        Ok(WriteUnaligned(vec![0x5a; FEW]))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        write(bench, lane.next().offset + OFF, &self.0).await
    }
}
