//! An operation in steady state allocates nothing, alone or among others.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use common::*;
use tempfile::TempDir;
use tokio::task::{LocalSet, spawn_local};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, File, LockedBuf, ReadFlags, SubmitPolicy, WriteFlags,
};

/// Counts what each thread allocates, so that tests can run side by side.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // Fails while the thread ends, when nobody measures.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LEN: u64 = BLOCK as u64;
/// Issued together.
const TOGETHER: usize = 32;
/// Before the state is steady: tokio too grows something, when a task has used up its budget.
const WARM_UP: usize = 1000;
const MEASURED: usize = 500;

/// Allocations of `rounds` of `operations` on this thread, after as many as it takes to get
/// going.
async fn allocations(mut operations: impl AsyncFnMut()) -> usize {
    for _ in 0..WARM_UP {
        operations().await;
    }
    let before = ALLOCATIONS.get();
    for _ in 0..MEASURED {
        operations().await;
    }
    ALLOCATIONS.get() - before
}

async fn file(dir: &TempDir) -> File {
    write_patterned(&dir.path().join("file"), TOGETHER);
    open_rw(dir, "file").await
}

/// Waits for all of `operations`, which are kept where they are.
async fn all<F>(operations: [F; TOGETHER])
where
    F: Future<Output = Result<u64, AioCommandError>>,
{
    let mut running = operations.map(Some);
    poll_fn(|cx: &mut Context<'_>| {
        let mut waiting = false;
        for slot in &mut running {
            let Some(operation) = slot else { continue };
            // SAFETY: `running` is borrowed by this closure for as long as the operations exist,
            // and each is dropped in its place.
            let operation = unsafe { Pin::new_unchecked(operation) };
            match operation.poll(cx) {
                Poll::Ready(result) => {
                    assert_eq!(result.unwrap(), LEN);
                    *slot = None;
                }
                Poll::Pending => waiting = true,
            }
        }
        if waiting {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// The same for every flavour of context, whose handles have no type in common.
macro_rules! check {
    ($dir:expr, $handle:expr) => {{
        let file = file($dir).await;
        let mut target = buffer(BLOCK);
        let alone = allocations(async || {
            let read = file.read_at(&$handle, 0, &mut target, LEN, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), LEN);
        });
        assert_eq!(within(alone).await, 0, "a read");

        let source = patterned(0, BLOCK);
        let alone = allocations(async || {
            let write = file.write_at(&$handle, 0, &source, LEN, WriteFlags::empty());
            assert_eq!(write.await.unwrap(), LEN);
        });
        assert_eq!(within(alone).await, 0, "a write");

        let mut targets: [LockedBuf; TOGETHER] = std::array::from_fn(|_| buffer(BLOCK));
        let together = allocations(async || {
            let mut offset = 0;
            all(targets.each_mut().map(|target| {
                let read = file.read_at(&$handle, offset, target, LEN, ReadFlags::empty());
                offset += LEN;
                read
            }))
            .await;
        });
        assert_eq!(within(together).await, 0, "reads together");
        for (i, target) in targets.iter().enumerate() {
            assert!(is_pattern(i as u64, target.as_ref()));
        }

        let sources: [LockedBuf; TOGETHER] = std::array::from_fn(|i| patterned(i as u64, BLOCK));
        let together = allocations(async || {
            let mut offset = 0;
            all(sources.each_ref().map(|source| {
                let write = file.write_at(&$handle, offset, source, LEN, WriteFlags::empty());
                offset += LEN;
                write
            }))
            .await;
        });
        assert_eq!(within(together).await, 0, "writes together");
    }};
}

fn on_a_shared_context(dir: &TempDir, slots: usize) {
    one_thread().block_on(async {
        let (context, handle) = inline_context(slots); // a job of the pool is an allocation
        check!(dir, handle);
        within(context.close()).await;
    });
}

fn on_a_local_context(dir: &TempDir, slots: usize) {
    one_thread().block_on(LocalSet::new().run_until(async {
        let builder = AioContextBuilder::new(slots).submit_policy(SubmitPolicy::Inline);
        let (context, handle, background) = builder.build_local().unwrap();
        spawn_local(background);
        check!(dir, handle);
        within(context.close()).await;
    }));
}

#[test]
fn the_allocator_of_this_test_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

#[test]
fn operations_on_disk_allocate_nothing() {
    if !on_kernel_aio() {
        return;
    }
    on_a_shared_context(&on_disk(), TOGETHER);
}

#[test]
fn operations_on_tmpfs_allocate_nothing() {
    if !on_kernel_aio() {
        return;
    }
    let Some(dir) = on_tmpfs() else { return };
    on_a_shared_context(&dir, TOGETHER);
}

#[test]
fn operations_that_wait_for_a_slot_allocate_nothing() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        on_a_shared_context(&dir, TOGETHER / 8);
    }
}

#[test]
fn operations_on_a_local_context_allocate_nothing() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        on_a_local_context(&dir, TOGETHER);
    }
}
