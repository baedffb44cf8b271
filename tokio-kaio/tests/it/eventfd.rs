//! `EventFd`: counting, waiting, streaming, and what a dropped call leaves behind.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::pin;

use crate::common::*;
use futures::{StreamExt, poll};
use tokio_kaio::{EventFd, EventFdError};

/// A duplicate of the descriptor, as a file.
fn duplicate(counter: &EventFd) -> File {
    #[allow(unsafe_code)]
    // SAFETY: `counter` keeps it open through the call.
    let fd = unsafe { BorrowedFd::borrow_raw(counter.as_raw_fd()) };
    File::from(fd.as_fd().try_clone_to_owned().unwrap())
}

#[tokio::test]
async fn a_plain_counter_returns_the_whole_value() {
    let mut counter = EventFd::new(5, false).unwrap();
    assert_eq!(counter.recv().await.unwrap(), 5);
    for value in [10, 1, u64::from(u32::MAX) + 7] {
        counter.send_value(value).await.unwrap();
        counter.send_value(2).await.unwrap();
        assert_eq!(counter.recv().await.unwrap(), value + 2);
    }
    assert!(poll!(pin!(counter.recv())).is_pending(), "it is at 0");
}

#[tokio::test]
async fn a_semaphore_returns_one_at_a_time() {
    let mut counter = EventFd::new(2, true).unwrap();
    counter.send_value(3).await.unwrap();
    for _ in 0..5 {
        assert_eq!(counter.recv().await.unwrap(), 1);
    }
    assert!(poll!(pin!(counter.recv())).is_pending(), "it is at 0");
}

#[tokio::test]
async fn a_stream_yields_as_long_as_the_counter_is_not_zero() {
    let mut plain = EventFd::new(4, false).unwrap();
    assert_eq!(plain.next().await.unwrap().unwrap(), 4);
    plain.send_value(6).await.unwrap();
    assert_eq!(plain.next().await.unwrap().unwrap(), 6);
    assert!(poll!(plain.next()).is_pending());

    let semaphore = EventFd::new(7, true).unwrap();
    let all: Vec<u64> = semaphore.take(7).map(Result::unwrap).collect().await;
    assert_eq!(all, [1; 7]);
}

#[tokio::test]
async fn sending_u64_max_is_an_error_and_adds_nothing() {
    for semaphore in [false, true] {
        let mut counter = EventFd::new(0, semaphore).unwrap();
        let error = with_hang_guard(counter.send_value(u64::MAX))
            .await
            .unwrap_err();
        let EventFdError::ReadError(source) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::EINVAL));
        assert!(poll!(pin!(counter.recv())).is_pending());
        counter.send_value(1).await.unwrap();
        assert_eq!(counter.recv().await.unwrap(), 1);
    }
}

#[tokio::test]
async fn sending_zero_adds_nothing() {
    let mut counter = EventFd::new(0, false).unwrap();
    counter.send_value(0).await.unwrap();
    assert!(poll!(pin!(counter.recv())).is_pending());
}

#[tokio::test]
async fn an_invalid_initial_value_is_an_error() {
    let mut largest = EventFd::new(u32::MAX as usize, false).unwrap();
    assert_eq!(largest.recv().await.unwrap(), u64::from(u32::MAX));
    let past = usize::try_from((1_u64 << 32) + 5).unwrap_or(usize::MAX);
    for init in [past, usize::MAX] {
        if u32::try_from(init).is_ok() {
            continue; // there is no larger one on 32 bits
        }
        let error = EventFd::new(init, false).unwrap_err();
        let EventFdError::CreateError(source) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::EINVAL));
    }
}

#[tokio::test]
async fn a_send_waits_while_the_counter_would_overflow() {
    let mut counter = EventFd::new(0, false).unwrap();
    counter.send_value(u64::MAX - 1).await.unwrap();
    assert!(
        poll!(pin!(counter.send_value(1))).is_pending(),
        "dropped: adds nothing"
    );
    assert_eq!(counter.recv().await.unwrap(), u64::MAX - 1);
    with_hang_guard(counter.send_value(1)).await.unwrap();
    assert_eq!(counter.recv().await.unwrap(), 1);
}

