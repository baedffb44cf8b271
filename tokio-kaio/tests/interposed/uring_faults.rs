//! Faults of `io_uring_enter`: errors that pass, submissions that are taken in part, and a ring that the
//! kernel serves no more.

#![allow(unsafe_code)] // makes a descriptor mean another file

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::common::*;
use crate::interposer::{Fault, clear_faults, inject_faults, pending_faults};
use futures::future::join_all;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextBuilder, AioContextError, AioContextHandle, Backend,
    File, PollEvents, ReadFlags, WriteFlags,
};

/// A context on io_uring. `None`, with a line that says so, where it is not available.
fn uring(slots: usize) -> Option<(AioContext, AioContextHandle)> {
    let built: Result<_, AioContextError> = AioContextBuilder::new(slots)
        .backend(Backend::IoUring)
        .build();
    match built {
        Ok(made) if made.0.backend() == Backend::IoUring => Some(made),
        Ok(made) => {
            eprintln!("skipped: every context runs on {}", made.0.backend());
            None
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

async fn reads_right(handle: &AioContextHandle, file: &File, block: u64) {
    let mut target = buffer(BLOCK);
    let read = file.read_at(handle, block * LEN, &mut target, LEN, ReadFlags::empty());
    assert_eq!(with_hang_guard(read).await.unwrap(), LEN);
    assert!(is_pattern(block, target.as_ref()));
}

#[tokio::test]
async fn submissions_that_fail_for_now_are_repeated() {
    let Some((context, handle)) = uring(64) else {
        return;
    };
    let file = patterned_file(&disk_dir(), 64).await;
    for errno in [libc::EAGAIN, libc::EBUSY, libc::EINTR, libc::ENOMEM] {
        for times in [1, 3] {
            inject_faults((0..times).map(|_| Fault::Fail(errno)));
            reads_right(&handle, &file, 5).await;
            assert_eq!(pending_faults(), 0);
            inject_faults((0..times).map(|_| Fault::Fail(errno)));
            join_all((0..64).map(|block| reads_right(&handle, &file, block))).await;
            assert_eq!(pending_faults(), 0);
        }
    }
    assert_eq!(handle.available_slots(), Some(64));
    with_hang_guard(context.close()).await;
}

#[tokio::test]
async fn a_batch_that_is_taken_in_parts_completes() {
    let Some((context, handle)) = uring(64) else {
        return;
    };
    let dir = disk_dir();
    let file = patterned_file(&dir, 64).await;
    inject_faults([0, 1, 0, 2, 1].map(Fault::Partial));
    join_all((0..64).map(|block| reads_right(&handle, &file, block))).await;
    assert_eq!(pending_faults(), 0);
    inject_faults([0, 1, 0, 2, 1].map(Fault::Partial));
    join_all((0..64).map(async |block| {
        let bytes = patterned_buffer(100 + block, BLOCK);
        let written = file.write_at(&handle, block * LEN, &bytes, LEN, WriteFlags::empty());
        assert_eq!(with_hang_guard(written).await.unwrap(), LEN);
    }))
    .await;
    assert_eq!(pending_faults(), 0);
    let content = std::fs::read(dir.path().join("data")).unwrap();
    for (block, bytes) in (100..).zip(content.chunks(BLOCK)) {
        assert!(is_pattern(block, bytes));
    }
    with_hang_guard(context.close()).await;
}

#[tokio::test]
async fn a_request_left_in_the_queue_is_submitted_although_nobody_polls_it() {
    let Some((context, handle)) = uring(8) else {
        return;
    };
    let file = patterned_file(&disk_dir(), 8).await;
    let mut target = buffer(BLOCK);
    inject_faults((0..3).map(|_| Fault::Fail(libc::EBUSY))); // the first poll meets fewer
    let mut read = Box::pin(file.read_at(&handle, 0, &mut target, LEN, ReadFlags::empty()));
    assert!(futures::poll!(read.as_mut()).is_pending());
    drop(read); // abandoned: the driver alone knows it
    let free = || handle.available_slots();
    with_hang_guard(wait_until(|| free() == Some(8), free)).await;
    assert_eq!(pending_faults(), 0);
    with_hang_guard(context.close()).await;
}

#[tokio::test]
async fn a_context_can_be_closed_while_submissions_fail_for_now() {
    let Some((context, handle)) = uring(8) else {
        return;
    };
    let dir = disk_dir();
    let file = patterned_file(&dir, 8).await;
    let bytes = patterned_buffer(77, BLOCK);
    inject_faults((0..3).map(|_| Fault::Fail(libc::EBUSY)));
    let mut write = Box::pin(file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty()));
    assert!(futures::poll!(write.as_mut()).is_pending());
    drop(write); // goes on
    with_hang_guard(context.close()).await;
    let content = std::fs::read(dir.path().join("data")).unwrap();
    assert!(is_pattern(77, &content[..BLOCK]));
}

/// Makes the number of `file` mean `other`.
fn reuse_number(file: File, other: &std::fs::File) {
    let number = file.as_raw_fd();
    drop(file);
    // SAFETY: the number is free, or becomes so: no other thread opens files.
    assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
}

/// A write that the kernel has not taken waits until the ring is reaped. Its file may be closed by then.
#[test]
fn a_write_that_was_not_taken_reaches_its_own_file_when_another_has_its_number() {
    if !in_child!() {
        return;
    }
    for is_forgotten in [false, true] {
        current_thread().block_on(async {
            let Some((context, handle)) = uring(8) else {
                return;
            };
            let dir = disk_dir();
            let other_path = dir.path().join("other");
            std::fs::write(&other_path, vec![0; 2 * BLOCK]).unwrap();
            let mut options = std::fs::OpenOptions::new();
            let other = options.read(true).write(true).open(&other_path).unwrap();
            let file = patterned_file(&dir, 2).await;
            let bytes = patterned_buffer(77, BLOCK);
            // More than the first poll meets: else the write may be taken, and complete, within the poll.
            inject_faults((0..3).map(|_| Fault::Fail(libc::EBUSY)));
            let mut write = Box::pin(file.write_at(&handle, LEN, &bytes, LEN, WriteFlags::empty()));
            assert!(futures::poll!(write.as_mut()).is_pending());
            assert_ne!(pending_faults(), 0);
            match is_forgotten {
                true => std::mem::forget(write),
                false => drop(write),
            }
            reuse_number(file, &other);
            let content = || std::fs::read(dir.path().join("data")).unwrap();
            let is_written = || is_pattern(77, &content()[BLOCK..]);
            with_hang_guard(wait_until(is_written, || ())).await;
            let untouched = std::fs::read(&other_path).unwrap();
            assert_eq!(untouched, vec![0; 2 * BLOCK], "forgotten: {is_forgotten}");
            if !is_forgotten {
                with_hang_guard(context.close()).await;
            }
        });
    }
}

#[tokio::test]
async fn a_poll_that_was_not_taken_can_be_dropped() {
    let Some((context, handle)) = uring(1) else {
        return;
    };
    let (reader, _writer) = UnixStream::pair().unwrap();
    inject_faults([Fault::Fail(libc::EBUSY)]);
    let mut poll = Box::pin(handle.poll(&reader, PollEvents::IN));
    assert!(futures::poll!(poll.as_mut()).is_pending());
    drop(poll);
    let free = || handle.available_slots();
    with_hang_guard(wait_until(|| free() == Some(1), free)).await;
    with_hang_guard(context.close()).await;
}

/// Requests fail, those in flight are answered, and the context ends.
async fn is_useless_and_ends(context: AioContext, handle: AioContextHandle, file: &File) {
    let mut failed = 0;
    for _ in 0..16 {
        let mut target = buffer(BLOCK);
        let read = file.read_at(&handle, 0, &mut target, LEN, ReadFlags::empty());
        failed += usize::from(with_hang_guard(read).await.is_err());
    }
    assert_eq!(failed, 16);
    with_hang_guard(context.close()).await;
}

#[tokio::test]
async fn a_ring_that_takes_no_more_submissions_fails_requests_and_can_be_closed() {
    for errno in [libc::EBADFD, libc::EPERM] {
        let Some((context, handle)) = uring(8) else {
            return;
        };
        let file = patterned_file(&disk_dir(), 8).await;
        reads_right(&handle, &file, 1).await;
        inject_faults((0..16).map(|_| Fault::Fail(errno)));
        is_useless_and_ends(context, handle, &file).await;
        assert_eq!(pending_faults(), 0);
    }
}

#[test]
fn a_filter_that_comes_later_fails_requests_and_lets_the_context_end() {
    if !in_child!() {
        return;
    }
    current_thread().block_on(async {
        let Some((context, handle)) = uring(8) else {
            return;
        };
        let file = Arc::new(patterned_file(&disk_dir(), 8).await);
        reads_right(&handle, &file, 1).await;
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let reader = Arc::new(reader);
        let mut polls = Vec::new();
        for _ in 0..2 {
            let (handle, reader) = (handle.clone(), Arc::clone(&reader));
            let mut poll = Box::pin(async move { handle.poll(&*reader, PollEvents::IN).await });
            assert!(futures::poll!(poll.as_mut()).is_pending());
            polls.push(poll);
        }
        if !forbid_syscall(libc::SYS_io_uring_enter, libc::EPERM) {
            return;
        }
        is_useless_and_ends(context, handle, &file).await;
        for poll in polls {
            let error = with_hang_guard(poll).await.unwrap_err();
            assert!(!matches!(error, AioCommandError::TimedOut), "{error:?}");
        }
        writer.write_all(b"!").unwrap();
    });
}

/// Each attempt is a system call. Without a pause between them, they take a CPU.
#[tokio::test]
async fn submissions_that_keep_failing_are_repeated_after_pauses() {
    const FAULTS: usize = 1_000_000;
    let Some((context, handle)) = uring(8) else {
        return;
    };
    let file = patterned_file(&disk_dir(), 8).await;
    let mut target = buffer(BLOCK);
    inject_faults((0..FAULTS).map(|_| Fault::Fail(libc::EAGAIN)));
    let mut read = Box::pin(file.read_at(&handle, 0, &mut target, LEN, ReadFlags::empty()));
    assert!(futures::poll!(read.as_mut()).is_pending());
    let attempts = || FAULTS - pending_faults();
    let (start, before) = (std::time::Instant::now(), attempts());
    with_hang_guard(wait_until(|| attempts() >= before + 5, attempts)).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let pauses = start.elapsed().as_millis() as usize / 10;
    let repeated = attempts() - before;
    assert!(repeated <= 10 + 2 * pauses, "{repeated} in {pauses} pauses");
    clear_faults();
    assert_eq!(with_hang_guard(read).await.unwrap(), LEN);
    assert!(is_pattern(0, target.as_ref()));
    with_hang_guard(context.close()).await;
}

/// How many descriptors of this process are of the file at `path`.
fn descriptors_of(path: &std::path::Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target == path).count()
}

/// The descriptor that a write which was not taken has of its own is closed with the context, although a handle
/// is left.
#[test]
fn a_write_that_was_never_taken_keeps_no_descriptor_after_the_end_of_its_context() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let path = std::fs::canonicalize(dir.path()).unwrap().join("data");
    let left = current_thread().block_on(async {
        let (context, handle) = uring(8)?;
        let file = patterned_file(&dir, 2).await;
        let bytes = patterned_buffer(77, BLOCK);
        inject_faults((0..100_000).map(|_| Fault::Fail(libc::EBUSY)));
        let mut write = Box::pin(file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty()));
        assert!(futures::poll!(write.as_mut()).is_pending());
        std::mem::forget(write);
        drop(file);
        assert_eq!(descriptors_of(&path), 1);
        Some((context, handle))
    });
    let Some((context, handle)) = left else {
        return;
    };
    drop(context); // its runtime has ended
    current_thread().block_on(async {
        let state = || descriptors_of(&path);
        with_hang_guard(wait_until(|| state() == 0, state)).await;
    });
    clear_faults();
    drop(handle);
}
