//! How contexts end: closed, dropped, with their runtime, used from another runtime; with requests
//! in flight, queued and dropped. Nothing hangs, and each operation gets a result.
#![allow(unsafe_code)] // sets a limit

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::common::*;
use futures::executor;
use futures::future::{MaybeDone, join_all, maybe_done};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    AioCommandError, AioContextHandle, File, LocalAioContextHandle, LockedBuf, ReadFlags,
    SyncRequestAdapter, WriteFlags, aio_context, generic_aio_context, local_aio_context,
};

/// Large enough to take a while.
const LARGE: usize = 64 * BLOCK;

type Done = (Result<u64, AioCommandError>, LockedBuf);

async fn large_file(dir: &TempDir) -> Arc<File> {
    write_patterned(&dir.path().join("file"), LARGE / BLOCK);
    Arc::new(open_rw(dir, "file").await)
}

/// A read that owns its file, handle and buffer.
async fn read(handle: AioContextHandle, file: Arc<File>) -> Done {
    let mut buffer = buffer(LARGE);
    let len = LARGE as u64;
    let result = file
        .read_at(&handle, 0, &mut buffer, len, ReadFlags::empty())
        .await;
    (result, buffer)
}

async fn local_read(handle: LocalAioContextHandle, file: Arc<File>) -> Done {
    let mut buffer = buffer(LARGE);
    let len = LARGE as u64;
    let result = file
        .read_at(&handle, 0, &mut buffer, len, ReadFlags::empty())
        .await;
    (result, buffer)
}

/// A read that was polled once.
fn started<F: Future>(future: F) -> Pin<Box<MaybeDone<F>>> {
    let mut future = Box::pin(maybe_done(future));
    let _ = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    future
}

async fn finish<F: Future>(mut future: Pin<Box<MaybeDone<F>>>) -> F::Output {
    future.as_mut().await;
    future.as_mut().take_output().unwrap()
}

