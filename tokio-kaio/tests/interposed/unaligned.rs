//! `File::read_bytes_at` and `write_bytes_at`: any offset, any length, any memory, on files for direct
//! I/O.

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::*;
use crate::interposer::{Gate, WatchedFile, poll_until_at_gate};
use futures::future::join_all;
use futures::poll;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;
use tokio::task::{JoinSet, yield_now};
use tokio_kaio::{
    AioCommandError, AioContextHandle, AioOpenOptionsExt, AlignedBuf, File, LockedBuf, ReadFlags,
    WriteFlags,
};

const NONE: WriteFlags = WriteFlags::empty();

/// Bytes that differ with `seed` and from one to the next.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pattern(seed.wrapping_add(1), &mut bytes);
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
fn any_range_up_to_the_end_of_a_file_can_be_read() {
    Fixture::new(4).everywhere().run(async |case| {
        let (dir, handle, mode) = (case.dir, case.handle, case.mode);
        let content = bytes(1, 3 * BLOCK + 700);
        let path = path_of(dir, "data");
        fs::write(&path, &content).unwrap();
        let file = File::open(&path, false).await.unwrap();
        let starts = [
            0, 1, 511, 512, 4095, 4096, 5000, 12_987, 12_988, 12_989, 20_000,
        ];
        for offset in starts.into_iter().chain([LEN * 1000 + 3]) {
            for len in [0, 1, 100, 511, 4096, 4097, 9000, 100_000] {
                let from = content.len().min(offset as usize);
                let to = content.len().min(offset as usize + len);
                let found = read(&handle, &file, offset, len).await;
                assert!(found == content[from..to], "{len} at {offset}, {mode:?}");
            }
        }
    });
}

#[test]
fn a_long_read_is_split_into_requests() {
    Fixture::new(4).every_dir().run(async |case| {
        let (path, handle) = (case.path, case.handle);
        let content = bytes(2, (3 << 20) + 12_345);
        fs::write(&path, &content).unwrap();
        let file = File::open(&path, false).await.unwrap();
        let before = handle.metrics().submitted;
        assert!(read(&handle, &file, 1001, 5 << 20).await == content[1001..]);
        let requests = handle.metrics().submitted - before;
        assert!((4..=8).contains(&requests), "{requests}");
    });
}

#[test]
fn a_dropped_read_leaves_old_bytes_or_new_ones() {
    Fixture::new(4)
        .every_mode()
        .multi_thread()
        .blocks(4)
        .run(async |case| {
            let (path, file, handle) = (case.path, case.file, case.handle);
            let content = fs::read(path.clone()).unwrap();
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
        });
}

// ---- Lengths ----------------------------------------------------------------------------------

#[test]
fn a_write_extends_a_file_to_its_end_and_no_further() {
    Fixture::new(4).everywhere().run(async |case| {
        let (dir, handle, mode) = (case.dir, case.handle, case.mode);
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
            let path = path_of(dir, &format!("{i}"));
            let mut content = bytes(3, start);
            fs::write(&path, &content).unwrap();
            let file = open_rw(dir, &format!("{i}")).await;
            let data = bytes(4, len);
            let written = file.write_bytes_at(&handle, offset as u64, &data, NONE);
            written.await.unwrap();
            content.resize(start.max(offset + len), 0);
            content[offset..][..len].copy_from_slice(&data);
            let found = fs::read(&path).unwrap();
            assert_eq!(found.len(), content.len(), "{len} at {offset} of {start}");
            assert!(found == content, "{len} at {offset} of {start}, {mode:?}");
            assert!(read(&handle, &file, 0, 1 << 22).await == content);
        }
    });
}

