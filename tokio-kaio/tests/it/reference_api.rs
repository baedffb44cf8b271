//! What code written for `linux-aio-tokio` 0.4 relies on, at run time: on each kind of runtime,
//! with slots that are waited for, slots that are not, and contexts that have stopped.
#![allow(clippy::unnecessary_mut_passed)] // as existing code has it

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use crate::common::{locked_buffer as buffer, *};
use futures::future::join_all;
use futures::poll;
use tokio::task::{JoinSet, LocalSet, spawn_local, unconstrained, yield_now};
use tokio_kaio::{
    AioCommandError, File, LockedBuf, ReadFlags, WriteFlags, aio_context, local_aio_context,
};

async fn write_then_read_in_tasks() {
    for dir in test_dirs() {
        let (context, handle) = aio_context(4, true).unwrap();
        let file = Arc::new(open_rw(&dir, "data").await);
        let mut tasks = JoinSet::new();
        for i in 0..24_u64 {
            let (file, handle) = (Arc::clone(&file), handle.clone());
            tasks.spawn(async move {
                let mut bytes = patterned_buffer(i, BLOCK);
                let (offset, len) = (i * BLOCK as u64, BLOCK as u64);
                let written = file.write_at(&handle, offset, &mut bytes, len, WriteFlags::empty());
                assert_eq!(written.await.unwrap(), len);
                bytes.as_mut().fill(0);
                let read = file.read_at(&handle, offset, &mut bytes, len, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), len);
                assert!(is_pattern(i, bytes.as_ref()));
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        assert_eq!(context.available_slots(), Some(4));
        context.close().await;
    }
}

#[tokio::test]
async fn tasks_of_a_current_thread_runtime_write_and_read() {
    with_hang_guard(write_then_read_in_tasks()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_multi_threaded_runtime_write_and_read() {
    with_hang_guard(tokio::spawn(write_then_read_in_tasks()))
        .await
        .unwrap();
}

#[tokio::test]
async fn tasks_of_a_local_set_write_and_read_through_a_local_context() {
    let dir = disk_dir();
    let (context, handle, background) = local_aio_context(3, true).unwrap();
    let local = LocalSet::new();
    let test = local.run_until(async move {
        let background = spawn_local(background);
        let file = Rc::new(open_rw(&dir, "data").await);
        let bytes: Vec<_> = (0..12)
            .map(|i| Rc::new(RefCell::new(patterned_buffer(i, BLOCK))))
            .collect();
        let tasks = bytes.iter().cloned().zip(0_u64..).map(|(bytes, i)| {
            let (file, handle) = (Rc::clone(&file), handle.clone());
            spawn_local(async move {
                let mut bytes = bytes.take_out();
                let (offset, len) = (i * BLOCK as u64, BLOCK as u64);
                file.write_at(&handle, offset, &bytes, len, WriteFlags::DSYNC)
                    .await
                    .unwrap();
                bytes.as_mut().fill(0);
                file.read_at(&handle, offset, &mut bytes, len, ReadFlags::empty())
                    .await
                    .unwrap();
                assert!(is_pattern(i, bytes.as_ref()));
            })
        });
        for task in join_all(tasks).await {
            task.unwrap();
        }
        file.sync_all(&handle).await.unwrap();
        assert_eq!(handle.available_slots(), Some(3));
        context.close().await;
        assert_eq!(handle.available_slots(), None);
        background.await.unwrap().unwrap();
    });
    with_hang_guard(test).await;
}

trait TakeOut {
    fn take_out(&self) -> LockedBuf;
}

impl TakeOut for Rc<RefCell<LockedBuf>> {
    fn take_out(&self) -> LockedBuf {
        self.replace(buffer(1))
    }
}

#[tokio::test]
async fn a_local_context_works_before_its_background_future_runs() {
    let dir = disk_dir();
    let (context, handle, background) = local_aio_context(2, true).unwrap();
    let file = open_rw(&dir, "data").await;
    let bytes = patterned_buffer(1, BLOCK);
    let requests = (0..8).map(|i| {
        let offset = i * BLOCK as u64;
        file.write_at(&handle, offset, &bytes, BLOCK as u64, WriteFlags::empty())
    });
    for written in with_hang_guard(join_all(requests)).await {
        assert_eq!(written.unwrap(), BLOCK as u64);
    }
    drop(context);
    with_hang_guard(background).await.unwrap();
    assert_eq!(handle.available_slots(), None);
}

#[test]
fn another_executor_can_wait_for_a_context_that_a_runtime_drives() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), 16);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = runtime.unwrap();
    let (context, handle) = runtime.block_on(async { aio_context(4, true).unwrap() });
    let file = runtime
        .block_on(File::open(dir.path().join("data"), false))
        .unwrap();
    futures::executor::block_on(async {
        let reads = (0..16_u64).map(|i| {
            let (file, handle) = (&file, &handle);
            async move {
                let mut bytes = buffer(BLOCK);
                let len = BLOCK as u64;
                let read = file.read_at(handle, i * len, &mut bytes, len, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), len);
                assert!(is_pattern(i, bytes.as_ref()));
            }
        });
        join_all(reads).await;
        context.close().await;
    });
}

