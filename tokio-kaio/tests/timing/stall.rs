//! Ending a context does not block the runtime: `io_destroy`, which sleeps, never runs on one of
//! its threads.
#![allow(unsafe_code)] // makes the bare system call

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

use crate::common::*;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio_kaio::{File, ReadFlags, aio_context, local_aio_context};

/// Contexts that end in one measurement.
const ENDS: usize = 24;

/// Whether the bare system call sleeps. A thread that is preempted in it may not need to sleep any more, and one
/// that waits for a lock sleeps too, so most of several calls decide.
fn bare_io_destroy_sleeps() -> bool {
    const CALLS: usize = 9;
    let sleeps = (0..CALLS).filter(|_| one_io_destroy_sleeps()).count();
    sleeps > CALLS / 2
}

fn one_io_destroy_sleeps() -> bool {
    let mut id: libc::c_ulong = 0;
    // SAFETY: the kernel writes the id to a word of ours.
    let code = unsafe { libc::syscall(libc::SYS_io_setup, 8, &raw mut id) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
    let before = voluntary_switches();
    // SAFETY: a context that was just made, and that nobody else knows.
    let code = unsafe { libc::syscall(libc::SYS_io_destroy, id) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
    voluntary_switches() > before
}

/// How often this thread has slept beside `work`. A task that is always ready keeps the runtime itself from it,
/// and a thread that is preempted does not sleep.
async fn sleeps_beside(work: impl Future<Output = ()>) -> libc::c_long {
    let stop = Rc::new(Cell::new(false));
    let ticker = {
        let stop = stop.clone();
        spawn_local(poll_fn(move |cx| {
            if stop.get() {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
    };
    let before = voluntary_switches();
    work.await;
    let sleeps = voluntary_switches() - before;
    stop.set(true);
    ticker.await.unwrap();
    sleeps
}

/// Makes and ends `ENDS` contexts.
async fn ends(file: Rc<File>, how: How) {
    let mut tasks = Vec::new();
    for _ in 0..ENDS {
        let mut buffer = buffer(BLOCK);
        let (local, shared);
        match how {
            How::CloseLocal => {
                let (context, handle, background) = local_aio_context(8, true).unwrap();
                tasks.push(spawn_local(async { background.await.unwrap() }));
                local = (context, handle);
                let read = file.read_at(&local.1, 0, &mut buffer, LEN, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), LEN);
                tasks.push(spawn_local(local.0.close()));
            }
            How::Close | How::Drop => {
                shared = aio_context(8, true).unwrap();
                let read = file.read_at(&shared.1, 0, &mut buffer, LEN, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), LEN);
                match how {
                    How::Drop => drop(shared.0),
                    _ => tasks.push(spawn_local(shared.0.close())),
                }
            }
        }
        yield_now().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    wait_until(|| rings() == 0, rings).await;
}

#[derive(Clone, Copy, Debug)]
enum How {
    Close,
    Drop,
    CloseLocal,
}

/// The thread also sleeps for a lock that another one holds, so one good measurement is enough. A system call
/// on the runtime's thread would show in every measurement, once per context.
const ATTEMPTS: usize = 8;

#[test]
fn ending_a_context_does_not_block_its_thread() {
    let _alone = crate::alone();
    if !in_child!() {
        return;
    }
    if !bare_io_destroy_sleeps() {
        return eprintln!("skipped: io_destroy does not sleep here");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let dir = disk_dir();
    write_patterned(&dir.path().join("file"), 1);
    for how in [How::Close, How::Drop, How::CloseLocal] {
        let sleeps: Vec<_> = (0..ATTEMPTS)
            .map(|_| {
                LocalSet::new().block_on(&runtime, async {
                    let file = Rc::new(open_rw(&dir, "file").await);
                    sleeps_beside(with_hang_guard(ends(file, how))).await
                })
            })
            .collect();
        println!("{how:?}: {sleeps:?} sleeps during {ENDS} ends");
        let least = *sleeps.iter().min().unwrap();
        assert!(least < ENDS as libc::c_long / 2, "{how:?}: {sleeps:?}");
    }
}
