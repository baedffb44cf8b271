//! Operations that are dropped, forgotten or aborted before they complete: data is not corrupted,
//! no buffer is written to afterwards, no slot is lost, and the context closes.

use std::collections::VecDeque;
use std::fs;
use std::future::{Future, poll_fn};
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::common::{locked_buffer as buffer, *};
use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::LinkedListOps;
use lock_api::RawMutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    AioCommandError, AioContextHandle, File, GenericAioContextHandle, IntrusiveAdapter, LockedBuf,
    ReadFlags, WriteFlags, aio_context, local_aio_context,
};

// ---- At random --------------------------------------------------------------------------------
//
// Each of these tests runs in a child process: the memory of forgotten operations stays locked until
// their context ends, and the limit for locked memory is the process's.

/// Tasks, each with blocks of its own.
const TASKS: usize = 16;
/// Blocks of one task.
const BLOCKS: usize = 40;
/// Fewer than tasks, so that some wait for a slot.
const SLOTS: usize = 5;
const ROUNDS: usize = 5;

/// What a buffer holds before a read.
const UNREAD: u8 = 0xa5;
/// What a buffer is filled with after its operation was dropped or forgotten. It must never reach
/// the file, and nothing may overwrite it.
const CANARY: u8 = 0xc3;

#[derive(Clone, Copy, PartialEq)]
enum GiveUp {
    Drop,
    Forget,
}

impl GiveUp {
    /// Operations of one task in one round. Forgotten ones keep their memory, which is locked,
    /// until their context ends.
    fn operations(self) -> usize {
        match self {
            GiveUp::Drop => 80,
            GiveUp::Forget => 50,
        }
    }
}

/// What one task knows about its blocks.
#[derive(Clone)]
struct TaskBlocks {
    first: usize,
    /// The seed of the last known content of each block.
    known: Vec<u64>,
    /// The seed of a dropped write, which may or may not have taken place. Such a block is not
    /// written again before that is settled, so that it has exactly two possible contents.
    maybe: Vec<Option<u64>>,
    next_seed: u64,
    done: usize,
    given_up: usize,
}

impl TaskBlocks {
    fn all() -> Vec<TaskBlocks> {
        let blocks = |task| TaskBlocks {
            first: task * BLOCKS,
            known: (task * BLOCKS..(task + 1) * BLOCKS)
                .map(|seed| seed as u64)
                .collect(),
            maybe: vec![None; BLOCKS],
            next_seed: (task as u64 + 1) << 32,
            done: 0,
            given_up: 0,
        };
        (0..TASKS).map(blocks).collect()
    }

    fn offset(&self, block: usize) -> u64 {
        (self.first + block) as u64 * LEN
    }

    fn seed(&mut self) -> u64 {
        self.next_seed += 1;
        self.next_seed
    }

    fn count(&mut self, done: bool) {
        *(if done {
            &mut self.done
        } else {
            &mut self.given_up
        }) += 1;
    }

    /// A block that may be written.
    fn settled(&self, random: &mut StdRng) -> Option<usize> {
        let settled: Vec<_> = (0..BLOCKS).filter(|&b| self.maybe[b].is_none()).collect();
        (!settled.is_empty()).then(|| settled[random.random_range(0..settled.len())])
    }

    /// Whether a write was acknowledged.
    fn has_written(&self) -> bool {
        self.known.iter().any(|&seed| seed >= 1 << 32)
    }

    /// Checks the result of a read of `block`.
    fn check_read(&self, block: usize, bytes: &[u8]) {
        let old = self.known[block];
        match self.maybe[block] {
            None => assert!(is_pattern(old, bytes), "a read brought something else"),
            // The write may be in flight: the block can be partly old and partly new.
            Some(new) => assert!(is_mixed(old, new, bytes), "a read brought a third content"),
        }
    }

    /// Checks the file when nothing is in flight: each block holds the last acknowledged write or
    /// the dropped write after it, entirely.
    fn settle(&mut self, path: &Path) {
        let file = fs::File::open(path).unwrap();
        let mut bytes = vec![0; BLOCK];
        for block in 0..BLOCKS {
            file.read_exact_at(&mut bytes, self.offset(block)).unwrap();
            match self.maybe[block].take() {
                Some(new) if is_pattern(new, &bytes) => self.known[block] = new,
                _ => assert!(
                    is_pattern(self.known[block], &bytes),
                    "block {} is neither old nor new",
                    self.first + block
                ),
            }
        }
    }
}

