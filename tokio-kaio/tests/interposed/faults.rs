//! Faults of `io_submit`: `EAGAIN`, batches that are accepted in part, and everything that can
//! happen during a submission, on other threads or on the same one.
#![allow(unsafe_code)] // duplicates a descriptor to a number of its own

use std::cell::{Cell, RefCell};
use std::fs;
use std::future::Future;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use crate::common::*;
use crate::interposer::{
    Fault, Gate, RANDOM_FAULTS, inject_faults, inject_random_faults, pending_faults, random,
    submissions,
};
use futures::future::join_all;
use futures::poll;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, Backend, File, LocalAioContextHandle,
    LockedBuf, RawCommand, ReadFlags, SubmitPolicy, WriteFlags, local_aio_context,
};

/// Blocks of the files here.
const BLOCKS: u64 = 64;

async fn reads_right(handle: &AioContextHandle, file: &File, block: u64) {
    let mut target = buffer(BLOCK);
    let read = with_hang_guard(read_block(handle, file, block * LEN, &mut target)).await;
    assert_eq!(read.unwrap(), LEN);
    assert!(is_pattern(block, target.as_ref()));
}

fn is_no_room<T>(result: &Result<T, AioCommandError>) -> bool {
    matches!(result, Err(AioCommandError::IoSubmit(error)) if error.raw_os_error() == Some(libc::EAGAIN))
}

/// A descriptor with O_DIRECT that is no [`File`].
fn open_plain(path: &Path) -> fs::File {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true);
    options.custom_flags(libc::O_DIRECT).open(path).unwrap()
}

// ---- No room ----------------------------------------------------------------------------------

#[test]
fn eagain_with_requests_in_flight_is_retried_after_a_completion() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(8)
        .inline()
        .blocks(BLOCKS)
        .every_dir()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let gate = Gate::closed();
            let (mut held_buffer, mut target) = (buffer(BLOCK), buffer(BLOCK));
            let mut held = Box::pin(read_block(&handle, &file, gate.offset(), &mut held_buffer));
            assert!(poll!(&mut held).is_pending());

            inject_faults([Fault::Again]);
            let command = RawCommand::Pread {
                offset: 3 * LEN,
                buffer: &mut target,
                len: LEN,
                flags: ReadFlags::empty(),
            };
            let mut refused = Box::pin(handle.submit_request(&file, command));
            assert!(poll!(&mut refused).is_pending());
            assert_eq!(pending_faults(), 0);
            assert_eq!(handle.available_slots(), Some(6));

            gate.open();
            assert_eq!(held.await.unwrap(), 1);
            assert_eq!(refused.await.unwrap(), LEN);
            assert!(is_pattern(3, target.as_ref()));
        });
}

/// It waits with a duplicate of its descriptor. By the time of the retry, the caller's may belong
/// to another file.
#[test]
fn a_request_retried_after_eagain_stays_on_its_file() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(8).inline().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let busy = patterned_file(dir, BLOCKS).await;
        let data = patterned_buffer(7, BLOCK);
        yield_now().await; // the driver has run
        retry_until(async || {
            let [target_path, other_path] = ["target", "other"].map(|name| dir.path().join(name));
            fs::write(&other_path, vec![0; BLOCK]).unwrap();
            let gate = Gate::closed();
            let mut held_buffer = buffer(BLOCK);
            let mut held = Box::pin(read_block(&handle, &busy, gate.offset(), &mut held_buffer));
            assert!(poll!(&mut held).is_pending());

            let (target, other) = (open_plain(&target_path), open_plain(&other_path));
            inject_faults([Fault::Again]);
            let mut write = Box::pin(handle.submit_request(
                &target,
                RawCommand::Pwrite {
                    offset: 0,
                    buffer: &data,
                    len: LEN,
                    flags: WriteFlags::empty(),
                },
            ));
            assert!(poll!(&mut write).is_pending());
            assert_eq!(pending_faults(), 0);
            std::mem::forget(write);
            let number = target.as_raw_fd();
            drop(target);
            // SAFETY: makes a descriptor: of that number, if no other thread was faster.
            let got = unsafe { libc::fcntl(other.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
            assert!(got >= 0);
            // SAFETY: it is new, and nobody else's.
            let _other = unsafe { OwnedFd::from_raw_fd(got) };

            gate.open();
            held.await.unwrap();
            wait_all_free(&handle, 8).await;
            assert!(fs::read(&other_path).unwrap() == vec![0; BLOCK]);
            assert!(fs::read(&target_path).unwrap() == data.as_ref());
            (got == number).then_some(())
        })
        .await;
    });
}

