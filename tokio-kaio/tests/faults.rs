//! What `io_submit` may meet: no room (`EAGAIN`), batches that are taken in parts, and all that
//! can happen on other threads, or in the same one, while a submission is on its way.
#![allow(unsafe_code)] // duplicates a descriptor to a number of its own

mod common;
#[path = "common/interposed.rs"]
mod interposed;

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

use common::*;
use futures::future::join_all;
use futures::poll;
use interposed::{
    Fault, Gate, STORMED, faults_to_come, next_submissions_meet, random, storm, submissions,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, File, LocalAioContextHandle, LockedBuf,
    RawCommand, ReadFlags, WriteFlags, local_aio_context,
};

const LEN: u64 = BLOCK as u64;
/// Blocks of the files here.
const BLOCKS: u64 = 64;

async fn reads_right(handle: &AioContextHandle, file: &File, block: u64) {
    let mut target = buffer(BLOCK);
    let read = within(read_block(handle, file, block * LEN, &mut target)).await;
    assert_eq!(read.unwrap(), LEN);
    assert!(is_pattern(block, target.as_ref()));
}

fn is_no_room<T>(result: &Result<T, AioCommandError>) -> bool {
    matches!(result, Err(AioCommandError::IoSubmit(error)) if error.raw_os_error() == Some(libc::EAGAIN))
}

/// With O_DIRECT, as a descriptor that is no [`File`].
fn open_plain(path: &Path) -> fs::File {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true);
    options.custom_flags(libc::O_DIRECT).open(path).unwrap()
}

// ---- No room ----------------------------------------------------------------------------------

#[tokio::test]
async fn a_request_that_meets_eagain_beside_others_waits_for_them_and_is_served() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        let file = patterned_file(&dir, BLOCKS).await;
        let (context, handle) = inline_context(8);
        let gate = Gate::closed();
        let (mut held_buffer, mut target) = (buffer(BLOCK), buffer(BLOCK));
        let mut held = Box::pin(read_block(&handle, &file, gate.offset(), &mut held_buffer));
        assert!(poll!(&mut held).is_pending());

        next_submissions_meet([Fault::NoRoom]);
        let command = RawCommand::Pread {
            offset: 3 * LEN,
            buffer: &mut target,
            len: LEN,
            flags: ReadFlags::empty(),
        };
        let mut refused = Box::pin(handle.submit_request(&file, command));
        assert!(poll!(&mut refused).is_pending());
        assert_eq!(faults_to_come(), 0);
        assert_eq!(handle.available_slots(), Some(6));

        gate.open();
        assert_eq!(within(held).await.unwrap(), 1);
        assert_eq!(within(refused).await.unwrap(), LEN);
        assert!(is_pattern(3, target.as_ref()));
        within(context.close()).await;
    }
}

/// It waits on a duplicate of its descriptor. The caller's may be another file's by the time there
/// is room.
#[tokio::test]
async fn a_request_put_back_after_eagain_stays_on_its_file() {
    if !on_kernel_aio() {
        return;
    }
    let dir = on_disk();
    let busy = patterned_file(&dir, BLOCKS).await;
    let data = patterned(7, BLOCK);
    let (context, handle) = inline_context(8);
    yield_now().await; // the driver has run
    until_seen(async || {
        let [target_path, other_path] = ["target", "other"].map(|name| dir.path().join(name));
        fs::write(&other_path, vec![0; BLOCK]).unwrap();
        let gate = Gate::closed();
        let mut held_buffer = buffer(BLOCK);
        let mut held = Box::pin(read_block(&handle, &busy, gate.offset(), &mut held_buffer));
        assert!(poll!(&mut held).is_pending());

        let (target, other) = (open_plain(&target_path), open_plain(&other_path));
        next_submissions_meet([Fault::NoRoom]);
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
        assert_eq!(faults_to_come(), 0);
        std::mem::forget(write);
        let number = target.as_raw_fd();
        drop(target);
        // SAFETY: makes a descriptor: of that number, if no other thread was faster.
        let got = unsafe { libc::fcntl(other.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
        assert!(got >= 0);
        // SAFETY: it is new, and nobody else's.
        let _other = unsafe { OwnedFd::from_raw_fd(got) };

        gate.open();
        within(held).await.unwrap();
        all_free(&handle, 8).await;
        assert!(fs::read(&other_path).unwrap() == vec![0; BLOCK]);
        assert!(fs::read(&target_path).unwrap() == data.as_ref());
        (got == number).then_some(())
    })
    .await;
    within(context.close()).await;
}

#[tokio::test]
async fn eagain_with_nothing_else_in_flight_is_an_error_and_the_context_goes_on() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        let file = patterned_file(&dir, BLOCKS).await;
        let (context, handle) = inline_context(4);
        // The first ones before the driver has run.
        for round in 0..100 {
            next_submissions_meet([Fault::NoRoom]);
            let mut target = patterned(99, BLOCK);
            let refused = within(read_block(&handle, &file, 0, &mut target)).await;
            assert!(is_no_room(&refused), "{refused:?}");
            assert_eq!(faults_to_come(), 0);
            assert!(is_pattern(99, target.as_ref()), "the buffer is as it was");
            assert_eq!(handle.available_slots(), Some(4));
            reads_right(&handle, &file, round % BLOCKS).await;
        }
        within(context.close()).await;
    }
}

