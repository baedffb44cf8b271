//! Measures random reads (the foreground) beside a compaction that reads and writes sequentially: alone,
//! without groups, with groups, and with a limit.
//!
//! ```sh
//! cargo run --release --example groups [DIRECTORY [SECONDS]]
//! ```
//!
//! Creates two files of 256 MiB in `DIRECTORY`, by default in `target` or else the current directory, and
//! removes them at the end. Each measurement takes `SECONDS`, 3 by default.

use std::env;
use std::error::Error;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, AioOpenOptionsExt, AlignedBuf, File,
    IoGroup, ReadFlags, WriteFlags,
};

const FILE: u64 = 256 << 20;
const BLOCK: u64 = 4096;
const CHUNK: u64 = 1 << 20;
const SLOTS: usize = 64;
const FOREGROUND_TASKS: usize = 4;
/// Reads and writes that the compaction keeps in flight.
const COMPACTION_TASKS: u64 = 32;

/// One way to run both.
struct Setting {
    name: &'static str,
    /// `None`: without groups.
    depth: Option<usize>,
    compaction: bool,
    /// Bytes per second. 0: no limit.
    limit: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = directory()?;
    let seconds = env::args()
        .nth(2)
        .map_or(Ok(3), |seconds| seconds.parse())?;
    let setup = AioContextBuilder::new(SLOTS).build()?;
    let table = filled(&setup.1, &dir.path().join("table")).await?;
    let run = filled(&setup.1, &dir.path().join("run")).await?;
    setup.0.close().await;

    let setting = |name, depth, compaction, limit| Setting {
        name,
        depth,
        compaction,
        limit,
    };
    println!(
        "{:34} {:>9} {:>9} {:>9} {:>12}",
        "", "reads/s", "p50 µs", "p99 µs", "compaction"
    );
    for setting in [
        setting("foreground alone", None, false, 0),
        setting("without groups", None, true, 0),
        setting("groups, depth 64 (all slots)", Some(SLOTS), true, 0),
        setting("groups, depth 8", Some(8), true, 0),
        setting("groups, depth 2", Some(2), true, 0),
        setting(
            "groups, depth 8, limit 100 MB/s",
            Some(8),
            true,
            100_000_000,
        ),
    ] {
        measure(&setting, &table, &run, Duration::from_secs(seconds)).await?;
    }
    Ok(())
}

/// Creates a file without holes, so that reads reach the disk.
async fn filled(handle: &AioContextHandle, path: &Path) -> Result<File, Box<dyn Error>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.aio_open(path.to_owned(), false).await?;
    let mut chunk = AlignedBuf::new(CHUNK as usize)?;
    chunk.fill(7);
    for offset in (0..FILE).step_by(CHUNK as usize) {
        file.write_all_at(handle, offset, &chunk, CHUNK, WriteFlags::empty())
            .await?;
    }
    file.sync_all(handle).await?;
    Ok(file)
}

async fn measure(
    setting: &Setting,
    table: &File,
    run: &File,
    time: Duration,
) -> Result<(), Box<dyn Error>> {
    let depth = setting.depth.unwrap_or(SLOTS);
    let (context, handle) = AioContextBuilder::new(SLOTS).group_depth(depth).build()?;
    let (mut foreground, mut background) = (handle.clone(), handle.clone());
    let queries = IoGroup::new("queries").with_weight(1000);
    let compaction = IoGroup::new("compaction").with_max_bandwidth(setting.limit);
    if setting.depth.is_some() {
        foreground = handle.with_group(&queries);
        background = handle.with_group(&compaction);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let moved = Arc::new(AtomicU64::new(0));
    let mut compacting = JoinSet::new();
    for task in 0..if setting.compaction {
        COMPACTION_TASKS
    } else {
        0
    } {
        let (from, to) = (run.clone(), table.clone());
        let (handle, stop, moved) = (background.clone(), Arc::clone(&stop), Arc::clone(&moved));
        compacting.spawn(async move { compact(&handle, [&from, &to], task, &stop, &moved).await });
    }
    let mut reading = JoinSet::new();
    let start = Instant::now();
    for _ in 0..FOREGROUND_TASKS {
        let (handle, table) = (foreground.clone(), table.clone());
        reading.spawn(async move { random_reads(&handle, &table, start + time).await });
    }
    let mut latencies = Vec::new();
    while let Some(read) = reading.join_next().await {
        latencies.extend(read??);
    }
    let rate = moved.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    compaction.set_max_bandwidth(0); // the last chunks need not wait
    while let Some(ended) = compacting.join_next().await {
        ended??;
    }
    context.close().await;
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_micros();
    println!(
        "{:34} {:9.0} {:9} {:9} {:7.0} MB/s",
        setting.name,
        latencies.len() as f64 / time.as_secs_f64(),
        percentile(50),
        percentile(99),
        rate / 1e6,
    );
    Ok(())
}

/// Reads a chunk, writes it to the same place of the other file, and so on.
async fn compact(
    handle: &AioContextHandle,
    [from, to]: [&File; 2],
    task: u64,
    stop: &AtomicBool,
    moved: &AtomicU64,
) -> Result<(), AioCommandError> {
    let mut chunk = buffer(CHUNK);
    let mut offset = task * CHUNK;
    while !stop.load(Ordering::Relaxed) {
        from.read_exact_at(handle, offset, &mut chunk, CHUNK, ReadFlags::empty())
            .await?;
        moved.fetch_add(CHUNK, Ordering::Relaxed);
        to.write_all_at(handle, offset, &chunk, CHUNK, WriteFlags::empty())
            .await?;
        moved.fetch_add(CHUNK, Ordering::Relaxed);
        offset = (offset + COMPACTION_TASKS * CHUNK) % FILE;
    }
    Ok(())
}

/// Reads random blocks, with pauses. Returns the latencies.
async fn random_reads(
    handle: &AioContextHandle,
    table: &File,
    end: Instant,
) -> Result<Vec<Duration>, AioCommandError> {
    let mut block = buffer(BLOCK);
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let offset = rand::rng().random_range(0..FILE / BLOCK) * BLOCK;
        let start = Instant::now();
        let read = table.read_at(handle, offset, &mut block, BLOCK, ReadFlags::empty());
        assert_eq!(read.await?, BLOCK);
        latencies.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(latencies)
}

fn buffer(size: u64) -> AlignedBuf {
    AlignedBuf::new(size as usize).expect("enough memory")
}

fn directory() -> Result<TempDir, Box<dyn Error>> {
    let target = Path::new("target");
    let default = if target.is_dir() {
        target
    } else {
        Path::new(".")
    };
    let parent = env::args_os()
        .nth(1)
        .map_or(default.to_owned(), PathBuf::from);
    Ok(tempfile::tempdir_in(parent)?)
}
