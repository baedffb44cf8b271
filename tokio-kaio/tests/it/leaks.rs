//! Contexts and buffers leak nothing: no descriptors, mappings, locked memory, or share of
//! `fs.aio-nr`.
//!
//! Each test runs in a child process, so that it can count descriptors and mappings. `fs.aio-nr`
//! counts the whole machine: a test only waits until it is below what the test's own contexts would
//! take.

use std::any::Any;
use std::fs;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};

use crate::common::{locked_buffer as buffer, *};
use futures::future::{join_all, maybe_done};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    AioContextHandle, File, LocalAioContextHandle, ReadFlags, WriteFlags, aio_context,
    local_aio_context,
};

const CONTEXTS: usize = 200;
const SLOTS: usize = 16;

/// System resources of this process.
#[derive(Clone, Copy, Debug)]
struct Resources {
    descriptors: usize,
    rings: usize,
    mappings: usize,
    /// KiB.
    locked: u64,
}

impl Resources {
    fn now() -> Resources {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let locked = status
            .lines()
            .find_map(|line| line.strip_prefix("VmLck:"))
            .unwrap();
        Resources {
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            rings: maps.lines().filter(|line| line.contains("/[aio]")).count(),
            mappings: maps.lines().count(),
            locked: locked.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }

    /// Waits until everything acquired after `self` is released. The C library keeps some mappings
    /// of ended threads (stacks, heaps) for the next thread: fewer than one for each of
    /// [`CONTEXTS`].
    async fn are_back(self) {
        let back = || {
            let now = Resources::now();
            now.descriptors <= self.descriptors
                && now.rings <= self.rings
                && now.locked <= self.locked
                && now.mappings < self.mappings + CONTEXTS
        };
        wait_until(back, || (self, Resources::now())).await;
    }
}

async fn file(dir: &TempDir) -> Arc<File> {
    write_patterned(&dir.path().join("file"), 8);
    Arc::new(open_rw(dir, "file").await)
}

async fn read(handle: AioContextHandle, file: Arc<File>) {
    let mut buffer = buffer(BLOCK);
    // Served or stopped.
    let _ = file
        .read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty())
        .await;
}

async fn local_read(handle: LocalAioContextHandle, file: Arc<File>) {
    let mut buffer = buffer(BLOCK);
    let _ = file
        .read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty())
        .await;
}

fn poll_once(future: &mut (impl Future<Output = ()> + Unpin)) {
    let _ = std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()));
}

/// Makes many contexts at the same time and ends them.
async fn many(file: &Arc<File>, close: bool) {
    let contexts: Vec<_> = (0..CONTEXTS)
        .map(|_| aio_context(SLOTS, true).unwrap())
        .collect();
    if is_kernel_aio_build() {
        assert_eq!(Resources::now().rings, CONTEXTS);
        assert!(aio_nr() >= (CONTEXTS * SLOTS) as u64);
    }
    join_all(
        contexts
            .iter()
            .map(|(_, handle)| read(handle.clone(), file.clone())),
    )
    .await;
    // These are in flight, or wait for their batch, when their context ends.
    let mut reads: Vec<_> = contexts
        .iter()
        .flat_map(|(_, handle)| [handle, handle])
        .map(|handle| Box::pin(maybe_done(read(handle.clone(), file.clone()))))
        .collect();
    reads.iter_mut().for_each(poll_once);
    if close {
        with_hang_guard(join_all(
            contexts.into_iter().map(|(context, _)| context.close()),
        ))
        .await;
        assert_eq!(
            Resources::now().rings,
            0,
            "close returns when the ring is gone"
        );
    } else {
        drop(contexts);
        with_hang_guard(join_all(reads)).await;
    }
}

fn many_on(runtime: Runtime, close: bool) {
    let dir = disk_dir();
    runtime.block_on(async {
        let file = file(&dir).await;
        // The first round allocates what stays: stacks and heaps of threads, the runtime's memory.
        many(&file, close).await;
        wait_until(|| Resources::now().rings == 0, Resources::now).await;
        let before = Resources::now();
        many(&file, close).await;
        before.are_back().await;
        let share = (CONTEXTS * SLOTS) as u64;
        wait_until(|| aio_nr() < share, aio_nr).await;
    });
}

#[test]
fn closed_contexts_leak_nothing() {
    if in_child!() {
        many_on(current_thread(), true);
    }
}

#[test]
fn dropped_contexts_leak_nothing() {
    if in_child!() {
        many_on(current_thread(), false);
    }
}

#[test]
fn contexts_closed_on_two_threads_leak_nothing() {
    if in_child!() {
        many_on(multi_thread(), true);
    }
}

#[test]
fn contexts_dropped_on_two_threads_leak_nothing() {
    if in_child!() {
        many_on(multi_thread(), false);
    }
}

#[test]
fn local_contexts_leak_nothing() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    LocalSet::new().block_on(&current_thread(), async {
        let file = file(&dir).await;
        let before = Resources::now();
        for i in 0..CONTEXTS {
            let (context, handle, background) = local_aio_context(SLOTS, true).unwrap();
            let mut background = Some(background);
            let task = (i % 4 < 2).then(|| spawn_local(background.take().unwrap()));
            let read = spawn_local(local_read(handle.clone(), file.clone()));
            yield_now().await;
            match i % 8 {
                0 => with_hang_guard(context.close()).await,
                1..4 => drop(context),
                _ => {
                    drop(background);
                    if let Some(task) = task {
                        task.abort();
                    }
                }
            }
            with_hang_guard(read).await.unwrap();
        }
        before.are_back().await;
    });
}