#[tokio::test]
async fn a_waiting_sender_is_woken_by_a_read_of_a_duplicate() {
    let mut counter = EventFd::new(0, false).unwrap();
    let mut other = duplicate(&counter);
    counter.send_value(u64::MAX - 1).await.unwrap();
    {
        let mut send = pin!(counter.send_value(3));
        assert!(poll!(send.as_mut()).is_pending());
        let reader = std::thread::spawn(move || {
            let mut value = [0; 8];
            std::io::Read::read_exact(&mut other, &mut value).unwrap();
            u64::from_ne_bytes(value)
        });
        with_hang_guard(send).await.unwrap();
        assert_eq!(reader.join().unwrap(), u64::MAX - 1);
    }
    assert_eq!(counter.recv().await.unwrap(), 3);
}

#[tokio::test]
async fn a_dropped_receive_takes_nothing() {
    for semaphore in [false, true] {
        let mut counter = EventFd::new(0, semaphore).unwrap();
        let mut other = duplicate(&counter);
        for _ in 0..100 {
            {
                let mut receipt = pin!(counter.recv());
                assert!(poll!(receipt.as_mut()).is_pending());
                other.write_all(&1_u64.to_ne_bytes()).unwrap();
            }
            assert_eq!(with_hang_guard(counter.recv()).await.unwrap(), 1);
        }
        assert!(poll!(pin!(counter.recv())).is_pending());
    }
}

#[tokio::test]
async fn a_select_that_drops_receives_loses_nothing() {
    const SENT: u64 = 1000;
    let mut counter = EventFd::new(0, true).unwrap();
    let mut other = duplicate(&counter);
    let sender = std::thread::spawn(move || {
        for _ in 0..SENT {
            other.write_all(&1_u64.to_ne_bytes()).unwrap();
            std::thread::yield_now();
        }
    });
    let count = async {
        let mut received = 0;
        while received < SENT {
            tokio::select! {
                value = counter.recv() => received += value.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
        received
    };
    assert_eq!(with_hang_guard(count).await, SENT);
    sender.join().unwrap();
    assert!(
        poll!(pin!(counter.recv())).is_pending(),
        "and nothing is counted twice"
    );
}

async fn wakes_from_another_thread() {
    let mut counter = EventFd::new(0, false).unwrap();
    let mut other = duplicate(&counter);
    let (ready, go) = std::sync::mpsc::channel();
    let sender = std::thread::spawn(move || {
        for value in go {
            let value: u64 = value;
            other.write_all(&value.to_ne_bytes()).unwrap();
        }
    });
    for value in 1..100_u64 {
        let mut receipt = pin!(counter.recv());
        assert!(poll!(receipt.as_mut()).is_pending());
        ready.send(value).unwrap();
        assert_eq!(with_hang_guard(receipt).await.unwrap(), value);
    }
    drop(ready);
    sender.join().unwrap();
}

#[tokio::test]
async fn a_send_from_another_thread_wakes_a_current_thread_runtime() {
    wakes_from_another_thread().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_from_another_thread_wakes_a_multi_threaded_runtime() {
    tokio::spawn(wakes_from_another_thread()).await.unwrap();
}

#[tokio::test]
async fn an_always_ready_counter_lets_other_tasks_run() {
    // Receives take part in tokio's budget: the other task gets its turns.
    let turns = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = std::rc::Rc::clone(&turns);
    let local = tokio::task::LocalSet::new();
    local.spawn_local(async move {
        loop {
            counted.set(counted.get() + 1);
            tokio::task::yield_now().await;
        }
    });
    let busy = local.run_until(async {
        let mut counter = EventFd::new(10_000, true).unwrap();
        for _ in 0..10_000 {
            counter.recv().await.unwrap();
        }
    });
    with_hang_guard(busy).await;
    assert!(turns.get() > 10, "{} turns in 10000 receipts", turns.get());
}
