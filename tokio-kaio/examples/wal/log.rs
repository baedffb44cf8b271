//! [`Log`]: an append-only log in segments, with group commit.
//!
//! A segment is a file of a fixed length that is named after its first record. Its blocks are allocated
//! when it is created, so that a commit changes no metadata. A commit is one write of whole pages that
//! completes when they are durable (`DSYNC`). Records may cross page boundaries, headers may not. The rest
//! of the last page of a commit is zero.
//!
//! A segment whose records are discarded is renamed and used again. It still has old records, so the
//! checksum of a record covers the name of its segment. Every [`Log::open`] starts a new segment: nothing
//! that a torn commit has left is ever followed by new records.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_kaio::{
    AioContextHandle, AioOpenOptionsExt, AlignedBuf, Allocate, File, ReadFlags, WriteFlags,
    read_dir, remove_file, rename, sync_dir,
};

/// The unit of commits in bytes.
pub(crate) const PAGE: usize = 4096;
/// Sequence number (8 bytes), length (4) and checksum (4) of a record.
pub(crate) const HEADER: usize = 16;
/// The most records in one commit.
const GROUP: usize = 1024;
/// The end of the name of a segment.
const SUFFIX: &str = ".log";

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Settings of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogOptions {
    /// The length of a segment in bytes, a multiple of [`PAGE`]. A record and its header fit in a segment.
    pub(crate) segment: usize,
    /// The step that is left out. `None` for a log that has to survive a power cut.
    pub(crate) omit: Option<Omit>,
}

/// A step without which a power cut loses records. Tests leave it out and have to find the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Omit {
    /// Commits and new segments are not made durable.
    Sync,
    /// A replay does not compare checksums.
    Checksum,
    /// The names of segments are not made durable.
    DirSync,
}

/// Appends records. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    entries: mpsc::Sender<Entry>,
    /// The longest record in bytes.
    longest: usize,
}

/// The content of a log when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Sequence number of the first record that the log still has.
    pub(crate) first: u64,
    /// That record and its successors, without a gap.
    pub(crate) records: Vec<Vec<u8>>,
}

impl Replay {
    /// Sequence number of the record that is appended next.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }
}

/// What a log has written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) commits: usize,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// Segments that were created.
    pub(crate) created: usize,
    /// Segments that were used again.
    pub(crate) reused: usize,
}

/// A message to the committer.
#[derive(Debug)]
enum Entry {
    Append {
        record: Vec<u8>,
        /// Gets the record's sequence number when the record is durable.
        committed: oneshot::Sender<u64>,
    },
    /// Records before this one are not needed any more.
    Discard { before: u64 },
}

impl Log {
    /// Opens the log in the directory `dir`, or begins one there, and replays it.
    ///
    /// The task ends when the log and its clones are dropped, or when a write fails. After a failed write
    /// the content on disk is unknown, so the log has to be opened and replayed again before further appends.
    ///
    /// # Errors
    ///
    /// Those of the file system. An error also if records between two segments are missing.
    pub(crate) async fn open(
        dir: &Path,
        handle: &AioContextHandle,
        options: LogOptions,
    ) -> Result<(Log, JoinHandle<Result<Counts>>, Replay)> {
        let (replay, closed) = replay(dir, handle, options).await?;
        let (entries, waiting) = mpsc::channel(GROUP);
        let committer = Committer {
            dir: dir.to_path_buf(),
            handle: handle.clone(),
            options,
            closed,
            current: None,
            kept: replay.first,
            next: replay.next(),
            buffer: AlignedBuf::new(options.segment.min(64 * PAGE))?,
            pages: Vec::new(),
            counts: Counts::default(),
        };
        let longest = options.segment.saturating_sub(HEADER);
        let committer = tokio::spawn(committer.run(waiting));
        Ok((Log { entries, longest }, committer, replay))
    }

    /// Appends a record and returns its sequence number when it is durable.
    ///
    /// If the future is dropped or fails, the record may or may not be in the log.
    pub(crate) async fn append(&self, record: Vec<u8>) -> Result<u64> {
        if record.len() > self.longest {
            let (len, longest) = (record.len(), self.longest);
            return Err(format!(
                "a record of {len} bytes does not fit in a segment: at most {longest}"
            )
            .into());
        }
        let (committed, done) = oneshot::channel();
        let entry = Entry::Append { record, committed };
        self.entries.send(entry).await.map_err(|_| STOPPED)?;
        Ok(done.await.map_err(|_| STOPPED)?)
    }

    /// Lets the log use the segments again that have only records before the record `before`.
    pub(crate) async fn discard(&self, before: u64) -> Result<()> {
        let entry = Entry::Discard { before };
        Ok(self.entries.send(entry).await.map_err(|_| STOPPED)?)
    }
}

const STOPPED: &str = "the log has stopped: a commit has failed";

