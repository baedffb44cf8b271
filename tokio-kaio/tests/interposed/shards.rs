//! Several kernel contexts behind one handle.
#![allow(unsafe_code)] // defines a function of the C library

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::c_int;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::common::*;
use crate::interposer::Gate;
use futures::future::join_all;
use futures::poll;
use tokio::task::JoinSet;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextBuilder, AioContextHandle, LockedBuf, RawCommand,
    ReadFlags, SubmitPolicy,
};

fn sharded(slots: usize, shards: usize, wait: bool) -> (AioContext, AioContextHandle) {
    sharded_with(SubmitPolicy::default(), slots, shards, wait)
}

fn sharded_with(
    policy: SubmitPolicy,
    slots: usize,
    shards: usize,
    wait: bool,
) -> (AioContext, AioContextHandle) {
    let builder = AioContextBuilder::new(slots).shards(shards);
    let builder = builder.submit_policy(policy).wait_for_slot(wait);
    builder.build().unwrap()
}

type Read<'a> = Pin<Box<dyn Future<Output = Result<u64, AioCommandError>> + 'a>>;

/// A read into each target, held at `gate`.
fn held<'a>(
    handle: &'a AioContextHandle,
    file: &'a tokio_kaio::File,
    gate: &Gate,
    targets: &'a mut [LockedBuf],
) -> Vec<Read<'a>> {
    let offset = gate.offset();
    let read = |target| Box::pin(read_block(handle, file, offset, target)) as Read<'a>;
    targets.iter_mut().map(read).collect()
}

#[tokio::test]
async fn shards_share_the_requested_number_of_slots() {
    for (slots, shards) in [(5, 2), (8, 8), (3, 100), (1, 2), (4, 0), (7, 1)] {
        let (context, handle) = sharded(slots, shards, true);
        assert_eq!(context.available_slots(), Some(slots), "{shards} shards");
        assert_eq!(handle.available_slots(), Some(slots), "{shards} shards");
        with_hang_guard(context.close()).await;
        assert_eq!(handle.available_slots(), None);
    }
}

#[tokio::test]
async fn a_request_whose_shard_is_full_uses_another() {
    if !is_kernel_aio_build() {
        return;
    }
    let dir = disk_dir();
    let file = patterned_file(&dir, 1).await;
    // Inline: an offloaded request reaches the gate later.
    let (context, handle) = sharded_with(SubmitPolicy::Inline, 4, 4, false);
    let gate = Gate::closed();
    let mut targets: Vec<_> = (0..5).map(|_| buffer(BLOCK)).collect();
    let mut reads = held(&handle, &file, &gate, &mut targets);
    let last = reads.pop().unwrap();
    for read in &mut reads {
        assert!(poll!(read).is_pending());
    }
    let shards: HashSet<_> = gate.waiting().into_iter().collect();
    assert_eq!(shards.len(), 4, "one eventfd a shard");

    let refused = with_hang_guard(last).await;
    assert!(matches!(refused, Err(AioCommandError::CapacityExceeded)));

    gate.open();
    let results = with_hang_guard(join_all(reads)).await;
    assert!(results.into_iter().all(|result| result.unwrap() == 1));
    with_hang_guard(context.close()).await;
}

#[tokio::test]
async fn requests_wait_when_all_shards_are_full() {
    let dir = disk_dir();
    let file = patterned_file(&dir, 1).await;
    // Inline: a request that a thread submits may complete before it is recorded at the gate.
    let (context, handle) = sharded_with(SubmitPolicy::Inline, 4, 2, true);
    let gate = Gate::closed();
    let mut targets: Vec<_> = (0..20).map(|_| buffer(BLOCK)).collect();
    let mut reads = held(&handle, &file, &gate, &mut targets);
    for read in &mut reads {
        assert!(poll!(read).is_pending());
    }
    assert_eq!(handle.available_slots(), Some(0));
    tokio::task::yield_now().await; // the driver runs
    wait_until(|| gate.waiting().len() == 4, || gate.waiting()).await; // where threads do it, these too

    gate.open();
    let results = with_hang_guard(join_all(reads)).await;
    assert!(results.into_iter().all(|result| result.unwrap() == 1));
    assert_eq!(gate.waiting().len(), 20);
    wait_all_free(&handle, 4).await;
    with_hang_guard(context.close()).await;
}