#[test]
fn eagain_with_nothing_in_flight_is_an_error_and_the_context_stays_usable() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(4)
        .inline()
        .blocks(BLOCKS)
        .every_dir()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            // The first requests, before the driver has run.
            for round in 0..100 {
                inject_faults([Fault::Again]);
                let mut target = patterned_buffer(99, BLOCK);
                let refused = read_block(&handle, &file, 0, &mut target).await;
                assert!(is_no_room(&refused), "{refused:?}");
                assert_eq!(pending_faults(), 0);
                assert!(is_pattern(99, target.as_ref()), "the buffer is as it was");
                assert_eq!(handle.available_slots(), Some(4));
                reads_right(&handle, &file, round % BLOCKS).await;
            }
        });
}

#[test]
fn eagain_for_a_whole_batch_with_nothing_in_flight_fails_each_request() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(8)
        .inline()
        .blocks(BLOCKS)
        .every_dir()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let (mut refused, mut served) = (0, 0);
            for _ in 0..50 {
                inject_faults([Fault::Again]);
                let reads = join_all((0..8).map(async |block| {
                    let mut target = buffer(BLOCK);
                    let result = read_block(&handle, &file, block * LEN, &mut target).await;
                    assert!(is_no_room(&result) || is_pattern(block, target.as_ref()));
                    result
                }));
                for result in reads.await {
                    match result {
                        Ok(read) => served += u64::from(read == LEN),
                        Err(_) if is_no_room(&result) => refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(pending_faults(), 0);
                assert_eq!(handle.available_slots(), Some(8));
            }
            assert_eq!(refused + served, 400);
            assert!(refused >= 50, "{refused}");
        });
}

#[tokio::test]
async fn eagain_before_the_first_poll_of_the_driver_leaves_no_request_waiting() {
    if !is_kernel_aio_build() {
        return;
    }
    let dir = disk_dir();
    let file = patterned_file(&dir, BLOCKS).await;
    // Inline: an offloaded request meets no faults.
    let builder = AioContextBuilder::new(1).submit_policy(SubmitPolicy::Inline);
    let (_context, handle, _never_polled) = builder.build_local().unwrap();
    let gate = Gate::closed();
    let mut targets = [buffer(BLOCK), buffer(BLOCK), buffer(BLOCK)];
    let offsets = [gate.offset(), LEN, 2 * LEN];
    let mut reads: Vec<_> = offsets
        .into_iter()
        .zip(&mut targets)
        .map(|(offset, target)| {
            Box::pin(file.read_at(&handle, offset, target, LEN, ReadFlags::empty()))
        })
        .collect();
    for read in &mut reads {
        assert!(poll!(read).is_pending());
    }
    inject_faults([Fault::Again]);
    gate.open();
    let results = with_hang_guard(join_all(reads)).await;
    assert_eq!(pending_faults(), 0);
    assert_eq!(*results[0].as_ref().unwrap(), 1);
    assert!(is_no_room(&results[1]), "{results:?}");
    assert_eq!(*results[2].as_ref().unwrap(), LEN);
    assert!(is_pattern(2, targets[2].as_ref()));
    assert_eq!(handle.available_slots(), Some(1));
}

// ---- Batches in parts -------------------------------------------------------------------------

#[test]
fn a_batch_submitted_in_parts_completes() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(64)
        .inline()
        .blocks(BLOCKS)
        .every_dir()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            for round in 0..50 {
                let before = submissions();
                inject_faults([1, 1, 2, 3, 1].map(Fault::Partial));
                join_all((0..16).map(|i| {
                    let block = (round + i) % BLOCKS;
                    reads_right(&handle, &file, block)
                }))
                .await;
                // 16 reads don't fit into these five.
                assert_eq!(pending_faults(), 0);
                assert!(submissions() - before >= 6);
            }
            assert_eq!(handle.available_slots(), Some(64));
        });
}

/// Queues another request during each submission of its thread, as another busy thread would.
struct OccupiedThread {
    handle: LocalAioContextHandle,
    file: Rc<File>,
    /// Open: the requests complete at once.
    gate: Gate,
    waiting: RefCell<Vec<Pin<Box<dyn Future<Output = u64>>>>>,
    most: Cell<usize>,
}

