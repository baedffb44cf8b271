//! io_uring within limits: of threads, of locked memory, of system calls; and threads that end.
#![cfg(feature = "io-uring")]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use crate::common::*;
use tokio_kaio::{
    AioContext, AioContextBuilder, AioContextHandle, Allocate, Backend, BufferPool, File,
    PollEvents, ReadFlags, WriteFlags,
};

/// A context on io_uring. `None`, with a line that says so, where it is not available.
fn uring(slots: usize) -> Option<(AioContext, AioContextHandle)> {
    match AioContextBuilder::new(slots)
        .backend(Backend::IoUring)
        .build()
    {
        Ok(made) if made.0.backend() == Backend::IoUring => Some(made),
        Ok((context, _)) => {
            eprintln!("skipped: every context runs on {}", context.backend());
            None
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

async fn try_read(handle: &AioContextHandle, file: &File) -> Option<i32> {
    let mut target = buffer(BLOCK);
    let read = file.read_at(handle, LEN, &mut target, LEN, ReadFlags::empty());
    match with_hang_guard(read).await {
        Ok(moved) => {
            assert_eq!(moved, LEN);
            assert!(is_pattern(1, target.as_ref()));
            None
        }
        Err(error) => error.raw_os_error(),
    }
}

/// A write that extends the file, and a sync, need a thread of the kernel.
#[test]
fn requests_for_which_the_kernel_can_start_no_thread_fail_and_later_ones_succeed() {
    if !in_child!() {
        return;
    }
    current_thread().block_on(async {
        let Some((context, handle)) = uring(8) else {
            return;
        };
        let dir = disk_dir();
        let file = open_rw(&dir, "data").await.with_handle(&handle);
        if !forbid_threads() {
            return;
        }
        let bytes = patterned_buffer(7, BLOCK);
        let write = || {
            file.file()
                .write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
        };
        let error = with_hang_guard(write()).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}");
        assert!(error.to_string().contains("pids.max"), "{error}");
        let sync = file.file().sync_all(&handle);
        let error = with_hang_guard(sync).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}");
        assert_idle(&handle, 8).await;
        allow_threads();
        assert_eq!(with_hang_guard(write()).await.unwrap(), LEN);
        with_hang_guard(file.allocate(Allocate::Extend, 0, 2 * LEN))
            .await
            .unwrap();
        with_hang_guard(context.close()).await;
    });
}

#[test]
fn a_filter_of_one_thread_fails_the_requests_of_that_thread_only() {
    if !in_child!() {
        return;
    }
    let runtime = multi_thread();
    let Some((context, handle)) = runtime.block_on(async { uring(8) }) else {
        return;
    };
    let dir = disk_dir();
    let file = Arc::new(runtime.block_on(patterned_file(&dir, 8)));
    let with_filter = {
        let (handle, file) = (handle.clone(), Arc::clone(&file));
        move || {
            let is_forbidden = forbid_syscall_here(libc::SYS_io_uring_enter, libc::EPERM);
            is_forbidden.then(|| current_thread().block_on(try_read(&handle, &file)))
        }
    };
    let Some(errno) = thread::spawn(with_filter).join().unwrap() else {
        return;
    };
    assert_eq!(errno, Some(libc::EPERM));
    runtime.block_on(async {
        for _ in 0..8 {
            assert_eq!(try_read(&handle, &file).await, None);
        }
        assert_idle(&handle, 8).await;
        with_hang_guard(context.close()).await;
    });
}

/// A filter that comes after the setup forbids all calls of io_uring. Polls can't be cancelled.
fn forbid_uring() -> bool {
    forbid_syscall(libc::SYS_io_uring_enter, libc::EPERM)
        && forbid_syscall(libc::SYS_io_uring_register, libc::EPERM)
}

#[test]
fn a_context_with_polls_can_be_closed_when_io_uring_is_forbidden_later() {
    if !in_child!() {
        return;
    }
    current_thread().block_on(async {
        let Some((context, handle)) = uring(8) else {
            return;
        };
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let mut dropped = Box::pin(handle.poll(&reader, PollEvents::IN));
        let mut kept = Box::pin(handle.poll(&reader, PollEvents::IN));
        assert!(futures::poll!(dropped.as_mut()).is_pending());
        assert!(futures::poll!(kept.as_mut()).is_pending());
        if !forbid_uring() {
            return;
        }
        drop(dropped);
        let free = || handle.available_slots();
        with_hang_guard(wait_until(|| free() == Some(7), free)).await;
        let (ended, ()) = with_hang_guard(futures::future::join(kept, context.close())).await;
        assert!(ended.is_err());
        writer.write_all(b"!").unwrap();
    });
}

#[test]
fn a_runtime_with_polls_can_end_when_io_uring_is_forbidden_later() {
    if !in_child!() {
        return;
    }
    let runtime = current_thread();
    let Some((_context, handle)) = runtime.block_on(async { uring(8) }) else {
        return;
    };
    let (reader, _writer) = UnixStream::pair().unwrap();
    let mut poll = Box::pin(handle.poll(&reader, PollEvents::IN));
    runtime.block_on(async {
        assert!(futures::poll!(poll.as_mut()).is_pending());
    });
    if !forbid_uring() {
        return;
    }
    drop(runtime);
    current_thread().block_on(with_hang_guard(handle.clone().closed()));
}

/// The kernel closes a ring in the background.
#[test]
fn a_context_that_was_closed_has_released_its_registered_memory() {
    if !in_child!() || !drop_root() {
        return;
    }
    const PAGES: usize = 64;
    set_limit(
        libc::RLIMIT_MEMLOCK,
        (PAGES as u64 + PAGES as u64 / 2) * LEN,
    );
    current_thread().block_on(async {
        let pool = BufferPool::new(PAGES, BLOCK).unwrap();
        for round in 0..6 {
            let builder = AioContextBuilder::new(4).backend(Backend::IoUring);
            let (context, handle) = match builder.register_buffers(&pool).build() {
                Ok(made) if made.0.backend() == Backend::IoUring => made,
                Err(error) if round > 0 => panic!("{error}"),
                _ => return eprintln!("skipped: io_uring is not available"),
            };
            assert_eq!(handle.registered_bytes(), PAGES * BLOCK);
            with_hang_guard(context.close()).await;
        }
    });
}

/// A task of a runtime whose threads are short-lived.
#[test]
fn a_poll_outlives_any_number_of_threads_that_drive_its_runtime() {
    let mut runtime = current_thread();
    let Some((context, handle)) = runtime.block_on(async { uring(8) }) else {
        return;
    };
    let (reader, mut writer) = UnixStream::pair().unwrap();
    let poll = runtime.spawn(async move { handle.poll(&reader, PollEvents::IN).await });
    for _ in 0..20 {
        let drive = move || {
            runtime.block_on(tokio::task::yield_now());
            runtime
        };
        runtime = thread::spawn(drive).join().unwrap();
    }
    writer.write_all(b"!").unwrap();
    let events = runtime.block_on(with_hang_guard(poll)).unwrap().unwrap();
    assert_eq!(events, PollEvents::IN);
    runtime.block_on(with_hang_guard(context.close()));
}
