//! Random sequences of operations change a file as they change its twin, which the standard library
//! reads and writes.
//!
//! A dropped operation may or may not take place. Once no request is in flight any more, its range
//! must hold either the old or the new data, and the twin is adjusted.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::Write;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use crate::common::*;
use futures::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;
use tokio::runtime;
use tokio::task::yield_now;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextBuilder, AioContextHandle, Allocate, File, IoBuf,
    IoPriority, LockedBuf, RawCommand, ReadFlags, WriteFlags,
};

/// Blocks of the file in which reads and writes start.
const BLOCKS: usize = 12;
/// Blocks of the longest transfer.
const LONGEST: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Read {
        block: usize,
        blocks: usize,
        form: Form,
    },
    Write {
        block: usize,
        blocks: usize,
        form: Form,
        given_up: Option<GivenUp>,
    },
    /// At any offset, of any length.
    ReadBytes {
        offset: u64,
        len: usize,
    },
    WriteBytes {
        offset: u64,
        len: usize,
        given_up: Option<GivenUp>,
    },
    /// Zeroes a range within the file, or allocates blocks at its end.
    Allocate {
        block: usize,
        blocks: usize,
        mode: Allocate,
    },
    Append {
        blocks: usize,
        given_up: Option<GivenUp>,
    },
    /// A dropped operation without an effect on the file.
    LostRead {
        block: usize,
        given_up: GivenUp,
    },
    /// One write per block, all concurrently, then one read per block, all concurrently.
    Burst {
        block: usize,
        blocks: usize,
    },
    Truncate {
        len: u64,
    },
    Sync {
        data_only: bool,
    },
    /// Waits for dropped operations: until all slots are free, or by draining the file.
    Settle {
        drain: bool,
    },
    Reopen {
        dropped: bool,
    },
}

/// How a transfer is made.
#[derive(Clone, Copy, Debug)]
enum Form {
    Plain,
    Exact,
    /// To or from pieces of this many blocks, alternately from two buffers.
    Vectored {
        piece: usize,
    },
    Owned,
    OwnedExact,
    /// A range of a larger buffer.
    OwnedSlice,
    /// In pieces of this many blocks.
    OwnedVectored {
        piece: usize,
    },
    /// By itself in a batch.
    Batch,
}

fn form() -> impl Strategy<Value = Form> {
    let piece = 1..=LONGEST;
    prop_oneof![
        3 => Just(Form::Plain),
        1 => Just(Form::Exact),
        2 => piece.clone().prop_map(|piece| Form::Vectored { piece }),
        1 => Just(Form::Owned),
        1 => Just(Form::OwnedExact),
        1 => Just(Form::OwnedSlice),
        1 => piece.prop_map(|piece| Form::OwnedVectored { piece }),
        1 => Just(Form::Batch),
    ]
}

fn allocate() -> impl Strategy<Value = Allocate> {
    prop_oneof![
        Just(Allocate::Extend),
        Just(Allocate::KeepSize),
        Just(Allocate::PunchHole),
        Just(Allocate::ZeroRange),
    ]
}

