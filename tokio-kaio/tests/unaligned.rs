//! `File::read_bytes_at` and `write_bytes_at`: any offset, any length, any memory, on files for direct
//! I/O.

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;
#[path = "common/interposed.rs"]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod interposed;

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{
    BLOCK, all_free, busy, context_by, everywhere, is_idle, on_disk, one_blocking_thread,
    one_thread, open_rw, two_workers, ways, within, write_patterned,
};
use futures::future::join_all;
use futures::poll;
use interposed::{Gate, Watched};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;
use tokio::task::{JoinSet, yield_now};
use tokio_kaio::{
    AioCommandError, AioContextHandle, AioOpenOptionsExt, AlignedBuf, File, LockedBuf, ReadFlags,
    WriteFlags, aio_context,
};

const LEN: u64 = BLOCK as u64;
const NONE: WriteFlags = WriteFlags::empty();

/// Bytes that differ with `seed` and from one to the next.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    common::pattern(seed.wrapping_add(1), &mut bytes);
    bytes
}

async fn read(handle: &AioContextHandle, file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut target = vec![0xee; len];
    let read = file.read_bytes_at(handle, offset, &mut target, ReadFlags::empty());
    let read = read.await.unwrap() as usize;
    target.truncate(read);
    target
}

fn path_of(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}

// ---- Reads ------------------------------------------------------------------------------------

#[test]
fn any_range_of_a_file_can_be_read_and_none_past_its_end() {
    for dir in everywhere() {
        let content = bytes(1, 3 * BLOCK + 700);
        let path = path_of(&dir, "data");
        fs::write(&path, &content).unwrap();
        for way in ways() {
            one_thread().block_on(within(async {
                let (context, handle) = context_by(way, 4);
                let file = File::open(&path, false).await.unwrap();
                let starts = [
                    0, 1, 511, 512, 4095, 4096, 5000, 12_987, 12_988, 12_989, 20_000,
                ];
                for offset in starts.into_iter().chain([LEN * 1000 + 3]) {
                    for len in [0, 1, 100, 511, 4096, 4097, 9000, 100_000] {
                        let from = content.len().min(offset as usize);
                        let to = content.len().min(offset as usize + len);
                        let found = read(&handle, &file, offset, len).await;
                        assert!(found == content[from..to], "{len} at {offset}, {way:?}");
                    }
                }
                context.close().await;
            }));
        }
    }
}

#[test]
fn a_long_read_goes_in_pieces() {
    for dir in everywhere() {
        let path = path_of(&dir, "data");
        let content = bytes(2, (3 << 20) + 12_345);
        fs::write(&path, &content).unwrap();
        one_thread().block_on(within(async {
            let (context, handle) = aio_context(4, true).unwrap();
            let file = File::open(&path, false).await.unwrap();
            let before = handle.metrics().submitted;
            assert!(read(&handle, &file, 1001, 5 << 20).await == content[1001..]);
            let requests = handle.metrics().submitted - before;
            assert!((4..=8).contains(&requests), "{requests}");
            context.close().await;
        }));
    }
}

#[test]
fn a_read_that_was_dropped_leaves_old_bytes_or_new_ones() {
    let dir = on_disk();
    write_patterned(&path_of(&dir, "data"), 4);
    let content = fs::read(path_of(&dir, "data")).unwrap();
    for way in ways() {
        two_workers().block_on(within(async {
            let (context, handle) = context_by(way, 4);
            let file = open_rw(&dir, "data").await;
            for polls in 0..20 {
                let mut target = vec![0xee; 9000];
                {
                    let read = file.read_bytes_at(&handle, 77, &mut target, ReadFlags::empty());
                    let mut read = pin!(read);
                    for _ in 0..polls {
                        if poll!(&mut read).is_ready() {
                            break;
                        }
                        yield_now().await;
                    }
                }
                let untouched = target.iter().all(|&byte| byte == 0xee);
                assert!(untouched || target == content[77..9077]);
            }
            is_idle(&handle, 4).await;
            context.close().await;
        }));
    }
}

// ---- Lengths ----------------------------------------------------------------------------------

#[test]
fn a_file_gets_as_long_as_what_is_written_and_no_longer() {
    for dir in everywhere() {
        for way in ways() {
            one_thread().block_on(within(async {
                let (context, handle) = context_by(way, 4);
                for (i, (start, offset, len)) in [
                    (0, 0, 1),
                    (0, 0, 4096),
                    (0, 0, 4097),
                    (0, 700, 5),
                    (0, 5000, 3000),
                    (0, 5000, 3192),
                    (100, 90, 20),
                    (100, 5000, 10_000),
                    (4096, 4096, 1),
                    (4096, 4095, 1),
                    (5000, 100, 20),
                    (5000, 4990, 20),
                    (5000, 4000, 20_000),
                    (10_000, 1, 8191),
                    (10_000, 8192, 1808),
                    (100, (1 << 20) - 3, 1 << 20),
                ]
                .into_iter()
                .enumerate()
                {
                    let path = path_of(&dir, &format!("{i}"));
                    let mut content = bytes(3, start);
                    fs::write(&path, &content).unwrap();
                    let file = open_rw(&dir, &format!("{i}")).await;
                    let data = bytes(4, len);
                    let written = file.write_bytes_at(&handle, offset as u64, &data, NONE);
                    written.await.unwrap();
                    content.resize(start.max(offset + len), 0);
                    content[offset..][..len].copy_from_slice(&data);
                    let found = fs::read(&path).unwrap();
                    assert_eq!(found.len(), content.len(), "{len} at {offset} of {start}");
                    assert!(found == content, "{len} at {offset} of {start}, {way:?}");
                    assert!(read(&handle, &file, 0, 1 << 22).await == content);
                }
                context.close().await;
            }));
        }
    }
}