#[tokio::test]
async fn slots_are_counted_by_context_and_handle_alike() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let (context, handle) = aio_context(7, true).unwrap();
    let file = File::open(dir.path().join("data"), false).await.unwrap();
    let mut bytes = buffer(LONG);
    let test = retry_until(async || {
        let read = file.read_at(&handle, 0, &mut bytes, LONG as u64, ReadFlags::empty());
        let mut read = pin!(read);
        if poll!(read.as_mut()).is_ready() || context.available_slots() != Some(6) {
            return None;
        }
        let others = [handle.available_slots(), handle.clone().available_slots()];
        assert_eq!(read.await.unwrap(), LONG as u64);
        assert_eq!(context.available_slots(), Some(7));
        (others == [Some(6); 2]).then_some(())
    });
    with_hang_guard(test).await;
    context.close().await;
    assert_eq!(handle.available_slots(), None);
    assert_eq!(handle.clone().available_slots(), None);
}

#[tokio::test]
async fn without_semaphore_a_request_past_the_last_slot_fails_at_once() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let (context, handle) = aio_context(1, false).unwrap();
    assert_eq!(
        (context.available_slots(), handle.available_slots()),
        (None, None)
    );
    let file = File::open(dir.path().join("data"), false).await.unwrap();
    let (mut first, mut second) = (buffer(LONG), buffer(BLOCK));
    let len = BLOCK as u64;
    let test = retry_until(async || {
        pattern(5, second.as_mut());
        let read = file.read_at(&handle, 0, &mut first, LONG as u64, ReadFlags::empty());
        let mut read = pin!(read);
        if poll!(read.as_mut()).is_ready() {
            return None;
        }
        let one_more = file
            .read_at(&handle, 0, &mut second, len, ReadFlags::empty())
            .await;
        let refused = match one_more {
            Err(AioCommandError::CapacityExceeded) => {
                assert!(is_pattern(5, second.as_ref()), "the buffer is as it was");
                true
            }
            Ok(_) => false, // the first one was done already
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(read.await.unwrap(), LONG as u64);
        let read = file.read_at(&handle, 0, &mut second, len, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), len, "the slot is free again");
        refused.then_some(())
    });
    with_hang_guard(test).await;
    context.close().await;
}

