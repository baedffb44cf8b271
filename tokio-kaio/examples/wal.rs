//! An append-only log with group commit: many tasks append records, one committer writes all waiting
//! records with a single durable write, and a replay finds every acknowledged record.
//!
//! ```sh
//! cargo run --release --example wal [DIRECTORY]
//! ```
//!
//! Creates its file in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! it at the end.
//!
//! The log is a sequence of pages. A commit is one write of whole pages at the end of the file
//! (`APPEND`) that completes when they are durable (`DSYNC`). Records may cross page boundaries, headers
//! may not. The rest of the last page of a commit is zero.
//!
//! A production log would be split into segments, delete old ones, and allocate the blocks of a segment
//! ahead, because a write that extends a file blocks inside the submission on some file systems (ext4).

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_kaio::{AioContextHandle, AioOpenOptionsExt, File, LockedBuf, ReadFlags, WriteFlags};

const PAGE: usize = 4096;
/// Sequence number (8 bytes), length (4) and checksum (4) of a record.
const HEADER: usize = 16;
/// The most records in one commit.
const GROUP: usize = 1024;

const TASKS: u64 = 64;
const RECORDS: u64 = 100; // appended by each task

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

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
    let path = dir.path().join("log");
    let (context, handle) = tokio_kaio::aio_context(8, true)?;

    let acknowledged = append_concurrently(&path, &handle).await?;
    check(&path, &handle, &acknowledged).await?;
    survive_a_torn_commit(&path, &handle, acknowledged.len()).await?;

    context.close().await;
    Ok(())
}

/// Appends from many tasks at the same time. Returns the acknowledged records with their sequence
/// numbers.
async fn append_concurrently(
    path: &Path,
    handle: &AioContextHandle,
) -> Result<Vec<(u64, Vec<u8>)>> {
    let (log, committer, _) = open(path, handle).await?;
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
    path: &Path,
    handle: &AioContextHandle,
    acknowledged: &[(u64, Vec<u8>)],
) -> Result<()> {
    let (_log, _committer, replay) = open(path, handle).await?;
    for (sequence, record) in acknowledged {
        if replay.records.get(*sequence as usize - 1) != Some(record) {
            return Err(format!("record {sequence} was acknowledged and is missing").into());
        }
    }
    if replay.records.len() != acknowledged.len() || replay.torn {
        return Err("the log has records that were not acknowledged".into());
    }
    println!(
        "replay: records 1 to {} are intact, among them all {} acknowledged ones",
        replay.records.len(),
        acknowledged.len(),
    );
    Ok(())
}

/// Simulates a power failure in the middle of a commit. Opening the log finds and removes the torn tail,
/// and appends go on from there.
async fn survive_a_torn_commit(
    path: &Path,
    handle: &AioContextHandle,
    before: usize,
) -> Result<()> {
    let mut pages = Vec::new();
    frame(&mut pages, before as u64 + 1, b"is written in full");
    frame(&mut pages, before as u64 + 2, &[7; 3 * PAGE]);
    let mut file = fs::OpenOptions::new().append(true).open(path)?;
    file.write_all(&pages[..PAGE + 100])?;

    let (log, committer, replay) = open(path, handle).await?;
    println!(
        "after a torn commit of 2 records: {} records, torn tail {}",
        replay.records.len(),
        if replay.torn {
            "found and removed"
        } else {
            "not found"
        },
    );
    let sequence = log.append(b"the next one".to_vec()).await?;
    drop(log);
    committer.await??;

    let (_log, _committer, replay) = open(path, handle).await?;
    let whole = !replay.torn && replay.records.len() == before + 2;
    if !whole || replay.records.last().map(Vec::as_slice) != Some(b"the next one") {
        return Err("the log did not survive a torn commit".into());
    }
    println!("record {sequence} was appended after it, and replayed");
    Ok(())
}

/// Appends records. Cheap to clone.
#[derive(Clone)]
struct Log {
    entries: mpsc::Sender<Entry>,
}

/// A record on its way to the committer.
struct Entry {
    record: Vec<u8>,
    /// Gets the record's sequence number when the record is durable.
    committed: oneshot::Sender<u64>,
}

impl Log {
    /// Appends a record and returns its sequence number when it is durable.
    ///
    /// If the future is dropped or fails, the record may or may not be in the log.
    async fn append(&self, record: Vec<u8>) -> Result<u64> {
        let stopped = "the log has stopped: a commit has failed";
        if u32::try_from(record.len()).is_err() {
            return Err("a record of 4 GiB or more".into());
        }
        let (committed, done) = oneshot::channel();
        let entry = Entry { record, committed };
        self.entries.send(entry).await.map_err(|_| stopped)?;
        Ok(done.await.map_err(|_| stopped)?)
    }
}

/// Opens or creates the log at `path`, replays it and removes a torn tail. The committer ends when the
/// log and its clones are dropped, or when a write fails. After a failed write the content on disk is
/// unknown, so the log must be opened and replayed again before further appends.
async fn open(
    path: &Path,
    handle: &AioContextHandle,
) -> Result<(Log, JoinHandle<Result<Counts>>, Replay)> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true);
    let file = options
        .aio_open(path.into(), false)
        .await
        .map_err(|error| format!("can't open {} for direct I/O: {error}", path.display()))?;
    if let Some(dir) = path.parent() {
        let dir = tokio::fs::File::open(dir).await?;
        dir.sync_all().await?; // makes the log's name durable
    }
    let bytes = read(&file, handle).await?;
    let replay = replay(&bytes);
    let mut buffer = LockedBuf::with_size(64 * PAGE)?;
    if replay.torn {
        let (end, page) = (replay.end, replay.end / PAGE * PAGE);
        if end > page {
            // The rest of the page after the last intact record becomes padding.
            buffer.as_mut()[..end - page].copy_from_slice(&bytes[page..end]);
            write(&file, handle, page, &buffer, PAGE, WriteFlags::DSYNC).await?;
        }
        file.set_len(end.next_multiple_of(PAGE) as u64).await?;
        file.sync_all(handle).await?;
    }
    let (entries, waiting) = mpsc::channel(GROUP);
    let committer = Committer {
        file,
        handle: handle.clone(),
        buffer,
        pages: Vec::new(),
        next: replay.records.len() as u64 + 1,
    };
    Ok((
        Log { entries },
        tokio::spawn(committer.run(waiting)),
        replay,
    ))
}