#[test]
fn a_log_grows_by_any_records_and_is_never_seen_longer_than_it_is() {
    for dir in everywhere() {
        for way in ways() {
            let path = path_of(&dir, &format!("{way:?}"));
            fs::write(&path, []).unwrap();
            let (told, done) = (
                Arc::new(AtomicU64::new(0)),
                Arc::new(AtomicBool::new(false)),
            );
            let watch = std::thread::spawn({
                let (path, told, done) = (path.clone(), Arc::clone(&told), Arc::clone(&done));
                move || {
                    let file = fs::File::open(path).unwrap();
                    while !done.load(Ordering::Relaxed) {
                        let len = file.metadata().unwrap().len();
                        let told = told.load(Ordering::SeqCst);
                        assert!(len <= told, "{len} bytes, of which {told} were written");
                    }
                }
            });
            one_thread().block_on(within(async {
                let (context, handle) = context_by(way, 4);
                let mut options = OpenOptions::new();
                let log = options.read(true).write(true).aio_open(path.clone(), false);
                let log = log.await.unwrap();
                let mut content = Vec::new();
                let lengths = (0..200)
                    .map(|_| 1)
                    .chain((0..60).map(|i| 1 + i * 97 % 9000));
                for (i, len) in lengths.enumerate() {
                    let (record, end) = (bytes(i as u64, len), content.len() as u64);
                    told.store(end + len as u64, Ordering::SeqCst);
                    let written = log.write_bytes_at(&handle, end, &record, NONE);
                    written.await.unwrap();
                    content.extend(record);
                    assert_eq!(log.metadata().await.unwrap().len(), content.len() as u64);
                }
                assert!(fs::read(&path).unwrap() == content, "{way:?}");
                context.close().await;
            }));
            done.store(true, Ordering::Relaxed);
            watch.join().unwrap();
        }
    }
}

// ---- Beside one another -----------------------------------------------------------------------

#[test]
fn two_writers_of_the_halves_of_a_block_lose_nothing() {
    const TIMES: u64 = 1000;
    for dir in everywhere() {
        for (i, way) in ways().enumerate() {
            let name = format!("{i}");
            write_patterned(&path_of(&dir, &name), 3);
            let before = fs::read(path_of(&dir, &name)).unwrap();
            let place = move |half: usize| BLOCK + half * 2000..BLOCK + (half + 1) * 2000;
            two_workers().block_on(within(async {
                let (context, handle) = context_by(way, 8);
                let file = Arc::new(open_rw(&dir, &name).await);
                let mut tasks = JoinSet::new();
                for half in 0..2 {
                    let handle = handle.clone();
                    let file = file.try_clone().unwrap();
                    tasks.spawn(async move {
                        for i in 0..TIMES {
                            let data = bytes(i * 2 + half as u64, 2000);
                            let offset = place(half).start as u64;
                            let written = file.write_bytes_at(&handle, offset, &data, NONE);
                            written.await.unwrap();
                            if i % 16 == 0 {
                                assert!(read(&handle, &file, offset, 2000).await == data);
                            }
                        }
                    });
                }
                tasks.join_all().await;
                context.close().await;
            }));
            let mut expected = before;
            for half in 0..2 {
                let data = bytes((TIMES - 1) * 2 + half as u64, 2000);
                expected[place(half)].copy_from_slice(&data);
            }
            assert!(
                fs::read(path_of(&dir, &name)).unwrap() == expected,
                "{way:?}"
            );
        }
    }
}

#[test]
fn many_writers_of_neighbouring_records_change_their_own_alone() {
    const RECORD: usize = 777;
    const WRITERS: usize = 40;
    for dir in everywhere() {
        for (i, way) in ways().enumerate() {
            let name = format!("{i}");
            // The last one goes past the end.
            let (start, end) = (1000, 1000 + WRITERS * RECORD);
            let margin = bytes(9, start);
            fs::write(path_of(&dir, &name), &margin).unwrap();
            two_workers().block_on(within(async {
                let (context, handle) = context_by(way, 8);
                let file = Arc::new(open_rw(&dir, &name).await);
                let mut tasks = JoinSet::new();
                for writer in 0..WRITERS {
                    let (handle, file) = (handle.clone(), Arc::clone(&file));
                    tasks.spawn(async move {
                        for round in 0..10 {
                            let data = bytes((writer * 100 + round) as u64, RECORD);
                            let offset = (start + writer * RECORD) as u64;
                            let written = file.write_bytes_at(&handle, offset, &data, NONE);
                            written.await.unwrap();
                            assert!(read(&handle, &file, offset, RECORD).await == data);
                        }
                    });
                }
                tasks.join_all().await;
                context.close().await;
            }));
            let found = fs::read(path_of(&dir, &name)).unwrap();
            assert_eq!(found.len(), end);
            assert!(found[..start] == margin);
            for (writer, record) in found[start..].chunks(RECORD).enumerate() {
                assert!(
                    record == bytes((writer * 100 + 9) as u64, RECORD),
                    "{writer}"
                );
            }
        }
    }
}