/// Each task appends its number; the kernel appends in the order of submission.
async fn append_in_tasks(nr: usize, dir: &tempfile::TempDir) {
    const TASKS: u64 = 48;
    let name = format!("appended-{nr}");
    let (context, handle) = aio_context(nr, true).unwrap();
    let file = Arc::new(open_rw(dir, &name).await);
    for wave in 0..2 {
        let mut tasks = JoinSet::new();
        for i in 0..TASKS {
            let (file, handle) = (Arc::clone(&file), handle.clone());
            tasks.spawn(async move {
                let bytes = patterned_buffer(wave * TASKS + i, BLOCK);
                let append = WriteFlags::APPEND;
                file.write_at(&handle, 0, &bytes, BLOCK as u64, append)
                    .await
                    .unwrap()
            });
        }
        while let Some(task) = tasks.join_next().await {
            assert_eq!(task.unwrap(), BLOCK as u64);
        }
    }
    context.close().await;
    let appended = std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(appended.len(), 2 * TASKS as usize * BLOCK);
    for (i, block) in (0..).zip(appended.chunks(BLOCK)) {
        assert!(is_pattern(i, block), "nr {nr}: block {i} is out of order");
    }
}

#[tokio::test]
async fn requests_are_submitted_in_the_order_in_which_they_were_made() {
    for dir in test_dirs() {
        for nr in 1..=4 {
            with_hang_guard(append_in_tasks(nr, &dir)).await;
        }
    }
}

/// Notes which request is done, and when: a runtime may run woken tasks in another order.
struct Note {
    request: usize,
    order: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.order.lock().unwrap().push(self.request);
    }
}

#[tokio::test]
async fn with_one_slot_requests_complete_in_the_order_in_which_they_were_made() {
    const REQUESTS: usize = 64;
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), REQUESTS);
    let (context, handle) = aio_context(1, true).unwrap();
    let file = File::open(dir.path().join("data"), false).await.unwrap();
    let order: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut reads: Vec<_> = (0..REQUESTS)
        .map(|request| {
            let (file, handle, len) = (&file, &handle, BLOCK as u64);
            let read = Box::pin(async move {
                let (mut bytes, offset) = (buffer(BLOCK), request as u64 * len);
                let read = file.read_at(handle, offset, &mut bytes, len, ReadFlags::empty());
                assert_eq!(unconstrained(read).await.unwrap(), len);
                assert!(is_pattern(request as u64, bytes.as_ref()));
            });
            let order = Arc::clone(&order);
            (read, Arc::new(Note { request, order }))
        })
        .collect();
    for (read, note) in &mut reads {
        let waker = Waker::from(Arc::clone(note));
        let polled = read.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() && !order.lock().unwrap().contains(&note.request) {
            note.wake_by_ref();
        }
    }
    let all = async {
        while order.lock().unwrap().len() < REQUESTS {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    with_hang_guard(all).await;
    assert_eq!(*order.lock().unwrap(), (0..REQUESTS).collect::<Vec<_>>());
    drop(reads);
    with_hang_guard(context.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_more_tasks_than_slots_are_all_served() {
    for nr in 1..=4 {
        let dir = disk_dir();
        write_patterned(&dir.path().join("data"), 64);
        let (context, handle) = aio_context(nr, true).unwrap();
        let file = Arc::new(File::open(dir.path().join("data"), false).await.unwrap());
        let served = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for i in 0..100_u64 {
            let (file, handle) = (Arc::clone(&file), handle.clone());
            let served = Arc::clone(&served);
            tasks.spawn(async move {
                let mut bytes = buffer(BLOCK);
                let (block, len) = (i % 64, BLOCK as u64);
                let read = file.read_at(&handle, block * len, &mut bytes, len, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), len);
                assert!(is_pattern(block, bytes.as_ref()));
                served.fetch_add(1, Ordering::Relaxed);
            });
        }
        let all = async {
            while let Some(task) = tasks.join_next().await {
                task.unwrap()
            }
        };
        with_hang_guard(all).await;
        assert_eq!(served.load(Ordering::Relaxed), 100);
        assert_eq!(context.available_slots(), Some(nr));
        context.close().await;
    }
}

#[tokio::test]
async fn a_dropped_read_gives_its_slot_back_when_the_kernel_is_done() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), LONG / BLOCK);
    // A request that waits for a pool thread can be withdrawn, and mostly is.
    let (context, handle) = inline_context(2);
    let file = File::open(dir.path().join("data"), false).await.unwrap();
    let mut bytes = buffer(LONG);
    let test = retry_until(async || {
        bytes.as_mut().fill(1);
        {
            let read = file.read_at(&handle, 0, &mut bytes, LONG as u64, ReadFlags::empty());
            let mut read = pin!(read);
            if poll!(read.as_mut()).is_ready() {
                return None;
            }
            wait_until_all_offloaded(&handle).await;
        }
        assert_eq!(bytes.size(), LONG, "the buffer has memory again");
        let in_flight = context.available_slots() == Some(1);
        while context.available_slots() != Some(2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if in_flight {
            assert!(
                bytes.as_ref().iter().all(|&byte| byte == 0),
                "nothing was read into it"
            );
        }
        in_flight.then_some(())
    });
    with_hang_guard(test).await;
    context.close().await;
}