/// Writes the log.
struct Committer {
    file: File,
    handle: AioContextHandle,
    buffer: LockedBuf,
    /// The pages of the next commit.
    pages: Vec<u8>,
    /// Sequence number of the next record.
    next: u64,
}

/// What a committer has written.
#[derive(Default)]
struct Counts {
    commits: usize,
    records: usize,
    bytes: usize,
}

impl Committer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Entry>) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut group = Vec::new();
        // While a commit is in flight, the next group collects in the channel.
        while waiting.recv_many(&mut group, GROUP).await > 0 {
            let first = self.next;
            self.commit(&group).await?; // on failure, the group is dropped unacknowledged
            counts.commits += 1;
            counts.records += group.len();
            counts.bytes += self.pages.len();
            for (sequence, entry) in (first..).zip(group.drain(..)) {
                let _ = entry.committed.send(sequence); // the task may be gone
            }
        }
        Ok(counts)
    }

    /// Writes all records of `group` in one write. They are durable when this returns.
    async fn commit(&mut self, group: &[Entry]) -> Result<()> {
        self.pages.clear();
        for entry in group {
            frame(&mut self.pages, self.next, &entry.record);
            self.next += 1;
        }
        self.pages
            .resize(self.pages.len().next_multiple_of(PAGE), 0);
        let len = self.pages.len();
        if len > self.buffer.size() {
            self.buffer = LockedBuf::with_size(len.next_power_of_two())?;
        }
        self.buffer.as_mut()[..len].copy_from_slice(&self.pages);
        let flags = WriteFlags::APPEND | WriteFlags::DSYNC;
        write(&self.file, &self.handle, 0, &self.buffer, len, flags).await
    }
}

/// Writes the first `len` bytes of `buffer` completely, or fails.
async fn write(
    file: &File,
    handle: &AioContextHandle,
    at: usize,
    buffer: &LockedBuf,
    len: usize,
    flags: WriteFlags,
) -> Result<()> {
    let written = file
        .write_at(handle, at as u64, buffer, len as u64, flags)
        .await?;
    if written != len as u64 {
        return Err(format!("only {written} of {len} bytes were written: disk full?").into());
    }
    Ok(())
}

/// Reads the whole file.
async fn read(file: &File, handle: &AioContextHandle) -> Result<Vec<u8>> {
    let mut buffer = LockedBuf::with_size(256 * PAGE)?;
    let size = buffer.size();
    let mut bytes = Vec::new();
    loop {
        let (at, flags) = (bytes.len() as u64, ReadFlags::empty());
        let read = file
            .read_at(handle, at, &mut buffer, size as u64, flags)
            .await? as usize;
        bytes.extend_from_slice(&buffer.as_ref()[..read]);
        if read < size {
            return Ok(bytes); // the end, at any offset after a torn commit
        }
    }
}

/// Appends a record to the pages of a commit.
fn frame(pages: &mut Vec<u8>, sequence: u64, record: &[u8]) {
    let left = PAGE - pages.len() % PAGE;
    if left < HEADER {
        pages.resize(pages.len() + left, 0);
    }
    let len = record.len() as u32;
    pages.extend_from_slice(&sequence.to_le_bytes());
    pages.extend_from_slice(&len.to_le_bytes());
    pages.extend_from_slice(&checksum(sequence, record).to_le_bytes());
    pages.extend_from_slice(record);
}

/// The content of a log.
#[derive(Default)]
struct Replay {
    /// Record 1 and the records that follow it without a gap.
    records: Vec<Vec<u8>>,
    /// Where the last record ends.
    end: usize,
    /// Whether anything but padding follows.
    torn: bool,
}

fn replay(bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    while let Some((end, record)) = record_at(bytes, replay.end, replay.records.len() as u64 + 1) {
        replay.records.push(record.to_vec());
        replay.end = end;
    }
    let (padding, full) = (&bytes[replay.end..], replay.end.next_multiple_of(PAGE));
    replay.torn = bytes.len() != full || padding.iter().any(|&byte| byte != 0);
    replay
}

/// The record after position `at` and where it ends, if it is intact and has this sequence number.
fn record_at(bytes: &[u8], at: usize, sequence: u64) -> Option<(usize, &[u8])> {
    let in_page = PAGE - at % PAGE;
    let no_number = in_page < PAGE && bytes.get(at..)?.starts_with(&[0; 8]); // sequence numbers start at 1
    let padding = in_page < HEADER || no_number;
    let start = if padding { at + in_page } else { at };
    let (header, rest) = bytes.get(start..)?.split_at_checked(HEADER)?;
    let len = u32::from_le_bytes(header[8..12].try_into().ok()?) as usize;
    let record = rest.get(..len)?;
    let intact = header[..8] == sequence.to_le_bytes()
        && header[12..] == checksum(sequence, record).to_le_bytes();
    intact.then_some((start + HEADER + len, record))
}

/// The checksum of a record, its sequence number and its length.
fn checksum(sequence: u64, record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&sequence.to_le_bytes());
    crc.update(&(record.len() as u32).to_le_bytes());
    crc.update(record);
    crc.finalize()
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