/// Checks an operation that may have been stopped by the end of its context. Returns whether it was
/// served.
fn served((result, buffer): Done) -> bool {
    assert_eq!(buffer.size(), LARGE, "the buffer keeps its size");
    match result {
        Ok(read) => {
            assert_eq!(read, LARGE as u64);
            assert!(is_pattern(0, &buffer.as_ref()[..BLOCK]));
            true
        }
        Err(AioCommandError::AioStopped) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn assert_stopped(handle: &AioContextHandle, file: &Arc<File>) {
    assert_eq!(handle.available_slots(), None);
    assert!(!served(read(handle.clone(), file.clone()).await));
    let data = buffer(BLOCK);
    let write = file
        .write_at(handle, 0, &data, LEN, WriteFlags::empty())
        .await;
    assert!(matches!(write, Err(AioCommandError::AioStopped)));
    assert!(matches!(
        file.sync_all(handle).await,
        Err(AioCommandError::AioStopped)
    ));
}

// ---- Closed and dropped -----------------------------------------------------------------------

#[tokio::test]
async fn closing_serves_requests_in_flight_and_stops_queued_ones() {
    for dir in test_dirs() {
        let file = large_file(&dir).await;
        for slots in [1, 4] {
            let (context, handle) = aio_context(slots, true).unwrap();
            yield_now().await;
            let reads: Vec<_> = (0..16)
                .map(|_| started(read(handle.clone(), file.clone())))
                .collect();
            with_hang_guard(context.close()).await;
            let mut answers = Vec::new();
            for read in reads {
                answers.push(served(with_hang_guard(finish(read)).await));
            }
            let served = answers.iter().filter(|&&served| served).count();
            assert!(served >= slots, "those that had a slot are served");
            assert!(answers.is_sorted_by(|a, b| a >= b), "in order: {answers:?}");
            with_hang_guard(assert_stopped(&handle, &file)).await;
        }
    }
}

#[tokio::test]
async fn closing_waits_for_dropped_and_forgotten_operations() {
    for dir in test_dirs() {
        let file = large_file(&dir).await;
        for forget in [false, true] {
            let (context, handle) = aio_context(4, true).unwrap();
            yield_now().await;
            let mut data = patterned_buffer(1, LARGE);
            for _ in 0..4 {
                let len = LARGE as u64;
                let write = file.write_at(&handle, 0, &data, len, WriteFlags::empty());
                let write = started(write);
                yield_now().await; // it gets to the kernel
                if forget {
                    std::mem::forget(write);
                }
            }
            data.as_mut().fill(0);
            with_hang_guard(context.close()).await;
            let bytes = std::fs::read(dir.path().join("file")).unwrap();
            assert!(
                is_pattern(1, &bytes),
                "what was submitted is written when close returns"
            );
        }
    }
}

#[tokio::test]
async fn closing_does_not_need_the_futures_to_be_polled() {
    for dir in test_dirs() {
        let file = large_file(&dir).await;
        let (context, handle) = aio_context(2, true).unwrap();
        let reads: Vec<_> = (0..8)
            .map(|_| started(read(handle.clone(), file.clone())))
            .collect();
        with_hang_guard(context.close()).await;
        // Done or stopped by now: one look each is enough.
        for mut read in reads {
            let polled = read.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_ready());
            served(read.as_mut().take_output().unwrap());
        }
    }
}

#[tokio::test]
async fn a_dropped_close_still_ends_the_context() {
    let dir = disk_dir();
    let file = large_file(&dir).await;
    let (context, handle) = aio_context(2, true).unwrap();
    drop(context.close());
    with_hang_guard(assert_stopped(&handle, &file)).await;
    let (context, handle) = aio_context(2, true).unwrap();
    drop(started(context.close()));
    with_hang_guard(assert_stopped(&handle, &file)).await;
}

#[test]
fn closing_works_outside_a_runtime() {
    bounded(|| {
        let runtime = multi_thread();
        let dir = disk_dir();
        let (context, handle, file) = runtime.block_on(async {
            let (context, handle) = aio_context(4, true).unwrap();
            (context, handle, large_file(&dir).await)
        });
        assert!(served(executor::block_on(read(
            handle.clone(),
            file.clone()
        ))));
        executor::block_on(context.close());
        executor::block_on(assert_stopped(&handle, &file));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_closed_under_load_answers_every_request() {
    for dir in test_dirs() {
        let file = large_file(&dir).await;
        for round in 0..30 {
            let (context, handle) = aio_context(3, round % 3 != 0).unwrap();
            let mut tasks = JoinSet::new();
            for _ in 0..8 {
                let (file, handle) = (file.clone(), handle.clone());
                tasks.spawn(async move {
                    let mut buffer = buffer(BLOCK);
                    loop {
                        let read = file.read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty());
                        match read.await {
                            Ok(read) => assert_eq!(read, LEN),
                            Err(AioCommandError::AioStopped) => return,
                            Err(AioCommandError::CapacityExceeded) => yield_now().await,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            for _ in 0..round * 3 {
                yield_now().await;
            }
            if round % 2 == 0 {
                with_hang_guard(context.close()).await;
            } else {
                drop(context);
            }
            with_hang_guard(tasks.join_all()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_come_and_go_beside_one_in_use() {
    let dir = disk_dir();
    let file = large_file(&dir).await;
    let (context, handle) = aio_context(4, true).unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (file, handle) = (file.clone(), handle.clone());
        tasks.spawn(async move {
            for _ in 0..50 {
                assert!(served(read(handle.clone(), file.clone()).await));
            }
        });
    }
    for _ in 0..4 {
        let file = file.clone();
        tasks.spawn(async move {
            for i in 0..10 {
                let (context, handle) = aio_context(4, true).unwrap();
                assert!(served(read(handle.clone(), file.clone()).await));
                if i % 2 == 0 {
                    context.close().await;
                }
            }
        });
    }
    with_hang_guard(tasks.join_all()).await;
    with_hang_guard(context.close()).await;
}

/// The thread that ends a context can't be made for a while.
#[test]
fn closing_survives_a_lack_of_threads() {
    if !in_child!() {
        return;
    }
    current_thread().block_on(async {
        let (context, handle) = aio_context(4, true).unwrap();
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
        // Less than a thread's stack.
        limit_address_space(pages * 4096 + (1 << 20));
        let close = started(context.close());
        let refused = thread::Builder::new().spawn(|| ()).is_err();
        limit_address_space(libc::RLIM_INFINITY);
        if !refused {
            println!("skipped: threads can be made in spite of RLIMIT_AS");
        }
        assert_eq!(handle.available_slots(), None);
        with_hang_guard(close).await;
    });
}

fn limit_address_space(bytes: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the kernel reads a structure of ours.
    let code = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
}

// ---- Runtimes that shut down ------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Shutdown {
    Drop,
    Background,
    Timeout,
}

const SHUTDOWNS: [Shutdown; 3] = [Shutdown::Drop, Shutdown::Background, Shutdown::Timeout];

impl Shutdown {
    fn of(self, runtime: Runtime) {
        match self {
            Shutdown::Drop => drop(runtime),
            Shutdown::Background => runtime.shutdown_background(),
            Shutdown::Timeout => runtime.shutdown_timeout(Duration::from_secs(10)),
        }
    }
}

/// Shuts `make`'s runtime down with reads in flight and waiting, some of its own tasks and some
/// from outside.
fn shut_down_with_requests(make: fn() -> Runtime) {
    for (shutdown, close) in SHUTDOWNS
        .iter()
        .flat_map(|&how| [(how, false), (how, true)])
    {
        bounded(move || {
            let runtime = make();
            let dir = disk_dir();
            let (context, handle, file, reads) = runtime.block_on(async {
                let file = large_file(&dir).await;
                let (context, handle) = aio_context(4, true).unwrap();
                for _ in 0..8 {
                    tokio::spawn(read(handle.clone(), file.clone()));
                }
                yield_now().await;
                let reads: Vec<_> = (0..8)
                    .map(|_| started(read(handle.clone(), file.clone())))
                    .collect();
                (context, handle, file, reads)
            });
            shutdown.of(runtime);
            for read in reads {
                served(executor::block_on(finish(read)));
            }
            executor::block_on(async {
                // A runtime that shuts down in the background does so a little later.
                while handle.available_slots().is_some() {
                    thread::yield_now();
                }
                assert_stopped(&handle, &file).await;
                if close {
                    context.close().await;
                } else {
                    drop(context);
                }
            });
        });
    }
}

#[test]
fn a_current_thread_runtime_shutdown_answers_every_request() {
    shut_down_with_requests(current_thread);
}

#[test]
fn a_multi_thread_runtime_shutdown_answers_every_request() {
    shut_down_with_requests(multi_thread);
}

#[test]
fn a_dropped_local_set_answers_every_request() {
    bounded(|| {
        let runtime = current_thread();
        let dir = disk_dir();
        let local = LocalSet::new();
        let (context, handle, file, reads) = local.block_on(&runtime, async {
            let file = large_file(&dir).await;
            let (context, handle, background) = local_aio_context(4, true).unwrap();
            spawn_local(background);
            for _ in 0..8 {
                spawn_local(local_read(handle.clone(), file.clone()));
            }
            yield_now().await;
            let reads: Vec<_> = (0..8)
                .map(|_| started(local_read(handle.clone(), file.clone())))
                .collect();
            (context, handle, file, reads)
        });
        drop(local);
        for read in reads {
            served(executor::block_on(finish(read)));
        }
        assert_eq!(handle.available_slots(), None);
        assert!(!served(executor::block_on(local_read(handle, file))));
        executor::block_on(context.close());
    });
}

#[test]
fn a_local_set_dropped_after_its_runtime_does_not_hang() {
    bounded(|| {
        let runtime = current_thread();
        let dir = disk_dir();
        let local = LocalSet::new();
        let context = local.block_on(&runtime, async {
            let file = large_file(&dir).await;
            let (context, handle, background) = local_aio_context(4, true).unwrap();
            spawn_local(background);
            for _ in 0..8 {
                spawn_local(local_read(handle.clone(), file.clone()));
            }
            yield_now().await;
            context
        });
        drop(runtime);
        drop(local);
        executor::block_on(context.close());
    });
}

#[test]
fn a_runtime_shutdown_answers_requests_of_another_runtime() {
    for dir in test_dirs() {
        bounded(move || {
            let users = multi_thread();
            let file = users.block_on(large_file(&dir));
            for round in 0..30 {
                let owner = multi_thread();
                let (context, handle) = {
                    let _entered = owner.enter();
                    aio_context(3, true).unwrap()
                };
                let mut tasks = JoinSet::new();
                for _ in 0..6 {
                    let (file, handle) = (file.clone(), handle.clone());
                    let reads =
                        async move { while served(read(handle.clone(), file.clone()).await) {} };
                    tasks.spawn_on(reads, users.handle());
                }
                users.block_on(async {
                    for _ in 0..round {
                        yield_now().await;
                    }
                });
                SHUTDOWNS[round % 3].of(owner);
                users.block_on(tasks.join_all());
                if round % 2 == 0 {
                    users.block_on(context.close());
                }
            }
        });
    }
}

#[test]
fn a_context_made_in_a_shut_down_runtime_is_stopped() {
    bounded(|| {
        let runtime = current_thread();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _entered = handle.enter();
        match aio_context(4, true) {
            // The runtime's I/O driver has gone too.
            Err(error) => println!("no context: {error}"),
            Ok((context, handle)) => {
                assert_eq!(handle.available_slots(), None);
                executor::block_on(context.close());
            }
        }
    });
}

// ---- From another runtime ---------------------------------------------------------------------

#[test]
fn a_context_of_one_runtime_serves_other_runtimes() {
    bounded(|| {
        let owner = multi_thread();
        let dir = disk_dir();
        let (context, handle, file) = owner.block_on(async {
            let (context, handle) = aio_context(3, true).unwrap();
            (context, handle, large_file(&dir).await)
        });
        let many = async |handle: AioContextHandle, file: Arc<File>| {
            let reads = (0..16).map(|_| read(handle.clone(), file.clone()));
            assert!(join_all(reads).await.into_iter().all(served));
        };
        current_thread().block_on(many(handle.clone(), file.clone()));
        multi_thread().block_on(many(handle.clone(), file.clone()));
        executor::block_on(many(handle.clone(), file.clone()));
        current_thread().block_on(context.close());
    });
}

#[test]
fn a_context_of_a_current_thread_runtime_serves_other_threads() {
    bounded(|| {
        let owner = current_thread();
        let dir = disk_dir();
        owner.block_on(async {
            let (context, handle) = aio_context(3, true).unwrap();
            let file = large_file(&dir).await;
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (handle, file) = (handle.clone(), file.clone());
                    let reads = async move {
                        for _ in 0..20 {
                            assert!(served(read(handle.clone(), file.clone()).await));
                        }
                    };
                    tokio::task::spawn_blocking(|| current_thread().block_on(reads))
                })
                .collect();
            for thread in threads {
                thread.await.unwrap();
            }
            context.close().await;
        });
    });
}

/// The eventfd is the first runtime's, the background task the second's.
#[test]
fn a_context_whose_first_runtime_is_gone_is_stopped_or_works() {
    bounded(|| {
        let first = current_thread();
        let dir = disk_dir();
        let (context, handle, background) = {
            let _entered = first.enter();
            generic_aio_context::<parking_lot::RawMutex, SyncRequestAdapter, _>(3, true).unwrap()
        };
        let second = multi_thread();
        second.spawn(background);
        let file = second.block_on(large_file(&dir));
        drop(first);
        second.block_on(async {
            let reads = (0..16).map(|_| tokio::spawn(read(handle.clone(), file.clone())));
            for done in join_all(reads).await {
                served(done.unwrap());
            }
            context.close().await;
        });
    });
}

#[test]
fn a_local_set_that_outlives_its_runtime_answers_every_request() {
    bounded(|| {
        let first = current_thread();
        let dir = disk_dir();
        let local = LocalSet::new();
        let (context, handle, file) = local.block_on(&first, async {
            let file = large_file(&dir).await;
            let (context, handle, background) = local_aio_context(3, true).unwrap();
            spawn_local(background);
            assert!(served(local_read(handle.clone(), file.clone()).await));
            (context, handle, file)
        });
        drop(first);
        local.block_on(&current_thread(), async {
            let reads = (0..16).map(|_| spawn_local(local_read(handle.clone(), file.clone())));
            for done in join_all(reads).await {
                served(done.unwrap());
            }
            context.close().await;
        });
    });
}

#[test]
fn requests_in_flight_at_a_runtime_shutdown_are_answered_on_the_next_runtime() {
    bounded(|| {
        let first = current_thread();
        let dir = disk_dir();
        let local = LocalSet::new();
        let (context, tasks) = local.block_on(&first, async {
            let file = large_file(&dir).await;
            let (context, handle, background) = local_aio_context(3, true).unwrap();
            spawn_local(background);
            let tasks: Vec<_> = (0..8)
                .map(|_| spawn_local(local_read(handle.clone(), file.clone())))
                .collect();
            yield_now().await;
            (context, tasks)
        });
        drop(first);
        local.block_on(&current_thread(), async {
            for done in join_all(tasks).await {
                served(done.unwrap());
            }
            context.close().await;
        });
    });
}

// ---- The future of a local context ------------------------------------------------------------

fn locally<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().block_on(&current_thread(), with_hang_guard(test))
}

#[test]
fn a_local_context_works_before_its_future_is_polled() {
    for dir in test_dirs() {
        locally(async {
            let file = large_file(&dir).await;
            let (context, handle, background) = local_aio_context(3, true).unwrap();
            let reads = (0..16).map(|_| local_read(handle.clone(), file.clone()));
            assert!(join_all(reads).await.into_iter().all(served));
            context.close().await;
            background.await.unwrap();
        });
    }
}

#[test]
fn the_future_of_a_local_context_may_be_polled_late() {
    for dir in test_dirs() {
        locally(async {
            let file = large_file(&dir).await;
            let (context, handle, background) = local_aio_context(3, true).unwrap();
            let reads: Vec<_> = (0..16)
                .map(|_| started(local_read(handle.clone(), file.clone())))
                .collect();
            yield_now().await;
            let background = spawn_local(background);
            for read in reads {
                assert!(served(finish(read).await));
            }
            context.close().await;
            background.await.unwrap().unwrap();
        });
    }
}

#[test]
fn a_local_context_whose_future_is_dropped_at_once_is_stopped() {
    for dir in test_dirs() {
        locally(async {
            let file = large_file(&dir).await;
            let (context, handle, background) = local_aio_context(3, true).unwrap();
            drop(background);
            assert_eq!(handle.available_slots(), None);
            assert!(!served(local_read(handle, file).await));
            context.close().await;
        });
    }
}

#[test]
fn a_local_context_whose_future_is_dropped_answers_every_request() {
    for dir in test_dirs() {
        locally(async {
            let file = large_file(&dir).await;
            for spawn in [false, true] {
                let (context, handle, background) = local_aio_context(3, true).unwrap();
                let mut background = Some(background);
                let task = spawn.then(|| spawn_local(background.take().unwrap()));
                yield_now().await;
                let reads: Vec<_> = (0..8)
                    .map(|_| started(local_read(handle.clone(), file.clone())))
                    .collect();
                // One is dropped after the end, and one before.
                let mut reads = reads.into_iter();
                drop(reads.next());
                if let Some(task) = task {
                    task.abort();
                    assert!(task.await.unwrap_err().is_cancelled());
                }
                drop(background);
                drop(reads.next());
                for read in reads {
                    served(finish(read).await);
                }
                assert!(!served(local_read(handle, file.clone()).await));
                context.close().await;
            }
        });
    }
}

#[test]
fn the_future_of_a_local_context_ends_with_its_context() {
    locally(async {
        let (context, handle, background) = local_aio_context(3, true).unwrap();
        let mut background = Box::pin(background);
        assert!(
            background
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        drop(context);
        background.await.unwrap();
        assert_eq!(handle.available_slots(), None);
    });
}

#[test]
fn a_local_context_in_a_multi_thread_runtime_works() {
    for dir in test_dirs() {
        bounded(move || {
            let runtime = multi_thread();
            LocalSet::new().block_on(&runtime, async {
                let file = large_file(&dir).await;
                let (context, handle, background) = local_aio_context(3, true).unwrap();
                let background = spawn_local(background);
                for _ in 0..20 {
                    let reads =
                        (0..8).map(|_| spawn_local(local_read(handle.clone(), file.clone())));
                    for done in join_all(reads).await {
                        assert!(served(done.unwrap()));
                    }
                    assert!(served(local_read(handle.clone(), file.clone()).await));
                }
                context.close().await;
                background.await.unwrap().unwrap();
            });
        });
    }
}

/// The kernel's signal comes on a worker thread, which may not touch the context.
#[test]
fn the_future_of_a_local_context_may_be_polled_late_in_a_multi_thread_runtime() {
    let dir = disk_dir();
    bounded(move || {
        let runtime = multi_thread();
        LocalSet::new().block_on(&runtime, async {
            let file = large_file(&dir).await;
            for _ in 0..20 {
                let (context, handle, background) = local_aio_context(3, true).unwrap();
                let reads: Vec<_> = (0..8)
                    .map(|_| started(local_read(handle.clone(), file.clone())))
                    .collect();
                tokio::time::sleep(Duration::from_millis(2)).await;
                spawn_local(background);
                for read in reads {
                    assert!(served(finish(read).await));
                }
                context.close().await;
            }
        });
    });
}

#[test]
fn a_stopped_context_still_delivers_completions_to_a_poll() {
    let dir = disk_dir();
    locally(async {
        let file = large_file(&dir).await;
        let (context, handle) = aio_context(1, true).unwrap();
        let mut read = Box::pin(read(handle, file));
        let polled = read.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        context.close().await;
        let done = match polled {
            Poll::Ready(done) => done,
            Poll::Pending => read.await,
        };
        assert!(served(done));
    });
}