/// Whether each word of `bytes` is from one of the two patterns.
fn is_mixed(a: u64, b: u64, bytes: &[u8]) -> bool {
    let (mut of_a, mut of_b) = (vec![0; bytes.len()], vec![0; bytes.len()]);
    pattern(a, &mut of_a);
    pattern(b, &mut of_b);
    let mut words = bytes.chunks(8).zip(of_a.chunks(8)).zip(of_b.chunks(8));
    words.all(|((word, a), b)| word == a || word == b)
}

/// Waits for `delay`, busily: tokio's timer is too coarse.
async fn after(delay: Duration) {
    let start = Instant::now();
    poll_fn(|cx| {
        if start.elapsed() >= delay {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn moment(random: &mut StdRng) -> Duration {
    Duration::from_micros(random.random_range(0..=100))
}

/// When to give up an operation.
#[derive(Clone, Copy)]
enum GiveUpAfter {
    Endless,
    Time(Duration),
    /// After this many turns, however fast the operation is.
    Polls(usize),
}

impl GiveUpAfter {
    fn random(random: &mut StdRng) -> GiveUpAfter {
        match random.random_range(0..4) {
            0 => GiveUpAfter::Endless,
            1 => GiveUpAfter::Polls(random.random_range(0..3)),
            _ => GiveUpAfter::Time(moment(random)),
        }
    }

    async fn ends(self) {
        match self {
            GiveUpAfter::Endless => std::future::pending().await,
            GiveUpAfter::Time(delay) => after(delay).await,
            GiveUpAfter::Polls(polls) => {
                for _ in 0..polls {
                    yield_now().await;
                }
            }
        }
    }
}

/// Runs `operation` until it completes or is given up (`None`).
async fn race<T>(
    operation: impl Future<Output = T>,
    give_up_after: GiveUpAfter,
    how: GiveUp,
) -> Option<T> {
    let mut operation = Box::pin(operation);
    let done = tokio::select! {
        result = &mut operation => Some(result),
        () = give_up_after.ends() => None,
    };
    if done.is_none() && how == GiveUp::Forget {
        mem::forget(operation);
    }
    done
}

/// Buffers of dropped or forgotten operations.
#[derive(Default)]
struct GivenUpBuffers(VecDeque<LockedBuf>);

impl GivenUpBuffers {
    fn put(&mut self, mut buffer: LockedBuf) {
        buffer.as_mut().fill(CANARY);
        self.0.push_back(buffer);
    }

    /// A buffer to use again, or a new one.
    fn take(&mut self) -> LockedBuf {
        if self.0.len() < 8 {
            return buffer(BLOCK);
        }
        let buffer = self.0.pop_front().unwrap();
        check_canary(&buffer);
        buffer
    }

    fn check(&self) {
        self.0.iter().for_each(check_canary);
    }
}

fn check_canary(buffer: &LockedBuf) {
    let untouched = buffer.as_ref().iter().all(|&byte| byte == CANARY);
    assert!(
        untouched,
        "a buffer was written to after its operation was given up"
    );
}

/// Reads and writes the blocks of one task, and gives up many of these operations.
async fn read_and_write<M, A, L>(
    handle: GenericAioContextHandle<M, A, L>,
    file: Arc<File>,
    mut blocks: TaskBlocks,
    how: GiveUp,
    mut random: StdRng,
) -> (TaskBlocks, GivenUpBuffers)
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    let mut given_up = GivenUpBuffers::default();
    for _ in 0..how.operations() {
        let mut buffer = given_up.take();
        let give_up_after = GiveUpAfter::random(&mut random);
        let writable = blocks.settled(&mut random).filter(|_| random.random());
        if let Some(block) = writable {
            let seed = blocks.seed();
            pattern(seed, buffer.as_mut());
            let offset = blocks.offset(block);
            let write = file.write_at(&handle, offset, &buffer, LEN, WriteFlags::empty());
            let done = race(write, give_up_after, how).await;
            blocks.count(done.is_some());
            match done {
                Some(result) => {
                    assert_eq!(result.unwrap(), LEN);
                    blocks.known[block] = seed;
                }
                None => blocks.maybe[block] = Some(seed),
            }
        } else {
            let block = random.random_range(0..BLOCKS);
            buffer.as_mut().fill(UNREAD);
            let offset = blocks.offset(block);
            let read = file.read_at(&handle, offset, &mut buffer, LEN, ReadFlags::empty());
            let done = race(read, give_up_after, how).await;
            blocks.count(done.is_some());
            match done {
                Some(result) => {
                    assert_eq!(result.unwrap(), LEN);
                    blocks.check_read(block, buffer.as_ref());
                }
                None if how == GiveUp::Drop => {
                    assert_eq!(
                        buffer.size(),
                        BLOCK,
                        "a dropped read keeps the buffer's size"
                    );
                    let bytes = buffer.as_ref();
                    if !bytes.iter().all(|&byte| byte == 0) && bytes != [UNREAD; BLOCK] {
                        blocks.check_read(block, bytes); // it was done, nobody had looked yet
                    }
                }
                // Not empty if it was forgotten before it was polled for the first time.
                None if buffer.size() == 0 => continue,
                None => assert_eq!(buffer.as_ref(), [UNREAD; BLOCK]),
            }
        }
        given_up.put(buffer);
    }
    (blocks, given_up)
}

async fn blocks_of_tasks(dir: &TempDir) -> Arc<File> {
    write_patterned(&dir.path().join("data"), TASKS * BLOCKS);
    Arc::new(open_rw(dir, "data").await)
}

fn give_up_at_random(dir: &TempDir, how: GiveUp) {
    let path = dir.path().join("data");
    multi_thread().block_on(with_hang_guard(async {
        let file = blocks_of_tasks(dir).await;
        let mut all_blocks = TaskBlocks::all();
        for round in 0..ROUNDS {
            let (context, handle) = aio_context(SLOTS, true).unwrap();
            let mut tasks = JoinSet::new();
            for blocks in mem::take(&mut all_blocks) {
                let random = StdRng::seed_from_u64((round * TASKS * BLOCKS + blocks.first) as u64);
                tasks.spawn(read_and_write(
                    handle.clone(),
                    file.clone(),
                    blocks,
                    how,
                    random,
                ));
            }
            let mut given_up = Vec::new();
            while let Some(task) = tasks.join_next().await {
                let (blocks, buffers) = task.unwrap();
                all_blocks.push(blocks);
                given_up.push(buffers);
            }
            let free = || handle.available_slots();
            wait_until(|| free() == Some(SLOTS), free).await;
            given_up.iter().for_each(GivenUpBuffers::check);
            all_blocks
                .iter_mut()
                .for_each(|blocks| blocks.settle(&path));
            context.close().await;
            assert_eq!(handle.available_slots(), None);
        }
        check_counts(&all_blocks);
    }));
}

/// Asserts that many operations were given up, and many completed.
fn check_counts(all_blocks: &[TaskBlocks]) {
    let done: usize = all_blocks.iter().map(|blocks| blocks.done).sum();
    let given_up: usize = all_blocks.iter().map(|blocks| blocks.given_up).sum();
    println!("{done} done, {given_up} given up");
    assert!(
        done.min(given_up) * 50 > done + given_up,
        "{done} done, {given_up} given up"
    );
}

#[test]
fn dropping_operations_at_random_on_disk_corrupts_nothing() {
    if !in_child!() {
        return;
    }
    give_up_at_random(&disk_dir(), GiveUp::Drop);
}

#[test]
fn dropping_operations_at_random_on_tmpfs_corrupts_nothing() {
    if !in_child!() {
        return;
    }
    let Some(dir) = tmpfs_dir() else { return };
    give_up_at_random(&dir, GiveUp::Drop);
}

#[test]
fn forgetting_operations_at_random_on_disk_corrupts_nothing() {
    if !in_child!() {
        return;
    }
    give_up_at_random(&disk_dir(), GiveUp::Forget);
}

#[test]
fn forgetting_operations_at_random_on_tmpfs_corrupts_nothing() {
    if !in_child!() {
        return;
    }
    let Some(dir) = tmpfs_dir() else { return };
    give_up_at_random(&dir, GiveUp::Forget);
}

#[test]
fn giving_up_operations_at_random_on_a_local_context_corrupts_nothing() {
    if !in_child!() {
        return;
    }
    for (dir, how) in test_dirs()
        .iter()
        .flat_map(|dir| [(dir, GiveUp::Drop), (dir, GiveUp::Forget)])
    {
        let path = dir.path().join("data");
        let test = async {
            let file = blocks_of_tasks(dir).await;
            let mut all_blocks = TaskBlocks::all();
            for round in 0..2 {
                let (context, handle, background) = local_aio_context(SLOTS, true).unwrap();
                let background = spawn_local(background);
                let mut tasks = JoinSet::new();
                for blocks in mem::take(&mut all_blocks) {
                    let random =
                        StdRng::seed_from_u64((round * TASKS * BLOCKS + blocks.first) as u64);
                    tasks.spawn_local(read_and_write(
                        handle.clone(),
                        file.clone(),
                        blocks,
                        how,
                        random,
                    ));
                }
                let mut given_up = Vec::new();
                while let Some(task) = tasks.join_next().await {
                    let (blocks, buffers) = task.unwrap();
                    all_blocks.push(blocks);
                    given_up.push(buffers);
                }
                let free = || handle.available_slots();
                wait_until(|| free() == Some(SLOTS), free).await;
                given_up.iter().for_each(GivenUpBuffers::check);
                all_blocks
                    .iter_mut()
                    .for_each(|blocks| blocks.settle(&path));
                context.close().await;
                background.await.unwrap().unwrap();
            }
            check_counts(&all_blocks);
        };
        current_thread().block_on(LocalSet::new().run_until(with_hang_guard(test)));
    }
}

/// Writes and reads the blocks of `blocks` until it is aborted.
async fn to_be_aborted(
    handle: AioContextHandle,
    file: Arc<File>,
    blocks: Arc<Mutex<TaskBlocks>>,
    mut random: StdRng,
) {
    let mut buffer = buffer(BLOCK);
    loop {
        let (block, seed, offset) = {
            let mut blocks = blocks.lock().unwrap();
            let Some(block) = blocks.settled(&mut random) else {
                return;
            };
            let seed = blocks.seed();
            blocks.maybe[block] = Some(seed);
            (block, seed, blocks.offset(block))
        };
        pattern(seed, buffer.as_mut());
        let written = file
            .write_at(&handle, offset, &buffer, LEN, WriteFlags::empty())
            .await;
        assert_eq!(written.unwrap(), LEN);
        {
            let mut blocks = blocks.lock().unwrap();
            blocks.known[block] = seed;
            blocks.maybe[block] = None;
        }
        let read = file
            .read_at(&handle, offset, &mut buffer, LEN, ReadFlags::empty())
            .await;
        assert_eq!(read.unwrap(), LEN);
        assert!(is_pattern(seed, buffer.as_ref()));
    }
}

fn abort_at_random(dir: &TempDir) {
    let path = dir.path().join("data");
    multi_thread().block_on(with_hang_guard(async {
        let file = blocks_of_tasks(dir).await;
        let all_blocks: Vec<_> = TaskBlocks::all()
            .into_iter()
            .map(|blocks| Arc::new(Mutex::new(blocks)))
            .collect();
        let aborted = Arc::new(AtomicUsize::new(0));
        for round in 0..10 {
            let (context, handle) = aio_context(SLOTS, true).unwrap();
            let mut tasks = JoinSet::new();
            for (i, blocks) in all_blocks.iter().enumerate() {
                let (handle, file) = (handle.clone(), file.clone());
                let (blocks, aborted) = (blocks.clone(), aborted.clone());
                let mut random = StdRng::seed_from_u64((round * TASKS + i) as u64);
                tasks.spawn(async move {
                    // Each time at most one write is given up, and the task has more blocks.
                    for _ in 0..BLOCKS - 4 {
                        let again = StdRng::seed_from_u64(random.random());
                        let victim =
                            to_be_aborted(handle.clone(), file.clone(), blocks.clone(), again);
                        let victim = tokio::spawn(victim);
                        after(moment(&mut random)).await;
                        // At first longer, on a disk that completes nothing in such a moment.
                        let has_written = || blocks.lock().unwrap().has_written();
                        wait_until(has_written, || "not one write got through").await;
                        victim.abort();
                        let error = victim.await.expect_err("a victim does not end by itself");
                        assert!(error.is_cancelled(), "{error}");
                        aborted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while let Some(task) = tasks.join_next().await {
                task.unwrap();
            }
            let free = || handle.available_slots();
            wait_until(|| free() == Some(SLOTS), free).await;
            all_blocks
                .iter()
                .for_each(|blocks| blocks.lock().unwrap().settle(&path));
            context.close().await;
        }
        assert_eq!(aborted.load(Ordering::Relaxed), 10 * TASKS * (BLOCKS - 4));
    }));
}

#[test]
fn aborting_tasks_at_random_on_disk_corrupts_nothing() {
    if !in_child!() {
        return;
    }
    abort_at_random(&disk_dir());
}

#[test]
fn aborting_tasks_at_random_on_tmpfs_corrupts_nothing() {
    if !in_child!() {
        return;
    }
    let Some(dir) = tmpfs_dir() else { return };
    abort_at_random(&dir);
}

// ---- One by one -------------------------------------------------------------------------------

/// Large enough to take a while.
const LARGE: usize = 64 * BLOCK;

/// Polls `future` once; `true` if it is not done.
fn starts(future: Pin<&mut impl Future>) -> bool {
    future
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_pending()
}

fn is_filled(buffer: &LockedBuf, byte: u8) -> bool {
    buffer.as_ref().iter().all(|&b| b == byte)
}

/// Whether the read is in flight when it is dropped depends on the machine.
/// `interposed/in_flight.rs` has the test where it certainly is.
#[test]
fn a_read_dropped_early_leaves_a_buffer_of_the_same_size_that_nothing_writes_to() {
    Fixture::new(4)
        .inline()
        .content([7; LARGE])
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            for _ in 0..50 {
                let mut buffer = buffer(LARGE);
                buffer.as_mut().fill(UNREAD);
                let len = LARGE as u64;
                {
                    let read = file.read_at(&handle, 0, &mut buffer, len, ReadFlags::empty());
                    starts(pin!(read).as_mut());
                    wait_until_all_offloaded(&handle).await;
                }
                assert_eq!(buffer.size(), LARGE);
                // In flight; completed; or not yet submitted.
                let contents = [0, 7, UNREAD];
                assert!(contents.iter().any(|&byte| is_filled(&buffer, byte)));
                buffer.as_mut().fill(CANARY);
                wait_all_free(&handle, 4).await;
                check_canary(&buffer);
            }
        });
}

#[test]
fn a_read_forgotten_in_flight_leaves_the_buffer_empty() {
    Fixture::new(1).blocks(1).every_dir().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut buffers: Vec<_> = (0..4).map(|_| buffer(BLOCK)).collect();
        for buffer in &mut buffers {
            let mut read = Box::pin(file.read_at(&handle, 0, buffer, LEN, ReadFlags::empty()));
            let pending = starts(read.as_mut());
            mem::forget(read);
            assert_eq!(buffer.size(), if pending { 0 } else { BLOCK });
            assert_eq!(buffer.as_ref().len(), buffer.size());
            assert_eq!(buffer.as_mut().len(), buffer.size());
        }
    });
}

#[test]
fn a_buffer_emptied_by_a_forgotten_read_can_still_be_used() {
    with_occupied_slot(async |case, occupied| {
        let (file, handle) = (case.file, case.handle);
        let mut buffer = buffer(BLOCK);
        {
            let read = file.read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty());
            let mut read = Box::pin(read);
            assert!(starts(read.as_mut()));
            mem::forget(read);
        }
        assert_eq!(buffer.size(), 0);
        occupied.release().await;
        let read = file.read_at(&handle, 0, &mut buffer, 0, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), 0);
        let write = file.write_at(&handle, 0, &buffer, 0, WriteFlags::empty());
        assert_eq!(write.await.unwrap(), 0);
    });
}

#[test]
fn a_write_dropped_or_forgotten_in_flight_writes_the_submitted_data() {
    let fixture = Fixture::new(2).content([7; LARGE]);
    fixture.every_dir().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let mut buffer = buffer(LARGE);
        for (round, forget) in (0..20).flat_map(|round| [(2 * round, false), (2 * round + 1, true)])
        {
            buffer.as_mut().fill(round);
            {
                let len = LARGE as u64;
                let write = file.write_at(&handle, 0, &buffer, len, WriteFlags::empty());
                let mut write = Box::pin(write);
                starts(write.as_mut());
                // A write that waits for its batch is submitted now.
                yield_now().await;
                if forget {
                    mem::forget(write);
                }
            }
            buffer.as_mut().fill(CANARY);
            wait_all_free(&handle, 2).await;
            let written = fs::read(&path).unwrap();
            assert!(written.iter().all(|&byte| byte == round), "round {round}");
            check_canary(&buffer);
        }
    });
}