/// Whoever makes a file longer has its last block zeroed behind its old end, in the page cache: that
/// must not meet a direct write to the same block.
#[test]
fn a_write_that_makes_the_file_longer_leaves_alone_what_is_written_before_its_end() {
    for dir in everywhere() {
        for (i, way) in ways().enumerate() {
            let path = path_of(&dir, &format!("{i}"));
            fs::write(&path, []).unwrap();
            two_workers().block_on(within(async {
                let (context, handle) = context_by(way, 8);
                let file = open_rw(&dir, &format!("{i}")).await;
                for round in 0..100 {
                    file.set_len(0).await.unwrap();
                    let start = bytes(round, 3000);
                    file.write_bytes_at(&handle, 0, &start, NONE).await.unwrap();
                    file.sync_all(&handle).await.unwrap();
                    let (inner, longer) = (bytes(round + 1, 1200), bytes(round + 2, 100));
                    let (a, b) = tokio::join!(
                        file.write_bytes_at(&handle, 100, &inner, NONE),
                        file.write_bytes_at(&handle, 50_000, &longer, NONE),
                    );
                    a.unwrap();
                    b.unwrap();
                    let mut expected = start;
                    expected.resize(50_100, 0);
                    expected[100..1300].copy_from_slice(&inner);
                    expected[50_000..].copy_from_slice(&longer);
                    file.sync_all(&handle).await.unwrap();
                    assert!(read(&handle, &file, 0, 60_000).await == expected, "{way:?}");
                }
                context.close().await;
            }));
        }
    }
}

#[test]
fn a_write_waits_for_one_that_was_dropped_in_flight_in_its_block_and_for_no_other() {
    let dir = on_disk();
    for way in ways() {
        two_workers().block_on(within(async {
            let (context, handle) = context_by(way, 8);
            write_patterned(&path_of(&dir, "data"), 4);
            let file = open_rw(&dir, "data").await;
            let clone = file.try_clone().unwrap();
            let gate = Gate::closed();
            let block = bytes(1, BLOCK);
            {
                let write = file.write_bytes_at(&handle, gate.offset(), &block, NONE);
                let mut write = pin!(write);
                while gate.held().is_empty() {
                    assert!(poll!(&mut write).is_pending());
                    yield_now().await;
                }
            }
            let data = bytes(2, 10);
            let mut behind = pin!(clone.write_bytes_at(&handle, gate.offset() + 100, &data, NONE));
            let mut last = pin!(file.write_bytes_at(&handle, gate.offset() + 200, &data, NONE));
            for i in 0..10 {
                assert!(poll!(&mut behind).is_pending() && poll!(&mut last).is_pending());
                // As long as this takes, they could have gone.
                let apart = file.write_bytes_at(&handle, 100 + i, &data, NONE);
                apart.await.unwrap();
            }
            assert_eq!(gate.held().len(), 1, "{way:?}");
            assert_eq!(handle.metrics().abandoned_in_flight, 1);
            gate.open();
            // No file is that long: what comes of them is the kernel's to say.
            let _ = (behind.await, last.await);
            is_idle(&handle, 8).await;
            context.close().await;
        }));
    }
}

#[test]
fn a_write_that_waits_ends_at_its_deadline_and_is_in_nobodys_way() {
    let dir = on_disk();
    for way in ways() {
        two_workers().block_on(within(async {
            let (context, handle) = context_by(way, 8);
            write_patterned(&path_of(&dir, "data"), 4);
            let file = open_rw(&dir, "data").await;
            let gate = Gate::closed();
            let (block, data) = (bytes(1, BLOCK), bytes(2, 10));
            let hasty = handle.with_timeout(Duration::from_millis(20));
            let first = file.write_bytes_at(&hasty, gate.offset(), &block, NONE);
            assert!(matches!(first.await, Err(AioCommandError::TimedOut)));
            let second = file.write_bytes_at(&hasty, gate.offset() + 5, &data, NONE);
            assert!(matches!(second.await, Err(AioCommandError::TimedOut)));
            assert_eq!(gate.held().len(), 1, "{way:?}");
            gate.open();
            file.write_bytes_at(&handle, 5, &data, NONE).await.unwrap();
            is_idle(&handle, 8).await;
            context.close().await;
        }));
    }
}

/// The second descriptor is opened on a thread of the blocking pool, and none is free.
#[test]
fn a_write_whose_file_can_not_be_opened_once_more_in_time_ends_at_its_deadline() {
    let dir = on_disk();
    for way in ways() {
        one_blocking_thread().block_on(within(async {
            let (context, handle) = context_by(way, 8);
            let file = open_rw(&dir, &format!("{way:?}")).await;
            // What else such writes have to know of their file is known after this one.
            let (block, data) = (bytes(1, BLOCK), bytes(2, 5));
            file.write_bytes_at(&handle, 0, &block, NONE).await.unwrap();
            let busy = busy().await;
            let hasty = handle.with_timeout(Duration::from_millis(20));
            let late = file.write_bytes_at(&hasty, LEN, &data, NONE).await;
            assert!(
                matches!(late, Err(AioCommandError::TimedOut)),
                "{way:?}: {late:?}"
            );
            drop(busy);
            file.write_bytes_at(&handle, LEN, &data, NONE)
                .await
                .unwrap();
            is_idle(&handle, 8).await;
            context.close().await;
        }));
    }
}