#[test]
fn a_growing_log_is_never_seen_longer_than_it_is() {
    for dir in test_dirs() {
        for mode in modes() {
            let path = path_of(&dir, &format!("{mode:?}"));
            fs::write(&path, []).unwrap();
            let (acknowledged, done) = (
                Arc::new(AtomicU64::new(0)),
                Arc::new(AtomicBool::new(false)),
            );
            let watch = std::thread::spawn({
                let (path, acknowledged, done) =
                    (path.clone(), Arc::clone(&acknowledged), Arc::clone(&done));
                move || {
                    let file = fs::File::open(path).unwrap();
                    while !done.load(Ordering::Relaxed) {
                        let len = file.metadata().unwrap().len();
                        let acknowledged = acknowledged.load(Ordering::SeqCst);
                        assert!(
                            len <= acknowledged,
                            "{len} bytes, of which {acknowledged} were written"
                        );
                    }
                }
            });
            current_thread().block_on(with_hang_guard(async {
                let (context, handle) = context_in(mode, 4);
                let mut options = OpenOptions::new();
                let log = options.read(true).write(true).aio_open(path.clone(), false);
                let log = log.await.unwrap();
                let mut content = Vec::new();
                let lengths = (0..200)
                    .map(|_| 1)
                    .chain((0..60).map(|i| 1 + i * 97 % 9000));
                for (i, len) in lengths.enumerate() {
                    let (record, end) = (bytes(i as u64, len), content.len() as u64);
                    acknowledged.store(end + len as u64, Ordering::SeqCst);
                    let written = log.write_bytes_at(&handle, end, &record, NONE);
                    written.await.unwrap();
                    content.extend(record);
                    assert_eq!(log.metadata().await.unwrap().len(), content.len() as u64);
                }
                assert!(fs::read(&path).unwrap() == content, "{mode:?}");
                context.close().await;
            }));
            done.store(true, Ordering::Relaxed);
            watch.join().unwrap();
        }
    }
}

// ---- Beside one another -----------------------------------------------------------------------

