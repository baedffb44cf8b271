//! A write that is given up at its deadline and made once more, with other content. The kernel may
//! still have the first one, which would land over the second: before the place is written again, the
//! file is drained.
//!
//! ```sh
//! cargo run --release --example drain [DIRECTORY]
//! ```
//!
//! The file lies in `DIRECTORY`, else in `target` or, where there is none, in the current directory. It
//! is removed at the end.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_kaio::{
    AioCommandError, AioContextHandle, AlignedBuf, Allocate, File, WriteFlags, aio_context,
};

const LEN: usize = 16 << 20;
/// Less than most disks take to have so much durable.
const PATIENCE: Duration = Duration::from_millis(2);

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
    let expected = match write_hastily(&handle, &file, &first).await {
        Ok(()) => {
            println!("written within {PATIENCE:?}: a disk that is too fast, or no disk");
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
    println!("the file has what was written last, and nothing else");
    context.close().await;
    Ok(())
}

/// Writes all of `buffer`, or gives up.
async fn write_hastily(
    handle: &AioContextHandle,
    file: &File,
    buffer: &AlignedBuf,
) -> Result<(), AioCommandError> {
    let hasty = handle.with_timeout(PATIENCE);
    let (len, flags) = (LEN as u64, WriteFlags::DSYNC);
    file.write_all_at(&hasty, 0, buffer, len, flags).await
}

/// Writes to the place of a write that was given up.
async fn retry(
    handle: &AioContextHandle,
    file: &File,
    buffer: &AlignedBuf,
) -> Result<(), AioCommandError> {
    let metrics = handle.metrics();
    println!(
        "given up after {PATIENCE:?}: {} in flight, {} of it abandoned",
        metrics.in_flight, metrics.abandoned_in_flight
    );
    let start = Instant::now();
    // It has no deadline of its own. Where the disk may be stuck, put it into `tokio::time::timeout`,
    // and leave the place alone if that is over.
    file.drain(handle).await;
    let metrics = handle.metrics();
    assert_eq!((metrics.in_flight, metrics.abandoned_in_flight), (0, 0));
    println!("drained after {:?}", start.elapsed());
    let (len, flags) = (LEN as u64, WriteFlags::DSYNC);
    file.write_all_at(handle, 0, buffer, len, flags).await
}

/// Where the file goes: a directory of its own in the one that was given.
fn directory() -> Result<TempDir, Box<dyn Error>> {
    let default = if Path::new("target").is_dir() {
        "target"
    } else {
        "."
    };
    let place = env::args_os().nth(1).map_or(default.into(), PathBuf::from);
    tempfile::tempdir_in(&place).map_err(|error| format!("{}: {error}", place.display()).into())
}