#[test]
fn writes_that_wait_for_slots_and_in_line_all_come_through() {
    for dir in everywhere() {
        for way in ways() {
            one_thread().block_on(within(async {
                let (context, handle) = context_by(way, 1);
                let file = open_rw(&dir, &format!("{way:?}")).await;
                let data: Vec<_> = (0..100).map(|i| bytes(i, 333)).collect();
                let writes = data.iter().enumerate().map(|(i, data)| {
                    file.write_bytes_at(&handle, i as u64 * 333, data, WriteFlags::DSYNC)
                });
                for result in join_all(writes).await {
                    result.unwrap();
                }
                assert!(read(&handle, &file, 0, 50_000).await == data.concat());
                is_idle(&handle, 1).await;
                context.close().await;
            }));
        }
    }
}

// ---- Against a model --------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: usize,
        len: usize,
        flags: WriteFlags,
        polls: Option<usize>,
    },
    Append {
        len: usize,
        polls: Option<usize>,
    },
    Read {
        offset: usize,
        len: usize,
    },
    SetLen {
        len: usize,
    },
    /// Whole blocks, as `write_at` does it.
    Aligned {
        block: usize,
        blocks: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || prop_oneof![4 => 0..5 * BLOCK, 1 => (0..6_usize).prop_map(|i| i * BLOCK)];
    let len = || prop_oneof![4 => 1..600_usize, 3 => 1..3 * BLOCK, 1 => Just(BLOCK)];
    let polls = || prop_oneof![2 => Just(None), 1 => (0..12_usize).prop_map(Some)];
    let flags =
        prop_oneof![3 => Just(NONE), 1 => Just(WriteFlags::DSYNC), 1 => Just(WriteFlags::SYNC)];
    prop_oneof![
        6 => (offset(), len(), flags, polls())
            .prop_map(|(offset, len, flags, polls)| Step::Write { offset, len, flags, polls }),
        2 => (len(), polls()).prop_map(|(len, polls)| Step::Append { len, polls }),
        3 => (offset(), 0..4 * BLOCK).prop_map(|(offset, len)| Step::Read { offset, len }),
        1 => offset().prop_map(|len| Step::SetLen { len }),
        1 => (0..5_usize, 1..3_usize).prop_map(|(block, blocks)| Step::Aligned { block, blocks }),
    ]
}

struct Model {
    path: PathBuf,
    file: File,
    handle: AioContextHandle,
    content: Vec<u8>,
    seed: u64,
}

impl Model {
    async fn step(&mut self, step: Step) {
        self.seed += 1;
        let seed = self.seed;
        match step {
            Step::Write {
                offset,
                len,
                flags,
                polls,
            } => {
                self.write(offset, bytes(seed, len), flags, polls).await;
            }
            Step::Append { len, polls } => {
                let end = self.content.len();
                self.write(end, bytes(seed, len), WriteFlags::APPEND, polls)
                    .await;
            }
            Step::Read { offset, len } => {
                let (from, to) = (offset, offset + len);
                let there = |at: usize| at.min(self.content.len());
                let found = read(&self.handle, &self.file, offset as u64, len).await;
                assert!(found == self.content[there(from)..there(to)]);
            }
            Step::SetLen { len } => {
                self.file.set_len(len as u64).await.unwrap();
                self.content.resize(len, 0);
            }
            Step::Aligned { block, blocks } => {
                let (at, len) = (block * BLOCK, blocks * BLOCK);
                let mut data = AlignedBuf::new(len).unwrap();
                data.copy_from_slice(&bytes(seed, len));
                let (handle, file) = (&self.handle, &self.file);
                let written = file.write_all_at(handle, at as u64, &data, len as u64, NONE);
                written.await.unwrap();
                self.has(at, &data);
            }
        }
        self.compare();
    }

    async fn write(&mut self, at: usize, data: Vec<u8>, flags: WriteFlags, polls: Option<usize>) {
        let (handle, file) = (&self.handle, &self.file);
        let offset = match flags.contains(WriteFlags::APPEND) {
            true => 12_345, // which is ignored
            false => at as u64,
        };
        let mut write = Box::pin(file.write_bytes_at(handle, offset, &data, flags));
        let Some(polls) = polls else {
            write.await.unwrap();
            return self.has(at, &data);
        };
        for _ in 0..polls {
            if let std::task::Poll::Ready(result) = poll!(&mut write) {
                result.unwrap();
                drop(write);
                return self.has(at, &data);
            }
            yield_now().await;
        }
        drop(write);
        // What another one writes meanwhile is in nobody's way, and this one is over then.
        file.drain(handle).await;
        self.look(at..at + data.len(), &data);
    }

    /// `data` has been written.
    fn has(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        self.content.resize(self.content.len().max(end), 0);
        self.content[at..end].copy_from_slice(data);
    }