/// Writes the log.
struct Committer {
    dir: PathBuf,
    handle: AioContextHandle,
    options: LogOptions,
    /// The first records of the segments before the current one, in order.
    closed: VecDeque<u64>,
    /// `None` until the first commit.
    current: Option<Segment>,
    /// Records before this one are not needed.
    kept: u64,
    /// Sequence number of the next record.
    next: u64,
    buffer: AlignedBuf,
    /// The pages of the next commit.
    pages: Vec<u8>,
    counts: Counts,
}

/// The segment that is written.
struct Segment {
    file: File,
    first: u64,
    /// Where the next commit begins.
    end: usize,
}

impl Committer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Entry>) -> Result<Counts> {
        let mut group = Vec::new();
        // While a commit is in flight, the next group collects in the channel.
        while waiting.recv_many(&mut group, GROUP).await > 0 {
            let mut uncommitted = Vec::new();
            for entry in group.drain(..) {
                match entry {
                    Entry::Append { record, committed } => {
                        self.add(&record, &mut uncommitted).await?;
                        uncommitted.push((self.next, committed));
                        self.next += 1;
                    }
                    Entry::Discard { before } => self.kept = self.kept.max(before),
                }
            }
            self.commit(&mut uncommitted).await?;
        }
        Ok(self.counts)
    }

    /// Adds a record to the next commit, after a commit of the others if the segment has no room for all.
    async fn add(
        &mut self,
        record: &[u8],
        uncommitted: &mut Vec<(u64, oneshot::Sender<u64>)>,
    ) -> Result<()> {
        let needed = |pages: &Vec<u8>| {
            let start = pages.len() + padding(pages.len());
            (start + HEADER + record.len()).next_multiple_of(PAGE)
        };
        let has_room = |this: &Committer| {
            let current = this.current.as_ref();
            current.is_some_and(|now| now.end + needed(&this.pages) <= this.options.segment)
        };
        if !has_room(self) {
            self.commit(uncommitted).await?;
        }
        if !has_room(self) {
            self.start_segment().await?;
        }
        let Some(current) = &self.current else {
            unreachable!("a segment was started")
        };
        frame(&mut self.pages, current.first, self.next, record);
        Ok(())
    }

    /// Writes the pages in one write. When they are durable, acknowledges their records. On failure they
    /// are dropped without an acknowledgement.
    async fn commit(&mut self, uncommitted: &mut Vec<(u64, oneshot::Sender<u64>)>) -> Result<()> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if self.pages.is_empty() {
            return Ok(());
        }
        self.pages
            .resize(self.pages.len().next_multiple_of(PAGE), 0);
        let len = self.pages.len();
        if len > self.buffer.size() {
            self.buffer = AlignedBuf::new(len.next_power_of_two())?;
        }
        self.buffer[..len].copy_from_slice(&self.pages);
        let flags = match self.options.omit {
            Some(Omit::Sync) => WriteFlags::empty(),
            _ => WriteFlags::DSYNC,
        };
        let (at, handle) = (current.end as u64, &self.handle);
        current
            .file
            .write_all_at(handle, at, &self.buffer, len as u64, flags)
            .await?;
        current.end += len;
        self.pages.clear();
        self.counts.commits += 1;
        self.counts.records += uncommitted.len();
        self.counts.bytes += len;
        for (sequence, committed) in uncommitted.drain(..) {
            let _ = committed.send(sequence); // the task may be gone
        }
        Ok(())
    }

    /// Starts the segment of the next record, in the file of a segment that is not needed, or in a new file.
    async fn start_segment(&mut self) -> Result<()> {
        self.closed
            .extend(self.current.take().map(|segment| segment.first));
        let path = segment_path(&self.dir, self.next);
        // One segment before the new one stays: its name says where the sequence numbers go on.
        let is_unused = self.closed.get(1).is_some_and(|&first| first <= self.kept);
        let file = match self.closed.front() {
            Some(&unused) if is_unused => {
                rename(segment_path(&self.dir, unused), &path).await?;
                self.closed.pop_front();
                self.counts.reused += 1;
                open_segment(&path).await?
            }
            _ => {
                self.counts.created += 1;
                self.create_segment(&path).await?
            }
        };
        if self.options.omit != Some(Omit::DirSync) {
            sync_dir(&self.dir).await?;
        }
        let first = self.next;
        self.current = Some(Segment {
            file,
            first,
            end: 0,
        });
        Ok(())
    }

    async fn create_segment(&self, path: &Path) -> Result<File> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let opened = options.aio_open(path.into(), false).await;
        let file = opened.map_err(|error| not_opened(path, &error))?;
        let len = self.options.segment as u64;
        match file.allocate(Allocate::Extend, 0, len).await {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => file.set_len(len).await?,
            allocated => allocated?,
        }
        if self.options.omit != Some(Omit::Sync) {
            // So that no commit has to make a length durable.
            file.sync_all(&self.handle).await?;
        }
        Ok(file)
    }
}

