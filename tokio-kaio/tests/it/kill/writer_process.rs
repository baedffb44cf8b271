//! The process that is killed: it writes all logs at the same time, and reports every record that is
//! acknowledged as durable.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_kaio::{
    AioContextBuilder, AioContextHandle, AioOpenOptionsExt, Backend, File, PublishMode,
    StagedFileBuilder, WriteFlags,
};

use super::log_records::{Log, Replay, record, replay};
use crate::common::{BLOCK, buffer, current_thread, multi_thread};

/// Set in the environment of the process: its directory, and how it is run.
const SETTINGS: [&str; 4] = [
    "KAIO_KILL_DIR",
    "KAIO_KILL_BACKEND",
    "KAIO_KILL_RUNTIME",
    "KAIO_KILL_FAULT",
];

/// The backends, by their position in the environment.
const BACKENDS: [Backend; 3] = [Backend::KernelAio, Backend::IoUring, Backend::ThreadPool];

/// How a process writes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WriterSettings {
    pub(super) dir: PathBuf,
    pub(super) backend: Backend,
    pub(super) is_multi_threaded: bool,
    /// Reports a record before it is written, which the test has to find.
    pub(super) acknowledges_too_early: bool,
}

impl WriterSettings {
    /// The settings that the parent has passed. `None` in any other process.
    pub(super) fn from_env() -> Option<WriterSettings> {
        let dir = env::var_os(SETTINGS[0])?;
        let number = |name| env::var(name).unwrap().parse::<usize>().unwrap();
        Some(WriterSettings {
            dir: dir.into(),
            backend: BACKENDS[number(SETTINGS[1])],
            is_multi_threaded: number(SETTINGS[2]) == 1,
            acknowledges_too_early: number(SETTINGS[3]) == 1,
        })
    }

    /// The environment that passes them.
    pub(super) fn as_env(&self) -> [(&'static str, String); 4] {
        let backend = BACKENDS.iter().position(|backend| *backend == self.backend);
        let values = [
            self.dir.to_str().unwrap().to_owned(),
            backend.unwrap().to_string(),
            u8::from(self.is_multi_threaded).to_string(),
            u8::from(self.acknowledges_too_early).to_string(),
        ];
        let mut values = values.into_iter();
        SETTINGS.map(|name| (name, values.next().unwrap()))
    }
}

/// Writes until it is killed. Fails on any error.
pub(super) fn write_until_killed(settings: &WriterSettings) {
    let runtime = match settings.is_multi_threaded {
        true => multi_thread(),
        false => current_thread(),
    };
    runtime.block_on(async {
        let builder = AioContextBuilder::new(16).backend(settings.backend);
        let (_context, handle) = builder.build().unwrap();
        let writer = LogWriter {
            handle,
            dir: settings.dir.clone(),
            reports: Arc::new(UnixStream::from(
                io::stdin().as_fd().try_clone_to_owned().unwrap(),
            )),
        };
        if settings.acknowledges_too_early {
            let end = writer.open(Log::Direct).await.1;
            writer.report(Log::Direct, end.last + 1);
            std::future::pending::<()>().await;
        }
        let mut logs = JoinSet::new();
        logs.spawn(writer.clone().write_direct());
        logs.spawn(writer.clone().commit_groups());
        logs.spawn(writer.clone().write_stream());
        logs.spawn(writer.replace_staged());
        logs.join_next().await.unwrap().unwrap();
    });
}

#[derive(Clone)]
struct LogWriter {
    handle: AioContextHandle,
    dir: PathBuf,
    reports: Arc<UnixStream>,
}

impl LogWriter {
    /// Reports that this record, and all before it, are durable.
    fn report(&self, log: Log, number: u64) {
        let mut report = [0; 9];
        report[0] = log as u8;
        report[1..].copy_from_slice(&number.to_le_bytes());
        (&*self.reports).write_all(&report).unwrap();
    }

    /// Opens a log, and cuts what follows its intact records.
    async fn open(&self, log: Log) -> (File, Replay) {
        let path = self.dir.join(log.file_name());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let file = options.aio_open(path.clone(), false).await.unwrap();
        lock(&file);
        let replay = replay(log, &fs::read(path).unwrap());
        file.set_len(replay.end as u64).await.unwrap();
        if log != Log::Stream {
            // Padding.
            let end = replay.end.next_multiple_of(BLOCK);
            file.set_len(end as u64).await.unwrap();
        }
        (file, replay)
    }