    /// `data` may have been written, in part: each block of it, or none of the block.
    fn look(&mut self, range: Range<usize>, data: &[u8]) {
        const SECTOR: usize = 512;
        let found = fs::read(&self.path).unwrap();
        let longest = self.content.len().max(range.end);
        assert!((self.content.len()..=longest).contains(&found.len()));
        let mut at = range.start;
        while at < range.end.min(found.len()) {
            let end = (at / SECTOR + 1) * SECTOR;
            let (end, new) = (end.min(range.end), at - range.start);
            let new = &data[new..][..end - at];
            let is_new = found.len() >= end && &found[at..end] == new;
            let old = self.content.get(at..).unwrap_or_default();
            let old = &old[..old.len().min(end - at)];
            // What was not there is not there now, or is the zeroes before a block behind it.
            let there = &found[at..end.min(found.len())];
            let is_old = there.starts_with(old) && there[old.len()..].iter().all(|&byte| byte == 0);
            assert!(is_new || is_old, "{at}..{end}");
            if is_new {
                self.has(at, new);
            }
            at = end;
        }
        self.content.resize(found.len(), 0);
        self.compare();
    }

    fn compare(&self) {
        let found = fs::read(&self.path).unwrap();
        assert_eq!(found.len(), self.content.len(), "length of the file");
        let differs = found.iter().zip(&self.content).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first byte that differs");
    }
}

#[test]
fn random_ranges_leave_a_file_as_they_leave_bytes_in_memory() {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    for dir in everywhere() {
        for way in ways() {
            let config = Config {
                cases: cases.unwrap_or(40),
                failure_persistence: None,
                ..Config::default()
            };
            let steps = proptest::collection::vec(step(), 1..30);
            let verdict = TestRunner::new(config).run(&steps, |steps| {
                let path = path_of(&dir, "data");
                fs::write(&path, []).unwrap();
                two_workers().block_on(within(async {
                    let (context, handle) = context_by(way, 4);
                    let file = open_rw(&dir, "data").await;
                    let mut model = Model {
                        path,
                        file,
                        handle: handle.clone(),
                        content: Vec::new(),
                        seed: 0,
                    };
                    for step in steps {
                        model.step(step).await;
                    }
                    all_free(&handle, 4).await;
                    context.close().await;
                }));
                Ok::<_, TestCaseError>(())
            });
            if let Err(failure) = verdict {
                panic!("{way:?}: {failure}");
            }
        }
    }
}

#[test]
fn after_a_dropped_write_the_next_one_to_its_block_is_the_last() {
    for dir in everywhere() {
        for (i, way) in ways().enumerate() {
            let name = format!("{i}");
            fs::write(path_of(&dir, &name), bytes(0, 2 * BLOCK + 100)).unwrap();
            two_workers().block_on(within(async {
                let (context, handle) = context_by(way, 8);
                let file = open_rw(&dir, &name).await;
                for round in 0..300_u64 {
                    // In a block, over two, past the end.
                    let offset = [100, 3000, 2 * LEN + 90][round as usize % 3];
                    let (dropped, kept) = (bytes(round * 2, 2000), bytes(round * 2 + 1, 2000));
                    {
                        let write = file.write_bytes_at(&handle, offset, &dropped, NONE);
                        let mut write = pin!(write);
                        for _ in 0..round % 11 {
                            if poll!(&mut write).is_ready() {
                                break;
                            }
                            yield_now().await;
                        }
                    }
                    let write = file.write_bytes_at(&handle, offset, &kept, NONE);
                    write.await.unwrap();
                    file.drain(&handle).await;
                    assert!(
                        read(&handle, &file, offset, 2000).await == kept,
                        "{round} {way:?}"
                    );
                }
                is_idle(&handle, 8).await;
                context.close().await;
            }));
        }
    }
}

// ---- Flags and files --------------------------------------------------------------------------

#[test]
fn appends_of_any_length_are_whole_and_in_order_of_their_making() {
    for dir in everywhere() {
        for (i, way) in ways().enumerate() {
            for opened_so in [false, true] {
                let path = path_of(&dir, &format!("{i}{opened_so}"));
                fs::write(&path, b"head").unwrap();
                two_workers().block_on(within(async {
                    let (context, handle) = context_by(way, 8);
                    let mut options = OpenOptions::new();
                    options.read(true).append(opened_so).write(true);
                    let file = options.aio_open(path.clone(), false).await.unwrap();
                    let flags = match opened_so {
                        true => NONE,
                        false => WriteFlags::APPEND,
                    };
                    let data: Vec<_> = (0..60).map(|i| bytes(i, 1 + i as usize * 37)).collect();
                    let writes = data
                        .iter()
                        .map(|data| file.write_bytes_at(&handle, 1, data, flags));
                    for result in join_all(writes).await {
                        result.unwrap();
                    }
                    let expected = [b"head".as_slice(), &data.concat()].concat();
                    assert!(fs::read(&path).unwrap() == expected, "{way:?}");
                    // One of several pieces.
                    let long = bytes(77, (2 << 20) + 7);
                    file.write_bytes_at(&handle, 0, &long, flags).await.unwrap();
                    let expected = [expected, long].concat();
                    assert!(fs::read(&path).unwrap() == expected, "{way:?}");
                    context.close().await;
                }));
            }
        }
    }
}