#[tokio::test]
async fn a_dropped_context_lets_running_requests_finish() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let file = File::open(dir.path().join("data"), false).await.unwrap();
    let mut bytes = buffer(LONG);
    let test = retry_until(async || {
        let (context, handle) = aio_context(2, true).unwrap();
        let read = file.read_at(&handle, 0, &mut bytes, LONG as u64, ReadFlags::empty());
        let mut read = pin!(read);
        if poll!(read.as_mut()).is_ready() || context.available_slots() != Some(1) {
            return None;
        }
        drop(context);
        assert_eq!(handle.available_slots(), None);
        let late = file.sync_data(&handle).await;
        assert!(matches!(late, Err(AioCommandError::AioStopped)), "{late:?}");
        assert_eq!(read.await.unwrap(), LONG as u64);
        Some(())
    });
    with_hang_guard(test).await;
    assert!(is_pattern(1, &bytes.as_ref()[BLOCK..2 * BLOCK]));
}

#[tokio::test]
async fn close_waits_for_running_requests() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let (context, handle) = aio_context(2, true).unwrap();
    let file = Arc::new(File::open(dir.path().join("data"), false).await.unwrap());
    let read = tokio::spawn({
        let handle = handle.clone();
        async move {
            let mut bytes = buffer(LONG);
            let len = LONG as u64;
            let read = file
                .read_at(&handle, 0, &mut bytes, len, ReadFlags::empty())
                .await;
            (
                read.unwrap(),
                is_pattern(3, &bytes.as_ref()[3 * BLOCK..4 * BLOCK]),
            )
        }
    });
    while handle.available_slots() == Some(2) && !read.is_finished() {
        yield_now().await;
    }
    with_hang_guard(context.close()).await;
    assert_eq!(with_hang_guard(read).await.unwrap(), (LONG as u64, true));
}

#[tokio::test]
async fn many_contexts_side_by_side_do_not_mix_up_their_requests() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), 32);
    let file = Arc::new(File::open(dir.path().join("data"), false).await.unwrap());
    let mut tasks = JoinSet::new();
    for n in 0..8 {
        let file = Arc::clone(&file);
        tasks.spawn(async move {
            let (context, handle) = aio_context(1 + n % 3, true).unwrap();
            let reads = (0..32_u64).map(|i| {
                let (file, handle) = (&file, &handle);
                async move {
                    let mut bytes = buffer(BLOCK);
                    let len = BLOCK as u64;
                    let read = file.read_at(handle, i * len, &mut bytes, len, ReadFlags::empty());
                    assert_eq!(read.await.unwrap(), len);
                    assert!(is_pattern(i, bytes.as_ref()));
                }
            });
            join_all(reads).await;
            context.close().await;
        });
    }
    let all = async {
        while let Some(task) = tasks.join_next().await {
            task.unwrap()
        }
    };
    with_hang_guard(all).await;
}