#[tokio::test]
async fn eagain_to_a_whole_batch_with_nothing_else_in_flight_is_each_ones_error() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        let file = patterned_file(&dir, BLOCKS).await;
        let (context, handle) = inline_context(8);
        let (mut refused, mut served) = (0, 0);
        for _ in 0..50 {
            next_submissions_meet([Fault::NoRoom]);
            let reads = join_all((0..8).map(async |block| {
                let mut target = buffer(BLOCK);
                let result = read_block(&handle, &file, block * LEN, &mut target).await;
                assert!(is_no_room(&result) || is_pattern(block, target.as_ref()));
                result
            }));
            for result in within(reads).await {
                match result {
                    Ok(read) => served += u64::from(read == LEN),
                    Err(_) if is_no_room(&result) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(faults_to_come(), 0);
            assert_eq!(handle.available_slots(), Some(8));
        }
        assert_eq!(refused + served, 400);
        assert!(refused >= 50, "{refused}");
        within(context.close()).await;
    }
}

#[tokio::test]
async fn eagain_where_the_driver_was_never_polled_does_not_leave_those_behind_waiting() {
    if !on_kernel_aio() {
        return;
    }
    let dir = on_disk();
    let file = patterned_file(&dir, BLOCKS).await;
    let (_context, handle, _never_polled) = local_aio_context(1, true).unwrap();
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
    next_submissions_meet([Fault::NoRoom]);
    gate.open();
    let results = within(join_all(reads)).await;
    assert_eq!(faults_to_come(), 0);
    assert_eq!(*results[0].as_ref().unwrap(), 1);
    assert!(is_no_room(&results[1]), "{results:?}");
    assert_eq!(*results[2].as_ref().unwrap(), LEN);
    assert!(is_pattern(2, targets[2].as_ref()));
    assert_eq!(handle.available_slots(), Some(1));
}

// ---- Batches in parts -------------------------------------------------------------------------

#[tokio::test]
async fn a_batch_that_is_taken_in_parts_is_served_whole() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        let file = patterned_file(&dir, BLOCKS).await;
        let (context, handle) = inline_context(64);
        for round in 0..50 {
            let before = submissions();
            next_submissions_meet([1, 1, 2, 3, 1].map(Fault::Part));
            within(join_all((0..16).map(|i| {
                let block = (round + i) % BLOCKS;
                reads_right(&handle, &file, block)
            })))
            .await;
            // 16 reads don't fit into these five.
            assert_eq!(faults_to_come(), 0);
            assert!(submissions() - before >= 6);
        }
        assert_eq!(handle.available_slots(), Some(64));
        within(context.close()).await;
    }
}

/// Brings another request with each submission of its thread, as a busy other thread would.
struct Busy {
    handle: LocalAioContextHandle,
    file: Rc<File>,
    /// Open: the requests are done at once.
    gate: Gate,
    waiting: RefCell<Vec<Pin<Box<dyn Future<Output = u64>>>>>,
    most: Cell<usize>,
}