#[test]
fn a_buffer_can_be_read_into_while_its_dropped_write_is_in_flight() {
    Fixture::new(4).content([7; 2 * LARGE]).run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let len = LARGE as u64;
        let mut buffer = buffer(LARGE);
        buffer.as_mut().fill(9);
        let write = file.write_at(&handle, 0, &buffer, len, WriteFlags::empty());
        starts(pin!(write));
        let read = file.read_at(&handle, len, &mut buffer, len, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), len);
        assert!(is_filled(&buffer, 7));
        wait_all_free(&handle, 4).await;
        let bytes = fs::read(path).unwrap();
        assert!(bytes[..LARGE].iter().all(|&byte| byte == 9));
    });
}

/// Runs a test on a context whose only slot is occupied, so that all other operations wait for it.
/// The file has eight blocks of sevens.
fn with_occupied_slot(test: impl AsyncFn(Case<'_>, OccupiedSlot)) {
    let fixture = Fixture::new(1).content([7; 8 * BLOCK]).start_driver();
    fixture.run(async |case| {
        let occupied = occupy_slot(&case.handle).await;
        test(case, occupied).await;
    });
}

#[test]
fn a_write_dropped_while_it_waits_for_a_slot_never_happens() {
    with_occupied_slot(async |case, occupied| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let data = patterned_buffer(1, BLOCK);
        let write = |i| file.write_at(&handle, i * LEN, &data, LEN, WriteFlags::empty());
        let mut writes: Vec<_> = (0..8).map(|i| Box::pin(write(i))).collect();
        for write in &mut writes {
            assert!(starts(write.as_mut()));
        }
        writes.drain(4..);
        occupied.release().await;
        for write in writes {
            assert_eq!(write.await.unwrap(), LEN);
        }
        wait_all_free(&handle, 1).await;
        let bytes = fs::read(path).unwrap();
        let (written, dropped) = bytes.split_at(4 * BLOCK);
        assert!(written.chunks(BLOCK).all(|block| is_pattern(1, block)));
        assert!(dropped.iter().all(|&byte| byte == 7));
    });
}

