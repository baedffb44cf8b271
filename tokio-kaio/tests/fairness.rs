//! Nobody starves: neither the tasks beside one that reads without ever having to wait, nor those
//! that wait for a slot, nor the context's own background task.

mod common;

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

use common::*;
use tokio::task::{LocalSet, spawn_local, unconstrained, yield_now};
use tokio_kaio::{AioContextHandle, File, RawCommand, ReadFlags, WriteFlags, aio_context};

const LEN: u64 = BLOCK as u64;

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
        .run_until(within(async move {
            let reading = async move {
                let before = counted.get();
                reading.await;
                counted.get() - before
            };
            spawn_local(reading).await.unwrap()
        }))
        .await
}

/// Reads that go to the kernel at once, never in company: only the budget can interrupt them.
async fn lonely_reads(handle: AioContextHandle, file: Rc<fs::File>, reads: usize) {
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

#[tokio::test]
async fn a_loop_over_reads_that_complete_at_once_lets_other_tasks_run() {
    if !on_kernel_aio() {
        return;
    }
    let Some(dir) = on_tmpfs() else { return };
    const READS: usize = 10_000;
    write_patterned(&dir.path().join("file"), 1);
    let (context, handle) = aio_context(4, true).unwrap();

    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    let plain = Rc::new(options.open(dir.path().join("file")).unwrap());
    let greedy = unconstrained(lonely_reads(handle.clone(), plain.clone(), READS));
    assert_eq!(
        turns_beside(greedy).await,
        0,
        "these reads do not complete at once"
    );

    let turns = turns_beside(lonely_reads(handle.clone(), plain, READS)).await;
    assert!(turns >= READS / 1000, "{turns} turns during {READS} reads");

    let file = Rc::new(open_rw(&dir, "file").await);
    let turns = turns_beside(reads(handle, file, READS)).await;
    assert!(turns >= READS / 1000, "{turns} turns during {READS} reads");
    within(context.close()).await;
}

#[tokio::test]
async fn a_write_of_many_requests_that_complete_at_once_lets_other_tasks_run() {
    if !on_kernel_aio() {
        return;
    }
    let Some(dir) = on_tmpfs() else { return };
    const REQUESTS: usize = 500;
    let (context, handle) = inline_context(4);
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
    within(context.close()).await;
}

/// A wake-up for nothing runs the task once more, and keeps the runtime from what it does when no
/// task is ready: timers, I/O.
#[tokio::test]
async fn an_operation_that_completes_at_once_does_not_wake_its_task() {
    if !on_kernel_aio() {
        return;
    }
    let Some(dir) = on_tmpfs() else { return };
    const READS: usize = 1000;
    write_patterned(&dir.path().join("file"), 1);
    let (context, handle) = aio_context(4, true).unwrap();
    let file = Rc::new(open_rw(&dir, "file").await);
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
            within(read).await;
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
    within(context.close()).await;
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_timer_fires_beside_reads_that_complete_at_once() {
    let Some(dir) = on_tmpfs() else { return };
    write_patterned(&dir.path().join("file"), 1);
    let (context, handle) = aio_context(4, true).unwrap();
    let file = Rc::new(open_rw(&dir, "file").await);
    let endless = reads(handle, file, usize::MAX);
    let timer = tokio::time::sleep(std::time::Duration::from_millis(5));
    within(async {
        tokio::select! {
            biased;
            () = endless => unreachable!("there is no end to it"),
            () = timer => {}
        }
    })
    .await;
    within(context.close()).await;
}

#[tokio::test]
async fn requests_get_their_slots_in_the_order_in_which_they_asked() {
    for dir in everywhere() {
        const READS: usize = 20;
        write_patterned(&dir.path().join("file"), 1);
        let file = open_rw(&dir, "file").await;
        for slots in [1, 3] {
            let (context, handle) = inline_context(slots);
            yield_now().await;
            // Fills up the slots.
            let order = RefCell::new(Vec::new());
            let read = async |i: usize| {
                let mut buffer = buffer(BLOCK);
                let read = file.read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), LEN);
                order.borrow_mut().push(i);
            };
            let all = futures::future::join_all((0..READS).map(read));
            within(all).await;
            let order = order.into_inner();
            assert_eq!(order.len(), READS);
            for (turn, &i) in order.iter().enumerate() {
                // Those that are in flight together may end in any order.
                let early = i.saturating_sub(turn);
                assert!(
                    early < slots,
                    "{slots} slots: {i} came at turn {turn} of {order:?}"
                );
            }
            within(context.close()).await;
        }
    }
}