/// The descriptor of the same file that goes through the page cache.
fn page_cached(file: &File) -> RawFd {
    let link = |fd: RawFd| fs::read_link(format!("/proc/self/fd/{fd}")).ok();
    let path = link(file.as_raw_fd()).unwrap();
    let all = fs::read_dir("/proc/self/fd").unwrap();
    let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut others = all.filter(|&fd| fd != file.as_raw_fd() && link(fd).as_ref() == Some(&path));
    others.next().unwrap()
}

#[test]
fn flags_of_a_write_are_those_of_its_direct_part_and_of_the_rest() {
    for dir in everywhere() {
        for (i, way) in ways().enumerate() {
            one_thread().block_on(within(async {
                let (context, handle) = context_by(way, 4);
                let file = open_rw(&dir, &format!("{i}")).await;
                file.write_bytes_at(&handle, 0, b"x", NONE).await.unwrap();
                let cached = page_cached(&file);
                for flag in [WriteFlags::DSYNC, WriteFlags::SYNC] {
                    let (direct, rest) = (Watched::file(&file), Watched::file(&cached));
                    let data = bytes(1, 2 * BLOCK + 5);
                    file.write_bytes_at(&handle, 0, &data, flag).await.unwrap();
                    let of = |watched: &Watched| {
                        let seen = watched.seen().into_iter().filter(|seen| seen.writes);
                        let ours = seen.map(|seen| {
                            let flag = seen.flags & flag.bits() as u32;
                            (seen.offset, seen.len, flag != 0)
                        });
                        ours.collect::<Vec<_>>()
                    };
                    assert_eq!(of(&direct), [(0, 2 * LEN, true)], "{way:?}");
                    assert_eq!(of(&rest), [(2 * LEN, 5, true)], "{way:?}");
                    drop((direct, rest));
                    file.set_len(1).await.unwrap();
                }
                context.close().await;
            }));
        }
    }
}

#[test]
fn what_comes_back_short_is_resumed() {
    for dir in everywhere() {
        let path = path_of(&dir, "data");
        for way in ways() {
            write_patterned(&path, 20);
            let mut content = fs::read(&path).unwrap();
            one_thread().block_on(within(async {
                let (context, handle) = context_by(way, 4);
                let file = open_rw(&dir, "data").await;
                let watched = Watched::file(&file);
                for (offset, len) in [(100, 50), (5000, 9000), (1, 80_000), (70_000, 20_000)] {
                    watched.cut_to(BLOCK);
                    let data = bytes(offset as u64, len);
                    let written = file.write_bytes_at(&handle, offset as u64, &data, NONE);
                    written.await.unwrap();
                    content.resize(content.len().max(offset + len), 0);
                    content[offset..][..len].copy_from_slice(&data);
                    assert!(
                        fs::read(&path).unwrap() == content,
                        "{len} at {offset}, {way:?}"
                    );
                    assert!(read(&handle, &file, offset as u64, len).await == data);
                    assert!(read(&handle, &file, 7, 100_000).await == content[7..]);
                    watched.cut_to(usize::MAX);
                }
                context.close().await;
            }));
        }
    }
}

#[test]
fn a_write_that_fails_has_written_the_beginning_and_changed_nothing_else() {
    for dir in everywhere() {
        let path = path_of(&dir, "data");
        for way in ways() {
            for good in [0, 1, 2, 4] {
                write_patterned(&path, 600);
                let before = fs::read(&path).unwrap();
                one_thread().block_on(within(async {
                    let (context, handle) = context_by(way, 4);
                    let file = open_rw(&dir, "data").await;
                    file.alignment().await.unwrap();
                    let watched = Watched::file(&file);
                    watched.refuse_after(good);
                    let data = bytes(3, (2 << 20) + 70);
                    let written = file.write_bytes_at(&handle, 100, &data, NONE).await;
                    let found = fs::read(&path).unwrap();
                    let done = found[100..].iter().zip(&data).position(|(a, b)| a != b);
                    let done = 100 + done.unwrap_or(data.len());
                    match written {
                        Ok(()) => assert_eq!(done, 100 + data.len()),
                        Err(error) => {
                            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error}");
                            // Where it got to, give or take a byte that was the same before.
                            assert!(found[done..] == before[done..], "{good} {way:?}");
                        }
                    }
                    assert!(found[..100] == before[..100] && found.len() == before.len());
                    drop(watched);
                    // Nobody is in the way of the next one.
                    file.write_bytes_at(&handle, 100, &data, NONE)
                        .await
                        .unwrap();
                    context.close().await;
                }));
            }
        }
    }
}

#[test]
fn noappend_writes_where_it_is_told_to() {
    for dir in everywhere() {
        let path = path_of(&dir, "log");
        fs::write(&path, bytes(1, 9000)).unwrap();
        one_thread().block_on(within(async {
            let (context, handle) = aio_context(4, true).unwrap();
            let mut options = OpenOptions::new();
            let log = options
                .read(true)
                .append(true)
                .aio_open(path.clone(), false);
            let log = log.await.unwrap();
            let mut content = fs::read(&path).unwrap();
            for (offset, len) in [(100, 10), (4000, 5100)] {
                let data = bytes(2, len);
                let flags = WriteFlags::NOAPPEND;
                match log
                    .write_bytes_at(&handle, offset as u64, &data, flags)
                    .await
                {
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        return eprintln!("skipped: the kernel does not know NOAPPEND");
                    }
                    result => result.unwrap(),
                }
                content.resize(content.len().max(offset + len), 0);
                content[offset..][..len].copy_from_slice(&data);
                assert!(fs::read(&path).unwrap() == content, "{len} at {offset}");
            }
            context.close().await;
        }));
    }
}