/// When an operation is dropped or forgotten.
#[derive(Clone, Copy, Debug)]
struct GivenUp {
    /// After this many polls; it may be complete by then.
    polls: usize,
    forgotten: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let block = || 0..BLOCKS;
    let blocks = || 1..=LONGEST;
    let bytes = || 0..BLOCKS as u64 * LEN;
    let given_up =
        || (0..4_usize, any::<bool>()).prop_map(|(polls, forgotten)| GivenUp { polls, forgotten });
    let perhaps = || proptest::option::of(given_up());
    prop_oneof![
        6 => (block(), blocks(), form())
            .prop_map(|(block, blocks, form)| Step::Read { block, blocks, form }),
        10 => (block(), blocks(), form(), perhaps()).prop_map(|(block, blocks, form, given_up)| {
            Step::Write { block, blocks, form, given_up }
        }),
        3 => (bytes(), 0..LONGEST * BLOCK)
            .prop_map(|(offset, len)| Step::ReadBytes { offset, len }),
        5 => (bytes(), 0..LONGEST * BLOCK, perhaps())
            .prop_map(|(offset, len, given_up)| Step::WriteBytes { offset, len, given_up }),
        2 => (block(), blocks(), allocate())
            .prop_map(|(block, blocks, mode)| Step::Allocate { block, blocks, mode }),
        3 => (blocks(), perhaps())
            .prop_map(|(blocks, given_up)| Step::Append { blocks, given_up }),
        2 => (block(), given_up())
            .prop_map(|(block, given_up)| Step::LostRead { block, given_up }),
        2 => (block(), 1..=BLOCKS).prop_map(|(block, blocks)| Step::Burst { block, blocks }),
        2 => (0..=BLOCKS as u64).prop_map(|blocks| Step::Truncate { len: blocks * LEN }),
        // Where a file does not end at a block's end.
        1 => (0..=BLOCKS as u64 * LEN).prop_map(|len| Step::Truncate { len }),
        1 => any::<bool>().prop_map(|data_only| Step::Sync { data_only }),
        1 => any::<bool>().prop_map(|drain| Step::Settle { drain }),
        1 => any::<bool>().prop_map(|dropped| Step::Reopen { dropped }),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    mode: Mode,
    /// Operations have a priority, and a deadline that none should reach.
    options: bool,
    slots: usize,
    max_batch: usize,
    steps: Vec<Step>,
}

fn case() -> impl Strategy<Value = Case> {
    let steps = proptest::collection::vec(step(), 1..40);
    let all: Vec<_> = modes().collect();
    let mode = proptest::sample::select(all);
    let case = (mode, any::<bool>(), 1..=6_usize, 1..=8_usize, steps);
    case.prop_map(|(mode, options, slots, max_batch, steps)| Case {
        mode,
        options,
        slots,
        max_batch,
        steps,
    })
}

/// A dropped write.
struct Open {
    offset: usize,
    data: Vec<u8>,
    /// Whether the whole write is atomic. Otherwise each block of the disk is.
    whole: bool,
}

struct Model {
    case: Case,
    path: PathBuf,
    twin_path: PathBuf,
    twin: fs::File,
    file: File,
    context: Option<(AioContext, AioContextHandle)>,
    open: Vec<Open>,
    seed: u64,
}

impl Model {
    async fn new(dir: &TempDir, case: Case) -> Model {
        let (path, twin_path) = (dir.path().join("file"), dir.path().join("twin"));
        let _ = fs::remove_file(&path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let twin = options.open(&twin_path).unwrap();
        let file = open_rw(dir, "file").await;
        let context = Some(open(&case));
        Model {
            case,
            path,
            twin_path,
            twin,
            file,
            context,
            open: Vec::new(),
            seed: 0,
        }
    }

    fn handle(&self) -> AioContextHandle {
        self.context.as_ref().unwrap().1.clone()
    }

    fn data(&mut self, blocks: usize) -> LockedBuf {
        self.seed += 1;
        patterned_buffer(self.seed, blocks * BLOCK)
    }

    fn len(&self) -> u64 {
        self.twin.metadata().unwrap().len()
    }

    async fn step(&mut self, step: Step) {
        let handle = self.handle();
        match step {
            Step::Read {
                block,
                blocks,
                form,
            } => {
                self.settle_if(block, blocks).await;
                let (offset, size) = (block as u64 * LEN, blocks * BLOCK);
                let mut target = buffer(size);
                target.as_mut().fill(0xee);
                let mut expected = vec![0xee; size];
                let read;
                (read, target) = read_as(form, &self.file, &handle, offset, target).await;
                let twin = self.twin.read_at(&mut expected, offset).unwrap();
                assert_eq!(read, twin as u64, "bytes read at {offset}");
                assert!(
                    target.as_ref()[..twin] == expected[..twin],
                    "content at {offset}"
                );
            }
            Step::LostRead { block, given_up } => {
                let mut target = buffer(BLOCK);
                let offset = block as u64 * LEN;
                let read = self
                    .file
                    .read_at(&handle, offset, &mut target, LEN, ReadFlags::empty());
                if let Some(result) = give_up(read, given_up).await {
                    assert!(result.unwrap() <= LEN);
                }
            }
            Step::Write {
                block,
                blocks,
                form,
                given_up,
            } => {
                self.settle_if(block, blocks).await;
                let data = self.data(blocks);
                let (offset, len) = (block as u64 * LEN, data.size() as u64);
                let write = write_as(form, &self.file, &handle, offset, &data);
                let done = match given_up {
                    Some(how) => give_up(write, how).await,
                    None => Some(write.await),
                };
                match done {
                    Some(result) => {
                        assert_eq!(result.unwrap(), len, "bytes written at {offset}");
                        self.twin.write_all_at(data.as_ref(), offset).unwrap();
                    }
                    None => self.gave_up(block, data, given_up).await,
                }
            }
            Step::Append { blocks, given_up } => {
                self.settle().await;
                let end = self.len();
                if end % LEN != 0 {
                    return; // direct I/O can't append there
                }
                let data = self.data(blocks);
                let len = data.size() as u64;
                // The offset is to be ignored.
                let write = self
                    .file
                    .write_at(&handle, LEN, &data, len, WriteFlags::APPEND);
                let done = match given_up {
                    Some(how) => give_up(write, how).await,
                    None => Some(write.await),
                };
                match done {
                    Some(result) => {
                        assert_eq!(result.unwrap(), len, "bytes appended");
                        let mut twin = OpenOptions::new()
                            .append(true)
                            .open(&self.twin_path)
                            .unwrap();
                        twin.write_all(data.as_ref()).unwrap();
                    }
                    None => self.gave_up((end / LEN) as usize, data, given_up).await,
                }
            }
            Step::Burst { block, blocks } => {
                self.settle_if(block, blocks).await;
                let data: Vec<_> = (0..blocks).map(|_| self.data(1)).collect();
                let file = &self.file;
                let offset = |i: usize| (block + i) as u64 * LEN;
                let writes = data.iter().enumerate().map(|(i, data)| {
                    file.write_at(&handle, offset(i), data, LEN, WriteFlags::empty())
                });
                for (i, result) in join_all(writes).await.into_iter().enumerate() {
                    assert_eq!(result.unwrap(), LEN, "bytes written at {}", offset(i));
                    self.twin.write_all_at(data[i].as_ref(), offset(i)).unwrap();
                }
                let mut targets: Vec<_> = (0..blocks).map(|_| buffer(BLOCK)).collect();
                let reads = targets.iter_mut().enumerate().map(|(i, target)| {
                    file.read_at(&handle, offset(i), target, LEN, ReadFlags::empty())
                });
                for result in join_all(reads).await {
                    assert_eq!(result.unwrap(), LEN);
                }
                for (target, data) in targets.iter().zip(&data) {
                    assert!(target.as_ref() == data.as_ref());
                }
            }
            Step::Truncate { len } => {
                self.settle().await;
                self.file.set_len(len).await.unwrap();
                self.twin.set_len(len).unwrap();
                assert_eq!(self.file.metadata().await.unwrap().len(), len);
            }
            Step::ReadBytes { offset, len } => {
                self.settle().await;
                let mut target = vec![0xee; len];
                let mut expected = vec![0xee; len];
                let flags = ReadFlags::empty();
                let read = self.file.read_bytes_at(&handle, offset, &mut target, flags);
                let read = read.await.unwrap();
                let twin = self.twin.read_at(&mut expected, offset).unwrap();
                assert_eq!(read, twin as u64, "bytes read at {offset}");
                assert!(target == expected, "content at {offset}");
            }
            Step::WriteBytes {
                offset,
                len,
                given_up,
            } => {
                // The library keeps overlapping writes of the other kind apart from it.
                self.settle().await;
                let data = self.data(LONGEST)[..len].to_vec();
                let flags = WriteFlags::empty();
                let write = self.file.write_bytes_at(&handle, offset, &data, flags);
                let done = match given_up {
                    Some(how) if !how.forgotten => give_up(write, how).await,
                    _ => Some(write.await),
                };
                match done {
                    Some(result) => {
                        result.unwrap();
                        self.twin.write_all_at(&data, offset).unwrap();
                    }
                    None => {
                        self.open.push(Open {
                            offset: offset as usize,
                            data,
                            whole: false,
                        });
                        self.file.drain(&handle).await;
                        self.look();
                    }
                }
            }
            Step::Allocate {
                block,
                blocks,
                mode,
            } => {
                self.settle().await;
                let (offset, len) = (block as u64 * LEN, blocks as u64 * LEN);
                match self.file.allocate(mode, offset, len).await {
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
                    allocated => allocated.unwrap(),
                }
                let extends = matches!(mode, Allocate::Extend | Allocate::ZeroRange);
                if extends && self.len() < offset + len {
                    self.twin.set_len(offset + len).unwrap();
                }
                if matches!(mode, Allocate::PunchHole | Allocate::ZeroRange) {
                    let end = self.len().min(offset + len);
                    let zeroes = vec![0; end.saturating_sub(offset) as usize];
                    self.twin.write_all_at(&zeroes, offset).unwrap();
                }
            }
            Step::Sync { data_only: true } => self.file.sync_data(&handle).await.unwrap(),
            Step::Sync { data_only: false } => self.file.sync_all(&handle).await.unwrap(),
            Step::Settle { drain: false } => self.settle().await,
            Step::Settle { drain: true } => {
                self.file.drain(&handle).await;
                self.look();
            }
            Step::Reopen { dropped } => {
                let (context, handle) = self.context.take().unwrap();
                if dropped {
                    drop(context);
                    // Requests queued at the drop are still submitted. Only the end of the context shows that
                    // the last one is complete.
                    handle.clone().closed().await;
                } else {
                    context.close().await;
                }
                assert_eq!(handle.available_slots(), None);
                self.look();
                self.context = Some(open(&self.case));
            }
        }
    }

    /// Records that a write at `block` was dropped or forgotten.
    async fn gave_up(&mut self, block: usize, mut data: LockedBuf, how: Option<GivenUp>) {
        let submitted = data.as_ref().to_vec();
        data.as_mut().fill(0xdd); // must not get to the file
        if how.is_some_and(|how| how.polls == 0) {
            return; // nobody has seen it: the twin stays as it is
        }
        let extends = ((block * BLOCK + submitted.len()) as u64) > self.len();
        self.open.push(Open {
            offset: block * BLOCK,
            data: submitted,
            whole: true,
        });
        if extends {
            self.settle().await;
        }
    }

    /// Settles if a dropped write overlaps these blocks.
    async fn settle_if(&mut self, block: usize, blocks: usize) {
        let meets = |open: &Open| {
            let (start, end) = (block * BLOCK, (block + blocks) * BLOCK);
            start < open.offset + open.data.len() && open.offset < end
        };
        if self.open.iter().any(meets) {
            self.settle().await;
        }
    }

    async fn settle(&mut self) {
        let slots = self.case.slots;
        let handle = self.handle();
        let free = || handle.available_slots();
        wait_until(|| free() == Some(slots), free).await;
        self.look();
    }

    /// Finds out which of the dropped writes have taken place.
    fn look(&mut self) {
        let bytes = fs::read(&self.path).unwrap();
        for open in mem::take(&mut self.open) {
            let mut offset = open.offset;
            let mut left = &open.data[..];
            while !left.is_empty() {
                let piece = match open.whole {
                    true => left.len(),
                    false => left.len().min(512 - offset % 512), // the least block
                };
                let (piece, rest) = left.split_at(piece);
                let end = offset + piece.len();
                if bytes.len() >= end && bytes[offset..end] == *piece {
                    self.twin.write_all_at(piece, offset as u64).unwrap();
                }
                (offset, left) = (end, rest);
            }
        }
        self.compare(&bytes);
    }

    fn compare(&self, bytes: &[u8]) {
        let twin = fs::read(&self.twin_path).unwrap();
        assert_eq!(bytes.len(), twin.len(), "length of the file");
        let differs = bytes
            .chunks(BLOCK)
            .zip(twin.chunks(BLOCK))
            .position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first block that differs");
    }

    async fn end(mut self) {
        let (context, _) = self.context.take().unwrap();
        context.close().await;
        self.look();
    }
}

/// Fills `target`; returns the number of bytes and the buffer.
async fn read_as(
    form: Form,
    file: &File,
    handle: &AioContextHandle,
    offset: u64,
    mut target: LockedBuf,
) -> (u64, LockedBuf) {
    let (flags, size) = (ReadFlags::empty(), target.size());
    let read = match form {
        Form::Plain => {
            file.read_at(handle, offset, &mut target, size as u64, flags)
                .await
        }
        Form::Exact | Form::OwnedExact => {
            let whole = match form {
                Form::Exact => {
                    let read = file.read_exact_at(handle, offset, &mut target, size as u64, flags);
                    read.await
                }
                _ => {
                    let whole;
                    (whole, target) = file
                        .read_exact_owned_at(handle, offset, target, flags)
                        .await;
                    whole
                }
            };
            match whole {
                Ok(()) => Ok(size as u64),
                Err(AioCommandError::BadResult(error)) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
                    let end = file.metadata().await.unwrap().len();
                    Ok(end.saturating_sub(offset))
                }
                Err(error) => Err(error),
            }
        }
        Form::Vectored { piece } => {
            // To a buffer and a half: two ranges in one request.
            let (mut one, mut two) = (buffer(size), buffer(size));
            one.fill(0xee);
            two.fill(0xee);
            let middle = (piece * BLOCK).min(size);
            let pieces = &mut [one.part_mut(..middle), two.part_mut(middle..)];
            let read = file.read_vectored_at(handle, offset, pieces, flags).await;
            let read = read.unwrap();
            target[..middle].copy_from_slice(&one[..middle]);
            target[middle..].copy_from_slice(&two[middle..]);
            Ok(read)
        }
        Form::Owned => {
            let read;
            (read, target) = file.read_owned_at(handle, offset, target, flags).await;
            read
        }
        Form::OwnedSlice => {
            let larger = buffer(size + 2 * BLOCK).into_slice(BLOCK..BLOCK + size);
            let (read, larger) = file.read_owned_at(handle, offset, larger, flags).await;
            target.copy_from_slice(&larger.into_inner()[BLOCK..BLOCK + size]);
            read
        }
        Form::OwnedVectored { piece } => {
            let pieces = (0..size).step_by(piece * BLOCK);
            let pieces = pieces
                .map(|at| buffer((piece * BLOCK).min(size - at)))
                .collect();
            let (read, pieces) = file
                .read_vectored_owned_at(handle, offset, pieces, flags)
                .await;
            for (at, from) in (0..size).step_by(piece * BLOCK).zip(pieces) {
                target[at..at + from.size()].copy_from_slice(&from);
            }
            read
        }
        Form::Batch => {
            let mut batch = handle.batch();
            let (buffer, len) = (&mut target, size as u64);
            let command = RawCommand::Pread {
                offset,
                buffer,
                flags,
                len,
            };
            batch.push(file, command);
            batch.all().await.remove(0)
        }
    };
    (read.unwrap(), target)
}

/// Writes all of `data`, in one request.
async fn write_as(
    form: Form,
    file: &File,
    handle: &AioContextHandle,
    offset: u64,
    data: &LockedBuf,
) -> Result<u64, AioCommandError> {
    let (flags, len) = (WriteFlags::empty(), data.size() as u64);
    let copy = || {
        let mut copy = buffer(data.size());
        copy.copy_from_slice(data);
        copy
    };
    let ranges = |piece: usize| {
        let size = data.size();
        let starts = (0..size).step_by(piece * BLOCK);
        starts.map(move |at| at..(at + piece * BLOCK).min(size))
    };
    match form {
        Form::Plain => file.write_at(handle, offset, data, len, flags).await,
        Form::Exact => {
            let written = file.write_all_at(handle, offset, data, len, flags).await;
            written.map(|()| len)
        }
        Form::Vectored { piece } => {
            let pieces: Vec<_> = ranges(piece).map(|range| data.part(range)).collect();
            file.write_vectored_at(handle, offset, &pieces, flags).await
        }
        Form::Owned => file.write_owned_at(handle, offset, copy(), flags).await.0,
        Form::OwnedExact => {
            let written = file
                .write_all_owned_at(handle, offset, copy(), flags)
                .await
                .0;
            written.map(|()| len)
        }
        Form::OwnedSlice => {
            let mut larger = buffer(data.size() + BLOCK);
            larger[BLOCK..].copy_from_slice(data);
            let slice = larger.into_slice(BLOCK..);
            file.write_owned_at(handle, offset, slice, flags).await.0
        }
        Form::OwnedVectored { piece } => {
            let pieces = ranges(piece)
                .map(|range| copy().into_slice(range))
                .collect();
            file.write_vectored_owned_at(handle, offset, pieces, flags)
                .await
                .0
        }
        Form::Batch => {
            let mut batch = handle.batch();
            let command = RawCommand::Pwrite {
                offset,
                buffer: data,
                flags,
                len,
            };
            batch.push(file, command);
            batch.all().await.remove(0)
        }
    }
}

fn open(case: &Case) -> (AioContext, AioContextHandle) {
    let (backend, policy) = case.mode;
    let builder = AioContextBuilder::new(case.slots)
        .backend(backend)
        .submit_policy(policy)
        .max_batch(case.max_batch);
    let (context, handle) = builder.build().unwrap();
    let limit = Duration::from_secs(600);
    match case.options {
        true => (
            context,
            handle.with_priority(IoPriority::idle()).with_timeout(limit),
        ),
        false => (context, handle),
    }
}

/// Polls `operation` as often as `how` says, with a turn of the runtime after each.
async fn give_up<T>(operation: impl Future<Output = T>, how: GivenUp) -> Option<T> {
    let mut operation = Box::pin(operation);
    for _ in 0..how.polls {
        let mut once = pin!(futures::future::poll_immediate(operation.as_mut()));
        if let Some(result) = once.as_mut().await {
            return Some(result);
        }
        yield_now().await;
    }
    if how.forgotten {
        mem::forget(operation);
    }
    None
}

fn run(dir: &TempDir, case: Case) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(with_hang_guard(async {
        let mut model = Model::new(dir, case.clone()).await;
        for step in case.steps {
            model.step(step).await;
        }
        model.end().await;
    }));
}

fn hold(dir: &TempDir) {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(96),
        failure_persistence: None,
        ..Config::default()
    };
    let verdict = TestRunner::new(config).run(&case(), |case| {
        run(dir, case);
        Ok::<_, TestCaseError>(())
    });
    if let Err(failure) = verdict {
        panic!("{failure}");
    }
}

#[test]
fn random_operations_match_a_model() {
    for dir in test_dirs() {
        hold(&dir);
    }
}