/// On disk, where a read has to wait: what is done at once leaves nobody waiting.
#[tokio::test]
async fn tasks_that_share_one_slot_take_turns() {
    const TASKS: usize = 16;
    const READS: usize = 60;
    let dir = on_disk();
    write_patterned(&dir.path().join("file"), 1);
    let file = Rc::new(open_rw(&dir, "file").await);
    let (context, handle) = aio_context(1, true).unwrap();
    let done = Rc::new(RefCell::new(vec![0; TASKS]));
    let local = LocalSet::new();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (file, handle, done) = (file.clone(), handle.clone(), done.clone());
            local.spawn_local(async move {
                let mut buffer = buffer(BLOCK);
                for _ in 0..READS {
                    let read = file.read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty());
                    assert_eq!(read.await.unwrap(), LEN);
                    let mut done = done.borrow_mut();
                    done[task] += 1;
                    let (most, least) = (done.iter().max(), done.iter().min());
                    let lead = most.unwrap() - least.unwrap();
                    // 1 but for reads that are done by the time they are submitted.
                    assert!(
                        lead < READS / 4,
                        "one task is {lead} reads ahead of another"
                    );
                }
            })
        })
        .collect();
    for task in tasks {
        local.run_until(within(task)).await.unwrap();
    }
    assert_eq!(*done.borrow(), [READS; TASKS]);
    within(context.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_on_two_threads_all_get_through_one_slot() {
    for dir in everywhere() {
        write_patterned(&dir.path().join("file"), 1);
        let file = std::sync::Arc::new(open_rw(&dir, "file").await);
        let (context, handle) = aio_context(1, true).unwrap();
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
        within(tasks.join_all()).await;
        within(context.close()).await;
    }
}

#[tokio::test]
async fn reads_that_have_to_wait_get_on_beside_many_that_do_not() {
    let Some(quick) = on_tmpfs() else { return };
    let slow = on_disk();
    for dir in [&quick, &slow] {
        write_patterned(&dir.path().join("file"), 1);
    }
    let quick = Rc::new(open_rw(&quick, "file").await);
    let slow = Rc::new(open_rw(&slow, "file").await);
    // On one context, and on one each.
    for apart in [false, true] {
        let (context, handle) = aio_context(4, true).unwrap();
        let (other, other_handle) = aio_context(4, true).unwrap();
        let local = LocalSet::new();
        for _ in 0..8 {
            local.spawn_local(reads(handle.clone(), quick.clone(), usize::MAX));
        }
        let slow_handle = if apart { other_handle } else { handle };
        local
            .run_until(within(reads(slow_handle, slow.clone(), 100)))
            .await;
        drop(local);
        within(context.close()).await;
        within(other.close()).await;
    }
}

/// One thread, and a task that never lets it rest: what waits for company is submitted all the
/// same, and its completion is seen.
#[tokio::test]
async fn operations_get_on_beside_a_task_that_is_always_ready() {
    for dir in everywhere() {
        write_patterned(&dir.path().join("file"), 1);
        let file = open_rw(&dir, "file").await;
        let (context, handle) = aio_context(8, true).unwrap();
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
            within(futures::future::join_all((0..24).map(read))).await;
        }
        busy.abort();
        within(context.close()).await;
    }
}

/// Polled by hand and without a waker that does anything, an operation still gets done.
#[tokio::test]
async fn an_operation_that_is_only_polled_gets_done() {
    for dir in everywhere() {
        write_patterned(&dir.path().join("file"), 1);
        let file = open_rw(&dir, "file").await;
        let (context, handle) = aio_context(1, true).unwrap();
        let mut buffers: VecDeque<_> = (0..8).map(|_| buffer(BLOCK)).collect();
        let read = |buffer| file.read_at(&handle, 0, buffer, LEN, ReadFlags::empty());
        let mut reads: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| Some(Box::pin(read(buffer))))
            .collect();
        within(async {
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
        within(context.close()).await;
    }
}