#[test]
fn nowait_is_refused_or_done_and_nothing_else_changes() {
    for dir in everywhere() {
        for way in ways() {
            one_thread().block_on(within(async {
                let (context, handle) = context_by(way, 4);
                write_patterned(&path_of(&dir, "data"), 4);
                let before = fs::read(path_of(&dir, "data")).unwrap();
                let file = open_rw(&dir, "data").await;
                for (offset, len) in [(100_usize, 50), (5000, 6000), (4 * BLOCK - 10, 20)] {
                    let data = vec![7; len];
                    let written =
                        file.write_bytes_at(&handle, offset as u64, &data, WriteFlags::NOWAIT);
                    if let Err(error) = written.await {
                        let errno = error.raw_os_error();
                        let refused = [Some(libc::EAGAIN), Some(libc::EOPNOTSUPP)];
                        assert!(refused.contains(&errno), "{error}");
                    }
                    let found = fs::read(path_of(&dir, "data")).unwrap();
                    let differ = |(i, (a, b)): (usize, (&u8, &u8))| (a != b).then_some(i);
                    let changed = found.iter().zip(&before).enumerate().filter_map(differ);
                    let ranges = [100..150, 5000..11_000, 4 * BLOCK - 10..4 * BLOCK + 10];
                    for i in changed {
                        assert!(ranges.iter().any(|range| range.contains(&i)), "{i}");
                    }
                }
                context.close().await;
            }));
        }
    }
}

#[test]
fn an_atomic_write_that_is_not_aligned_is_refused_before_anything_is_written() {
    let dir = on_disk();
    write_patterned(&path_of(&dir, "data"), 2);
    let before = fs::read(path_of(&dir, "data")).unwrap();
    one_thread().block_on(async {
        let (context, handle) = aio_context(4, true).unwrap();
        let file = open_rw(&dir, "data").await;
        for (offset, len) in [(1, BLOCK), (0, BLOCK - 1), (0, 2 << 20)] {
            let data = vec![7; len];
            let refused = file.write_bytes_at(&handle, offset, &data, WriteFlags::ATOMIC);
            let text = refused.await.unwrap_err().to_string();
            assert!(
                text.contains("multiples") && text.contains(&format!("{len} bytes")),
                "{text}"
            );
        }
        assert!(fs::read(path_of(&dir, "data")).unwrap() == before);
        assert_eq!(handle.metrics().submitted, 0);
        context.close().await;
    });
}

#[test]
fn a_file_for_writing_alone_is_written_at_any_offset() {
    for dir in everywhere() {
        for (i, way) in ways().enumerate() {
            let name = format!("{i}");
            write_patterned(&path_of(&dir, &name), 3);
            let mut content = fs::read(path_of(&dir, &name)).unwrap();
            one_thread().block_on(within(async {
                let (context, handle) = context_by(way, 4);
                let mut options = OpenOptions::new();
                let opening = options.write(true).aio_open(path_of(&dir, &name), false);
                let file = opening.await.unwrap();
                for (offset, len) in [(10, 10), (4000, 5000), (0, BLOCK), (3 * BLOCK - 5, 100)] {
                    let data = bytes(5, len);
                    file.write_bytes_at(&handle, offset as u64, &data, NONE)
                        .await
                        .unwrap();
                    content.resize(content.len().max(offset + len), 0);
                    content[offset..][..len].copy_from_slice(&data);
                    assert!(
                        fs::read(path_of(&dir, &name)).unwrap() == content,
                        "{offset}"
                    );
                }
                let mut target = [0; 4];
                let unreadable = file.read_bytes_at(&handle, 3, &mut target, ReadFlags::empty());
                assert_eq!(
                    unreadable.await.unwrap_err().raw_os_error(),
                    Some(libc::EBADF)
                );
                context.close().await;
            }));
        }
    }
}

#[test]
fn a_file_for_reading_alone_is_not_written_by_a_back_door() {
    for dir in everywhere() {
        let path = path_of(&dir, "data");
        fs::write(&path, b"short").unwrap();
        one_thread().block_on(within(async {
            let (context, handle) = aio_context(4, true).unwrap();
            let file = File::open(&path, false).await.unwrap();
            for flags in [NONE, WriteFlags::APPEND] {
                let refused = file.write_bytes_at(&handle, 1, b"xyz", flags).await;
                assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EBADF));
            }
            assert_eq!(fs::read(&path).unwrap(), b"short");
            context.close().await;
        }));
    }
}

