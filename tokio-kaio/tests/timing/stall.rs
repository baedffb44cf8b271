//! Ending a context does not block the runtime: `io_destroy`, which sleeps, never runs on one of
//! its threads.
#![allow(unsafe_code)] // measures the bare system call

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio_kaio::{File, ReadFlags, aio_context, local_aio_context};

/// Contexts that end in one measurement.
const ENDS: usize = 24;

/// How long the bare system call takes, the median of several.
fn bare_io_destroy() -> Duration {
    let mut times: Vec<_> = (0..7)
        .map(|_| {
            let mut id: libc::c_ulong = 0;
            // SAFETY: the kernel writes the id to a word of ours.
            let code = unsafe { libc::syscall(libc::SYS_io_setup, 8, &raw mut id) };
            assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
            let start = Instant::now();
            // SAFETY: a context that was just made, and that nobody else knows.
            let code = unsafe { libc::syscall(libc::SYS_io_destroy, id) };
            assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// Times between the polls of a task that is always ready, beside `work`; longest first.
async fn gaps_beside(work: impl Future<Output = ()>) -> Vec<Duration> {
    let gaps = Rc::new(RefCell::new(Vec::with_capacity(1 << 20)));
    let stop = Rc::new(Cell::new(false));
    let ticker = {
        let (gaps, stop) = (gaps.clone(), stop.clone());
        let mut last = Instant::now();
        spawn_local(poll_fn(move |cx| {
            let now = Instant::now();
            gaps.borrow_mut().push(now - last);
            last = now;
            if stop.get() {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
    };
    work.await;
    stop.set(true);
    ticker.await.unwrap();
    let mut gaps = gaps.take();
    gaps.sort_by(|a, b| b.cmp(a));
    gaps
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

/// Other load on the machine makes long gaps too, so one good measurement is enough. A system call
/// on the runtime's thread would show in every measurement, once per context.
const ATTEMPTS: usize = 8;

#[test]
fn ending_a_context_does_not_block_its_thread() {
    let _alone = crate::alone();
    if !in_child!() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let dir = disk_dir();
    write_patterned(&dir.path().join("file"), 1);
    for how in [How::Close, How::Drop, How::CloseLocal] {
        let mut attempts = Vec::new();
        let good = (0..ATTEMPTS).any(|_| {
            let destroy = thread::spawn(bare_io_destroy).join().unwrap();
            let (quiet, ending) = LocalSet::new().block_on(&runtime, async {
                let file = Rc::new(open_rw(&dir, "file").await);
                let quiet = gaps_beside(tokio::time::sleep(destroy * 2)).await;
                (quiet, gaps_beside(with_hang_guard(ends(file, how))).await)
            });
            // If `io_destroy` ran on this thread, there would be `ENDS` gaps as long as it.
            let typical = ending[ENDS / 2];
            let (longest, noise) = (ending[0], quiet[0]);
            attempts.push(format!(
                "{how:?}: io_destroy {destroy:?}; longest gap {longest:?}, {}th {typical:?}; \
                 without ends {noise:?}",
                ENDS / 2
            ));
            typical < destroy / 8 && (longest < destroy / 2 || longest < noise * 2)
        });
        println!("{}", attempts.join("\n"));
        assert!(good, "{}", attempts.join("\n"));
    }
}