    async fn write_direct(self) {
        let (file, replay) = self.open(Log::Direct).await;
        let mut offset = replay.end.next_multiple_of(BLOCK) as u64;
        let mut in_flight = FuturesOrdered::new();
        for number in replay.last + 1.. {
            let pages = padded(&record(Log::Direct, number));
            let (file, handle, len) = (file.clone(), self.handle.clone(), pages.len() as u64);
            in_flight.push_back(async move {
                let mut bytes = buffer(pages.len());
                bytes.copy_from_slice(&pages);
                let written = file.write_all_at(&handle, offset, &bytes, len, WriteFlags::DSYNC);
                written.await.unwrap();
                number
            });
            offset += len;
            if in_flight.len() == 4 {
                // In order: after a gap, a record could not be found.
                self.report(Log::Direct, in_flight.next().await.unwrap());
            }
        }
    }

    async fn commit_groups(self) {
        let (file, replay) = self.open(Log::GroupCommit).await;
        let (entries, mut waiting) = mpsc::channel::<oneshot::Sender<u64>>(16);
        let mut appenders = JoinSet::new();
        for _ in 0..8 {
            let (writer, entries) = (self.clone(), entries.clone());
            appenders.spawn(async move {
                loop {
                    let (committed, number) = oneshot::channel();
                    entries.send(committed).await.unwrap();
                    writer.report(Log::GroupCommit, number.await.unwrap());
                }
            });
        }
        let mut next = replay.last + 1;
        let mut group = Vec::new();
        while waiting.recv_many(&mut group, 16).await > 0 {
            let numbers = next..next + group.len() as u64;
            next = numbers.end;
            let records = numbers
                .clone()
                .flat_map(|number| record(Log::GroupCommit, number));
            let pages = padded(&records.collect::<Vec<u8>>());
            let mut bytes = buffer(pages.len());
            bytes.copy_from_slice(&pages);
            let flags = WriteFlags::APPEND | WriteFlags::DSYNC;
            let write = file.write_at(&self.handle, 0, &bytes, pages.len() as u64, flags);
            assert_eq!(write.await.unwrap(), pages.len() as u64);
            for (committed, number) in group.drain(..).zip(numbers) {
                let _ = committed.send(number);
            }
        }
    }

    async fn write_stream(self) {
        let (file, replay) = self.open(Log::Stream).await;
        let writer = file.writer(&self.handle).with_offset(replay.end as u64);
        let mut writer = writer.with_chunk_size(4 * BLOCK).with_depth(4);
        for number in replay.last + 1.. {
            writer
                .write_all(&record(Log::Stream, number))
                .await
                .unwrap();
            if number % 5 == 0 {
                writer.sync().await.unwrap();
                self.report(Log::Stream, number);
            }
        }
    }

    async fn replace_staged(self) {
        let target = self.dir.join(Log::Staged.file_name());
        let last = fs::read(&target).ok().map_or(0, |content| {
            super::log_records::whole_record(Log::Staged, &content).unwrap()
        });
        for number in last + 1.. {
            let content = record(Log::Staged, number);
            // With a temporary name, and without one.
            let builder = StagedFileBuilder::new(&target)
                .sync(true)
                .named(number % 2 == 0);
            let staged = builder.create().await.unwrap();
            let mut writer = staged
                .file()
                .writer(&self.handle)
                .with_chunk_size(8 * BLOCK);
            writer.write_all(&content).await.unwrap();
            writer.finish().await.unwrap();
            staged.publish(PublishMode::Replace).await.unwrap();
            self.report(Log::Staged, number);
        }
    }
}

/// `bytes`, and zeroes up to a block.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut pages = bytes.to_vec();
    pages.resize(bytes.len().next_multiple_of(BLOCK), 0);
    pages
}

/// Waits until no other process writes to this file. A request in flight keeps the file, and so its lock:
/// those of a killed process may go on after its end.
pub(super) fn lock(file: &impl AsRawFd) {
    // SAFETY: an open descriptor, and a number.
    let code = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    assert_eq!(code, 0, "{}", io::Error::last_os_error());
}

/// What the file holds, after all writes to it.
pub(super) fn content_of(path: &Path) -> Vec<u8> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("{path:?}: {error}"),
    };
    lock(&file);
    fs::read(path).unwrap()
}