#[test]
fn two_writers_to_halves_of_one_block_lose_nothing() {
    const TIMES: u64 = 1000;
    for dir in test_dirs() {
        for (i, mode) in modes().enumerate() {
            let name = format!("{i}");
            write_patterned(&path_of(&dir, &name), 3);
            let before = fs::read(path_of(&dir, &name)).unwrap();
            let place = move |half: usize| BLOCK + half * 2000..BLOCK + (half + 1) * 2000;
            multi_thread().block_on(with_hang_guard(async {
                let (context, handle) = context_in(mode, 8);
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
                "{mode:?}"
            );
        }
    }
}

#[test]
fn writers_of_adjacent_records_change_only_their_own() {
    const RECORD: usize = 777;
    const WRITERS: usize = 40;
    for dir in test_dirs() {
        for (i, mode) in modes().enumerate() {
            let name = format!("{i}");
            // The last one goes past the end.
            let (start, end) = (1000, 1000 + WRITERS * RECORD);
            let margin = bytes(9, start);
            fs::write(path_of(&dir, &name), &margin).unwrap();
            multi_thread().block_on(with_hang_guard(async {
                let (context, handle) = context_in(mode, 8);
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

/// An extending write zeroes the rest of the last block in the page cache: that must not overlap a
/// direct write to the same block.
#[test]
fn an_extending_write_keeps_concurrent_writes_before_the_end() {
    for dir in test_dirs() {
        for (i, mode) in modes().enumerate() {
            let path = path_of(&dir, &format!("{i}"));
            fs::write(&path, []).unwrap();
            multi_thread().block_on(with_hang_guard(async {
                let (context, handle) = context_in(mode, 8);
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
                    assert!(
                        read(&handle, &file, 0, 60_000).await == expected,
                        "{mode:?}"
                    );
                }
                context.close().await;
            }));
        }
    }
}

#[test]
fn a_write_waits_only_for_a_dropped_write_to_the_same_block() {
    Fixture::new(8)
        .every_mode()
        .multi_thread()
        .blocks(4)
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let clone = file.try_clone().unwrap();
            let gate = Gate::closed();
            let block = bytes(1, BLOCK);
            {
                let write = file.write_bytes_at(&handle, gate.offset(), &block, NONE);
                let mut write = pin!(write);
                while gate.waiting().is_empty() {
                    assert!(poll!(&mut write).is_pending());
                    yield_now().await;
                }
            }
            let data = bytes(2, 10);
            let mut behind = pin!(clone.write_bytes_at(&handle, gate.offset() + 100, &data, NONE));
            let mut last = pin!(file.write_bytes_at(&handle, gate.offset() + 200, &data, NONE));
            for i in 0..10 {
                assert!(poll!(&mut behind).is_pending() && poll!(&mut last).is_pending());
                // During this write, the waiting ones could have been submitted.
                let apart = file.write_bytes_at(&handle, 100 + i, &data, NONE);
                apart.await.unwrap();
            }
            assert_eq!(gate.waiting().len(), 1, "{mode:?}");
            assert_eq!(handle.metrics().abandoned_in_flight, 1);
            gate.open();
            // No file is that long: their results are up to the kernel.
            let _ = (behind.await, last.await);
        });
}

#[test]
fn a_waiting_write_ends_at_its_deadline_and_blocks_nobody() {
    const SECOND: Duration = Duration::from_secs(1);
    Fixture::new(8)
        .blocks(4)
        .every_mode()
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let gate = Gate::closed();
            let (block, data) = (bytes(1, BLOCK), bytes(2, 10));
            let hasty = handle.with_timeout(SECOND);
            let first = file.write_bytes_at(&hasty, gate.offset(), &block, NONE);
            let mut first = Box::pin(first);
            poll_until_at_gate(&gate, &mut first).await;
            tokio::time::advance(2 * SECOND).await;
            assert!(matches!(first.await, Err(AioCommandError::TimedOut)));
            let second = file.write_bytes_at(&hasty, gate.offset() + 5, &data, NONE);
            let mut second = Box::pin(second);
            assert!(poll!(&mut second).is_pending());
            tokio::time::advance(2 * SECOND).await;
            assert!(matches!(second.await, Err(AioCommandError::TimedOut)));
            assert_eq!(gate.waiting().len(), 1, "{mode:?}");
            gate.open();
            file.write_bytes_at(&handle, 5, &data, NONE).await.unwrap();
        });
}

/// The second descriptor is opened on a thread of the blocking pool, which has none free.
#[test]
fn a_write_whose_file_can_not_be_reopened_in_time_ends_at_its_deadline() {
    Fixture::new(8)
        .every_mode()
        .runtime(one_blocking_thread)
        .run(async |case| {
            let (dir, handle, mode) = (case.dir, case.handle, case.mode);
            let file = open_rw(dir, &format!("{mode:?}")).await;
            // After this write, everything else about the file is known.
            let (block, data) = (bytes(1, BLOCK), bytes(2, 5));
            file.write_bytes_at(&handle, 0, &block, NONE).await.unwrap();
            let busy = occupy_blocking_thread().await;
            let hasty = handle.with_timeout(Duration::from_millis(20));
            let late = file.write_bytes_at(&hasty, LEN, &data, NONE).await;
            assert!(
                matches!(late, Err(AioCommandError::TimedOut)),
                "{mode:?}: {late:?}"
            );
            drop(busy);
            file.write_bytes_at(&handle, LEN, &data, NONE)
                .await
                .unwrap();
        });
}

#[test]
fn writes_that_wait_for_slots_and_for_each_other_all_complete() {
    Fixture::new(1).everywhere().run(async |case| {
        let (dir, handle, mode) = (case.dir, case.handle, case.mode);
        let file = open_rw(dir, &format!("{mode:?}")).await;
        let data: Vec<_> = (0..100).map(|i| bytes(i, 333)).collect();
        let writes = data
            .iter()
            .enumerate()
            .map(|(i, data)| file.write_bytes_at(&handle, i as u64 * 333, data, WriteFlags::DSYNC));
        for result in join_all(writes).await {
            result.unwrap();
        }
        assert!(read(&handle, &file, 0, 50_000).await == data.concat());
    });
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
        // A concurrent write elsewhere does not conflict, and this one has ended then.
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
            // Bytes past the old end are still missing, or zeroes before a later block.
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
fn random_operations_change_a_file_as_they_change_a_vector() {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    for dir in test_dirs() {
        for mode in modes() {
            let config = Config {
                cases: cases.unwrap_or(40),
                failure_persistence: None,
                ..Config::default()
            };
            let steps = proptest::collection::vec(step(), 1..30);
            let verdict = TestRunner::new(config).run(&steps, |steps| {
                let path = path_of(&dir, "data");
                fs::write(&path, []).unwrap();
                multi_thread().block_on(with_hang_guard(async {
                    let (context, handle) = context_in(mode, 4);
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
                    wait_all_free(&handle, 4).await;
                    context.close().await;
                }));
                Ok::<_, TestCaseError>(())
            });
            if let Err(failure) = verdict {
                panic!("{mode:?}: {failure}");
            }
        }
    }
}

#[test]
fn a_write_after_a_dropped_one_to_the_same_block_wins() {
    Fixture::new(8)
        .everywhere()
        .multi_thread()
        .content(bytes(0, 2 * BLOCK + 100))
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
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
                    "{round} {mode:?}"
                );
            }
        });
}

