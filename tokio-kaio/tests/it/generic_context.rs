//! `generic_aio_context` over a lock, a link and an adapter that a user has written.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::*;
use futures::future::join_all;
use futures::poll;
use intrusive_collections::linked_list::LinkedListOps;
use intrusive_collections::{DefaultLinkOps, LinkOps, intrusive_adapter};
use lock_api::{GuardNoSend, RawMutex};
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio_kaio::{
    AioCommandError, GenericAioContext, GenericAioContextHandle, IntrusiveAdapter, ReadFlags,
    Request, WriteFlags, generic_aio_context,
};

/// How often a spin lock was taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

struct SpinLock(AtomicBool);

// SAFETY: whoever turns the flag to true has the lock, until it turns it back.
unsafe impl RawMutex for SpinLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: SpinLock = SpinLock(AtomicBool::new(false));

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        while !self.try_lock() {
            std::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        let got = !self.0.swap(true, Ordering::Acquire);
        TAKEN.fetch_add(got.into(), Ordering::Relaxed);
        got
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

#[derive(Default)]
struct OwnLink {
    linked: Cell<bool>,
    next: Cell<Option<NonNull<OwnLink>>>,
    prev: Cell<Option<NonNull<OwnLink>>>,
}

// SAFETY: a link is used only by the list that it is in, and that is behind a lock.
unsafe impl Send for OwnLink {}

#[derive(Clone, Copy, Default)]
struct OwnOps;

impl DefaultLinkOps for OwnLink {
    type Ops = OwnOps;
    const NEW: OwnOps = OwnOps;
}

impl OwnOps {
    /// The link at `ptr`, for the list that has it.
    fn link<'a>(ptr: NonNull<OwnLink>) -> &'a OwnLink {
        // SAFETY: the collection passes pointers to links of objects that it owns or is handed.
        unsafe { ptr.as_ref() }
    }
}

// SAFETY: `linked` is true exactly between the two calls.
unsafe impl LinkOps for OwnOps {
    type LinkPtr = NonNull<OwnLink>;

    unsafe fn acquire_link(&mut self, ptr: Self::LinkPtr) -> bool {
        !OwnOps::link(ptr).linked.replace(true)
    }

    unsafe fn release_link(&mut self, ptr: Self::LinkPtr) {
        OwnOps::link(ptr).linked.set(false);
    }
}

// SAFETY: what was set is what is got.
unsafe impl LinkedListOps for OwnOps {
    unsafe fn next(&self, ptr: Self::LinkPtr) -> Option<Self::LinkPtr> {
        OwnOps::link(ptr).next.get()
    }

    unsafe fn prev(&self, ptr: Self::LinkPtr) -> Option<Self::LinkPtr> {
        OwnOps::link(ptr).prev.get()
    }

    unsafe fn set_next(&mut self, ptr: Self::LinkPtr, next: Option<Self::LinkPtr>) {
        OwnOps::link(ptr).next.set(next);
    }

    unsafe fn set_prev(&mut self, ptr: Self::LinkPtr, prev: Option<Self::LinkPtr>) {
        OwnOps::link(ptr).prev.set(prev);
    }
}

intrusive_adapter! {
    SpinAdapter = Box<Request<SpinLock, OwnLink>>: Request<SpinLock, OwnLink> { link: OwnLink }
}

impl IntrusiveAdapter<SpinLock, OwnLink> for SpinAdapter {
    fn new() -> SpinAdapter {
        SpinAdapter::NEW
    }
}

type SpinContext = GenericAioContext<SpinLock, SpinAdapter, OwnLink>;
type SpinHandle = GenericAioContextHandle<SpinLock, SpinAdapter, OwnLink>;

/// A context whose background future has been spawned.
fn spawned(nr: usize, use_semaphore: bool) -> (SpinContext, SpinHandle) {
    let (context, handle, background) = generic_aio_context(nr, use_semaphore).unwrap();
    tokio::spawn(background);
    (context, handle)
}

async fn write_and_read_concurrently() {
    const TASKS: u64 = 64;
    for dir in test_dirs() {
        let (context, handle) = spawned(5, true);
        let file = Arc::new(open_rw(&dir, "data").await);
        let mut tasks = JoinSet::new();
        for i in 0..TASKS {
            let (file, handle) = (Arc::clone(&file), handle.clone());
            tasks.spawn(async move {
                let len = BLOCK as u64;
                for round in 0..4 {
                    let (offset, seed) = (i * len, round * TASKS + i);
                    let mut bytes = patterned_buffer(seed, BLOCK);
                    let write = file.write_at(&handle, offset, &bytes, len, WriteFlags::empty());
                    assert_eq!(write.await.unwrap(), len);
                    bytes.as_mut().fill(0);
                    let read = file.read_at(&handle, offset, &mut bytes, len, ReadFlags::empty());
                    assert_eq!(read.await.unwrap(), len);
                    assert!(is_pattern(seed, bytes.as_ref()));
                }
                file.sync_data(&handle).await.unwrap();
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        assert_eq!(handle.available_slots(), Some(5));
        context.close().await;
        assert_eq!(handle.available_slots(), None);
    }
}

#[tokio::test]
async fn a_user_supplied_lock_and_link_work_on_a_current_thread_runtime() {
    with_hang_guard(write_and_read_concurrently()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_supplied_lock_and_link_work_on_a_multi_thread_runtime() {
    let test = tokio::spawn(write_and_read_concurrently());
    with_hang_guard(test).await.unwrap();
}

#[tokio::test]
async fn a_user_supplied_lock_and_link_work_in_a_local_set() {
    let dir = disk_dir();
    let local = LocalSet::new();
    let test = local.run_until(async {
        let (context, handle, background) =
            generic_aio_context::<SpinLock, SpinAdapter, OwnLink>(3, true).unwrap();
        let background = spawn_local(background);
        let file = open_rw(&dir, "data").await;
        let bytes = patterned_buffer(1, BLOCK);
        let writes = (0..20).map(|i| {
            let offset = i * BLOCK as u64;
            file.write_at(&handle, offset, &bytes, BLOCK as u64, WriteFlags::empty())
        });
        for written in join_all(writes).await {
            assert_eq!(written.unwrap(), BLOCK as u64);
        }
        context.close().await;
        background.await.unwrap().unwrap();
    });
    with_hang_guard(test).await;
    let written = std::fs::read(dir.path().join("data")).unwrap();
    assert_eq!(written.len(), 20 * BLOCK);
    assert!(written.chunks(BLOCK).all(|block| is_pattern(1, block)));
}

#[test]
fn the_user_supplied_lock_is_the_one_that_is_taken() {
    // The counter is of the whole process.
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    multi_thread().block_on(with_hang_guard(async {
        let (context, handle) = spawned(3, true);
        let file = Arc::new(open_rw(&dir, "data").await);
        let before = TAKEN.load(Ordering::Relaxed);
        let mut tasks = JoinSet::new();
        for i in 0..64 {
            let (file, handle) = (Arc::clone(&file), handle.clone());
            tasks.spawn(async move {
                let bytes = patterned_buffer(i, BLOCK);
                let write = file.write_at(&handle, i * LEN, &bytes, LEN, WriteFlags::empty());
                assert_eq!(write.await.unwrap(), LEN);
            });
        }
        tasks.join_all().await;
        context.close().await;
        assert!(TAKEN.load(Ordering::Relaxed) > before + 64);
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_in_the_middle_serves_or_stops_every_request() {
    let test = async {
        for nr in [1, 2, 7] {
            let dir = disk_dir();
            write_patterned(&dir.path().join("data"), 64);
            let (context, handle) = spawned(nr, true);
            let file = Arc::new(open_rw(&dir, "data").await);
            let mut tasks = JoinSet::new();
            for i in 0..64_u64 {
                let (file, handle) = (Arc::clone(&file), handle.clone());
                tasks.spawn(async move {
                    let mut bytes = buffer(BLOCK);
                    let (offset, len) = (i * BLOCK as u64, BLOCK as u64);
                    let read = file.read_at(&handle, offset, &mut bytes, len, ReadFlags::empty());
                    match read.await {
                        Ok(read) => {
                            assert_eq!(read, len);
                            assert!(is_pattern(i, bytes.as_ref()));
                        }
                        Err(AioCommandError::AioStopped) => assert_eq!(bytes.size(), BLOCK),
                        Err(error) => panic!("{error}"),
                    }
                });
            }
            tokio::task::yield_now().await;
            context.close().await;
            assert_eq!(handle.available_slots(), None);
            while let Some(task) = tasks.join_next().await {
                task.unwrap();
            }
        }
    };
    with_hang_guard(test).await;
}

#[tokio::test]
async fn dropping_in_any_order_ends_the_background_future() {
    let dir = disk_dir();
    let file = open_rw(&dir, "data").await;
    let bytes = patterned_buffer(2, BLOCK);
    for handle_first in [true, false] {
        let (context, handle, background) =
            generic_aio_context::<SpinLock, SpinAdapter, OwnLink>(2, true).unwrap();
        let background = tokio::spawn(background);
        {
            let write = file.write_at(&handle, 0, &bytes, BLOCK as u64, WriteFlags::empty());
            let mut write = Box::pin(write);
            let _ = poll!(write.as_mut());
        }
        if handle_first {
            drop(handle);
            drop(context);
        } else {
            drop(context);
            drop(handle);
        }
        with_hang_guard(background).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_dropped_background_future_stops_the_context() {
    let (context, handle, background) =
        generic_aio_context::<SpinLock, SpinAdapter, OwnLink>(2, true).unwrap();
    assert_eq!(context.available_slots(), Some(2));
    drop(background);
    assert_eq!(
        (context.available_slots(), handle.available_slots()),
        (None, None)
    );
    let dir = disk_dir();
    let file = open_rw(&dir, "data").await;
    let stopped = with_hang_guard(file.sync_all(&handle)).await;
    assert!(
        matches!(stopped, Err(AioCommandError::AioStopped)),
        "{stopped:?}"
    );
    with_hang_guard(context.close()).await;
}

#[tokio::test]
async fn without_semaphore_no_request_waits_for_a_slot() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let (context, handle) = spawned(1, false);
    assert_eq!(handle.available_slots(), None);
    let file = open_rw(&dir, "data").await;
    let (mut long, mut short) = (buffer(LONG), buffer(BLOCK));
    let test = retry_until(async || {
        let read = file.read_at(&handle, 0, &mut long, LONG as u64, ReadFlags::empty());
        let mut read = pin!(read);
        if poll!(read.as_mut()).is_ready() {
            return None;
        }
        let len = BLOCK as u64;
        let one_more = file
            .read_at(&handle, 0, &mut short, len, ReadFlags::empty())
            .await;
        assert_eq!(read.await.unwrap(), LONG as u64);
        matches!(one_more, Err(AioCommandError::CapacityExceeded)).then_some(())
    });
    with_hang_guard(test).await;
    with_hang_guard(context.close()).await;
}