/// Reads all segments. Returns the records, and the first records of the segments that have some.
async fn replay(
    dir: &Path,
    handle: &AioContextHandle,
    options: LogOptions,
) -> Result<(Replay, VecDeque<u64>)> {
    let segments = segments(dir).await?;
    let mut replay = Replay {
        first: segments.first().copied().unwrap_or(1),
        records: Vec::new(),
    };
    let mut closed = VecDeque::new();
    let mut last = None;
    for (index, &first) in segments.iter().enumerate() {
        let next = replay.next();
        if first > next {
            let missing = first - 1;
            return Err(format!(
                "{}: the records {next} to {missing} of the log are missing",
                dir.display()
            )
            .into());
        }
        let path = segment_path(dir, first);
        let file = open_segment(&path).await?;
        let bytes = read(&file, handle).await?;
        let until = segments.get(index + 1).copied().unwrap_or(u64::MAX);
        let records = records(&bytes, first..until, options);
        if records.is_empty() {
            // A commit that was torn by a crash may have left records that must not come back.
            remove_file(&path).await?;
            continue;
        }
        replay.records.extend(records);
        closed.push_back(first);
        last = Some(file);
    }
    if options.omit != Some(Omit::Sync) {
        if let Some(file) = last {
            // If only the process has ended, its last commit may not be durable yet.
            file.sync_data(handle).await?;
        }
    }
    if options.omit != Some(Omit::DirSync) {
        sync_dir(dir).await?;
    }
    Ok((replay, closed))
}

/// The numbers of the segments in `dir`, in order.
async fn segments(dir: &Path) -> Result<Vec<u64>> {
    let mut segments = Vec::new();
    for name in read_dir(dir).await? {
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        segments.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The path of the segment whose first record has this number.
pub(crate) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}{SUFFIX}"))
}

async fn open_segment(path: &Path) -> Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true);
    let opened = options.aio_open(path.into(), false).await;
    opened.map_err(|error| not_opened(path, &error))
}

fn not_opened(path: &Path, error: &io::Error) -> Box<dyn Error + Send + Sync> {
    format!("can't open {} for direct I/O: {error}", path.display()).into()
}

/// Reads the whole file.
async fn read(file: &File, handle: &AioContextHandle) -> Result<Vec<u8>> {
    let len = file.metadata().await?.len() as usize;
    let mut buffer = AlignedBuf::new(len.next_multiple_of(PAGE).max(PAGE))?;
    let (size, flags) = (buffer.size() as u64, ReadFlags::empty());
    let read = file
        .read_full_at(handle, 0, &mut buffer, size, flags)
        .await?;
    Ok(buffer[..read as usize].to_vec())
}

/// How many bytes a header at `at` has to skip, so that it does not cross a page boundary.
fn padding(at: usize) -> usize {
    let left = PAGE - at % PAGE;
    if left < HEADER { left } else { 0 }
}

/// Appends a record of the segment `segment` to the pages of a commit.
pub(crate) fn frame(pages: &mut Vec<u8>, segment: u64, sequence: u64, record: &[u8]) {
    pages.resize(pages.len() + padding(pages.len()), 0);
    let len = record.len() as u32;
    pages.extend_from_slice(&sequence.to_le_bytes());
    pages.extend_from_slice(&len.to_le_bytes());
    pages.extend_from_slice(&checksum(segment, sequence, record).to_le_bytes());
    pages.extend_from_slice(record);
}

/// The records of a segment, at most those with these numbers: the first one and its intact successors.
fn records(bytes: &[u8], numbers: Range<u64>, options: LogOptions) -> Vec<Vec<u8>> {
    let (mut records, mut at) = (Vec::new(), 0);
    let segment = numbers.start;
    for sequence in numbers {
        let Some((end, record)) = record_at(bytes, at, segment, sequence, options) else {
            break;
        };
        records.push(record.to_vec());
        at = end;
    }
    records
}

/// The record after position `at` and where it ends, if it is intact and has this sequence number.
fn record_at(
    bytes: &[u8],
    at: usize,
    segment: u64,
    sequence: u64,
    options: LogOptions,
) -> Option<(usize, &[u8])> {
    let in_page = PAGE - at % PAGE;
    let no_number = in_page < PAGE && bytes.get(at..)?.starts_with(&[0; 8]); // sequence numbers start at 1
    let is_padding = in_page < HEADER || no_number;
    let start = if is_padding { at + in_page } else { at };
    let (header, rest) = bytes.get(start..)?.split_at_checked(HEADER)?;
    let len = u32::from_le_bytes(header[8..12].try_into().ok()?) as usize;
    let record = rest.get(..len)?;
    let is_intact = options.omit == Some(Omit::Checksum)
        || header[12..] == checksum(segment, sequence, record).to_le_bytes();
    (header[..8] == sequence.to_le_bytes() && is_intact).then_some((start + HEADER + len, record))
}

/// The checksum of a record, its sequence number, its length and the number of its segment.
fn checksum(segment: u64, sequence: u64, record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&segment.to_le_bytes());
    crc.update(&sequence.to_le_bytes());
    crc.update(&(record.len() as u32).to_le_bytes());
    crc.update(record);
    crc.finalize()
}
