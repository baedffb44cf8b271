//! Submits operations on two files in one system call, and awaits their results all together or one by
//! one as they complete.
//!
//! ```sh
//! cargo run --release --example batch [DIRECTORY]
//! ```
//!
//! Creates its files in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! them at the end.

use std::env;
use std::error::Error;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use tempfile::TempDir;
use tokio_kaio::{
    AioCommandError, AioContextHandle, AioOpenOptionsExt, AlignedBuf, Allocate, File, Metrics,
    RawCommand, ReadFlags, WriteFlags, aio_context,
};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16; // in each file

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = directory()?;
    let (context, handle) = aio_context(64, true)?;
    let (table, log) = (open(&dir, "table").await?, open(&dir, "log").await?);

    write_and_sync(&handle, &table, &log).await?;
    read_as_completed(&handle, &table, &log).await?;
    one_fails_alone(&handle, &table, &log).await?;

    context.close().await;
    Ok(())
}

/// Writes blocks to both files, then makes them durable. The operations of a batch run in any order, so
/// the syncs go into a second batch, after the writes have completed.
async fn write_and_sync(
    handle: &AioContextHandle,
    table: &File,
    log: &File,
) -> Result<(), Box<dyn Error>> {
    let blocks: Vec<_> = (0..BLOCKS).map(block).collect::<Result<_, _>>()?;
    let mut writes = handle.batch();
    for (index, buffer) in (0..).zip(&blocks) {
        writes.push(table, write(index * BLOCK, buffer));
        writes.push(log, write(index * BLOCK, buffer));
    }
    let before = handle.metrics();
    for written in writes.all().await {
        assert_eq!(written?, BLOCK);
    }
    report(handle, &before, "writes to");

    let mut syncs = handle.batch();
    syncs.push(table, RawCommand::Fdsync);
    syncs.push(log, RawCommand::Fdsync);
    let synced: Result<Vec<u64>, _> = syncs.all().await.into_iter().collect();
    assert_eq!(synced?, [0, 0]);
    println!("synced both files");
    Ok(())
}

/// Reads all blocks of both files and handles each result as soon as it is there.
async fn read_as_completed(
    handle: &AioContextHandle,
    table: &File,
    log: &File,
) -> Result<(), Box<dyn Error>> {
    let buffers = (0..2 * BLOCKS).map(|_| AlignedBuf::new(BLOCK as usize));
    let mut buffers: Vec<_> = buffers.collect::<Result<_, _>>()?;
    let mut reads = handle.batch();
    for (index, buffer) in (0..).zip(&mut buffers) {
        let file = if index < BLOCKS { table } else { log };
        reads.push(file, read(index % BLOCKS * BLOCK, buffer));
    }
    let before = handle.metrics();
    let mut results = reads.stream();
    let mut order = Vec::new();
    while let Some((index, read)) = results.next().await {
        assert_eq!(read?, BLOCK);
        order.push(index); // in the order of the pushes
    }
    report(handle, &before, "reads of");
    println!("completed in this order: {order:?}");
    drop(results); // it borrows the buffers
    order.sort_unstable();
    assert!(order.into_iter().eq(0..buffers.len()));
    for (index, buffer) in (0..).zip(&buffers) {
        assert_eq!(buffer[..], block(index % BLOCKS)?[..]);
    }
    Ok(())
}

/// A failed operation does not affect the others of its batch.
async fn one_fails_alone(
    handle: &AioContextHandle,
    table: &File,
    log: &File,
) -> Result<(), Box<dyn Error>> {
    let (last, beyond) = (block(BLOCKS - 1)?, block(BLOCKS)?);
    let mut batch = handle.batch();
    let fits = batch.push(table, write((BLOCKS - 1) * BLOCK, &last));
    let fails = batch.push(log, write(u64::MAX - BLOCK + 1, &beyond)); // past the largest offset
    let results = batch.all().await;
    assert!(matches!(results[fits], Ok(BLOCK)));
    match &results[fails] {
        Err(error @ AioCommandError::IoSubmit(_)) => println!("one of two writes failed: {error}"),
        other => panic!("a write at an impossible offset: {other:?}"),
    }
    Ok(())
}

fn write(offset: u64, buffer: &AlignedBuf) -> RawCommand<'_> {
    RawCommand::Pwrite {
        offset,
        buffer,
        flags: WriteFlags::empty(),
        len: BLOCK,
    }
}

fn read(offset: u64, buffer: &mut AlignedBuf) -> RawCommand<'_> {
    RawCommand::Pread {
        offset,
        buffer,
        flags: ReadFlags::empty(),
        len: BLOCK,
    }
}

/// Opens a file and allocates its blocks, so that no write blocks in its submission.
async fn open(dir: &TempDir, name: &str) -> Result<File, Box<dyn Error>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    let file = options.aio_open(dir.path().join(name), false).await?;
    file.allocate(Allocate::Extend, 0, BLOCKS * BLOCK).await?;
    Ok(file)
}

/// The content of block `index`.
fn block(index: u64) -> Result<AlignedBuf, Box<dyn Error>> {
    let mut buffer = AlignedBuf::new(BLOCK as usize)?;
    buffer.fill(index as u8 + 1);
    Ok(buffer)
}

/// Prints what happened since `before`. Requests that the kernel refuses with `NOWAIT`, because they would
/// block or because the file system does not know the flag (tmpfs), take further system calls.
fn report(handle: &AioContextHandle, before: &Metrics, what: &str) {
    let since = handle.metrics().since(before);
    println!(
        "{} {what} two files; system calls: {}, NOWAIT refusals: {}, offloaded: {}",
        since.completed, since.batches, since.nowait_refusals, since.offloads,
    );
}

/// A scratch directory in the one that was given. Removed when it is dropped.
fn directory() -> Result<TempDir, Box<dyn Error>> {
    let default = if Path::new("target").is_dir() {
        "target"
    } else {
        "."
    };
    let place = env::args_os().nth(1).map_or(default.into(), PathBuf::from);
    tempfile::tempdir_in(&place).map_err(|error| format!("{}: {error}", place.display()).into())
}
