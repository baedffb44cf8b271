//! `generic_aio_context` over a lock, a link and an adapter that a user has written: a spin lock,
//! and a link that counts what is done with it outside the lock.
#![allow(unsafe_code)]

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;

use std::cell::Cell;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{BLOCK, LONG, buffer, is_pattern, open_rw, patterned, within};
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

thread_local! {
    /// Spin locks that this thread holds.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Times that a spin lock was taken, and times that a list was changed.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static LINKED: AtomicUsize = AtomicUsize::new(0);
/// Times that a link was used by a thread that held no lock.
static UNLOCKED: AtomicUsize = AtomicUsize::new(0);

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
        if got {
            HELD.set(HELD.get() + 1);
            TAKEN.fetch_add(1, Ordering::Relaxed);
        }
        got
    }

    unsafe fn unlock(&self) {
        HELD.set(HELD.get() - 1);
        self.0.store(false, Ordering::Release);
    }
}

thread_local! {
    /// Whether the next link that this thread makes is one too many.
    static NO_MORE_LINKS: Cell<bool> = const { Cell::new(false) };
}

struct CountedLink {
    linked: Cell<bool>,
    next: Cell<Option<NonNull<CountedLink>>>,
    prev: Cell<Option<NonNull<CountedLink>>>,
}

// SAFETY: a link is used only by the list that it is in, and that is behind a lock.
unsafe impl Send for CountedLink {}

