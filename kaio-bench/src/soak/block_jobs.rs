//! Reads and writes of whole blocks: borrowed, owned, vectored and in batches.

use std::fs::OpenOptions;

use tokio_kaio::{AlignedBuf, File, ReadFlags, WriteFlags};

use crate::soak_job::{BLOCK, Result, SoakJob};
use crate::verified_content::{fill, verify};

const BLOCKS: usize = 256;

/// A file with the version that each of its blocks has.
pub(crate) struct BlockFile {
    pub(crate) file: File,
    versions: Vec<u64>,
    seed: u64,
}

impl BlockFile {
    /// Creates a file of `blocks` blocks.
    pub(crate) async fn create(job: &mut SoakJob, blocks: usize) -> Result<BlockFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = File::open_with(&options, job.dir.join("blocks"), false).await?;
        let mut blocks = BlockFile {
            file,
            versions: vec![0; blocks],
            seed: job.random.u64(..),
        };
        let all = blocks.next_content(0, blocks.versions.len())?;
        let len = all.size() as u64;
        let written = blocks
            .file
            .write_all_at(&job.handle, 0, &all, len, WriteFlags::empty());
        written.await?;
        Ok(blocks)
    }

    /// The seed of a block's content.
    pub(crate) fn seed(&self, block: usize) -> u64 {
        self.seed ^ (self.versions[block] << 20 | block as u64)
    }

    /// The next version of some blocks.
    pub(crate) fn next_content(&mut self, first: usize, count: usize) -> Result<AlignedBuf> {
        let mut bytes = AlignedBuf::new(count * BLOCK)?;
        self.fill_next(first, &mut bytes);
        Ok(bytes)
    }

    /// Fills `bytes` with the next version of the blocks that fit.
    pub(crate) fn fill_next(&mut self, first: usize, bytes: &mut [u8]) {
        for (block, bytes) in (first..).zip(bytes.chunks_mut(BLOCK)) {
            self.versions[block] += 1;
            fill(bytes, self.seed(block), 0);
        }
    }

    pub(crate) fn verify(&self, first: usize, bytes: &[u8]) -> Result<()> {
        for (block, bytes) in (first..).zip(bytes.chunks(BLOCK)) {
            verify(bytes, self.seed(block), 0, &format!("block {block}"))?;
        }
        Ok(())
    }
}

/// Fails if fewer bytes were transferred.
pub(crate) fn expect(transferred: u64, len: usize) -> Result<()> {
    match transferred == len as u64 {
        true => Ok(()),
        false => Err(format!("{transferred} of {len} bytes were transferred").into()),
    }
}

pub(crate) async fn read_and_write_blocks(mut job: SoakJob) -> Result<()> {
    let mut blocks = BlockFile::create(&mut job, BLOCKS).await?;
    while job.goes_on() {
        let first = job.random.usize(..BLOCKS - 4);
        let count = job.random.usize(1..=4);
        match job.random.u8(..10) {
            0 => write_borrowed(&job, &mut blocks, first, count).await?,
            1 => write_owned(&job, &mut blocks, first, count).await?,
            2 => write_pooled(&job, &mut blocks, first).await?,
            3 => write_vectored(&job, &mut blocks, first, count).await?,
            4 => write_batch(&mut job, &mut blocks).await?,
            5 => read_vectored(&job, &blocks, first, count).await?,
            6 => read_batch(&mut job, &blocks).await?,
            7 => read_pooled(&job, &blocks, first).await?,
            8 => read_owned(&job, &blocks, first, count).await?,
            _ => read_borrowed(&job, &blocks, first, count).await?,
        }
    }
    Ok(())
}

fn offset(block: usize) -> u64 {
    (block * BLOCK) as u64
}

async fn write_borrowed(
    job: &SoakJob,
    blocks: &mut BlockFile,
    first: usize,
    count: usize,
) -> Result<()> {
    let bytes = blocks.next_content(first, count)?;
    let flags = if count == 1 {
        WriteFlags::DSYNC
    } else {
        WriteFlags::empty()
    };
    let len = bytes.size() as u64;
    let written = blocks
        .file
        .write_at(&job.handle, offset(first), &bytes, len, flags)
        .await?;
    job.count().done();
    expect(written, bytes.size())
}

async fn write_owned(
    job: &SoakJob,
    blocks: &mut BlockFile,
    first: usize,
    count: usize,
) -> Result<()> {
    let bytes = blocks.next_content(first, count)?;
    let flags = WriteFlags::empty();
    let (written, _) = blocks
        .file
        .write_all_owned_at(&job.handle, offset(first), bytes, flags)
        .await;
    written?;
    job.count().done();
    if count == 4 {
        blocks.file.sync_data(&job.handle).await?;
    }
    Ok(())
}

