//! Compares the submit policies on a file that grows. Each policy extends a file block by block, then
//! overwrites it. Meanwhile another task measures how long it waits for its turn.
//!
//! ```sh
//! cargo run --release --example policies [DIRECTORY]
//! ```
//!
//! Creates its files in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! them at the end.

use std::env;
use std::error::Error;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_kaio::{
    AioContextBuilder, AioContextHandle, AioOpenOptionsExt, File, LockedBuf, SubmitPolicy,
    WriteFlags,
};

const BLOCK: u64 = 64 * 1024;
const BLOCKS: u64 = 512;

// One thread, so that a submission that blocks it delays the other task too.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = directory()?;
    println!(
        "{} MiB in blocks of {} KiB, extending the file and then overwriting it, under each policy:",
        (BLOCK * BLOCKS) >> 20,
        BLOCK >> 10,
    );
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>13} {:>13}",
        "policy", "refusals", "offloads", "slow", "in io_submit", "longest wait"
    );
    for policy in [
        SubmitPolicy::Inline,
        SubmitPolicy::NoWaitFirst,
        SubmitPolicy::Offload,
    ] {
        let (context, handle) = AioContextBuilder::new(32).submit_policy(policy).build()?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.aio_open(dir.path().join("log"), false).await?;

        let done = Arc::new(AtomicBool::new(false));
        let other_task = tokio::spawn(longest_wait(Arc::clone(&done)));
        write_all(&handle, &file).await?; // each write extends the file
        write_all(&handle, &file).await?; // no write does
        done.store(true, Ordering::Relaxed);
        let longest_wait = other_task.await?;

        let metrics = handle.metrics();
        println!(
            "{:<12} {:>9} {:>9} {:>9} {:>13.2?} {:>13.2?}",
            format!("{policy:?}"),
            metrics.nowait_refusals,
            metrics.offloads,
            metrics.slow_submits,
            metrics.submit_time,
            longest_wait,
        );
        context.close().await;
    }
    Ok(())
}

async fn write_all(handle: &AioContextHandle, file: &File) -> Result<(), Box<dyn Error>> {
    let mut block = LockedBuf::with_size(BLOCK as usize)?;
    block.as_mut().fill(1);
    for i in 0..BLOCKS {
        let written = file.write_at(handle, i * BLOCK, &block, BLOCK, WriteFlags::empty());
        assert_eq!(written.await?, BLOCK);
    }
    Ok(())
}

/// The longest time between two turns of a task that is always ready.
async fn longest_wait(done: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let last = Instant::now();
        tokio::task::yield_now().await;
        longest = longest.max(last.elapsed());
    }
    longest
}

/// A scratch directory in the one that was given. Removed when it is dropped.
fn directory() -> Result<TempDir, Box<dyn Error>> {
    let place = env::args_os().nth(1).map(PathBuf::from);
    let default = ["target", "."]
        .into_iter()
        .find(|dir| Path::new(dir).is_dir());
    let place = place.unwrap_or_else(|| default.unwrap_or(".").into());
    tempfile::tempdir_in(&place).map_err(|error| format!("{}: {error}", place.display()).into())
}
