//! Nothing starves: no task beside one whose reads complete inline, no task that waits for a slot,
//! and not the context's background task.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs;
use std::future::{Future, poll_fn};
use std::os::unix::fs::OpenOptionsExt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::common::*;
use tokio::task::{LocalSet, spawn_local, unconstrained, yield_now};
use tokio_kaio::{AioContextHandle, File, RawCommand, ReadFlags, WriteFlags, aio_context};

/// Runs `reading` beside a task that counts how often it gets its turn, on one thread. Returns
/// the count.
async fn turns_beside(reading: impl Future<Output = ()> + 'static) -> usize {
    let turns = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let counted = turns.clone();
    local.spawn_local(poll_fn(move |cx| -> Poll<()> {
        counted.set(counted.get() + 1);
        cx.waker().wake_by_ref(); // next in the queue, where `yield_now` waits for an idle moment
        Poll::Pending
    }));
    let counted = turns.clone();
    local
        .run_until(with_hang_guard(async move {
            let reading = async move {
                let before = counted.get();
                reading.await;
                counted.get() - before
            };
            spawn_local(reading).await.unwrap()
        }))
        .await
}

/// Reads that are submitted at once, never batched: only tokio's budget can interrupt them.
async fn unbatched_reads(handle: AioContextHandle, file: Rc<fs::File>, reads: usize) {
    let mut buffer = buffer(BLOCK);
    for _ in 0..reads {
        let command = RawCommand::Pread {
            offset: 0,
            buffer: &mut buffer,
            flags: ReadFlags::empty(),
            len: LEN,
        };
        assert_eq!(handle.submit_request(&*file, command).await.unwrap(), LEN);
    }
}

async fn reads(handle: AioContextHandle, file: Rc<File>, reads: usize) {
    let mut buffer = buffer(BLOCK);
    for _ in 0..reads {
        let read = file.read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), LEN);
    }
}

#[test]
fn a_loop_of_inline_reads_lets_other_tasks_run() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(4).tmpfs().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        const READS: usize = 10_000;
        write_patterned(&dir.path().join("file"), 1);
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT);
        let plain = Rc::new(options.open(dir.path().join("file")).unwrap());
        let greedy = unconstrained(unbatched_reads(handle.clone(), plain.clone(), READS));
        assert_eq!(
            turns_beside(greedy).await,
            0,
            "these reads do not complete at once"
        );

        let turns = turns_beside(unbatched_reads(handle.clone(), plain, READS)).await;
        assert!(turns >= READS / 1000, "{turns} turns during {READS} reads");

        let file = Rc::new(open_rw(dir, "file").await);
        let turns = turns_beside(reads(handle, file, READS)).await;
        assert!(turns >= READS / 1000, "{turns} turns during {READS} reads");
    });
}

#[test]
fn a_write_of_many_inline_requests_lets_other_tasks_run() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(4).inline().tmpfs().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        const REQUESTS: usize = 500;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true);
        options.custom_flags(libc::O_DIRECT);
        let file = Rc::new(options.open(dir.path().join("file")).unwrap());
        let write = async |handle: AioContextHandle, file: Rc<fs::File>| {
            let block = buffer(BLOCK);
            let parts: Vec<_> = (0..REQUESTS * 1024).map(|_| block.part(..1)).collect();
            let (offset, buffers, flags) = (0, &parts[..], WriteFlags::empty());
            let command = RawCommand::Pwritev {
                offset,
                buffers,
                flags,
            };
            let written = handle.submit_request(&*file, command).await;
            assert_eq!(written.unwrap(), parts.len() as u64);
        };
        let greedy = unconstrained(write(handle.clone(), file.clone()));
        assert_eq!(
            turns_beside(greedy).await,
            0,
            "these requests do not complete at once"
        );
        let turns = turns_beside(write(handle.clone(), file)).await;
        assert!(
            turns >= REQUESTS / 200,
            "{turns} turns during {REQUESTS} requests"
        );
        assert_eq!(handle.metrics().submitted as usize, 2 * REQUESTS);
    });
}

/// A spurious wakeup polls the task once more, and keeps the runtime from timers and I/O, which it
/// handles when no task is ready.
#[test]
fn an_operation_that_completes_inline_does_not_wake_its_task() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(4).tmpfs().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        const READS: usize = 1000;
        write_patterned(&dir.path().join("file"), 1);
        let file = Rc::new(open_rw(dir, "file").await);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut at_once = 0;
        for _ in 0..READS {
            let mut read = pin!(reads(handle.clone(), file.clone(), 1));
            if read
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
            {
                at_once += 1;
            } else {
                wakes.0.store(0, Ordering::Relaxed); // it waits for company
                read.await;
            }
            assert_eq!(
                wakes.0.load(Ordering::Relaxed),
                0,
                "woken though it was done"
            );
            yield_now().await;
        }
        assert!(
            at_once > READS / 2,
            "{at_once} of {READS} reads completed at once"
        );
    });
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "in a biased select tokio's budget does not let the timer fire; batching does"
)]
fn a_timer_fires_beside_inline_reads() {
    Fixture::new(4).tmpfs().blocks(1).run(async |case| {
        let handle = case.handle;
        let file = Rc::new(case.file);
        let endless = reads(handle, file, usize::MAX);
        let timer = tokio::time::sleep(std::time::Duration::from_millis(5));
        with_hang_guard(async {
            tokio::select! {
                biased;
                () = endless => unreachable!("there is no end to it"),
                () = timer => {}
            }
        })
        .await;
    });
}