impl Busy {
    fn queue(self: Rc<Self>) {
        if self.waiting.borrow().len() >= self.most.get() {
            return;
        }
        let busy = Rc::clone(&self);
        let mut read = Box::pin(async move {
            let Busy { handle, file, .. } = &*busy;
            let (offset, mut target) = (busy.gate.offset(), buffer(BLOCK));
            let read = file.read_at(handle, offset, &mut target, LEN, ReadFlags::empty());
            read.await.unwrap()
        });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(read.as_mut().poll(&mut cx).is_pending());
        self.waiting.borrow_mut().push(read);
        next_submissions_meet([Fault::first(move || self.queue())]);
    }
}

#[test]
fn a_flush_ends_although_others_keep_queueing() {
    if !on_kernel_aio() {
        return;
    }
    const MOST: usize = 1000;
    let dir = on_disk();
    one_thread().block_on(async {
        let file = Rc::new(patterned_file(&dir, BLOCKS).await);
        let builder = AioContextBuilder::new(2).max_batch(1);
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
        assert!(gates.iter().all(|gate| gate.held().len() == 1));
        let busy = Rc::new(Busy {
            handle: handle.clone(),
            file: Rc::clone(&file),
            gate: Gate::opened(),
            waiting: RefCell::default(),
            most: Cell::new(MOST),
        });
        Rc::clone(&busy).queue();

        // One slot becomes free. Requests that take it are done at once, so it stays free.
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
        within(done).await;
    });
}

// ---- While a submission is on its way ---------------------------------------------------------

#[tokio::test]
async fn an_append_made_while_another_is_submitted_stays_behind_it() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        let file = Arc::new(open_rw(&dir, "log").await);
        let (context, handle) = inline_context(2);
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
        until(|| gate.held().len() == 2, || gate.held()).await;
        let append = |i| {
            let (handle, file) = (handle.clone(), Arc::clone(&file));
            Box::pin(async move {
                let (bytes, flags) = (patterned(i, BLOCK), WriteFlags::APPEND);
                file.write_at(&handle, 0, &bytes, LEN, flags).await.unwrap()
            })
        };
        let mut first = append(0);
        assert!(poll!(&mut first).is_pending());
        let late = Rc::new(RefCell::new(append(1)));
        let made = Rc::clone(&late);
        next_submissions_meet([Fault::first(move || {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(made.borrow_mut().as_mut().poll(&mut cx).is_pending());
        })]);
        gate.open(); // the driver submits the first one, and there is another slot
        until(|| faults_to_come() == 0, faults_to_come).await;
        all_free(&handle, 2).await;
        let log = fs::read(dir.path().join("log")).unwrap();
        assert_eq!(log.len(), 2 * BLOCK);
        for (i, block) in (0..).zip(log.chunks(BLOCK)) {
            assert!(is_pattern(i, block), "block {i}");
        }
        drop((held, first, late));
        within(context.close()).await;
    }
}

/// A local context whose future can be dropped at any moment, and what that brings to a read that
/// is just being submitted, and meets `then`.
async fn ended_under_a_submission(dir: &TempDir, then: Option<Fault>) {
    let file = patterned_file(dir, BLOCKS).await;
    let (_context, handle, background) = local_aio_context(4, true).unwrap();
    let mut background = Box::pin(background);
    assert!(poll!(&mut background).is_pending());
    next_submissions_meet([Fault::first(move || drop(background))]);
    next_submissions_meet(then);
    let mut target = patterned(5, BLOCK);
    let read = file.read_at(&handle, 0, &mut target, LEN, ReadFlags::empty());
    let result = within(read).await;
    assert!(
        matches!(result, Err(AioCommandError::AioStopped)),
        "{result:?}"
    );
    assert_eq!(faults_to_come(), 0);
    // The kernel may have kept the memory.
    assert_eq!(target.size(), BLOCK);
    assert_eq!(handle.available_slots(), None);
}

#[tokio::test]
async fn a_request_whose_context_ends_while_it_is_submitted_is_stopped() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        ended_under_a_submission(&dir, None).await;
    }
}

