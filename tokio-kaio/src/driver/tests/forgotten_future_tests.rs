//! Futures that are forgotten rather than dropped: once their context is closed, nothing of them keeps
//! descriptors open or wakers alive.

use std::fs;
use std::mem;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::task::{Context, Waker};

use super::driver_fixture::*;
use super::panicking_waker::PanickingWaker;
use crate::backend::fake::FakeBackend;
use crate::config::ContextTypes;
use crate::context::BatchOfOps;
use crate::context::test_operations::op_of_command;
use crate::op::FileRef;
use crate::{BufferPool, RawCommand, ReadFlags};

/// How a context ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// When all requests are done.
    Completed,
    /// It is closed before.
    Stopped,
    /// It loses its driver task.
    Orphaned,
}

/// Runs `start` with a context of one slot that is taken by another request, ends the context, and then
/// runs `check`.
fn for_each_end<R>(start: impl Fn(&Fixture) -> R, check: impl Fn(&Fixture, R)) {
    for end in [End::Completed, End::Stopped, End::Orphaned] {
        eprintln!("{end:?}");
        let fixture = Fixture::new(config(1));
        let mut driver_task = fixture.driver_task();
        let other = fixture.start([1]);
        let started = start(&fixture);
        match end {
            End::Completed => {
                fixture.complete_all(&mut driver_task);
                fixture.stop();
            }
            End::Stopped => {
                fixture.stop();
                fixture.complete_all(&mut driver_task);
            }
            End::Orphaned => fixture.orphan(),
        }
        fixture.wait_until_gone();
        check(&fixture, started);
        drop(other);
    }
}

/// Descriptors of this process that are open on `path`.
fn descriptors_of(path: &Path) -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link == path).count()
}

#[test]
#[cfg_attr(miri, ignore = "its descriptors are not the system's")]
fn the_duplicated_descriptor_of_a_forgotten_request_is_closed_with_its_context() {
    for_each_end(
        |fixture| {
            let file = tempfile::NamedTempFile::new().unwrap();
            for label in 2..6 {
                let mut op = fixture.op_on(FileRef::Borrowed(file.as_raw_fd()), label);
                assert!(op.poll().is_pending());
                mem::forget(op);
            }
            assert_eq!(
                descriptors_of(file.path()),
                5,
                "the file and a duplicate each"
            );
            file
        },
        |_, file| assert_eq!(descriptors_of(file.path()), 1),
    );
}

#[test]
#[cfg_attr(miri, ignore = "its descriptors are not the system's")]
fn the_duplicated_descriptor_of_a_forgotten_request_without_room_is_closed_with_its_context() {
    let fixture = Fixture::new(config(2));
    let mut driver_task = fixture.driver_task();
    let _other = fixture.start([1]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fixture.backend.take_at_most([0]);
    let mut op = fixture.op_on(FileRef::Borrowed(file.as_raw_fd()), 2);
    assert!(op.poll().is_pending());
    mem::forget(op);
    assert_eq!(descriptors_of(file.path()), 2);
    fixture.complete_all(&mut driver_task);
    assert_eq!(descriptors_of(file.path()), 1);
}

#[test]
fn a_forgotten_request_does_not_keep_its_file_once_its_context_is_closed() {
    for_each_end(
        |fixture| {
            let file = open_file();
            for label in 2..6 {
                let mut append = fixture.append(&file, label);
                assert!(append.poll().is_pending());
                mem::forget(append);
            }
            file
        },
        |_, file| assert_eq!(std::sync::Arc::strong_count(&file), 1),
    );
}

/// A waker that counts its references; nothing panics.
fn counted() -> PanickingWaker {
    PanickingWaker::new()
}

#[test]
fn a_forgotten_operation_does_not_keep_the_waker_once_its_context_is_closed() {
    for_each_end(
        |fixture| {
            let counted = counted();
            for label in 2..6 {
                let mut op = fixture.op(label);
                assert!(op.poll_with(&counted.waker()).is_pending());
                mem::forget(op);
            }
            for label in 6..9 {
                let mut append = fixture.append(&fixture.file, label);
                assert!(append.poll_with(&counted.waker()).is_pending());
                mem::forget(append);
            }
            assert_eq!(counted.wakers(), 7);
            counted
        },
        |_, counted| assert_eq!(counted.wakers(), 0),
    );
}

/// A batch of operations that move no data, on borrowed descriptors and others.
fn batch<T: ContextTypes<Backend = FakeBackend>>(fixture: &Fixture<T>) -> BatchOfOps<'_, T> {
    let ops = (0..6).map(|number| {
        let file = match number % 2 {
            0 => FileRef::Open(&fixture.file),
            _ => FileRef::Borrowed(fixture.file.as_raw_fd()),
        };
        op_of_command(&fixture.driver, file, RawCommand::Fsync)
    });
    BatchOfOps::new(ops)
}

#[test]
fn a_forgotten_batch_does_not_keep_the_waker_once_its_context_is_closed() {
    for_each_end(
        |fixture| {
            let counted = counted();
            let waker = counted.waker();
            let mut batch = batch(fixture);
            for _ in 0..2 {
                let polled = batch.poll_next(&mut Context::from_waker(&waker));
                assert!(polled.is_pending());
            }
            mem::forget(batch);
            assert_eq!(counted.wakers(), 6);
            counted
        },
        |_, counted| assert_eq!(counted.wakers(), 0),
    );
}

#[test]
fn a_forgotten_batch_that_was_polled_by_two_tasks_keeps_neither_waker() {
    for_each_end(
        |fixture| {
            let wakers = [counted(), counted()];
            let mut batch = batch(fixture);
            for counted in &wakers {
                let polled = batch.poll_next(&mut Context::from_waker(&counted.waker()));
                assert!(polled.is_pending());
            }
            mem::forget(batch);
            assert_eq!(wakers.each_ref().map(PanickingWaker::wakers), [0, 6]);
            wakers
        },
        |_, wakers| assert_eq!(wakers.each_ref().map(PanickingWaker::wakers), [0, 0]),
    );
}

#[test]
fn a_drain_that_is_never_ended_does_not_keep_the_waker_once_its_context_is_closed() {
    for_each_end(
        |fixture| {
            let counted = counted();
            let drain = fixture.entered().start_drain(fixture.file.id()).unwrap();
            assert!(!fixture.entered().poll_drain(drain, &counted.waker()));
            assert_eq!(counted.wakers(), 1);
            (counted, drain)
        },
        |fixture, (counted, drain)| {
            assert_eq!(counted.wakers(), 0);
            assert!(fixture.entered().poll_drain(drain, Waker::noop()));
        },
    );
}

#[test]
fn a_forgotten_read_gives_its_pooled_buffer_back_with_the_last_handle() {
    let pool = BufferPool::new(2, 16).unwrap();
    let fixture = Fixture::new(config(2));
    let mut driver_task = fixture.driver_task();
    let mut buffers = [(); 2].map(|()| pool.try_get().unwrap());
    for (buffer, label) in buffers.iter_mut().zip(1..) {
        let len = 16;
        let flags = ReadFlags::empty();
        let command = RawCommand::Pread {
            offset: label,
            buffer,
            flags,
            len,
        };
        let mut read = fixture.task(FileRef::Open(&fixture.file), command);
        assert!(read.poll().is_pending());
        mem::forget(read);
    }
    drop(buffers);
    fixture.complete_all(&mut driver_task);
    fixture.stop();
    fixture.wait_until_gone();
    drop(driver_task);
    drop(fixture);
    assert_eq!(pool.available(), 2);
}