impl Default for CountedLink {
    fn default() -> CountedLink {
        assert!(!NO_MORE_LINKS.take(), "no more links");
        CountedLink {
            linked: Cell::new(false),
            next: Cell::new(None),
            prev: Cell::new(None),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct CountedOps;

impl DefaultLinkOps for CountedLink {
    type Ops = CountedOps;
    const NEW: CountedOps = CountedOps;
}

impl CountedOps {
    /// The link at `ptr`, for the list that has it.
    fn link<'a>(ptr: NonNull<CountedLink>) -> &'a CountedLink {
        if HELD.get() == 0 {
            UNLOCKED.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the collection passes pointers to links of objects that it owns or is handed.
        unsafe { ptr.as_ref() }
    }
}

// SAFETY: `linked` is true exactly between the two calls.
unsafe impl LinkOps for CountedOps {
    type LinkPtr = NonNull<CountedLink>;

    unsafe fn acquire_link(&mut self, ptr: Self::LinkPtr) -> bool {
        LINKED.fetch_add(1, Ordering::Relaxed);
        !CountedOps::link(ptr).linked.replace(true)
    }

    unsafe fn release_link(&mut self, ptr: Self::LinkPtr) {
        CountedOps::link(ptr).linked.set(false);
    }
}

// SAFETY: what was set is what is got.
unsafe impl LinkedListOps for CountedOps {
    unsafe fn next(&self, ptr: Self::LinkPtr) -> Option<Self::LinkPtr> {
        CountedOps::link(ptr).next.get()
    }

    unsafe fn prev(&self, ptr: Self::LinkPtr) -> Option<Self::LinkPtr> {
        CountedOps::link(ptr).prev.get()
    }

    unsafe fn set_next(&mut self, ptr: Self::LinkPtr, next: Option<Self::LinkPtr>) {
        CountedOps::link(ptr).next.set(next);
    }

    unsafe fn set_prev(&mut self, ptr: Self::LinkPtr, prev: Option<Self::LinkPtr>) {
        CountedOps::link(ptr).prev.set(prev);
    }
}

intrusive_adapter! {
    SpinAdapter = Box<Request<SpinLock, CountedLink>>: Request<SpinLock, CountedLink> { link: CountedLink }
}

impl IntrusiveAdapter<SpinLock, CountedLink> for SpinAdapter {
    fn new() -> SpinAdapter {
        SpinAdapter::NEW
    }
}

type SpinContext = GenericAioContext<SpinLock, SpinAdapter, CountedLink>;
type SpinHandle = GenericAioContextHandle<SpinLock, SpinAdapter, CountedLink>;

/// A context whose background future has been spawned.
fn spawned(nr: usize, use_semaphore: bool) -> (SpinContext, SpinHandle) {
    let (context, handle, background) = generic_aio_context(nr, use_semaphore).unwrap();
    tokio::spawn(background);
    (context, handle)
}

async fn write_and_read_concurrently() {
    const TASKS: u64 = 64;
    for dir in common::everywhere() {
        let (context, handle) = spawned(5, true);
        let file = Arc::new(open_rw(&dir, "data").await);
        let mut tasks = JoinSet::new();
        for i in 0..TASKS {
            let (file, handle) = (Arc::clone(&file), handle.clone());
            tasks.spawn(async move {
                let len = BLOCK as u64;
                for round in 0..4 {
                    let (offset, seed) = (i * len, round * TASKS + i);
                    let mut bytes = patterned(seed, BLOCK);
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
async fn an_own_lock_and_link_serve_a_current_thread_runtime() {
    within(write_and_read_concurrently()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_lock_and_link_serve_a_multi_threaded_runtime() {
    let test = tokio::spawn(write_and_read_concurrently());
    within(test).await.unwrap();
}

#[tokio::test]
async fn an_own_lock_and_link_serve_a_local_set() {
    let dir = common::on_disk();
    let local = LocalSet::new();
    let test = local.run_until(async {
        let (context, handle, background) =
            generic_aio_context::<SpinLock, SpinAdapter, CountedLink>(3, true).unwrap();
        let background = spawn_local(background);
        let file = open_rw(&dir, "data").await;
        let bytes = patterned(1, BLOCK);
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
    within(test).await;
    let written = std::fs::read(dir.path().join("data")).unwrap();
    assert_eq!(written.len(), 20 * BLOCK);
    assert!(written.chunks(BLOCK).all(|block| is_pattern(1, block)));
}

#[test]
fn the_lists_are_only_touched_under_the_lock() {
    // In a process of its own: the counters are of the whole process, and lists are cleared
    // without the lock when their last owner drops them.
    if !common::in_child("the_lists_are_only_touched_under_the_lock") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let dir = common::on_disk();
        let (context, handle) = spawned(3, true);
        let file = Arc::new(open_rw(&dir, "data").await);
        let (taken, linked) = (
            TAKEN.load(Ordering::Relaxed),
            LINKED.load(Ordering::Relaxed),
        );
        let mut tasks = JoinSet::new();
        for i in 0..64 {
            let (file, handle) = (Arc::clone(&file), handle.clone());
            tasks.spawn(async move {
                let bytes = patterned(i, BLOCK);
                let (offset, len) = (i * BLOCK as u64, BLOCK as u64);
                file.write_at(&handle, offset, &bytes, len, WriteFlags::empty())
                    .await
                    .unwrap()
            });
        }
        let all = async {
            while let Some(task) = tasks.join_next().await {
                assert_eq!(task.unwrap(), BLOCK as u64);
            }
            context.close().await;
        };
        within(all).await;
        assert!(
            TAKEN.load(Ordering::Relaxed) > taken + 64,
            "the own lock is the one that is used"
        );
        assert!(
            LINKED.load(Ordering::Relaxed) > linked,
            "and so is the own link, for what waits"
        );
        assert_eq!(UNLOCKED.load(Ordering::Relaxed), 0);
        drop(handle);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_in_the_middle_serves_or_stops_every_request() {
    let test = async {
        for nr in [1, 2, 7] {
            let dir = common::on_disk();
            common::write_patterned(&dir.path().join("data"), 64);
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
    within(test).await;
}

#[tokio::test]
async fn dropping_in_any_order_ends_the_background_future() {
    let dir = common::on_disk();
    let file = open_rw(&dir, "data").await;
    let bytes = patterned(2, BLOCK);
    for handle_first in [true, false] {
        let (context, handle, background) =
            generic_aio_context::<SpinLock, SpinAdapter, CountedLink>(2, true).unwrap();
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
        within(background).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_dropped_background_future_stops_the_context() {
    let (context, handle, background) =
        generic_aio_context::<SpinLock, SpinAdapter, CountedLink>(2, true).unwrap();
    assert_eq!(context.available_slots(), Some(2));
    drop(background);
    assert_eq!(
        (context.available_slots(), handle.available_slots()),
        (None, None)
    );
    let dir = common::on_disk();
    let file = open_rw(&dir, "data").await;
    let stopped = within(file.sync_all(&handle)).await;
    assert!(
        matches!(stopped, Err(AioCommandError::AioStopped)),
        "{stopped:?}"
    );
    within(context.close()).await;
}

#[tokio::test]
async fn without_semaphore_there_is_no_waiting_for_a_slot() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let (context, handle) = spawned(1, false);
    assert_eq!(handle.available_slots(), None);
    let file = open_rw(&dir, "data").await;
    let (mut long, mut short) = (buffer(LONG), buffer(BLOCK));
    let test = common::until_seen(async || {
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
    within(test).await;
    within(context.close()).await;
}

#[tokio::test]
async fn a_link_that_panics_when_it_is_made_loses_no_wake_up_of_others() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let (context, handle) = spawned(1, true);
    let file = Arc::new(open_rw(&dir, "data").await);
    let test = common::until_seen(async || {
        let (its_file, its_handle) = (Arc::clone(&file), handle.clone());
        let reading = tokio::spawn(async move {
            let mut long = buffer(LONG);
            let read = its_file.read_at(&its_handle, 0, &mut long, LONG as u64, ReadFlags::empty());
            read.await.unwrap()
        });
        tokio::task::yield_now().await;
        // It is done after this, and nobody has looked.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let seen = !reading.is_finished();

        let mut one_more = pin!(file.sync_data(&handle));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        NO_MORE_LINKS.set(true);
        let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
            let _ = one_more.as_mut().poll(&mut cx);
        }));
        NO_MORE_LINKS.set(false);
        assert_eq!(reading.await.unwrap(), LONG as u64);
        (seen && panicked.is_err()).then_some(())
    });
    within(test).await;
    within(context.close()).await;
}
