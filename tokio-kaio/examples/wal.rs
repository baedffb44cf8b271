//! An append-only log with group commit: many tasks append records, one committer writes all waiting
//! records with a single durable write, and a replay finds every acknowledged record.
//!
//! ```sh
//! cargo run --release --example wal [DIRECTORY]
//! ```
//!
//! Creates its files in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! them at the end. The log is in `wal/log.rs`. The example `power_cut` shows that it survives power cuts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs};

use tokio::task::JoinSet;
use tokio_kaio::AioContextHandle;

use self::log::{Log, LogOptions, PAGE, Result, frame, segment_path};

#[path = "wal/log.rs"]
mod log;

const TASKS: u64 = 64;
const RECORDS: u64 = 100; // appended by each task

const OPTIONS: LogOptions = LogOptions {
    segment: 4 << 20,
    omit: None,
};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wal: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let parent = directory();
    let dir = tempfile::tempdir_in(&parent)
        .map_err(|error| format!("can't write to {}: {error}", parent.display()))?;
    let (context, handle) = tokio_kaio::aio_context(8, true)?;

    let acknowledged = append_concurrently(dir.path(), &handle).await?;
    check(dir.path(), &handle, &acknowledged).await?;
    survive_a_torn_commit(dir.path(), &handle, acknowledged.len() as u64).await?;
    use_segments_again(dir.path(), &handle).await?;

    context.close().await;
    Ok(())
}

/// Appends from many tasks at the same time. Returns the acknowledged records with their sequence
/// numbers.
async fn append_concurrently(dir: &Path, handle: &AioContextHandle) -> Result<Vec<(u64, Vec<u8>)>> {
    let (log, committer, _) = Log::open(dir, handle, OPTIONS).await?;
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let log = log.clone();
        tasks.spawn(async move {
            let mut acknowledged = Vec::new();
            for i in 0..RECORDS {
                let record = some_record(task * RECORDS + i);
                acknowledged.push((log.append(record.clone()).await?, record));
            }
            Result::Ok(acknowledged)
        });
    }
    let appended = tasks.join_all().await;
    drop(log);
    let done = committer.await??; // has the error that made appends fail
    let appended: Result<Vec<_>> = appended.into_iter().collect();
    println!(
        "{TASKS} tasks appended {} records in {} commits, {:.1} records a commit: {} KiB in {:.3} s",
        done.records,
        done.commits,
        done.records as f64 / done.commits as f64,
        done.bytes >> 10,
        started.elapsed().as_secs_f64(),
    );
    Ok(appended?.concat())
}

/// Checks that the log has every acknowledged record under its number, and nothing else.
async fn check(
    dir: &Path,
    handle: &AioContextHandle,
    acknowledged: &[(u64, Vec<u8>)],
) -> Result<()> {
    let (_log, _committer, replay) = Log::open(dir, handle, OPTIONS).await?;
    for (sequence, record) in acknowledged {
        if replay.records.get(*sequence as usize - 1) != Some(record) {
            return Err(format!("record {sequence} was acknowledged and is missing").into());
        }
    }
    if replay.records.len() != acknowledged.len() {
        return Err("the log has records that were not acknowledged".into());
    }
    println!(
        "replay: records 1 to {} are intact, among them all {} acknowledged ones",
        replay.records.len(),
        acknowledged.len(),
    );
    Ok(())
}

/// Writes what a power cut in the middle of a commit leaves. The log removes it when it is opened, and
/// appends go on from there.
async fn survive_a_torn_commit(dir: &Path, handle: &AioContextHandle, before: u64) -> Result<()> {
    let mut pages = Vec::new();
    let segment = before + 1;
    frame(&mut pages, segment, before + 1, b"is written in full");
    frame(&mut pages, segment, before + 2, &[7; 3 * PAGE]);
    pages[PAGE + 100..].fill(0);
    pages.resize(OPTIONS.segment, 0);
    fs::write(segment_path(dir, segment), pages)?;

    let (log, committer, replay) = Log::open(dir, handle, OPTIONS).await?;
    let intact = replay.records.len() as u64 - before;
    println!("after a torn commit of 2 records: {intact} of them was written in full and is kept");
    let sequence = log.append(b"the next one".to_vec()).await?;
    drop(log);
    committer.await??;

    let (_log, _committer, replay) = Log::open(dir, handle, OPTIONS).await?;
    let is_whole = replay.records.len() as u64 == before + 2;
    if !is_whole || replay.records.last().map(Vec::as_slice) != Some(b"the next one") {
        return Err("the log did not survive a torn commit".into());
    }
    println!("record {sequence} was appended after it, and replayed");
    Ok(())
}

/// Discards old records while new ones are appended, so that the log does not grow.
async fn use_segments_again(dir: &Path, handle: &AioContextHandle) -> Result<()> {
    let (log, committer, replay) = Log::open(dir, handle, OPTIONS).await?;
    let mut sequence = replay.next();
    for i in 0..16 {
        log.discard(sequence).await?;
        sequence = log.append(vec![i; OPTIONS.segment / 2]).await?;
    }
    drop(log);
    let done = committer.await??;
    println!(
        "{} segments of {} MiB were created, and {} were used again",
        done.created,
        OPTIONS.segment >> 20,
        done.reused,
    );
    let (_log, _committer, replay) = Log::open(dir, handle, OPTIONS).await?;
    if replay.next() != sequence + 1 {
        return Err(format!("record {sequence} was acknowledged and is missing").into());
    }
    println!("the log has records {} to {sequence} now", replay.first);
    Ok(())
}

/// Record `i` of the example: 0 to 5,000 bytes.
fn some_record(i: u64) -> Vec<u8> {
    let noise = i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let len = i * 31 % 5001;
    noise.into_iter().cycle().take(len as usize).collect()
}

/// The directory for the log: the argument, by default `target`, else the current directory.
fn directory() -> PathBuf {
    let target = Path::new("target");
    let default = if target.is_dir() {
        target
    } else {
        Path::new(".")
    };
    env::args_os().nth(1).map_or(default.into(), PathBuf::from)
}