impl OccupiedThread {
    fn queue(self: Rc<Self>) {
        if self.waiting.borrow().len() >= self.most.get() {
            return;
        }
        let busy = Rc::clone(&self);
        let mut read = Box::pin(async move {
            let OccupiedThread { handle, file, .. } = &*busy;
            let (offset, mut target) = (busy.gate.offset(), buffer(BLOCK));
            let read = file.read_at(handle, offset, &mut target, LEN, ReadFlags::empty());
            read.await.unwrap()
        });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(read.as_mut().poll(&mut cx).is_pending());
        self.waiting.borrow_mut().push(read);
        inject_faults([Fault::run_first(move || self.queue())]);
    }
}

#[test]
fn a_flush_ends_while_others_keep_queueing() {
    if !is_kernel_aio_build() {
        return;
    }
    const MOST: usize = 1000;
    let dir = disk_dir();
    current_thread().block_on(async {
        let file = Rc::new(patterned_file(&dir, BLOCKS).await);
        let builder = AioContextBuilder::new(2).max_batch(1);
        let builder = builder.submit_policy(SubmitPolicy::Inline); // with faults, and at the gates at once
        let (context, handle, background) = builder.build_local().unwrap();
        let mut background = Box::pin(background);
        assert!(poll!(&mut background).is_pending());

        let gates = [Gate::closed(), Gate::closed()];
        let mut targets = [buffer(BLOCK), buffer(BLOCK)];
        let mut held = Vec::new();
        for (gate, target) in gates.iter().zip(&mut targets) {
            let read = file.read_at(&handle, gate.offset(), target, LEN, ReadFlags::empty());
            held.push(Box::pin(read));
        }
        for read in &mut held {
            assert!(poll!(read).is_pending());
        }
        assert!(gates.iter().all(|gate| gate.waiting().len() == 1));
        let busy = Rc::new(OccupiedThread {
            handle: handle.clone(),
            file: Rc::clone(&file),
            gate: Gate::opened(),
            waiting: RefCell::default(),
            most: Cell::new(MOST),
        });
        Rc::clone(&busy).queue();

        // One slot becomes free. Requests that take it complete at once, so it stays free.
        gates[0].open();
        let start = submissions();
        while submissions() == start {
            assert!(poll!(&mut background).is_pending());
        }
        let queued = busy.waiting.borrow().len();
        assert!(queued < MOST, "a flush goes on for {MOST} submissions");
        busy.most.set(0);

        gates[1].open();
        let local = LocalSet::new();
        local.spawn_local(background);
        let done = local.run_until(async {
            join_all(held).await;
            let waiting = busy.waiting.take();
            assert!(join_all(waiting).await.into_iter().all(|done| done == 1));
            context.close().await;
        });
        with_hang_guard(done).await;
    });
}

// ---- While a submission is on its way ---------------------------------------------------------

#[test]
fn an_append_made_during_the_submission_of_another_stays_behind_it() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(2).inline().every_dir().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let file = Arc::new(open_rw(dir, "log").await);
        yield_now().await; // the driver has run
        let gate = Gate::closed();
        let mut targets = [(); 2].map(|()| buffer(BLOCK));
        let mut held: Vec<_> = targets
            .iter_mut()
            .map(|target| Box::pin(read_block(&handle, &file, gate.offset(), target)))
            .collect();
        for read in &mut held {
            assert!(poll!(read).is_pending());
        }
        wait_until(|| gate.waiting().len() == 2, || gate.waiting()).await;
        let append = |i| {
            let (handle, file) = (handle.clone(), Arc::clone(&file));
            Box::pin(async move {
                let (bytes, flags) = (patterned_buffer(i, BLOCK), WriteFlags::APPEND);
                file.write_at(&handle, 0, &bytes, LEN, flags).await.unwrap()
            })
        };
        let mut first = append(0);
        assert!(poll!(&mut first).is_pending());
        let late = Rc::new(RefCell::new(append(1)));
        let made = Rc::clone(&late);
        inject_faults([Fault::run_first(move || {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(made.borrow_mut().as_mut().poll(&mut cx).is_pending());
        })]);
        gate.open(); // the driver submits the first one, and there is another slot
        wait_until(|| pending_faults() == 0, pending_faults).await;
        wait_all_free(&handle, 2).await;
        let log = fs::read(dir.path().join("log")).unwrap();
        assert_eq!(log.len(), 2 * BLOCK);
        for (i, block) in (0..).zip(log.chunks(BLOCK)) {
            assert!(is_pattern(i, block), "block {i}");
        }
        drop((held, first, late));
    });
}

