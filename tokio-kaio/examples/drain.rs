//! Retries a write that has timed out, with other content. The kernel may still have the first write, which
//! could land over the second one, so the file is drained in between.
//!
//! ```sh
//! cargo run --release --example drain [DIRECTORY]
//! ```
//!
//! Creates its file in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! it at the end.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_kaio::{
    AioCommandError, AioContextHandle, AlignedBuf, Allocate, File, WriteFlags, aio_context,
};

const LEN: usize = 16 << 20;
/// Less than most disks take to make `LEN` bytes durable.
const TIMEOUT: Duration = Duration::from_millis(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = directory()?;
    let path = dir.path().join("table");
    let (context, handle) = aio_context(8, true)?;
    let file = File::create(&path, false).await?;
    file.allocate(Allocate::Extend, 0, LEN as u64).await?;

    let (mut first, mut second) = (AlignedBuf::new(LEN)?, AlignedBuf::new(LEN)?);
    first.fill(1);
    second.fill(2);
    let expected = match write_with_timeout(&handle, &file, &first).await {
        Ok(()) => {
            println!("written within {TIMEOUT:?}, so there was nothing to drain");
            1
        }
        Err(AioCommandError::TimedOut) => {
            retry(&handle, &file, &second).await?;
            2
        }
        Err(error) => return Err(error.into()),
    };

    let content = std::fs::read(&path)?;
    assert!(content.len() == LEN && content.iter().all(|&byte| byte == expected));
    println!("the file has the content of the last write, and nothing else");
    context.close().await;
    Ok(())
}

/// Writes all of `buffer`, or times out.
async fn write_with_timeout(
    handle: &AioContextHandle,
    file: &File,
    buffer: &AlignedBuf,
) -> Result<(), AioCommandError> {
    let limited = handle.with_timeout(TIMEOUT);
    let (len, flags) = (LEN as u64, WriteFlags::DSYNC);
    file.write_all_at(&limited, 0, buffer, len, flags).await
}

/// Writes to the place of a write that has timed out.
async fn retry(
    handle: &AioContextHandle,
    file: &File,
    buffer: &AlignedBuf,
) -> Result<(), AioCommandError> {
    let metrics = handle.metrics();
    println!(
        "timed out after {TIMEOUT:?}: {} in flight, {} of them abandoned",
        metrics.in_flight, metrics.abandoned_in_flight
    );
    let start = Instant::now();
    // `drain` has no deadline. If the disk can get stuck, put it into `tokio::time::timeout`, and leave
    // the place alone when that expires.
    file.drain(handle).await;
    let metrics = handle.metrics();
    assert_eq!((metrics.in_flight, metrics.abandoned_in_flight), (0, 0));
    println!("drained after {:?}", start.elapsed());
    let (len, flags) = (LEN as u64, WriteFlags::DSYNC);
    file.write_all_at(handle, 0, buffer, len, flags).await
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
