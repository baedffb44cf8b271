//! An operation in steady state allocates nothing, alone or in a batch.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use common::*;
use tempfile::TempDir;
use tokio::task::{LocalSet, spawn_local};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, AlignedBuf, BufferPool, File, IoBuf,
    IoBufMut, IoPriority, LockedBuf, ReadFlags, SubmitPolicy, WriteFlags,
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

/// Issued together.
const TOGETHER: usize = 32;
/// Warm-up: tokio, too, allocates something when a task first uses up its budget.
const WARM_UP: usize = 1000;
const MEASURED: usize = 500;

/// Allocations of `rounds` rounds of `operations` on this thread, after a warm-up.
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
        assert_eq!(with_hang_guard(alone).await, 0, "a read");

        let source = patterned_buffer(0, BLOCK);
        let alone = allocations(async || {
            let write = file.write_at(&$handle, 0, &source, LEN, WriteFlags::empty());
            assert_eq!(write.await.unwrap(), LEN);
        });
        assert_eq!(with_hang_guard(alone).await, 0, "a write");

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
        assert_eq!(with_hang_guard(together).await, 0, "reads together");
        for (i, target) in targets.iter().enumerate() {
            assert!(is_pattern(i as u64, target.as_ref()));
        }

        let sources: [LockedBuf; TOGETHER] =
            std::array::from_fn(|i| patterned_buffer(i as u64, BLOCK));
        let together = allocations(async || {
            let mut offset = 0;
            all(sources.each_ref().map(|source| {
                let write = file.write_at(&$handle, offset, source, LEN, WriteFlags::empty());
                offset += LEN;
                write
            }))
            .await;
        });
        assert_eq!(with_hang_guard(together).await, 0, "writes together");
    }};
}

fn on_a_shared_context(dir: &TempDir, slots: usize) {
    current_thread().block_on(async {
        let (context, handle) = inline_context(slots); // a job of the pool is an allocation
        check!(dir, handle);
        with_hang_guard(context.close()).await;
    });
}

fn on_a_local_context(dir: &TempDir, slots: usize) {
    current_thread().block_on(LocalSet::new().run_until(async {
        let builder = AioContextBuilder::new(slots).submit_policy(SubmitPolicy::Inline);
        let (context, handle, background) = builder.build_local().unwrap();
        spawn_local(background);
        check!(dir, handle);
        with_hang_guard(context.close()).await;
    }));
}

#[test]
fn the_allocator_of_this_test_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

/// Allocations per operation, of many operations that allocate equally.
async fn each(operations: impl AsyncFnMut()) -> usize {
    let all = with_hang_guard(allocations(operations)).await;
    assert_eq!(all % MEASURED, 0, "{all} for {MEASURED}");
    all / MEASURED
}

/// A buffer that is handed over and comes back repeatedly.
async fn handed_over<B: IoBufMut>(handle: &AioContextHandle, file: &File, buffer: B) -> [usize; 4] {
    let flags = (ReadFlags::empty(), WriteFlags::empty());
    let mut place = Some(buffer);
    let mut of = [0; 4];
    of[0] = each(async || {
        let (read, buffer) = file
            .read_owned_at(handle, 0, place.take().unwrap(), flags.0)
            .await;
        assert_eq!(read.unwrap(), LEN);
        place = Some(buffer);
    })
    .await;
    of[1] = each(async || {
        let (written, buffer) = file
            .write_owned_at(handle, 0, place.take().unwrap(), flags.1)
            .await;
        assert_eq!(written.unwrap(), LEN);
        place = Some(buffer);
    })
    .await;
    of[2] = each(async || {
        let buffer = place.take().unwrap();
        let (read, buffer) = file.read_exact_owned_at(handle, 0, buffer, flags.0).await;
        read.unwrap();
        place = Some(buffer);
    })
    .await;
    of[3] = each(async || {
        let buffer = place.take().unwrap();
        let (written, buffer) = file.write_all_owned_at(handle, 0, buffer, flags.1).await;
        written.unwrap();
        place = Some(buffer);
    })
    .await;
    of
}

