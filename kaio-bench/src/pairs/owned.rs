//! A read into a buffer that is lent, and into one that is handed over and comes back.

use tokio_kaio::{AlignedBuf, IoBuf, IoBufMut, ReadFlags, Slice};

use super::way::{Bench, Way};
use crate::{Lane, Result};

/// Lent.
pub(super) struct Borrowed(AlignedBuf);

impl Way for Borrowed {
    const NAME: &'static str = "borrowed";

    fn new(bench: &Bench) -> Result<Borrowed> {
        Ok(Borrowed(AlignedBuf::new(bench.block)?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let (handle, len, flags) = (&bench.handle, bench.block as u64, ReadFlags::empty());
        let offset = lane.next().offset;
        let read = bench.file.read_at(handle, offset, &mut self.0, len, flags);
        Bench::check(read.await, bench.block)
    }
}

/// Handed over. The default is in its place meanwhile.
async fn read<B: IoBufMut>(bench: &Bench, lane: &mut Lane, buffer: &mut B) -> Result<()> {
    let Bench { handle, file, .. } = bench;
    let (offset, flags) = (lane.next().offset, ReadFlags::empty());
    let lent = std::mem::take(buffer);
    let (read, back) = file.read_owned_at(handle, offset, lent, flags).await;
    *buffer = back;
    Bench::check(read, bench.block)
}

/// An aligned buffer, handed over.
pub(super) struct Owned(AlignedBuf);

impl Way for Owned {
    const NAME: &'static str = "owned";

    fn new(bench: &Bench) -> Result<Owned> {
        Ok(Owned(AlignedBuf::new(bench.block)?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        read(bench, lane, &mut self.0).await
    }
}

/// A vector, handed over; of it, the part that is aligned, which the allocator does not see to.
pub(super) struct OwnedVec(Slice<Vec<u8>>);

impl Way for OwnedVec {
    const NAME: &'static str = "owned-vec";

    fn new(bench: &Bench) -> Result<OwnedVec> {
        const ALIGNMENT: usize = 4096;
        let vec = vec![0x5a; bench.block + ALIGNMENT - 1];
        let start = vec.as_ptr().addr().next_multiple_of(ALIGNMENT) - vec.as_ptr().addr();
        Ok(OwnedVec(vec.into_slice(start..start + bench.block)))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        read(bench, lane, &mut self.0).await
    }
}
