//! The pairs `stream-read` and `stream-write`: `FileReader` and `FileWriter`, and other ways to read and
//! write a file in order.
//!
//! One iteration is 1 MiB. A pass reads the whole file, which is not in the page cache, or writes a new file
//! and makes it durable.

use std::fs::OpenOptions;
use std::path::PathBuf;

use rustix::fs::{Advice, fadvise};
use rustix::io::{pread, pwrite};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_kaio::{AlignedBuf, File, FileReader, FileWriter};

use super::variant::{Fixture, Variant};
use crate::{Result, TransferGenerator};

/// Transfers of one iteration, of 128 KiB.
pub(super) const TRANSFERS: usize = 8;

/// Bytes of one iteration.
fn step(fixture: &Fixture) -> usize {
    TRANSFERS * fixture.block
}

/// Removes the clean pages of the file from the page cache.
fn drop_cache(file: &impl std::os::fd::AsFd) -> Result<()> {
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

/// Reads with a `FileReader`.
pub(super) struct Reader {
    reader: FileReader,
    bytes: Vec<u8>,
}

impl Variant for Reader {
    const NAME: &'static str = "reader";

    fn new(fixture: &Fixture) -> Result<Reader> {
        Ok(Reader {
            reader: fixture.file.reader(&fixture.handle),
            bytes: vec![0; step(fixture)],
        })
    }

    async fn iterate(&mut self, fixture: &Fixture, _: &mut TransferGenerator) -> Result<()> {
        if self.reader.position() + self.bytes.len() as u64 > fixture.len {
            self.reader = fixture.file.reader(&fixture.handle);
        }
        self.reader.read_exact(&mut self.bytes).await?;
        Ok(())
    }
}

/// Looks at the bytes in the buffers of a `FileReader`, without a copy.
pub(super) struct Lent(FileReader);

impl Variant for Lent {
    const NAME: &'static str = "lent";

    fn new(fixture: &Fixture) -> Result<Lent> {
        Ok(Lent(fixture.file.reader(&fixture.handle)))
    }

    async fn iterate(&mut self, fixture: &Fixture, _: &mut TransferGenerator) -> Result<()> {
        let len = step(fixture);
        if self.0.position() + len as u64 > fixture.len {
            self.0 = fixture.file.reader(&fixture.handle);
        }
        let mut left = len;
        while left > 0 {
            let lent = self.0.fill_buf().await?.len().min(left);
            if lent == 0 {
                return Fixture::check(Ok((len - left) as u64), len);
            }
            self.0.consume(lent);
            left -= lent;
        }
        Ok(())
    }
}

/// Reads with `pread` and direct I/O, as `dd bs=1M iflag=direct` does.
pub(super) struct Pread {
    buffer: AlignedBuf,
    offset: u64,
}

impl Variant for Pread {
    const NAME: &'static str = "pread";

    fn new(fixture: &Fixture) -> Result<Pread> {
        Ok(Pread {
            buffer: AlignedBuf::new(step(fixture))?,
            offset: 0,
        })
    }

    async fn iterate(&mut self, fixture: &Fixture, _: &mut TransferGenerator) -> Result<()> {
        let len = self.buffer.len();
        if self.offset + len as u64 > fixture.len {
            self.offset = 0;
        }
        let read = pread(&*fixture.file, &mut self.buffer[..], self.offset)?;
        self.offset += len as u64;
        Fixture::check(Ok(read as u64), len)
    }
}

/// Reads with `tokio::fs` and a `BufReader`.
pub(super) struct TokioReader {
    path: PathBuf,
    reader: Option<BufReader<tokio::fs::File>>,
    left: u64,
    bytes: Vec<u8>,
}

impl Variant for TokioReader {
    const NAME: &'static str = "tokio-fs";

    fn new(fixture: &Fixture) -> Result<TokioReader> {
        Ok(TokioReader {
            path: fixture.path.clone(),
            reader: None,
            left: 0,
            bytes: vec![0; step(fixture)],
        })
    }

    async fn iterate(&mut self, fixture: &Fixture, _: &mut TransferGenerator) -> Result<()> {
        if self.left < self.bytes.len() as u64 || self.reader.is_none() {
            let file = std::fs::File::open(&self.path)?;
            drop_cache(&file)?;
            self.reader = Some(BufReader::new(tokio::fs::File::from_std(file)));
            self.left = fixture.len;
        }
        if let Some(reader) = &mut self.reader {
            reader.read_exact(&mut self.bytes).await?;
        }
        self.left -= self.bytes.len() as u64;
        Ok(())
    }
}

/// A new file for each pass, removed in the end.
struct NewFile {
    path: PathBuf,
    left: u64,
}

impl NewFile {
    fn new(fixture: &Fixture, name: &str) -> NewFile {
        NewFile {
            path: fixture.path.with_extension(name),
            left: 0,
        }
    }

    fn open(&mut self, fixture: &Fixture) -> Result<std::fs::File> {
        self.left = fixture.len;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(options.open(&self.path)?)
    }

    /// Counts one iteration. Returns whether the pass is complete.
    fn advance(&mut self, len: usize) -> bool {
        self.left = self.left.saturating_sub(len as u64);
        self.left < len as u64
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // nothing was measured
    }
}

/// Writes with a `FileWriter`.
pub(super) struct Writer {
    target: NewFile,
    writer: Option<FileWriter>,
    bytes: Vec<u8>,
}

impl Variant for Writer {
    const NAME: &'static str = "writer";

    fn new(fixture: &Fixture) -> Result<Writer> {
        Ok(Writer {
            target: NewFile::new(fixture, "writer"),
            writer: None,
            bytes: vec![0x5a; step(fixture)],
        })
    }

    async fn iterate(&mut self, fixture: &Fixture, _: &mut TransferGenerator) -> Result<()> {
        if self.writer.is_none() {
            let file = File::from_std(self.target.open(fixture)?)?;
            self.writer = Some(file.writer(&fixture.handle));
        }
        if let Some(writer) = &mut self.writer {
            writer.write_all(&self.bytes).await?;
        }
        if self.target.advance(self.bytes.len()) {
            if let Some(mut writer) = self.writer.take() {
                writer.sync().await?;
                writer.finish().await?;
            }
        }
        Ok(())
    }
}

/// Writes with `pwrite` and direct I/O, and syncs, as `dd bs=1M oflag=direct conv=fsync` does.
pub(super) struct Pwrite {
    target: NewFile,
    file: Option<std::fs::File>,
    offset: u64,
    buffer: AlignedBuf,
}

impl Variant for Pwrite {
    const NAME: &'static str = "pwrite";

    fn new(fixture: &Fixture) -> Result<Pwrite> {
        let mut buffer = AlignedBuf::new(step(fixture))?;
        buffer.fill(0x5a);
        Ok(Pwrite {
            target: NewFile::new(fixture, "pwrite"),
            file: None,
            offset: 0,
            buffer,
        })
    }

    async fn iterate(&mut self, fixture: &Fixture, _: &mut TransferGenerator) -> Result<()> {
        if self.file.is_none() {
            let file = File::from_std(self.target.open(fixture)?)?; // for O_DIRECT
            self.file = Some(file.into_std().map_err(|_| "the file is shared")?);
            self.offset = 0;
        }
        let len = self.buffer.len();
        if let Some(file) = &self.file {
            let written = pwrite(file, &self.buffer[..], self.offset)?;
            Fixture::check(Ok(written as u64), len)?;
        }
        self.offset += len as u64;
        if self.target.advance(len) {
            if let Some(file) = self.file.take() {
                file.sync_all()?;
            }
        }
        Ok(())
    }
}

/// Writes with `tokio::fs`, and syncs.
pub(super) struct TokioWriter {
    target: NewFile,
    file: Option<tokio::fs::File>,
    bytes: Vec<u8>,
}

impl Variant for TokioWriter {
    const NAME: &'static str = "tokio-fs";

    fn new(fixture: &Fixture) -> Result<TokioWriter> {
        Ok(TokioWriter {
            target: NewFile::new(fixture, "tokio"),
            file: None,
            bytes: vec![0x5a; step(fixture)],
        })
    }

    async fn iterate(&mut self, fixture: &Fixture, _: &mut TransferGenerator) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(tokio::fs::File::from_std(self.target.open(fixture)?));
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.bytes).await?;
        }
        if self.target.advance(self.bytes.len()) {
            if let Some(mut file) = self.file.take() {
                file.flush().await?;
                file.sync_all().await?;
            }
        }
        Ok(())
    }
}