#[test]
fn owned_buffers_cost_at_most_two_allocations() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        current_thread().block_on(async {
            let (context, handle) = inline_context(4);
            let file = file(&dir).await;
            let aligned = || AlignedBuf::new(BLOCK).unwrap();
            assert_eq!(handed_over(&handle, &file, aligned()).await, [0; 4]);
            let pool = BufferPool::new(1, BLOCK).unwrap();
            let of_pool = pool.try_get().unwrap();
            assert_eq!(handed_over(&handle, &file, of_pool).await, [0; 4]);
            assert_eq!(
                handed_over(&handle, &file, aligned().into_slice(..)).await,
                [2; 4]
            );
            let vector = vec![0_u8; 2 * BLOCK];
            let start = vector.as_ptr().align_offset(BLOCK);
            let slice = vector.into_slice(start..start + BLOCK);
            assert_eq!(handed_over(&handle, &file, slice).await, [2; 4]);
            with_hang_guard(context.close()).await;
        });
    }
}

#[test]
fn exact_transfers_allocate_nothing() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        current_thread().block_on(async {
            let (context, handle) = inline_context(4);
            let file = file(&dir).await;
            let mut target = buffer(BLOCK);
            let reads = each(async || {
                let read = file.read_exact_at(&handle, 0, &mut target, LEN, ReadFlags::empty());
                read.await.unwrap();
            });
            assert_eq!(reads.await, 0);
            let source = patterned_buffer(0, BLOCK);
            let writes = each(async || {
                let write = file.write_all_at(&handle, 0, &source, LEN, WriteFlags::empty());
                write.await.unwrap();
            });
            assert_eq!(writes.await, 0);
            with_hang_guard(context.close()).await;
        });
    }
}

/// The list of buffers, its pieces, and their owner.
#[test]
fn a_vectored_transfer_allocates_only_its_lists() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        current_thread().block_on(async {
            let (context, handle) = inline_context(4);
            let file = file(&dir).await;
            for count in [2, 4, 8] {
                let source = AlignedBuf::new(BLOCK).unwrap();
                let part = |i| source.part(i * BLOCK / count..(i + 1) * BLOCK / count);
                let parts: Vec<_> = (0..count).map(part).collect();
                let writes = each(async || {
                    let write = file.write_vectored_at(&handle, 0, &parts, WriteFlags::empty());
                    assert_eq!(write.await.unwrap(), LEN);
                });
                let writes = writes.await;
                assert!(writes <= 4 + count.ilog2() as usize, "{count}: {writes}");
                let pool = BufferPool::new(count, BLOCK / count).unwrap();
                let mut place = Some(
                    (0..count)
                        .map(|_| pool.try_get().unwrap())
                        .collect::<Vec<_>>(),
                );
                let reads = each(async || {
                    let buffers = place.take().unwrap();
                    let read = file.read_vectored_owned_at(&handle, 0, buffers, ReadFlags::empty());
                    let (read, buffers) = read.await;
                    assert_eq!(read.unwrap(), LEN);
                    place = Some(buffers);
                });
                assert_eq!(reads.await, 3, "{count}");
            }
            with_hang_guard(context.close()).await;
        });
    }
}

#[test]
fn priorities_and_unreached_deadlines_cost_at_most_a_timer() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        current_thread().block_on(async {
            let (context, handle) = inline_context(4);
            let file = file(&dir).await;
            let mut target = buffer(BLOCK);
            let idle = handle.with_priority(IoPriority::idle());
            let reads = each(async || {
                let read = file.read_at(&idle, 0, &mut target, LEN, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), LEN);
            });
            assert_eq!(reads.await, 0);
            let limited = idle.with_timeout(Duration::from_secs(3600));
            let reads = with_hang_guard(allocations(async || {
                let read = file.read_at(&limited, 0, &mut target, LEN, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), LEN);
            }));
            let reads = reads.await;
            assert!(reads <= MEASURED, "{reads} for {MEASURED}");
            with_hang_guard(context.close()).await;
        });
    }
}

/// A task's handle on the buffer while it has one.
#[test]
fn a_pooled_buffer_is_one_allocation() {
    current_thread().block_on(async {
        let pool = BufferPool::new(2, BLOCK).unwrap();
        assert_eq!(each(async || drop(pool.get().await)).await, 1);
    });
}

#[test]
fn operations_on_disk_allocate_nothing() {
    if !is_kernel_aio_build() {
        return;
    }
    on_a_shared_context(&disk_dir(), TOGETHER);
}

#[test]
fn operations_on_tmpfs_allocate_nothing() {
    if !is_kernel_aio_build() {
        return;
    }
    let Some(dir) = tmpfs_dir() else { return };
    on_a_shared_context(&dir, TOGETHER);
}

#[test]
fn operations_that_wait_for_a_slot_allocate_nothing() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        on_a_shared_context(&dir, TOGETHER / 8);
    }
}

#[test]
fn operations_on_a_local_context_allocate_nothing() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        on_a_local_context(&dir, TOGETHER);
    }
}
