//! A forked child asks whose process it is before it takes any lock: another thread of the parent may
//! have held the lock at the fork.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;

use super::driver_fixture::*;
use crate::backend::fake::FILE_BYTE;
use crate::context::BatchOfOps;
use crate::context::test_operations::op_of_command;
use crate::group::ContextGroups;
use crate::op::FileRef;
use crate::{IoGroup, LockedBuf, RawCommand, ReadFlags};

/// Runs `child` in a forked child. Fails if it does not return `true` within 20 seconds.
fn assert_in_child(child: impl FnOnce() -> bool) {
    // SAFETY: the child runs only code that takes no lock of another thread: it is under test for that.
    // A lock that it takes all the same ends it by the alarm.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: sets a timer, whose signal ends the child.
        unsafe { libc::alarm(20) };
        let holds = catch_unwind(AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: ends the child; what is the parent's is not run or dropped.
        unsafe { libc::_exit(if holds { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    assert_eq!(signal, None, "SIGALRM (14) means that the child hangs");
    assert_eq!(libc::WEXITSTATUS(status), 0, "the child found a fault");
}

/// Runs `test` while another thread holds the lock of the driver and that of its offload pool.
fn with_locks_held(fixture: &Fixture<SyncTypes>, test: impl FnOnce()) {
    thread::scope(|scope| {
        let (locked, wait_until_locked) = mpsc::channel();
        let (release, wait_for_release) = mpsc::channel::<()>();
        scope.spawn(move || {
            let entered = fixture.entered();
            let core = entered.lock();
            let pool = core.offload.hold_lock();
            locked.send(()).unwrap();
            let _ = wait_for_release.recv();
            drop(pool);
            drop(core);
        });
        wait_until_locked.recv().unwrap();
        test();
        drop(release);
    });
}

fn is_einval(polled: Poll<Result<u64, crate::AioCommandError>>) -> bool {
    match polled {
        Poll::Ready(Err(error)) => error.raw_os_error() == Some(libc::EINVAL),
        _ => false,
    }
}

/// Requests in each state, and what is polled or dropped beside them.
struct Inherited<'a> {
    in_flight: Task<'a, SyncTypes>,
    abandoned_later: Task<'a, SyncTypes>,
    queued: Task<'a, SyncTypes>,
    held: Task<'a, SyncTypes>,
    completed: Task<'a, SyncTypes>,
    not_polled: Task<'a, SyncTypes>,
    batch: Pin<Box<BatchOfOps<'a, SyncTypes>>>,
    driver_task: Task<'static, SyncTypes, crate::runtime::DriverTask<SyncTypes>>,
    drain: u64,
}

/// Runs `child` in a child, with all that it inherits, while the locks are held. Then the parent's
/// requests complete as if nothing had happened.
fn with_inherited(child: impl FnOnce(&Fixture<SyncTypes>, Inherited<'_>) -> bool) {
    let fixture = Fixture::<SyncTypes>::sync(config(4));
    let mut buffers = [(); 3].map(|()| LockedBuf::with_size(16).unwrap());
    let [buffer, other, of_batch] = &mut buffers;
    let command = RawCommand::Pread {
        offset: 30,
        len: 16,
        flags: ReadFlags::empty(),
        buffer: of_batch,
    };
    let member = op_of_command(&fixture.driver, FileRef::Open(&fixture.file), command);
    let mut inherited = Inherited {
        in_flight: fixture.read(1, buffer),
        abandoned_later: fixture.read(2, other),
        queued: fixture.op(20),
        held: fixture.append(&fixture.file, 11),
        completed: fixture.op(3),
        not_polled: fixture.op(21),
        batch: Box::pin(BatchOfOps::new([member])),
        driver_task: fixture.driver_task(),
        drain: 0,
    };
    let mut turn = fixture.append(&fixture.file, 10);
    assert!(inherited.completed.poll().is_pending());
    fixture.backend.complete(3);
    fixture.signal();
    assert!(inherited.in_flight.poll().is_pending());
    assert!(inherited.abandoned_later.poll().is_pending());
    assert!(turn.poll().is_pending());
    assert!(inherited.held.poll().is_pending());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(inherited.batch.poll_next(&mut cx).is_pending());
    assert!(inherited.queued.poll().is_pending());
    assert_eq!(fixture.census(), census(2, 4, 7));
    assert_eq!(fixture.backend.in_flight(), [1, 2, 10, 30]);
    inherited.drain = fixture.entered().start_drain(fixture.file.id()).unwrap();
    let drain = inherited.drain;

    let mut inherited = Some(inherited);
    with_locks_held(&fixture, || {
        assert_in_child(|| child(&fixture, inherited.take().unwrap()));
    });

    let Inherited {
        in_flight,
        abandoned_later,
        queued,
        held,
        completed,
        not_polled,
        mut batch,
        mut driver_task,
        ..
    } = inherited.unwrap();
    assert!(driver_task.poll().is_pending());
    assert!(!fixture.entered().poll_drain(drain, Waker::noop()));
    assert_eq!(
        fixture.complete_all(&mut driver_task).len(),
        6,
        "in flight, held and queued"
    );
    assert!(fixture.entered().poll_drain(drain, Waker::noop()));
    for op in [queued, held, completed, turn] {
        assert_eq!(op.result(), Ok(0));
    }
    for read in [in_flight, abandoned_later] {
        assert_eq!(read.result(), Ok(16));
    }
    let member = batch.poll_next(&mut cx);
    assert!(matches!(member, Poll::Ready(Some((0, Ok(16))))));
    drop((batch, not_polled));
    for buffer in &buffers {
        assert_eq!(**buffer, [FILE_BYTE; 16]);
    }
    fixture.assert_idle();
    fixture.stop();
    fixture.wait_until_gone();
}

#[test]
#[cfg_attr(miri, ignore = "Miri can't fork")]
fn a_child_gets_einval_while_another_thread_held_the_lock_at_the_fork() {
    with_inherited(|fixture, inherited| {
        let new = fixture.op(40).poll();
        let mut buffer = LockedBuf::with_size(16).unwrap();
        let new_read = fixture.read(41, &mut buffer).poll();
        let Inherited {
            mut in_flight,
            mut abandoned_later,
            mut queued,
            mut held,
            mut completed,
            mut not_polled,
            mut batch,
            mut driver_task,
            ..
        } = inherited;
        let mut all_are_einval = is_einval(new) && is_einval(new_read) && buffer.size() == 16;
        for op in [
            &mut in_flight,
            &mut abandoned_later,
            &mut queued,
            &mut held,
            &mut completed,
            &mut not_polled,
        ] {
            all_are_einval &= is_einval(op.poll());
        }
        let mut cx = Context::from_waker(Waker::noop());
        let member = match batch.poll_next(&mut cx) {
            Poll::Ready(Some((0, result))) => Poll::Ready(result),
            _ => Poll::Pending,
        };
        all_are_einval &= is_einval(member);
        let driver_task = driver_task.poll();
        let error = match driver_task {
            Poll::Ready(Err(error)) => error.raw_os_error(),
            _ => None,
        };
        all_are_einval && error == Some(libc::EINVAL) && fixture.driver.enter().is_err()
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri can't fork")]
fn a_child_can_drop_what_it_inherited_while_another_thread_held_the_lock_at_the_fork() {
    with_inherited(|_, inherited| {
        drop(inherited);
        true
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri can't fork")]
fn a_signal_or_a_wake_in_a_child_takes_no_lock() {
    with_inherited(|fixture, _| {
        fixture.signal();
        fixture.driver.driver_waker.wake();
        true
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri can't fork")]
fn a_child_can_drop_the_whole_context_while_another_thread_held_the_lock_at_the_fork() {
    let fixture = Fixture::<SyncTypes>::sync(config(2));
    let _ops = fixture.start([1, 2]);
    let mut driver_task = Some(fixture.running_driver_task());
    with_locks_held(&fixture, || {
        assert_in_child(|| {
            drop(driver_task.take());
            // All references, as if each handle had been dropped.
            let driver = std::sync::Arc::as_ptr(&fixture.driver).cast_mut();
            // SAFETY: the child ends without using the driver again.
            unsafe { std::ptr::drop_in_place(driver) };
            true
        });
    });
    assert!(!fixture.backend.is_dropped());
    fixture.backend.complete(1);
    fixture.signal();
    assert_eq!(fixture.free_capacity(), Some(1));
}

#[test]
fn a_child_uses_a_group_of_its_parent_in_a_context_of_its_own() {
    let group = IoGroup::new("of the parent").with_max_iops(1);
    let locked = group.hold_lock();
    assert_in_child(|| {
        let member = ContextGroups::new(1, Box::new(|| None)).join(&group);
        group.set_max_iops(2);
        member.is_some()
    });
    drop(locked);
}