// ---- Flags and files --------------------------------------------------------------------------

#[test]
fn appends_of_any_length_land_whole_and_in_order() {
    for dir in test_dirs() {
        for (i, mode) in modes().enumerate() {
            for opened_so in [false, true] {
                let path = path_of(&dir, &format!("{i}{opened_so}"));
                fs::write(&path, b"head").unwrap();
                multi_thread().block_on(with_hang_guard(async {
                    let (context, handle) = context_in(mode, 8);
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
                    assert!(fs::read(&path).unwrap() == expected, "{mode:?}");
                    // One of several pieces.
                    let long = bytes(77, (2 << 20) + 7);
                    file.write_bytes_at(&handle, 0, &long, flags).await.unwrap();
                    let expected = [expected, long].concat();
                    assert!(fs::read(&path).unwrap() == expected, "{mode:?}");
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
fn the_direct_and_the_buffered_part_of_a_write_have_its_flags() {
    Fixture::new(4).everywhere().run(async |case| {
        let (file, handle, mode) = (case.file, case.handle, case.mode);
        file.write_bytes_at(&handle, 0, b"x", NONE).await.unwrap();
        let cached = page_cached(&file);
        for flag in [WriteFlags::DSYNC, WriteFlags::SYNC] {
            let (direct, rest) = (WatchedFile::new(&file), WatchedFile::new(&cached));
            let data = bytes(1, 2 * BLOCK + 5);
            file.write_bytes_at(&handle, 0, &data, flag).await.unwrap();
            let of = |watched: &WatchedFile| {
                let seen = watched.transfers().into_iter().filter(|seen| seen.writes);
                let ours = seen.map(|seen| {
                    let flag = seen.flags & flag.bits() as u32;
                    (seen.offset, seen.len, flag != 0)
                });
                ours.collect::<Vec<_>>()
            };
            assert_eq!(of(&direct), [(0, 2 * LEN, true)], "{mode:?}");
            assert_eq!(of(&rest), [(2 * LEN, 5, true)], "{mode:?}");
            drop((direct, rest));
            file.set_len(1).await.unwrap();
        }
    });
}

#[test]
fn a_short_write_is_resumed() {
    Fixture::new(4).everywhere().blocks(20).run(async |case| {
        let (path, file, handle, mode) = (case.path, case.file, case.handle, case.mode);
        let mut content = fs::read(&path).unwrap();
        let watched = WatchedFile::new(&file);
        for (offset, len) in [(100, 50), (5000, 9000), (1, 80_000), (70_000, 20_000)] {
            watched.shorten_to(BLOCK);
            let data = bytes(offset as u64, len);
            let written = file.write_bytes_at(&handle, offset as u64, &data, NONE);
            written.await.unwrap();
            content.resize(content.len().max(offset + len), 0);
            content[offset..][..len].copy_from_slice(&data);
            assert!(
                fs::read(&path).unwrap() == content,
                "{len} at {offset}, {mode:?}"
            );
            assert!(read(&handle, &file, offset as u64, len).await == data);
            assert!(read(&handle, &file, 7, 100_000).await == content[7..]);
            watched.shorten_to(usize::MAX);
        }
    });
}

#[test]
fn a_failed_write_changes_nothing_beyond_a_prefix_of_its_range() {
    for dir in test_dirs() {
        let path = path_of(&dir, "data");
        for mode in modes() {
            for good in [0, 1, 2, 4] {
                write_patterned(&path, 600);
                let before = fs::read(&path).unwrap();
                current_thread().block_on(with_hang_guard(async {
                    let (context, handle) = context_in(mode, 4);
                    let file = open_rw(&dir, "data").await;
                    file.alignment().await.unwrap();
                    let watched = WatchedFile::new(&file);
                    watched.fail_after(good);
                    let data = bytes(3, (2 << 20) + 70);
                    let written = file.write_bytes_at(&handle, 100, &data, NONE).await;
                    let found = fs::read(&path).unwrap();
                    let done = found[100..].iter().zip(&data).position(|(a, b)| a != b);
                    let done = 100 + done.unwrap_or(data.len());
                    match written {
                        Ok(()) => assert_eq!(done, 100 + data.len()),
                        Err(error) => {
                            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error}");
                            // The end of the change, or less if bytes were the same before.
                            assert!(found[done..] == before[done..], "{good} {mode:?}");
                        }
                    }
                    assert!(found[..100] == before[..100] && found.len() == before.len());
                    drop(watched);
                    // The next write is not blocked.
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
fn noappend_writes_at_its_offset() {
    Fixture::new(4).every_dir().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let path = path_of(dir, "log");
        fs::write(&path, bytes(1, 9000)).unwrap();
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
    });
}

#[test]
fn a_nowait_write_is_refused_or_done() {
    Fixture::new(4).everywhere().blocks(4).run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let before = fs::read(path.clone()).unwrap();
        for (offset, len) in [(100_usize, 50), (5000, 6000), (4 * BLOCK - 10, 20)] {
            let data = vec![7; len];
            let written = file.write_bytes_at(&handle, offset as u64, &data, WriteFlags::NOWAIT);
            if let Err(error) = written.await {
                let errno = error.raw_os_error();
                let refused = [Some(libc::EAGAIN), Some(libc::EOPNOTSUPP)];
                assert!(refused.contains(&errno), "{error}");
            }
            let found = fs::read(path.clone()).unwrap();
            let differ = |(i, (a, b)): (usize, (&u8, &u8))| (a != b).then_some(i);
            let changed = found.iter().zip(&before).enumerate().filter_map(differ);
            let ranges = [100..150, 5000..11_000, 4 * BLOCK - 10..4 * BLOCK + 10];
            for i in changed {
                assert!(ranges.iter().any(|range| range.contains(&i)), "{i}");
            }
        }
    });
}

#[test]
fn an_unaligned_atomic_write_is_refused_before_anything_is_written() {
    Fixture::new(4).blocks(2).run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let before = fs::read(path.clone()).unwrap();
        for (offset, len) in [(1, BLOCK), (0, BLOCK - 1), (0, 2 << 20)] {
            let data = vec![7; len];
            let refused = file.write_bytes_at(&handle, offset, &data, WriteFlags::ATOMIC);
            let text = refused.await.unwrap_err().to_string();
            assert!(
                text.contains("multiples") && text.contains(&format!("{len} bytes")),
                "{text}"
            );
        }
        assert!(fs::read(path.clone()).unwrap() == before);
        assert_eq!(handle.metrics().submitted, 0);
    });
}

#[test]
fn a_write_only_file_is_written_at_any_offset() {
    Fixture::new(4).everywhere().blocks(3).run(async |case| {
        let (path, handle) = (case.path, case.handle);
        let mut content = fs::read(path.clone()).unwrap();
        let mut options = OpenOptions::new();
        let opening = options.write(true).aio_open(path.clone(), false);
        let file = opening.await.unwrap();
        for (offset, len) in [(10, 10), (4000, 5000), (0, BLOCK), (3 * BLOCK - 5, 100)] {
            let data = bytes(5, len);
            file.write_bytes_at(&handle, offset as u64, &data, NONE)
                .await
                .unwrap();
            content.resize(content.len().max(offset + len), 0);
            content[offset..][..len].copy_from_slice(&data);
            assert!(fs::read(path.clone()).unwrap() == content, "{offset}");
        }
        let mut target = [0; 4];
        let unreadable = file.read_bytes_at(&handle, 3, &mut target, ReadFlags::empty());
        assert_eq!(
            unreadable.await.unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
    });
}

#[test]
fn a_read_only_file_can_not_be_written_unaligned() {
    Fixture::new(4)
        .every_dir()
        .content(b"short")
        .run(async |case| {
            let (path, handle) = (case.path, case.handle);
            let file = File::open(&path, false).await.unwrap();
            for flags in [NONE, WriteFlags::APPEND] {
                let refused = file.write_bytes_at(&handle, 1, b"xyz", flags).await;
                assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EBADF));
            }
            assert_eq!(fs::read(&path).unwrap(), b"short");
        });
}

#[test]
fn an_unlinked_synchronous_file_is_written_to_its_end() {
    Fixture::new(4).every_dir().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let file = options.aio_open(path_of(dir, "data"), true).await.unwrap();
        fs::remove_file(path_of(dir, "data")).unwrap();
        let data = bytes(1, 10_000);
        file.write_bytes_at(&handle, 0, &data, NONE).await.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), 10_000);
        assert!(read(&handle, &file, 0, 20_000).await == data);
    });
}

#[test]
fn a_buffered_file_takes_one_request_for_any_range() {
    Fixture::new(4).run(async |case| {
        let (path, handle) = (case.dir.path().join("journaled"), case.handle);
        if let Err(why) = journaled(&path) {
            return eprintln!("skipped: no file without direct I/O: {why}");
        }
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
    });
}

#[test]
fn impossible_ranges_are_refused() {
    Fixture::new(4).run(async |case| {
        let (file, handle) = (case.file, case.handle);
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
    });
}

#[test]
fn a_write_is_one_request_unless_blocks_must_be_read_first() {
    Fixture::new(4).blocks(8).run(async |case| {
        let (file, handle) = (case.file, case.handle);
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
        // Appending to a log: the end is found once, and then each write is one request.
        requests(8 * BLOCK, 5).await;
        for i in 1..5 {
            assert_eq!(requests(8 * BLOCK + 5 * i, 5).await, 1);
        }
    });
}

#[test]
fn a_write_on_an_ended_context_is_stopped_and_the_file_stays_usable() {
    let dir = disk_dir();
    for mode in modes() {
        multi_thread().block_on(with_hang_guard(async {
            let (context, handle) = context_in(mode, 4);
            write_patterned(&path_of(&dir, "data"), 2);
            let file = open_rw(&dir, "data").await;
            context.close().await;
            let refused = file.write_bytes_at(&handle, 10, b"ab", NONE).await;
            assert!(matches!(refused, Err(AioCommandError::AioStopped)));
            let (context, handle) = context_in(mode, 4);
            file.write_bytes_at(&handle, 10, b"ab", NONE).await.unwrap();
            assert_eq!(read(&handle, &file, 10, 2).await, b"ab");
            context.close().await;
        }));
    }
}

#[test]
fn aligned_operations_run_beside_unaligned_ones() {
    Fixture::new(8)
        .every_dir()
        .multi_thread()
        .blocks(4)
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
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
        });
}
