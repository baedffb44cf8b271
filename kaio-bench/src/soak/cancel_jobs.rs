//! Operations that are dropped, aborted, or pass their deadline.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio_kaio::{AioCommandError, AlignedBuf, ReadFlags, WriteFlags};

use crate::block_jobs::BlockFile;
use crate::soak_job::{BLOCK, Result, SoakJob};
use crate::verified_content::{fill, is_content};

const BLOCKS: usize = 32;

pub(crate) async fn cancel_operations(mut job: SoakJob) -> Result<()> {
    let mut blocks = BlockFile::create(&mut job, BLOCKS).await?;
    while job.goes_on() {
        match job.random.u8(..4) {
            0 => drop_reads(&mut job, &blocks).await?,
            1 => drop_write(&mut job, &mut blocks).await?,
            2 => time_out(&mut job, &blocks).await?,
            _ => abort_task(&mut job, &blocks).await?,
        }
        // Whatever was dropped: the file is as it should be, and can be read.
        let mut all = AlignedBuf::new(BLOCKS * BLOCK)?;
        let len = all.size() as u64;
        let read = blocks
            .file
            .read_exact_at(&job.handle, 0, &mut all, len, ReadFlags::empty());
        read.await?;
        blocks.verify(0, &all)?;
        job.count().verified(all.size());
    }
    Ok(())
}

/// Polls `future` once without a waker, and drops it.
fn poll_and_drop(future: impl Future) {
    let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

/// Drops reads before their first poll and after it. Their buffers can be used at once.
async fn drop_reads(job: &mut SoakJob, blocks: &BlockFile) -> Result<()> {
    for _ in 0..job.random.usize(1..20) {
        let block = job.random.usize(..BLOCKS);
        let mut bytes = AlignedBuf::new(BLOCK)?;
        let (at, len) = ((block * BLOCK) as u64, BLOCK as u64);
        let read = blocks
            .file
            .read_at(&job.handle, at, &mut bytes, len, ReadFlags::empty());
        match job.random.bool() {
            true => drop(read),
            false => poll_and_drop(read),
        }
        job.count().cancelled();
        bytes.fill(0xa5);
        if job.random.bool() {
            tokio::task::yield_now().await;
        }
        if bytes.iter().any(|byte| *byte != 0xa5) {
            return Err("WRONG DATA: a dropped read has changed a buffer".into());
        }
    }
    Ok(())
}

/// Drops a write. After the drain, each of its blocks is as before or as written.
async fn drop_write(job: &mut SoakJob, blocks: &mut BlockFile) -> Result<()> {
    let (first, count) = (job.random.usize(..BLOCKS - 4), job.random.usize(1..=4));
    let before: Vec<u64> = (first..first + count)
        .map(|block| blocks.seed(block))
        .collect();
    let mut bytes = blocks.next_content(first, count)?;
    let after: Vec<u64> = (first..first + count)
        .map(|block| blocks.seed(block))
        .collect();
    let (at, len) = ((first * BLOCK) as u64, bytes.size() as u64);
    poll_and_drop(
        blocks
            .file
            .write_at(&job.handle, at, &bytes, len, WriteFlags::empty()),
    );
    job.count().cancelled();
    bytes.fill(0x5a); // never reaches the disk
    blocks.file.drain(&job.handle).await;
    let mut read = AlignedBuf::new(count * BLOCK)?;
    blocks
        .file
        .read_exact_at(&job.handle, at, &mut read, len, ReadFlags::empty())
        .await?;
    for (block, bytes) in read.chunks(BLOCK).enumerate() {
        if !is_content(bytes, before[block], 0) && !is_content(bytes, after[block], 0) {
            return Err(format!("WRONG DATA: dropped write of block {}", first + block).into());
        }
    }
    job.count().verified(read.size());
    // Known again.
    for block in 0..count {
        fill(
            &mut bytes[block * BLOCK..(block + 1) * BLOCK],
            after[block],
            0,
        );
    }
    blocks
        .file
        .write_all_at(&job.handle, at, &bytes, len, WriteFlags::empty())
        .await?;
    Ok(())
}

/// Reads with time limits that some of them exceed.
async fn time_out(job: &mut SoakJob, blocks: &BlockFile) -> Result<()> {
    let limit = Duration::from_micros(job.random.u64(..300));
    let hasty = job.handle.with_timeout(limit);
    let first = job.random.usize(..BLOCKS - 4);
    let (at, len) = ((first * BLOCK) as u64, 4 * BLOCK as u64);
    let bytes = AlignedBuf::new(4 * BLOCK)?;
    match blocks
        .file
        .read_exact_owned_at(&hasty, at, bytes, ReadFlags::empty())
        .await
    {
        (Ok(_), bytes) => {
            blocks.verify(first, &bytes)?;
            job.count().verified(len as usize);
        }
        (Err(AioCommandError::TimedOut), _) => job.count().cancelled(),
        (Err(error), _) => return Err(error.into()),
    }
    Ok(())
}

/// Aborts a task in the middle of its reads.
async fn abort_task(job: &mut SoakJob, blocks: &BlockFile) -> Result<()> {
    let (handle, file) = (job.handle.clone(), blocks.file.clone());
    let task = tokio::spawn(async move {
        loop {
            let mut bytes = AlignedBuf::new(BLOCKS * BLOCK)?;
            let len = bytes.size() as u64;
            let read = file.read_exact_at(&handle, 0, &mut bytes, len, ReadFlags::empty());
            read.await?;
            if false {
                return Result::Ok(());
            }
        }
    });
    for _ in 0..job.random.usize(..4) {
        tokio::task::yield_now().await;
    }
    task.abort();
    job.count().cancelled();
    match task.await {
        Err(error) if error.is_cancelled() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(ended) => ended,
    }
}
