//! Copies a file through a `FileReader` and a `FileWriter`, makes the copy durable, and prints the metrics.
//!
//! ```sh
//! cargo run --release --example stream [SOURCE TARGET]
//! ```
//!
//! Without arguments it copies a file of 64 MiB in `target` or else the current directory, and removes both
//! files at the end.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio_kaio::{AioOpenOptionsExt, aio_context};

const LEN: u64 = (64 << 20) + 12_345; // not a multiple of a block

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    match paths.as_slice() {
        [source, target] => copy(source, target).await,
        [] => {
            let place = ["target", "."]
                .into_iter()
                .find(|dir| Path::new(dir).is_dir());
            let dir = tempfile::tempdir_in(place.unwrap_or("."))?;
            let (source, target) = (dir.path().join("source"), dir.path().join("target"));
            let bytes: Vec<u8> = (0..LEN).map(|at| (at % 251) as u8).collect();
            std::fs::write(&source, &bytes)?;
            copy(&source, &target).await?;
            assert!(std::fs::read(&target)? == bytes);
            Ok(())
        }
        _ => Err("usage: stream [SOURCE TARGET]".into()),
    }
}

async fn copy(source: &Path, target: &Path) -> Result<(), Box<dyn Error>> {
    let (context, handle) = aio_context(32, true)?;
    let mut options = std::fs::OpenOptions::new();
    let source = options
        .read(true)
        .aio_open_or_buffered(source.into(), false)
        .await?;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let target = options.aio_open_or_buffered(target.into(), false).await?;

    let start = Instant::now();
    let mut reader = source.reader(&handle);
    // The space is there before the first write, or the copy fails at once.
    let len = source.metadata().await?.len();
    let mut writer = target.writer(&handle).with_allocation(len);
    // Lends the reader's chunks to the writer: each byte is copied once.
    tokio::io::copy_buf(&mut reader, &mut writer).await?;
    writer.sync().await?;
    let end = writer.finish().await?;
    let seconds = start.elapsed().as_secs_f64();

    let metrics = handle.metrics();
    println!(
        "{end} bytes in {seconds:.3} s: {} requests, {} from the blocking pool, {} unfinished writers",
        metrics.completed, metrics.offloads, metrics.unfinished_writers
    );
    context.close().await;
    Ok(())
}