async fn write_pooled(job: &SoakJob, blocks: &mut BlockFile, first: usize) -> Result<()> {
    let mut bytes = job.pool.get().await;
    blocks.fill_next(first, &mut bytes);
    let len = bytes.size() as u64;
    let write =
        blocks
            .file
            .write_all_at(&job.handle, offset(first), &bytes, len, WriteFlags::empty());
    write.await?;
    job.count().done();
    Ok(())
}

async fn write_vectored(
    job: &SoakJob,
    blocks: &mut BlockFile,
    first: usize,
    count: usize,
) -> Result<()> {
    let buffers: Result<Vec<_>> = (first..first + count)
        .map(|block| blocks.next_content(block, 1))
        .collect();
    let flags = WriteFlags::empty();
    let write = blocks
        .file
        .write_vectored_owned_at(&job.handle, offset(first), buffers?, flags);
    let written = write.await.0?;
    job.count().done();
    expect(written, count * BLOCK)
}

/// Some blocks, each at most once.
fn some_blocks(job: &mut SoakJob) -> Vec<usize> {
    let step = job.random.usize(1..=BLOCKS / 16);
    (0..job.random.usize(1..16)).map(|i| i * step).collect()
}

async fn write_batch(job: &mut SoakJob, blocks: &mut BlockFile) -> Result<()> {
    let mut batch = job.handle.owned_batch();
    for block in some_blocks(job) {
        let bytes = blocks.next_content(block, 1)?;
        batch.write_all(&blocks.file, offset(block), bytes);
    }
    for (written, bytes) in batch.all().await {
        expect(written?, bytes.size())?;
        job.count().done();
    }
    Ok(())
}

async fn read_batch(job: &mut SoakJob, blocks: &BlockFile) -> Result<()> {
    let wanted = some_blocks(job);
    let buffers: std::result::Result<Vec<_>, _> =
        wanted.iter().map(|_| AlignedBuf::new(BLOCK)).collect();
    let mut buffers = buffers?;
    let mut batch = job.handle.batch();
    for (block, buffer) in wanted.iter().zip(&mut buffers) {
        batch.read(&blocks.file, offset(*block), buffer);
    }
    for read in batch.all().await {
        expect(read?, BLOCK)?;
    }
    for (block, buffer) in wanted.iter().zip(&buffers) {
        blocks.verify(*block, buffer)?;
        job.count().verified(BLOCK);
    }
    Ok(())
}

async fn read_vectored(
    job: &SoakJob,
    blocks: &BlockFile,
    first: usize,
    count: usize,
) -> Result<()> {
    let buffers: std::result::Result<Vec<_>, _> =
        (0..count).map(|_| AlignedBuf::new(BLOCK)).collect();
    let flags = ReadFlags::empty();
    let read = blocks
        .file
        .read_vectored_owned_at(&job.handle, offset(first), buffers?, flags);
    let (read, buffers) = read.await;
    expect(read?, count * BLOCK)?;
    for (block, buffer) in (first..).zip(&buffers) {
        blocks.verify(block, buffer)?;
    }
    job.count().verified(count * BLOCK);
    Ok(())
}

async fn read_pooled(job: &SoakJob, blocks: &BlockFile, first: usize) -> Result<()> {
    let mut bytes = job.pool.get().await;
    read_into(job, blocks, first, &mut bytes).await
}

async fn read_owned(job: &SoakJob, blocks: &BlockFile, first: usize, count: usize) -> Result<()> {
    let bytes = AlignedBuf::new(count * BLOCK)?;
    let read =
        blocks
            .file
            .read_exact_owned_at(&job.handle, offset(first), bytes, ReadFlags::empty());
    let (read, bytes) = read.await;
    read?;
    blocks.verify(first, &bytes)?;
    job.count().verified(bytes.size());
    Ok(())
}

async fn read_borrowed(
    job: &SoakJob,
    blocks: &BlockFile,
    first: usize,
    count: usize,
) -> Result<()> {
    let mut bytes = AlignedBuf::new(count * BLOCK)?;
    read_into(job, blocks, first, &mut bytes).await
}

/// Fills a buffer with the blocks from `first` on, and verifies them.
async fn read_into(
    job: &SoakJob,
    blocks: &BlockFile,
    first: usize,
    bytes: &mut AlignedBuf,
) -> Result<()> {
    let len = bytes.size();
    let flags = ReadFlags::empty();
    let read = blocks
        .file
        .read_at(&job.handle, offset(first), bytes, len as u64, flags);
    expect(read.await?, len)?;
    blocks.verify(first, bytes)?;
    job.count().verified(len);
    Ok(())
}