#[test]
fn a_read_dropped_while_it_waits_for_a_slot_leaves_the_buffer_as_it_was() {
    with_occupied_slot(async |case, occupied| {
        let (file, handle) = (case.file, case.handle);
        let mut buffers: Vec<_> = (0..8).map(|i| patterned_buffer(i, BLOCK)).collect();
        {
            let read = |buffer| file.read_at(&handle, 0, buffer, LEN, ReadFlags::empty());
            let mut reads: Vec<_> = buffers.iter_mut().map(|b| Box::pin(read(b))).collect();
            for read in &mut reads {
                assert!(starts(read.as_mut()));
            }
        }
        for (i, buffer) in (0..).zip(&buffers) {
            assert!(is_pattern(i, buffer.as_ref()));
        }
        occupied.release().await;
    });
}

#[test]
fn operations_forgotten_while_they_wait_for_a_slot_take_none() {
    with_occupied_slot(async |case, occupied| {
        let (file, handle) = (case.file, case.handle);
        let data = patterned_buffer(1, BLOCK);
        for i in 0..8 {
            let mut target = buffer(BLOCK);
            let mut read = Box::pin(file.read_at(&handle, 0, &mut target, LEN, ReadFlags::empty()));
            assert!(starts(read.as_mut()));
            mem::forget(read);
            let write = file.write_at(&handle, i * LEN, &data, LEN, WriteFlags::empty());
            let mut write = Box::pin(write);
            assert!(starts(write.as_mut()));
            mem::forget(write);
        }
        occupied.release().await;
        wait_all_free(&handle, 1).await;
        let mut target = buffer(BLOCK);
        for i in 0..8 {
            let read = file.read_at(&handle, i * LEN, &mut target, LEN, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), LEN);
            assert!(is_pattern(1, target.as_ref()), "a forgotten write goes on");
        }
    });
}