#[tokio::test]
async fn a_request_whose_context_ends_while_it_meets_eagain_is_stopped() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        ended_under_a_submission(&dir, Some(Fault::NoRoom)).await;
    }
}

#[test]
fn a_context_closed_while_a_request_is_submitted_serves_it() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        LocalSet::new().block_on(&one_thread(), async {
            let file = patterned_file(&dir, BLOCKS).await;
            let (context, handle, background) = local_aio_context(4, true).unwrap();
            let background = spawn_local(background);
            yield_now().await;
            next_submissions_meet([Fault::first(move || drop(context))]);
            let mut target = buffer(BLOCK);
            let read = file.read_at(&handle, 9 * LEN, &mut target, LEN, ReadFlags::empty());
            assert_eq!(within(read).await.unwrap(), LEN);
            assert!(is_pattern(9, target.as_ref()));
            assert_eq!(faults_to_come(), 0);
            within(background).await.unwrap().unwrap();
        });
    }
}

/// A write that waited for its slot is given up while it is being submitted, and the kernel has no
/// room for it: it is not put back.
#[tokio::test]
async fn a_request_dropped_while_it_meets_eagain_never_reaches_the_kernel() {
    if !on_kernel_aio() {
        return;
    }
    let dir = on_disk();
    let file = Arc::new(patterned_file(&dir, BLOCKS).await);
    let (context, handle) = inline_context(2);
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
        let (file, handle, data) = (Arc::clone(&file), handle.clone(), patterned(77, BLOCK));
        async move {
            let write = file.write_at(&handle, 0, &data, LEN, WriteFlags::empty());
            write.await
        }
    });
    assert!(poll!(&mut write).is_pending());
    // Both at the gates are with the kernel before the write's turn comes.
    until(|| gates.iter().all(|g| g.held().len() == 1), || ()).await;

    next_submissions_meet([Fault::first(move || drop(write)), Fault::NoRoom]);
    gates[0].open();
    until(|| faults_to_come() == 0, faults_to_come).await;
    until(
        || handle.available_slots() == Some(1),
        || handle.available_slots(),
    )
    .await;
    gates[1].open();
    within(join_all(held)).await;
    reads_right(&handle, &file, 0).await;
    assert_eq!(handle.available_slots(), Some(2));
    within(context.close()).await;
}

// ---- Storms -----------------------------------------------------------------------------------

/// Blocks that one task writes, and nobody else.
const OWN: u64 = BLOCKS;
const TASKS: u64 = 16;
const TURNS: u64 = 40;

/// Reads and writes, many of which are given up, and counts those that were served.
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
                let data = patterned(seed, BLOCK);
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

/// A runtime of so many threads; `per_mille` of the submissions on them meet a fault.
fn stormy(threads: usize, per_mille: u64) -> Runtime {
    match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    }
    .worker_threads(threads)
    .on_thread_start(move || storm(per_mille))
    .enable_all()
    .build()
    .unwrap()
}

fn storm_over(dir: &TempDir) {
    write_patterned(&dir.path().join("blocks"), (OWN + TASKS) as usize);
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
            storm(if threads == 1 { per_mille } else { 0 });
            let runtime = stormy(threads, per_mille);
            runtime.block_on(async {
                let file = Arc::new(open_rw(dir, "blocks").await);
                let shards = if per_mille > 100 { threads } else { 1 };
                let builder = AioContextBuilder::new(slots).max_batch(max_batch);
                let (context, handle) = builder.shards(shards).build().unwrap();
                let mut tasks = JoinSet::new();
                for task in 0..TASKS {
                    tasks.spawn(work(task, Arc::clone(&file), handle.clone()));
                }
                let served: u64 = within(tasks.join_all()).await.into_iter().sum();
                assert!(served > TASKS * TURNS / 4, "{served} were served");
                all_free(&handle, slots).await;
                within(context.close()).await;
            });
            storm(0);
        }
    }
}

#[test]
fn a_storm_of_faults_leaves_everything_right() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        storm_over(&dir);
    }
    let met = STORMED
        .each_ref()
        .map(|n| AtomicU64::load(n, Ordering::Relaxed));
    assert!(met.iter().all(|&n| n > 0), "{met:?}");
}