/// The result of a read during whose submission the background future of its local context is
/// dropped, followed by the fault `then`.
async fn ended_under_a_submission(dir: &TempDir, then: Option<Fault>) {
    let file = patterned_file(dir, BLOCKS).await;
    let (_context, handle, background) = local_aio_context(4, true).unwrap();
    let mut background = Box::pin(background);
    assert!(poll!(&mut background).is_pending());
    inject_faults([Fault::run_first(move || drop(background))]);
    inject_faults(then);
    let mut target = patterned_buffer(5, BLOCK);
    let read = file.read_at(&handle, 0, &mut target, LEN, ReadFlags::empty());
    let result = with_hang_guard(read).await;
    assert!(
        matches!(result, Err(AioCommandError::AioStopped)),
        "{result:?}"
    );
    assert_eq!(pending_faults(), 0);
    // The kernel may have kept the memory.
    assert_eq!(target.size(), BLOCK);
    assert_eq!(handle.available_slots(), None);
}

#[tokio::test]
async fn a_request_whose_context_ends_during_its_submission_is_stopped() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        ended_under_a_submission(&dir, None).await;
    }
}

#[tokio::test]
async fn a_request_whose_context_ends_during_eagain_is_stopped() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        ended_under_a_submission(&dir, Some(Fault::Again)).await;
    }
}

#[test]
fn a_context_closed_during_a_submission_serves_the_request() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        LocalSet::new().block_on(&current_thread(), async {
            let file = patterned_file(&dir, BLOCKS).await;
            let (context, handle, background) = local_aio_context(4, true).unwrap();
            let background = spawn_local(background);
            yield_now().await;
            inject_faults([Fault::run_first(move || drop(context))]);
            let mut target = buffer(BLOCK);
            let read = file.read_at(&handle, 9 * LEN, &mut target, LEN, ReadFlags::empty());
            assert_eq!(with_hang_guard(read).await.unwrap(), LEN);
            assert!(is_pattern(9, target.as_ref()));
            assert_eq!(pending_faults(), 0);
            with_hang_guard(background).await.unwrap().unwrap();
        });
    }
}

/// A queued write is dropped during its submission, which fails with EAGAIN: it is not retried.
#[test]
fn a_request_dropped_during_eagain_never_reaches_the_kernel() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(2).inline().blocks(BLOCKS).run(async |case| {
        let handle = case.handle;
        let file = Arc::new(case.file);
        yield_now().await;
        let gates = [Gate::closed(), Gate::closed()];
        let mut targets = [buffer(BLOCK), buffer(BLOCK)];
        let mut held: Vec<_> = gates
            .iter()
            .zip(&mut targets)
            .map(|(gate, target)| Box::pin(read_block(&handle, &file, gate.offset(), target)))
            .collect();
        for read in &mut held {
            assert!(poll!(read).is_pending());
        }
        let mut write = Box::pin({
            let (file, handle, data) = (
                Arc::clone(&file),
                handle.clone(),
                patterned_buffer(77, BLOCK),
            );
            async move {
                let write = file.write_at(&handle, 0, &data, LEN, WriteFlags::empty());
                write.await
            }
        });
        assert!(poll!(&mut write).is_pending());
        // Both gated requests are in flight before it is the write's turn.
        wait_until(|| gates.iter().all(|g| g.waiting().len() == 1), || ()).await;

        inject_faults([Fault::run_first(move || drop(write)), Fault::Again]);
        gates[0].open();
        wait_until(|| pending_faults() == 0, pending_faults).await;
        wait_until(
            || handle.available_slots() == Some(1),
            || handle.available_slots(),
        )
        .await;
        gates[1].open();
        join_all(held).await;
        reads_right(&handle, &file, 0).await;
        assert_eq!(handle.available_slots(), Some(2));
    });
}

// ---- At random ---------------------------------------------------------------------------------

/// Blocks that only one task writes.
const OWN: u64 = BLOCKS;
const TASKS: u64 = 16;
const TURNS: u64 = 40;