#[test]
fn waiters_behind_a_dropped_one_move_up() {
    with_occupied_slot(async |case, occupied| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let data = patterned_buffer(1, BLOCK);
        let write = |i| file.write_at(&handle, i * LEN, &data, LEN, WriteFlags::empty());
        let mut writes: Vec<_> = (0..8).map(|i| Some(Box::pin(write(i)))).collect();
        for write in writes.iter_mut().flatten() {
            assert!(starts(write.as_mut()));
        }
        let dropped = [0, 1, 2, 5, 6];
        for i in dropped {
            writes[i] = None;
        }
        occupied.release().await;
        for write in writes.into_iter().flatten() {
            assert_eq!(write.await.unwrap(), LEN);
        }
        let bytes = fs::read(path).unwrap();
        for (i, block) in bytes.chunks(BLOCK).enumerate() {
            assert_eq!(is_pattern(1, block), !dropped.contains(&i), "block {i}");
        }
    });
}

#[test]
fn a_file_closed_while_its_write_waits_is_still_written() {
    with_occupied_slot(async |case, occupied| {
        let (dir, path, file, handle) = (case.dir, case.path, case.file, case.handle);
        let data = patterned_buffer(1, BLOCK);
        for i in 0..8 {
            let write = file.write_at(&handle, i * LEN, &data, LEN, WriteFlags::empty());
            let mut write = Box::pin(write);
            assert!(starts(write.as_mut()));
            mem::forget(write);
        }
        drop(file);
        // These get the number of the file's descriptor if it was closed.
        let mut others = Vec::new();
        for i in 0..4 {
            others.push(open_rw(dir, &format!("other{i}")).await);
        }
        occupied.release().await;
        wait_all_free(&handle, 1).await;
        let bytes = fs::read(path).unwrap();
        assert!(bytes.chunks(BLOCK).all(|block| is_pattern(1, block)));
        for other in &others {
            assert_eq!(other.metadata().await.unwrap().len(), 0);
        }
    });
}

