//! Files that grow through `FileWriter`, and are read through `FileReader`.

use std::fs::OpenOptions;
use std::io::SeekFrom;

use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio_kaio::File;

use crate::soak_job::{BLOCK, Result, SoakJob};
use crate::verified_content::{content, verify};

/// From this length on, the file is truncated.
const MAX_LEN: u64 = 24 << 20;

pub(crate) async fn grow_and_read_a_file(mut job: SoakJob) -> Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let file = File::open_with(&options, job.dir.join("stream"), false).await?;
    let mut seed = job.random.u64(..);
    let mut len = 0;
    while job.goes_on() {
        len = append(&mut job, &file, seed, len).await?;
        read_from(&mut job, &file, seed, len).await?;
        if job.random.u8(..4) == 0 {
            drop_streams(&mut job, &file, seed, len).await?;
        }
        if len > MAX_LEN {
            file.set_len(0).await?;
            (seed, len) = (job.random.u64(..), 0);
        }
    }
    Ok(())
}

/// Appends up to 2 MiB. Returns the new length.
async fn append(job: &mut SoakJob, file: &File, seed: u64, len: u64) -> Result<u64> {
    let target = len + job.random.u64(1..2 << 20);
    let chunk = job.random.usize(1..64) * BLOCK;
    let mut writer = file
        .writer(&job.handle)
        .with_offset(len)
        .with_chunk_size(chunk);
    if job.random.bool() {
        writer = writer.with_depth(job.random.usize(1..8));
    }
    if job.random.u8(..4) == 0 {
        writer = writer.with_allocation(target - len);
    }
    let mut at = len;
    while at < target {
        let piece = job.random.u64(1..100_000).min(target - at);
        writer.write_all(&content(piece as usize, seed, at)).await?;
        job.count().done();
        at += piece;
        match job.random.u8(..16) {
            0 => writer.flush().await?,
            1 => writer.sync().await?,
            _ => {}
        }
    }
    match writer.finish().await? {
        end if end == target => Ok(target),
        end => Err(format!("a writer has ended at {end}, not at {target}").into()),
    }
}

/// Reads the file from a random offset to its end.
async fn read_from(job: &mut SoakJob, file: &File, seed: u64, len: u64) -> Result<()> {
    let mut reader = file
        .reader(&job.handle)
        .with_chunk_size(job.random.usize(1..64) * BLOCK);
    let mut at = job.random.u64(..len);
    reader.seek(SeekFrom::Start(at)).await?;
    let mut bytes = vec![0; job.random.usize(1..200_000)];
    loop {
        match reader.read(&mut bytes).await? {
            0 if at == len => return Ok(()),
            0 => return Err(format!("the file of {len} bytes has ended at {at}").into()),
            read => {
                verify(&bytes[..read], seed, at, "a stream")?;
                job.count().verified(read);
                at += read as u64;
            }
        }
    }
}

/// Drops a reader that reads ahead, and a writer with writes in flight that change nothing.
async fn drop_streams(job: &mut SoakJob, file: &File, seed: u64, len: u64) -> Result<()> {
    let mut reader = file
        .reader(&job.handle)
        .with_chunk_size(BLOCK)
        .with_depth(8);
    let mut bytes = vec![0; 1000.min(len as usize)];
    reader.read_exact(&mut bytes).await?;
    verify(&bytes, seed, 0, "a stream that is dropped")?;
    drop(reader);
    let blocks = len / BLOCK as u64 * BLOCK as u64;
    let mut writer = file.writer(&job.handle).with_chunk_size(BLOCK);
    let same = content(blocks.min(64 * BLOCK as u64) as usize, seed, 0);
    writer.write_all(&same).await?;
    drop(writer);
    job.count().cancelled();
    file.drain(&job.handle).await;
    Ok(())
}