#[test]
fn a_file_that_has_lost_its_name_and_a_synchronous_one_are_written_to_their_ends() {
    for dir in everywhere() {
        one_thread().block_on(within(async {
            let (context, handle) = aio_context(4, true).unwrap();
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true);
            let file = options.aio_open(path_of(&dir, "data"), true).await.unwrap();
            fs::remove_file(path_of(&dir, "data")).unwrap();
            let data = bytes(1, 10_000);
            file.write_bytes_at(&handle, 0, &data, NONE).await.unwrap();
            assert_eq!(file.metadata().await.unwrap().len(), 10_000);
            assert!(read(&handle, &file, 0, 20_000).await == data);
            context.close().await;
        }));
    }
}

#[test]
fn a_buffered_file_takes_one_request_for_any_range() {
    let dir = on_disk();
    let path = path_of(&dir, "data");
    if let Err(why) = common::journaled(&path) {
        return eprintln!("skipped: no file without direct I/O: {why}");
    }
    one_thread().block_on(within(async {
        let (context, handle) = aio_context(4, true).unwrap();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options
            .aio_open_or_buffered(path.clone(), false)
            .await
            .unwrap();
        assert!(!file.is_direct());
        file.write_bytes_at(&handle, 5, b"hello", NONE)
            .await
            .unwrap();
        assert_eq!(handle.metrics().submitted, 1);
        assert_eq!(fs::read(&path).unwrap(), b"\0\0\0\0\0hello");
        assert_eq!(read(&handle, &file, 7, 3).await, b"llo");
        assert_eq!(handle.metrics().submitted, 2);
        context.close().await;
    }));
}

#[test]
fn ranges_that_no_file_has_are_refused() {
    let dir = on_disk();
    one_thread().block_on(async {
        let (context, handle) = aio_context(4, true).unwrap();
        let file = open_rw(&dir, "data").await;
        for offset in [i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 1, u64::MAX] {
            let refused = file.write_bytes_at(&handle, offset, b"ab", NONE).await;
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));
            let mut target = [0; 2];
            let refused = file.read_bytes_at(&handle, offset, &mut target, ReadFlags::empty());
            assert_eq!(
                refused.await.unwrap_err().raw_os_error(),
                Some(libc::EINVAL)
            );
        }
        let nothing = file.write_bytes_at(&handle, 1 << 40, &[], NONE).await;
        nothing.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), 0);
        assert_eq!(handle.metrics().submitted, 0);
        context.close().await;
    });
}

#[test]
fn a_write_is_one_request_where_nothing_has_to_be_read() {
    let dir = on_disk();
    one_thread().block_on(within(async {
        let (context, handle) = aio_context(4, true).unwrap();
        write_patterned(&path_of(&dir, "data"), 8);
        let file = open_rw(&dir, "data").await;
        let requests = async |offset: usize, len: usize| {
            let before = handle.metrics().submitted;
            let data = vec![7; len];
            file.write_bytes_at(&handle, offset as u64, &data, NONE)
                .await
                .unwrap();
            handle.metrics().submitted - before
        };
        assert_eq!(requests(BLOCK, BLOCK).await, 1);
        assert_eq!(
            requests(BLOCK + 1, 2).await,
            2,
            "a block is read, and written"
        );
        assert_eq!(requests(BLOCK + 1, BLOCK).await, 2, "two are, together");
        // The log: its end is found once, and the page cache's ways of the kernel are.
        requests(8 * BLOCK, 5).await;
        for i in 1..5 {
            assert_eq!(requests(8 * BLOCK + 5 * i, 5).await, 1);
        }
        context.close().await;
    }));
}

#[test]
fn a_contexts_end_is_told_and_leaves_the_file_usable() {
    let dir = on_disk();
    for way in ways() {
        two_workers().block_on(within(async {
            let (context, handle) = context_by(way, 4);
            write_patterned(&path_of(&dir, "data"), 2);
            let file = open_rw(&dir, "data").await;
            context.close().await;
            let refused = file.write_bytes_at(&handle, 10, b"ab", NONE).await;
            assert!(matches!(refused, Err(AioCommandError::AioStopped)));
            let (context, handle) = context_by(way, 4);
            file.write_bytes_at(&handle, 10, b"ab", NONE).await.unwrap();
            assert_eq!(read(&handle, &file, 10, 2).await, b"ab");
            context.close().await;
        }));
    }
}

#[test]
fn aligned_operations_go_on_beside_them() {
    for dir in everywhere() {
        two_workers().block_on(within(async {
            let (context, handle) = aio_context(8, true).unwrap();
            write_patterned(&path_of(&dir, "data"), 4);
            let file = open_rw(&dir, "data").await;
            let mut block = LockedBuf::with_size(BLOCK).unwrap();
            for i in 0..100_u8 {
                block.as_mut().fill(i);
                let (data, flags) = (vec![i; 3000], ReadFlags::empty());
                let (unaligned, aligned) = tokio::join!(
                    file.write_bytes_at(&handle, 5000, &data, NONE),
                    file.write_at(&handle, 0, &block, LEN, NONE),
                );
                unaligned.unwrap();
                assert_eq!(aligned.unwrap(), LEN);
                assert_eq!(read(&handle, &file, 4090, 6).await, [i; 6]);
                file.read_at(&handle, LEN, &mut block, LEN, flags)
                    .await
                    .unwrap();
                let changed = 5000 - BLOCK..8000 - BLOCK;
                assert!(block.as_ref()[changed].iter().all(|&byte| byte == i));
            }
            context.close().await;
        }));
    }
}