/// Reads and writes, drops or forgets many of these operations, and counts those that were served.
async fn work(task: u64, file: Arc<File>, handle: AioContextHandle) -> u64 {
    let mut served = 0;
    let mut target = buffer(BLOCK);
    for turn in 0..TURNS {
        if target.size() == 0 {
            target = buffer(BLOCK); // a forgotten read has it
        }
        let block = random() % BLOCKS;
        let offset = block * LEN;
        let raw = |buffer| RawCommand::Pread {
            offset,
            buffer,
            len: LEN,
            flags: ReadFlags::empty(),
        };
        match random() % 16 {
            0 => {
                let mut read = Box::pin(read_block(&handle, &file, offset, &mut target));
                let _ = poll!(&mut read);
                std::mem::forget(read);
            }
            1 => {
                let mut read = Box::pin(read_block(&handle, &file, offset, &mut target));
                let _ = poll!(&mut read);
            }
            2 => {
                let mut read = Box::pin(read_block(&handle, &file, offset, &mut target));
                let _ = poll!(&mut read);
                yield_now().await;
            }
            3 => {
                let mut read = Box::pin(handle.submit_request(&*file, raw(&mut target)));
                let _ = poll!(&mut read);
            }
            4 => {
                let result = handle.submit_request(&*file, raw(&mut target)).await;
                served += check(result, block, &target);
            }
            5 => {
                let seed = task << 32 | turn;
                let data = patterned_buffer(seed, BLOCK);
                let own = (OWN + task) * LEN;
                let write = file.write_at(&handle, own, &data, LEN, WriteFlags::empty());
                if is_no_room(&write.await) {
                    continue;
                }
                let result = read_block(&handle, &file, own, &mut target).await;
                served += check(result, seed, &target);
            }
            _ => {
                let result = read_block(&handle, &file, offset, &mut target).await;
                served += check(result, block, &target);
            }
        }
    }
    served
}

fn check(result: Result<u64, AioCommandError>, seed: u64, target: &LockedBuf) -> u64 {
    if is_no_room(&result) {
        return 0;
    }
    assert_eq!(result.unwrap(), LEN);
    assert!(is_pattern(seed, target.as_ref()));
    1
}

/// A runtime with this many threads; `per_mille` of a thousand submissions on them meet a random
/// fault.
fn faulty_runtime(threads: usize, per_mille: u64) -> Runtime {
    match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    }
    .worker_threads(threads)
    .on_thread_start(move || inject_random_faults(per_mille))
    .enable_all()
    .build()
    .unwrap()
}

fn random_faults_over(dir: &TempDir) {
    write_patterned(&dir.path().join("data"), (OWN + TASKS) as usize);
    let shapes = [
        // threads, slots, max_batch
        (1, 1, 1),
        (1, 4, 2),
        (1, 64, 64),
        (2, 64, 64),
        (2, 1, 64),
        (3, 4, 32),
        (3, 16, 4),
        (3, 1, 1),
    ];
    for (threads, slots, max_batch) in shapes {
        for per_mille in [50, 300] {
            inject_random_faults(if threads == 1 { per_mille } else { 0 });
            let runtime = faulty_runtime(threads, per_mille);
            runtime.block_on(async {
                let file = Arc::new(open_rw(dir, "data").await);
                let shards = if per_mille > 100 { threads } else { 1 };
                let builder = AioContextBuilder::new(slots).max_batch(max_batch);
                let (context, handle) = builder.shards(shards).build().unwrap();
                let mut tasks = JoinSet::new();
                for task in 0..TASKS {
                    tasks.spawn(work(task, Arc::clone(&file), handle.clone()));
                }
                let served: u64 = with_hang_guard(tasks.join_all()).await.into_iter().sum();
                assert!(served > TASKS * TURNS / 4, "{served} were served");
                wait_all_free(&handle, slots).await;
                with_hang_guard(context.close()).await;
            });
            inject_random_faults(0);
        }
    }
}

#[test]
fn random_submission_faults_corrupt_nothing() {
    if BACKENDS == [Backend::ThreadPool] {
        eprintln!("skipped on {}: it has no submissions", BACKENDS[0]);
        return;
    }
    for dir in test_dirs() {
        random_faults_over(&dir);
    }
    let injected = RANDOM_FAULTS
        .each_ref()
        .map(|n| AtomicU64::load(n, Ordering::Relaxed));
    assert!(injected.iter().all(|&n| n > 0), "{injected:?}");
}
