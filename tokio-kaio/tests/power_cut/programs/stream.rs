//! [`Program::Stream`](super::Program::Stream): records that a `FileWriter` appends to one file.

use std::path::Path;

use tokio::io::AsyncWriteExt;
use tokio_kaio::{AioContextHandle, AioOpenOptionsExt, File, ReadFlags, sync_dir};

use super::content::{content, operation_of, random};
use super::history::Oracle;
use super::log::Result;
use super::{Job, Omit};

/// Length and checksum of a record.
const HEADER: usize = 8;

fn record(job: &Job, operation: u64) -> Vec<u8> {
    let content = content(job.seed, operation, 6000);
    let mut record = (content.len() as u32).to_le_bytes().to_vec();
    record.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
    record.extend_from_slice(&content);
    record
}

pub async fn run(job: &Job, dir: &Path, handle: &AioContextHandle, oracle: &Oracle) -> Result<()> {
    let file = open(job, dir).await?;
    // What a crash has left behind the last whole record is cut off before anything is appended.
    let (_, end) = read(job, &file, handle).await?;
    if file.metadata().await?.len() > end {
        file.set_len(end).await?;
        file.sync_all(handle).await?;
    }
    let writer = file.writer(handle).with_offset(end);
    let mut writer = writer.with_chunk_size(8192).with_depth(3);
    let mut written = Vec::new();
    for index in 1..=job.operations {
        let operation = oracle.start(0);
        writer.write_all(&record(job, operation)).await?;
        written.push((operation, writer.position()));
        let choice = random(job.seed, operation, 1) % 5;
        if choice == 0 || index == job.operations {
            match job.omits(Omit::Sync) {
                true => writer.flush().await?,
                false => writer.sync().await?,
            }
            for (operation, end) in written.drain(..) {
                oracle.acknowledge(operation, end);
            }
        }
    }
    writer.finish().await?;
    Ok(())
}

async fn open(job: &Job, dir: &Path) -> Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true);
    let file = options.aio_open(dir.join("stream"), false).await?;
    if !job.omits(Omit::DirSync) {
        sync_dir(dir).await?;
    }
    Ok(file)
}

/// Reads the records of the file: each with the offset where it ends, and the end of the last one.
async fn read(
    job: &Job,
    file: &File,
    handle: &AioContextHandle,
) -> Result<(Vec<(u64, Vec<u8>)>, u64)> {
    let mut bytes = vec![0; file.metadata().await?.len() as usize];
    let read = file.read_bytes_at(handle, 0, &mut bytes, ReadFlags::empty());
    let read = read.await? as usize;
    bytes.truncate(read);
    let (mut records, mut end) = (Vec::new(), 0);
    while let Some(content) = content_at(job, &bytes[end..]) {
        end += HEADER + content.len();
        records.push((end as u64, content.to_vec()));
    }
    Ok((records, end as u64))
}

fn content_at<'a>(job: &Job, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let len = u32::from_le_bytes(*header.first_chunk()?) as usize;
    let content = rest.get(..len).filter(|content| !content.is_empty())?;
    let is_intact = crc32fast::hash(content).to_le_bytes() == header[4..];
    (is_intact || job.omits(Omit::Checksum)).then_some(content)
}

pub async fn check(
    job: &Job,
    dir: &Path,
    handle: &AioContextHandle,
    oracle: &Oracle,
) -> Result<()> {
    let file = open(job, dir).await?;
    let (records, end) = read(job, &file, handle).await?;
    let mut history = oracle.history();
    let last = history.durable().last_key_value();
    if let Some((operation, &place)) = last.filter(|&(_, &place)| place > end) {
        return Err(format!(
            "the record of operation {operation} ends at {place} and was synced; the last whole record \
             ends at {end}"
        )
        .into());
    }
    for (place, found) in records {
        let operation = operation_of(&found);
        let is_whole = |operation: &u64| found == content(job.seed, *operation, 6000);
        let Some(operation) = operation.filter(is_whole) else {
            return Err(format!("the record that ends at {place} has a wrong content").into());
        };
        if history.durable().get(&operation) != Some(&place) {
            history.found(operation, place)?;
        }
    }
    history.settle();
    Ok(())
}
