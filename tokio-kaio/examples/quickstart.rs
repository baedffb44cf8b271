//! Writes a file with kernel AIO, reads it back with 32 reads in flight, and checks every block.
//!
//! ```sh
//! cargo run --release --example quickstart [DIRECTORY]
//! ```
//!
//! Creates its file in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! it at the end.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use tokio::task::JoinSet;
use tokio_kaio::{AioContextHandle, File, LockedBuf, ReadFlags, WriteFlags, aio_context};

const SIZE: usize = 64 << 20;
const CHUNK: usize = 1 << 20; // one write
const BLOCK: usize = 4096; // one read
const DEPTH: usize = 32; // reads in flight

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let parent = directory();
    let dir = tempfile::tempdir_in(&parent)
        .map_err(|error| format!("can't write to {}: {error}", parent.display()))?;
    let path = dir.path().join("quickstart");
    println!("{} on {}", path.display(), file_system(dir.path()));

    // The context runs the operations of its handles, up to `DEPTH` requests at a time.
    let (context, handle) = aio_context(DEPTH, true)?;

    let started = Instant::now();
    write(&handle, &path).await?;
    report("wrote and synced", CHUNK, 1, started.elapsed());

    let started = Instant::now();
    read(&handle, &path).await?;
    report("read and checked", BLOCK, DEPTH, started.elapsed());
    println!(
        "all {} blocks have the content that was written",
        SIZE / BLOCK
    );

    context.close().await;
    Ok(())
}

/// Writes the file from front to back, then makes it durable.
async fn write(handle: &AioContextHandle, path: &Path) -> Result<()> {
    let file = File::create(path, false).await.map_err(no_direct_io)?;
    let mut buffer = LockedBuf::with_size(CHUNK)?;
    for at in (0..SIZE).step_by(CHUNK) {
        fill(buffer.as_mut(), at);
        let flags = WriteFlags::empty();
        let written = file
            .write_at(handle, at as u64, &buffer, CHUNK as u64, flags)
            .await?;
        if written != CHUNK as u64 {
            return Err(format!("only {written} of {CHUNK} bytes written at {at}").into());
        }
    }
    file.sync_all(handle).await?;
    Ok(())
}

/// Reads and checks every block, with 32 tasks that have one read each in flight.
async fn read(handle: &AioContextHandle, path: &Path) -> Result<()> {
    let file = Arc::new(File::open(path, false).await.map_err(no_direct_io)?);
    let mut tasks = JoinSet::new();
    for task in 0..DEPTH {
        let (file, handle) = (Arc::clone(&file), handle.clone());
        tasks.spawn(async move {
            let mut buffer = LockedBuf::with_size(BLOCK)?;
            let mut expected = vec![0; BLOCK];
            for at in (task * BLOCK..SIZE).step_by(DEPTH * BLOCK) {
                let flags = ReadFlags::empty();
                let read = file
                    .read_at(&handle, at as u64, &mut buffer, BLOCK as u64, flags)
                    .await?;
                fill(&mut expected, at);
                if read != BLOCK as u64 || buffer.as_ref() != expected {
                    return Err(format!(
                        "the block at {at} does not have the content that was written"
                    )
                    .into());
                }
            }
            Result::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Fills `bytes` with their offsets in the file, where they start at `at`.
fn fill(bytes: &mut [u8], at: usize) {
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&((at + 8 * i) as u64).to_le_bytes());
    }
}

fn report(what: &str, size: usize, depth: usize, took: Duration) {
    let (operations, seconds) = (SIZE / size, took.as_secs_f64());
    println!(
        "{what} {} MiB in {seconds:.3} s: {:.0} MiB/s, {:.0} IOPS ({} KiB each, depth {depth})",
        SIZE >> 20,
        (SIZE >> 20) as f64 / seconds,
        operations as f64 / seconds,
        size >> 10,
    );
}

/// Adds a hint where the file system has no direct I/O.
fn no_direct_io(error: io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::InvalidInput => {
            "\nNot every file system has direct I/O (tmpfs has it since Linux 6.6). \
             Pass a directory on another file system as the argument."
        }
        _ => "",
    };
    format!("can't open the file for direct I/O: {error}{hint}")
}

/// The directory for the file: the argument, by default `target`, else the current directory.
fn directory() -> PathBuf {
    let target = Path::new("target");
    let default = if target.is_dir() {
        target
    } else {
        Path::new(".")
    };
    env::args_os().nth(1).map_or(default.into(), PathBuf::from)
}

/// The type of the file system of `dir`.
fn file_system(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_default();
    let mounts = mounts.lines().map(|mount| mount.split(' ').skip(1));
    let mounts = mounts.filter_map(|mut mount| Some((mount.next()?, mount.next()?)));
    match mounts
        .filter(|(at, _)| dir.starts_with(at))
        .max_by_key(|(at, _)| at.len())
    {
        Some((_, "tmpfs")) => "tmpfs (memory: this does not measure a disk)".into(),
        Some((_, name)) => name.into(),
        None => "an unknown file system".into(),
    }
}
