//! Runs on kernel AIO where it is available, and on threads where a sandbox forbids it or other programs
//! have used up `fs.aio-max-nr`.
//!
//! ```sh
//! cargo run --release --example backends [DIRECTORY]
//! ```
//!
//! Creates its files in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! them at the end.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};

use tokio_kaio::{
    AioContextBuilder, AioContextHandle, AioOpenOptionsExt, Backend, LockedBuf, ReadFlags,
    WriteFlags,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let place = env::args_os().nth(1).map(PathBuf::from);
    let default = ["target", "."]
        .into_iter()
        .find(|dir| Path::new(dir).is_dir());
    let place = place.unwrap_or_else(|| default.unwrap_or(".").into());
    let dir = tempfile::tempdir_in(&place).map_err(|e| format!("{}: {e}", place.display()))?;

    // The first one that is available. io_uring also needs the feature `io-uring`.
    let (context, handle) = AioContextBuilder::new(64)
        .backends(&[Backend::IoUring, Backend::KernelAio, Backend::ThreadPool])
        .build()?;
    for refused in context.refused_backends() {
        println!("{refused}");
    }
    println!("requests run on {}", context.backend());
    round_trip(&handle, dir.path()).await?;
    context.close().await;

    // The same code runs on threads by choice.
    let (context, handle) = AioContextBuilder::new(64)
        .backend(Backend::ThreadPool)
        .blocking_threads(4)
        .build()?;
    round_trip(&handle, dir.path()).await?;
    context.close().await;
    Ok(())
}

/// Writes a block, makes it durable and reads it back.
async fn round_trip(handle: &AioContextHandle, dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true);
    let file = options.aio_open(dir.join("block"), false).await?;

    let mut buffer = LockedBuf::with_size(4096)?;
    buffer.as_mut().fill(7);
    file.write_at(handle, 0, &buffer, 4096, WriteFlags::DSYNC)
        .await?;
    buffer.as_mut().fill(0);
    file.read_at(handle, 0, &mut buffer, 4096, ReadFlags::empty())
        .await?;
    assert!(buffer.as_ref().iter().all(|&byte| byte == 7));

    let metrics = handle.metrics();
    println!(
        "{:?}: wrote a block and read it back in {} requests, {} of them from the blocking pool",
        handle.backend(),
        metrics.completed,
        metrics.offloads
    );
    Ok(())
}