#[test]
fn an_operation_that_was_never_polled_does_nothing() {
    let fixture = Fixture::new(1).content([7; BLOCK]);
    fixture.every_dir().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let data = patterned_buffer(1, BLOCK);
        drop(file.write_at(&handle, 0, &data, LEN, WriteFlags::empty()));
        mem::forget(file.write_at(&handle, 0, &data, LEN, WriteFlags::empty()));
        assert_eq!(handle.available_slots(), Some(1));
        file.drain(&handle).await;
        assert_eq!(handle.metrics().submitted, 0);
        assert_eq!(fs::read(path).unwrap(), [7; BLOCK]);
    });
}

#[test]
fn a_refused_operation_gives_the_slot_back() {
    Fixture::new(1).blocks(1).run(async |case| {
        let handle = case.handle;
        let read_only = File::open(case.path, false).await.unwrap();
        let data = patterned_buffer(1, BLOCK);
        for _ in 0..8 {
            let write = read_only.write_at(&handle, 0, &data, LEN, WriteFlags::empty());
            let error = write.await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error}");
            assert_eq!(handle.available_slots(), Some(1));
        }
    });
}

// ---- Wakers and threads -----------------------------------------------------------------------

#[derive(Default)]
struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A read that owns its file, handle and buffer.
async fn owned_read(
    file: Arc<File>,
    handle: AioContextHandle,
    mut buffer: LockedBuf,
) -> (Result<u64, AioCommandError>, LockedBuf) {
    let len = buffer.size() as u64;
    let result = file
        .read_at(&handle, 0, &mut buffer, len, ReadFlags::empty())
        .await;
    (result, buffer)
}