#[test]
fn close_releases_every_shard() {
    if !in_child!() {
        return;
    }
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let runtime = multi_thread();
    runtime.block_on(async {
        let dir = disk_dir();
        let file = patterned_file(&dir, 1).await;
        let mut target = buffer(BLOCK);
        let before = open_files();
        let (context, handle) = sharded(64, 4, true);
        assert!(open_files() >= before + 4);
        read_block(&handle, &file, 0, &mut target).await.unwrap();
        with_hang_guard(context.close()).await;
        // A thread may still hand over its result.
        wait_until(|| open_files() <= before, || (before, open_files())).await;
        let refused = read_block(&handle, &file, 0, &mut target).await;
        assert!(matches!(refused, Err(AioCommandError::AioStopped)));
    });
}

#[test]
fn tasks_on_several_workers_read_the_right_data() {
    const TASKS: u64 = 48;
    const TURNS: u64 = 200;
    const BLOCKS: u64 = 64;
    for dir in test_dirs() {
        multi_thread().block_on(async {
            let file = Arc::new(patterned_file(&dir, BLOCKS).await);
            // Fewer slots than tasks: some requests wait, some use another shard.
            let (context, handle) = sharded(16, 2, true);
            let mut tasks = JoinSet::new();
            for task in 0..TASKS {
                let (file, handle) = (Arc::clone(&file), handle.clone());
                tasks.spawn(async move {
                    let mut target = buffer(BLOCK);
                    for turn in 0..TURNS {
                        let block = (task * 7 + turn) % BLOCKS;
                        let read = read_block(&handle, &file, block * LEN, &mut target).await;
                        assert_eq!(read.unwrap(), LEN);
                        assert!(is_pattern(block, target.as_ref()));
                    }
                });
            }
            with_hang_guard(tasks.join_all()).await;
            wait_all_free(&handle, 16).await;
            with_hang_guard(context.close()).await;
        });
    }
}

thread_local! {
    /// Whether this thread runs on another CPU each time that it asks.
    static MIGRATES: Cell<bool> = const { Cell::new(false) };
}

/// The C library's function, for the whole program. The library chooses a shard with it.
#[unsafe(no_mangle)]
extern "C" fn sched_getcpu() -> c_int {
    static CALLS: AtomicI32 = AtomicI32::new(0);
    if MIGRATES.get() {
        return CALLS.fetch_add(1, Ordering::Relaxed) % 4;
    }
    let mut cpu = 0_u32;
    let null = std::ptr::null_mut::<u32>();
    // SAFETY: the kernel writes a number of ours.
    let code = unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, null, null) };
    assert_eq!(code, 0);
    cpu as c_int
}

#[tokio::test]
async fn a_batch_goes_to_one_shard_although_its_thread_migrates() {
    if !is_kernel_aio_build() {
        return;
    }
    let dir = disk_dir();
    let file = patterned_file(&dir, 1).await;
    let (context, handle) = sharded(16, 4, true);
    let gate = Gate::closed();
    let mut targets: Vec<_> = (0..4).map(|_| buffer(BLOCK)).collect();
    let mut batch = handle.batch();
    for buffer in &mut targets {
        let (offset, flags, len) = (gate.offset(), ReadFlags::empty(), LEN);
        batch.push(
            &file,
            RawCommand::Pread {
                offset,
                buffer,
                flags,
                len,
            },
        );
    }
    MIGRATES.set(true);
    let mut all = Box::pin(batch.all());
    let first_poll = poll!(&mut all);
    MIGRATES.set(false);
    assert!(first_poll.is_pending());
    let eventfds = gate.waiting();
    assert_eq!(eventfds.len(), 4);
    let shards: HashSet<_> = eventfds.into_iter().collect();
    assert_eq!(shards.len(), 1, "one eventfd a shard");
    gate.open();
    assert!(with_hang_guard(all).await.iter().all(Result::is_ok));
    with_hang_guard(context.close()).await;
}