/// Every order in which `things` can be taken.
fn orders(things: usize) -> Vec<Vec<usize>> {
    if things == 0 {
        return vec![vec![]];
    }
    let shorter = orders(things - 1);
    let longer = shorter.iter().flat_map(|order| {
        (0..things).map(|at| {
            let mut order = order.clone();
            order.insert(at, things - 1);
            order
        })
    });
    longer.collect()
}

#[test]
fn a_context_its_handle_file_and_operations_may_be_dropped_in_any_order() {
    if !in_child!() {
        return;
    }
    for dir in test_dirs() {
        current_thread().block_on(async {
            let before = Resources::now();
            for order in orders(5) {
                let file = file(&dir).await;
                let (context, handle) = aio_context(2, true).unwrap();
                yield_now().await;
                let mut reads: Vec<_> = (0..6)
                    .map(|_| Box::pin(read(handle.clone(), file.clone())))
                    .collect();
                reads.iter_mut().for_each(poll_once);
                let late = reads.split_off(3);
                let mut things: [Option<Box<dyn Any>>; 5] = [
                    Some(Box::new(context)),
                    Some(Box::new(handle)),
                    Some(Box::new(file)),
                    Some(Box::new(reads)),
                    Some(Box::new(late)),
                ];
                for i in order {
                    things[i] = None;
                    yield_now().await;
                }
            }
            before.are_back().await;
        });
    }
}

#[test]
fn a_local_context_may_be_dropped_in_any_order_with_its_future() {
    if !in_child!() {
        return;
    }
    for dir in test_dirs() {
        LocalSet::new().block_on(&current_thread(), async {
            let before = Resources::now();
            for (order, polled) in orders(4)
                .into_iter()
                .flat_map(|o| [(o.clone(), false), (o, true)])
            {
                let file = file(&dir).await;
                let (context, handle, background) = local_aio_context(2, true).unwrap();
                let mut background = Box::pin(async {
                    background.await.unwrap();
                });
                if polled {
                    poll_once(&mut background);
                }
                let mut reads: Vec<_> = (0..6)
                    .map(|_| Box::pin(local_read(handle.clone(), file.clone())))
                    .collect();
                reads.iter_mut().for_each(poll_once);
                let mut things: [Option<Box<dyn Any>>; 4] = [
                    Some(Box::new(context)),
                    Some(Box::new(handle)),
                    Some(Box::new(background)),
                    Some(Box::new(reads)),
                ];
                for i in order {
                    things[i] = None;
                    yield_now().await;
                }
            }
            before.are_back().await;
        });
    }
}

#[test]
fn a_runtime_shutdown_ends_its_contexts() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let observer = current_thread();
    let file = observer.block_on(file(&dir));
    let round = || {
        for i in 0..20 {
            let runtime = if i % 2 == 0 {
                current_thread()
            } else {
                multi_thread()
            };
            let kept = runtime.block_on(async {
                let (context, handle) = aio_context(2, true).unwrap();
                for _ in 0..4 {
                    tokio::spawn(read(handle.clone(), file.clone()));
                }
                yield_now().await;
                (context, handle)
            });
            match i % 3 {
                0 => drop(runtime),
                1 => runtime.shutdown_background(),
                _ => drop((kept, runtime)),
            }
        }
    };
    round();
    observer.block_on(async {
        wait_until(|| Resources::now().rings == 0, Resources::now).await;
    });
    let before = Resources::now();
    round();
    observer.block_on(before.are_back());
}

#[test]
fn dropped_and_forgotten_operations_leak_no_locked_memory() {
    if !in_child!() {
        return;
    }
    for dir in test_dirs() {
        current_thread().block_on(async {
            let file = file(&dir).await;
            let before = Resources::now();
            let (context, handle) = aio_context(4, true).unwrap();
            for round in 0..40 {
                let mut buffers: Vec<_> = (0..8).map(|_| buffer(BLOCK)).collect();
                for (i, buffer) in buffers.iter_mut().enumerate() {
                    let offset = i as u64 * LEN;
                    let read = file.read_at(&handle, offset, buffer, LEN, ReadFlags::empty());
                    let mut read = Box::pin(async { drop(read.await) });
                    poll_once(&mut read);
                    if round % 2 == 0 {
                        std::mem::forget(read);
                    }
                }
                for (i, buffer) in buffers.iter_mut().enumerate() {
                    let (offset, len) = (i as u64 * LEN, buffer.size() as u64);
                    let write = file.write_at(&handle, offset, buffer, len, WriteFlags::empty());
                    let mut write = Box::pin(async { drop(write.await) });
                    poll_once(&mut write);
                    if round % 2 == 0 {
                        std::mem::forget(write);
                    } else {
                        drop(write);
                    }
                    buffer.as_mut().fill(1);
                }
                yield_now().await;
            }
            with_hang_guard(context.close()).await;
            drop(handle);
            before.are_back().await;
        });
    }
}

#[test]
fn a_queued_request_closes_its_duplicated_descriptor() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    current_thread().block_on(async {
        file(&dir).await;
        let (context, handle) = aio_context(1, true).unwrap();
        yield_now().await;
        let before = Resources::now();
        for round in 0..4 {
            // A plain descriptor is duplicated while its request waits for a slot.
            let plain = fs::File::open(dir.path().join("file")).unwrap();
            let mut syncs: Vec<_> = (0..32)
                .map(|_| {
                    let sync = handle.submit_request(&plain, tokio_kaio::RawCommand::Fdsync);
                    Box::pin(maybe_done(async { drop(sync.await) }))
                })
                .collect();
            syncs.iter_mut().for_each(poll_once);
            if round % 2 == 0 {
                syncs.truncate(16);
                with_hang_guard(join_all(syncs)).await;
            } else {
                drop(syncs);
            }
            drop(plain);
            before.are_back().await;
        }
        with_hang_guard(context.close()).await;
    });
}