#[test]
fn the_waker_of_the_last_poll_is_woken() {
    let fixture = Fixture::new(4).content([7; LARGE]);
    fixture.multi_thread().run(async |case| {
        let (file, handle) = (Arc::new(case.file), case.handle);
        for _ in 0..50 {
            let mut read = Box::pin(owned_read(file.clone(), handle.clone(), buffer(LARGE)));
            let wakers: [Arc<Counting>; 3] = Default::default();
            let mut pending = true;
            for waker in &wakers {
                let waker = Waker::from(Arc::clone(waker));
                // Twice: the second poll finds the right waker in place.
                for _ in 0..2 {
                    pending = pending
                        && read
                            .as_mut()
                            .poll(&mut Context::from_waker(&waker))
                            .is_pending();
                }
            }
            if pending {
                let woken = || wakers[2].0.load(Ordering::SeqCst);
                wait_until(|| woken() > 0, woken).await;
                let waker = Waker::from(Arc::clone(&wakers[2]));
                let Poll::Ready((result, buffer)) =
                    read.as_mut().poll(&mut Context::from_waker(&waker))
                else {
                    panic!("woken, and not done");
                };
                assert_eq!(result.unwrap(), LARGE as u64);
                assert!(is_filled(&buffer, 7));
            }
        }
    });
}