/// Completes the newest request in flight. Its slot must go to the request that has waited longest, which is
/// completed next: a request without a slot never completes.
#[test]
fn requests_get_slots_in_fifo_order() {
    const REQUESTS: usize = 20;
    for slots in [1, 3] {
        Fixture::new(slots).every_mode().run(async |case| {
            let mut requests = Vec::new();
            for _ in 0..REQUESTS {
                requests.push(occupy_slot(&case.handle).await);
            }
            let first = requests.drain(..slots - 1).collect::<Vec<_>>();
            for request in requests.into_iter().chain(first) {
                with_hang_guard(request.release()).await;
            }
        });
    }
}

/// A read that is done at its first poll leaves no task waiting. All others take turns.
#[test]
fn tasks_that_share_one_slot_take_turns() {
    const TASKS: usize = 16;
    const READS: usize = 60;
    Fixture::new(1).blocks(1).run(async |case| {
        let handle = case.handle;
        let file = Rc::new(case.file);
        let done = Rc::new(RefCell::new(vec![0; TASKS]));
        let at_once = Rc::new(RefCell::new([0; TASKS]));
        let local = LocalSet::new();
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (file, handle, done) = (file.clone(), handle.clone(), done.clone());
                let at_once = at_once.clone();
                local.spawn_local(async move {
                    let mut buffer = buffer(BLOCK);
                    for _ in 0..READS {
                        let read = file.read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty());
                        let (mut read, mut polls) = (pin!(read), 0);
                        let read = poll_fn(|cx| {
                            let polled = read.as_mut().poll(cx);
                            polls += 1;
                            polled
                        });
                        let read = read.await;
                        at_once.borrow_mut()[task] += usize::from(polls == 1);
                        assert_eq!(read.unwrap(), LEN);
                        let mut done = done.borrow_mut();
                        done[task] += 1;
                        let lead = done[task] - done.iter().min().unwrap();
                        let at_once = at_once.borrow()[task];
                        // A task that another thread wakes is polled some turns later.
                        assert!(
                            lead < READS / 4 + at_once,
                            "a task is {lead} reads ahead of another, of which {at_once} were done at once"
                        );
                    }
                })
            })
            .collect();
        for task in tasks {
            local.run_until(with_hang_guard(task)).await.unwrap();
        }
        assert_eq!(*done.borrow(), [READS; TASKS]);
    });
}

#[test]
fn many_tasks_on_two_threads_all_get_the_one_slot() {
    Fixture::new(1)
        .every_dir()
        .multi_thread()
        .blocks(1)
        .run(async |case| {
            let handle = case.handle;
            let file = std::sync::Arc::new(case.file);
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..64 {
                let (file, handle) = (file.clone(), handle.clone());
                tasks.spawn(async move {
                    let mut buffer = buffer(BLOCK);
                    for _ in 0..20 {
                        let read = file.read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty());
                        assert_eq!(read.await.unwrap(), LEN);
                    }
                });
            }
            tasks.join_all().await;
        });
}

#[tokio::test]
async fn slow_reads_progress_beside_many_inline_ones() {
    let Some(quick) = tmpfs_dir() else { return };
    let slow = disk_dir();
    for dir in [&quick, &slow] {
        write_patterned(&dir.path().join("file"), 1);
    }
    let quick = Rc::new(open_rw(&quick, "file").await);
    let slow = Rc::new(open_rw(&slow, "file").await);
    // On one context, and on one each.
    for on_two_contexts in [false, true] {
        let (context, handle) = aio_context(4, true).unwrap();
        let (other, other_handle) = aio_context(4, true).unwrap();
        let local = LocalSet::new();
        for _ in 0..8 {
            local.spawn_local(reads(handle.clone(), quick.clone(), usize::MAX));
        }
        let slow_handle = if on_two_contexts {
            other_handle
        } else {
            handle
        };
        local
            .run_until(with_hang_guard(reads(slow_handle, slow.clone(), 100)))
            .await;
        drop(local);
        with_hang_guard(context.close()).await;
        with_hang_guard(other.close()).await;
    }
}

/// One thread, and a task that is always ready: batched requests are submitted nevertheless, and
/// their completions are reaped.
#[test]
fn operations_progress_beside_a_task_that_is_always_ready() {
    Fixture::new(8).every_dir().blocks(1).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let busy = tokio::spawn(async {
            loop {
                yield_now().await;
            }
        });
        for _ in 0..20 {
            let read = async |_| {
                let mut buffer = buffer(BLOCK);
                let read = file.read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), LEN);
            };
            futures::future::join_all((0..24).map(read)).await;
        }
        busy.abort();
    });
}

/// An operation that is polled by hand, with a waker that does nothing, completes.
#[test]
fn an_operation_that_is_only_polled_completes() {
    Fixture::new(1).every_dir().blocks(1).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut buffers: VecDeque<_> = (0..8).map(|_| buffer(BLOCK)).collect();
        let read = |buffer| file.read_at(&handle, 0, buffer, LEN, ReadFlags::empty());
        let mut reads: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| Some(Box::pin(read(buffer))))
            .collect();
        with_hang_guard(async {
            while reads.iter().any(Option::is_some) {
                for slot in &mut reads {
                    let Some(read) = slot else { continue };
                    let mut cx = Context::from_waker(Waker::noop());
                    if let Poll::Ready(result) = read.as_mut().poll(&mut cx) {
                        assert_eq!(result.unwrap(), LEN);
                        *slot = None;
                    }
                }
                yield_now().await;
            }
        })
        .await;
    });
}
