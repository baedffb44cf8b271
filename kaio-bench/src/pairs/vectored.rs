//! 64 KiB in 16 buffers: copied from or to one, as a vectored transfer, and that on a list of buffers
//! that is handed over.

use std::array;

use tokio_kaio::{AlignedBuf, Part, PartMut, ReadFlags, WriteFlags};

use super::way::{Bench, Way};
use crate::{Lane, Result};

const PAGES: usize = 16;
const PAGE: usize = 4096;
const LEN: usize = PAGES * PAGE;

/// A place for all pages in the file, whose length is a multiple of theirs.
fn place(lane: &mut Lane) -> u64 {
    let offset = lane.next().offset;
    offset - offset % LEN as u64
}

/// Pages that differ from each other.
fn pages() -> Result<[AlignedBuf; PAGES]> {
    let mut pages = array::from_fn(|_| AlignedBuf::default());
    for (number, page) in (1..).zip(&mut pages) {
        *page = AlignedBuf::new(PAGE)?;
        page.fill(number);
    }
    Ok(pages)
}

/// Pages, and one buffer that they are read or written through.
struct Copied {
    pages: [AlignedBuf; PAGES],
    whole: AlignedBuf,
}

impl Copied {
    fn new() -> Result<Copied> {
        Ok(Copied {
            pages: pages()?,
            whole: AlignedBuf::new(LEN)?,
        })
    }
}

/// A read, then copies.
pub(super) struct ReadAndCopy(Copied);

impl Way for ReadAndCopy {
    const NAME: &'static str = "read-and-copy";

    fn new(_: &Bench) -> Result<ReadAndCopy> {
        Ok(ReadAndCopy(Copied::new()?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let ReadAndCopy(Copied { pages, whole }) = self;
        let (handle, offset, flags) = (&bench.handle, place(lane), ReadFlags::empty());
        let read = bench.file.read_at(handle, offset, whole, LEN as u64, flags);
        Bench::check(read.await, LEN)?;
        for (page, bytes) in pages.iter_mut().zip(whole.chunks(PAGE)) {
            page.copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// Copies, then a write.
pub(super) struct CopyAndWrite(Copied);

impl Way for CopyAndWrite {
    const NAME: &'static str = "copy-and-write";

    fn new(_: &Bench) -> Result<CopyAndWrite> {
        Ok(CopyAndWrite(Copied::new()?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let CopyAndWrite(Copied { pages, whole }) = self;
        for (page, bytes) in pages.iter().zip(whole.chunks_mut(PAGE)) {
            bytes.copy_from_slice(page);
        }
        let (handle, offset, flags) = (&bench.handle, place(lane), WriteFlags::empty());
        let written = bench
            .file
            .write_at(handle, offset, whole, LEN as u64, flags);
        Bench::check(written.await, LEN)
    }
}

/// A vectored read.
pub(super) struct ReadParts([AlignedBuf; PAGES]);

impl Way for ReadParts {
    const NAME: &'static str = "vectored";

    fn new(_: &Bench) -> Result<ReadParts> {
        Ok(ReadParts(pages()?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let (handle, offset, flags) = (&bench.handle, place(lane), ReadFlags::empty());
        let parts = &mut self.0.each_mut().map(PartMut::from);
        let read = bench.file.read_vectored_at(handle, offset, parts, flags);
        Bench::check(read.await, LEN)
    }
}

/// A vectored write.
pub(super) struct WriteParts([AlignedBuf; PAGES]);

impl Way for WriteParts {
    const NAME: &'static str = "vectored";

    fn new(_: &Bench) -> Result<WriteParts> {
        Ok(WriteParts(pages()?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let (handle, offset, flags) = (&bench.handle, place(lane), WriteFlags::empty());
        let parts = self.0.each_ref().map(Part::from);
        let written = bench.file.write_vectored_at(handle, offset, &parts, flags);
        Bench::check(written.await, LEN)
    }
}

/// A vectored read into buffers that are handed over.
pub(super) struct ReadList(Vec<AlignedBuf>);

impl Way for ReadList {
    const NAME: &'static str = "owned-list";

    fn new(_: &Bench) -> Result<ReadList> {
        Ok(ReadList(pages()?.into()))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let Bench { handle, file, .. } = bench;
        let (pages, offset) = (std::mem::take(&mut self.0), place(lane));
        let read = file.read_vectored_owned_at(handle, offset, pages, ReadFlags::empty());
        let (read, pages) = read.await;
        self.0 = pages;
        Bench::check(read, LEN)
    }
}

/// A vectored write from buffers that are handed over.
pub(super) struct WriteList(Vec<AlignedBuf>);

impl Way for WriteList {
    const NAME: &'static str = "owned-list";

    fn new(_: &Bench) -> Result<WriteList> {
        Ok(WriteList(pages()?.into()))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let Bench { handle, file, .. } = bench;
        let (pages, offset) = (std::mem::take(&mut self.0), place(lane));
        let written = file.write_vectored_owned_at(handle, offset, pages, WriteFlags::empty());
        let (written, pages) = written.await;
        self.0 = pages;
        Bench::check(written, LEN)
    }
}