#[test]
fn an_operation_started_on_one_thread_finishes_on_another() {
    let fixture = Fixture::new(1).content([7; LARGE]).every_dir();
    fixture.multi_thread().run(async |case| {
        let (file, handle) = (Arc::new(case.file), case.handle);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let mut read = Box::pin(owned_read(file.clone(), handle.clone(), buffer(LARGE)));
                let done = match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(done) => Some(done),
                    Poll::Pending => None,
                };
                std::thread::spawn(|| done.unwrap_or_else(|| futures::executor::block_on(read)))
            })
            .collect();
        for thread in threads {
            let joined = tokio::task::spawn_blocking(|| thread.join().unwrap());
            let (result, buffer) = joined.await.unwrap();
            assert_eq!(result.unwrap(), LARGE as u64);
            assert!(is_filled(&buffer, 7));
        }
    });
}

#[test]
fn operations_dropped_on_another_thread_give_their_slots_back() {
    let fixture = Fixture::new(2).content([7; LARGE]).every_dir();
    fixture.multi_thread().run(async |case| {
        let (file, handle) = (Arc::new(case.file), case.handle);
        for _ in 0..20 {
            let mut reads = Vec::new();
            for _ in 0..6 {
                let mut read = Box::pin(owned_read(file.clone(), handle.clone(), buffer(LARGE)));
                starts(read.as_mut());
                reads.push(read);
            }
            std::thread::spawn(|| drop(reads)).join().unwrap();
            wait_all_free(&handle, 2).await;
        }
    });
}

#[test]
fn without_waiting_a_full_context_refuses_and_recovers_after_drops() {
    let fixture = Fixture::new(2).build(|builder| builder.wait_for_slot(false));
    fixture.blocks(1).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut target = buffer(BLOCK);
        for _ in 0..20 {
            let occupied = [occupy_slot(&handle).await, occupy_slot(&handle).await];
            for _ in 0..6 {
                let refused = read_block(&handle, &file, 0, &mut target).await;
                assert!(
                    matches!(refused, Err(AioCommandError::CapacityExceeded)),
                    "{refused:?}"
                );
                assert_eq!(target.size(), BLOCK);
            }
            drop(occupied);
            let served = loop {
                match read_block(&handle, &file, 0, &mut target).await {
                    Err(AioCommandError::CapacityExceeded) => yield_now().await,
                    served => break served,
                }
            };
            assert_eq!(served.unwrap(), LEN);
            assert_no_work_left(&handle).await; // the other slot, too
        }
    });
}
