//! The pairs `vectored-read` and `vectored-write`: 64 KiB in 16 buffers, as a vectored transfer, through one
//! buffer with copies, and as a vectored transfer of an owned list.

use std::array;

use tokio_kaio::{AlignedBuf, Part, PartMut, ReadFlags, WriteFlags};

use super::variant::{Fixture, Variant};
use crate::{Result, TransferGenerator};

const PAGES: usize = 16;
const PAGE: usize = 4096;
const LEN: usize = PAGES * PAGE;

/// Returns an offset at which all pages fit in the file.
fn offset_for_pages(generator: &mut TransferGenerator) -> u64 {
    let offset = generator.next_transfer().offset;
    offset - offset % LEN as u64
}

/// Creates pages with different contents.
fn pages() -> Result<[AlignedBuf; PAGES]> {
    let mut pages = array::from_fn(|_| AlignedBuf::default());
    for (number, page) in (1..).zip(&mut pages) {
        *page = AlignedBuf::new(PAGE)?;
        page.fill(number);
    }
    Ok(pages)
}

/// Pages, and one buffer to copy them from or to.
struct PagesAndBuffer {
    pages: [AlignedBuf; PAGES],
    whole: AlignedBuf,
}

impl PagesAndBuffer {
    fn new() -> Result<PagesAndBuffer> {
        Ok(PagesAndBuffer {
            pages: pages()?,
            whole: AlignedBuf::new(LEN)?,
        })
    }
}

/// Reads into one buffer, then copies to the pages.
pub(super) struct ReadAndCopy(PagesAndBuffer);

impl Variant for ReadAndCopy {
    const NAME: &'static str = "read-and-copy";

    fn new(_: &Fixture) -> Result<ReadAndCopy> {
        Ok(ReadAndCopy(PagesAndBuffer::new()?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let ReadAndCopy(PagesAndBuffer { pages, whole }) = self;
        let (handle, offset, flags) = (
            &fixture.handle,
            offset_for_pages(generator),
            ReadFlags::empty(),
        );
        let read = fixture
            .file
            .read_at(handle, offset, whole, LEN as u64, flags);
        Fixture::check(read.await, LEN)?;
        for (page, bytes) in pages.iter_mut().zip(whole.chunks(PAGE)) {
            page.copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// Copies the pages into one buffer, then writes it.
pub(super) struct CopyAndWrite(PagesAndBuffer);

impl Variant for CopyAndWrite {
    const NAME: &'static str = "copy-and-write";

    fn new(_: &Fixture) -> Result<CopyAndWrite> {
        Ok(CopyAndWrite(PagesAndBuffer::new()?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let CopyAndWrite(PagesAndBuffer { pages, whole }) = self;
        for (page, bytes) in pages.iter().zip(whole.chunks_mut(PAGE)) {
            bytes.copy_from_slice(page);
        }
        let (handle, offset, flags) = (
            &fixture.handle,
            offset_for_pages(generator),
            WriteFlags::empty(),
        );
        let written = fixture
            .file
            .write_at(handle, offset, whole, LEN as u64, flags);
        Fixture::check(written.await, LEN)
    }
}

/// Reads with a vectored read into borrowed buffers.
pub(super) struct ReadParts([AlignedBuf; PAGES]);

impl Variant for ReadParts {
    const NAME: &'static str = "vectored";

    fn new(_: &Fixture) -> Result<ReadParts> {
        Ok(ReadParts(pages()?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let (handle, offset, flags) = (
            &fixture.handle,
            offset_for_pages(generator),
            ReadFlags::empty(),
        );
        let parts = &mut self.0.each_mut().map(PartMut::from);
        let read = fixture.file.read_vectored_at(handle, offset, parts, flags);
        Fixture::check(read.await, LEN)
    }
}

/// Writes with a vectored write from borrowed buffers.
pub(super) struct WriteParts([AlignedBuf; PAGES]);

impl Variant for WriteParts {
    const NAME: &'static str = "vectored";

    fn new(_: &Fixture) -> Result<WriteParts> {
        Ok(WriteParts(pages()?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let (handle, offset, flags) = (
            &fixture.handle,
            offset_for_pages(generator),
            WriteFlags::empty(),
        );
        let parts = self.0.each_ref().map(Part::from);
        let written = fixture
            .file
            .write_vectored_at(handle, offset, &parts, flags);
        Fixture::check(written.await, LEN)
    }
}

/// Reads with a vectored read into an owned list of buffers.
pub(super) struct ReadList(Vec<AlignedBuf>);

impl Variant for ReadList {
    const NAME: &'static str = "owned-list";

    fn new(_: &Fixture) -> Result<ReadList> {
        Ok(ReadList(pages()?.into()))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let Fixture { handle, file, .. } = fixture;
        let (pages, offset) = (std::mem::take(&mut self.0), offset_for_pages(generator));
        let read = file.read_vectored_owned_at(handle, offset, pages, ReadFlags::empty());
        let (read, pages) = read.await;
        self.0 = pages;
        Fixture::check(read, LEN)
    }
}

/// Writes with a vectored write from an owned list of buffers.
pub(super) struct WriteList(Vec<AlignedBuf>);

impl Variant for WriteList {
    const NAME: &'static str = "owned-list";

    fn new(_: &Fixture) -> Result<WriteList> {
        Ok(WriteList(pages()?.into()))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let Fixture { handle, file, .. } = fixture;
        let (pages, offset) = (std::mem::take(&mut self.0), offset_for_pages(generator));
        let written = file.write_vectored_owned_at(handle, offset, pages, WriteFlags::empty());
        let (written, pages) = written.await;
        self.0 = pages;
        Fixture::check(written, LEN)
    }
}
