//! Sandboxes: where AIO is forbidden or exhausted, contexts run on the thread pool and do
//! everything that others do; where io_uring is forbidden, nothing changes.
//!
//! Each test runs in a child process, since a filter can't be removed. A build with all contexts on
//! threads only tests that they are.
#![allow(unsafe_code)] // makes a system call that is forbidden

use std::fs;
use std::io;
use std::sync::Arc;

use crate::common::*;
use futures::future::join_all;
use futures::{FutureExt, poll};
use tempfile::TempDir;
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio_kaio::{
    AioContextBuilder, AioContextError, Backend, File, ReadFlags, SubmitPolicy, WriteFlags,
    aio_context, local_aio_context,
};

const SLOTS: usize = 8;

fn setup_errno<T>(made: Result<T, AioContextError>) -> Option<i32> {
    match made {
        Err(AioContextError::IoSetup(error)) => error.raw_os_error(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a context was made"),
    }
}

fn builder(policy: SubmitPolicy) -> AioContextBuilder {
    AioContextBuilder::new(SLOTS)
        .automatic_backend()
        .submit_policy(policy)
}

/// Everything that a program does with a context; closes `$context`.
macro_rules! work {
    ($dir:expr, $context:expr, $handle:expr, $backend:expr) => {{
        let (context, handle) = ($context, $handle);
        assert_eq!(context.backend(), $backend);
        assert_eq!(handle.available_slots(), Some(SLOTS));
        let file = open_rw($dir, "work").await;
        file.set_len(0).await.unwrap();

        // Writes that extend, then reads: more at once than there are slots.
        join_all((0..4 * SLOTS as u64).map(async |i| {
            let bytes = patterned_buffer(i, BLOCK);
            let written = file.write_at(&handle, i * LEN, &bytes, LEN, WriteFlags::DSYNC);
            assert_eq!(written.await.unwrap(), LEN);
        }))
        .await;
        join_all((0..4 * SLOTS as u64).map(async |i| {
            let mut bytes = buffer(BLOCK);
            let read = file.read_at(&handle, i * LEN, &mut bytes, LEN, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), LEN);
            assert!(is_pattern(i, bytes.as_ref()));
        }))
        .await;

        // In order, at the end.
        join_all((0..4).map(async |i| {
            let bytes = patterned_buffer(100 + i, BLOCK);
            let appended = file.write_at(&handle, 0, &bytes, LEN, WriteFlags::APPEND);
            assert_eq!(appended.await.unwrap(), LEN);
        }))
        .await;
        let blocks = 4 * SLOTS as u64 + 4;
        let on_disk = fs::read($dir.path().join("work")).unwrap();
        assert_eq!(on_disk.len() as u64, blocks * LEN);
        for (i, block) in (100..).zip(on_disk[4 * SLOTS * BLOCK..].chunks(BLOCK)) {
            assert!(is_pattern(i, block), "append {i}");
        }
        file.sync_data(&handle).await.unwrap();
        file.sync_all(&handle).await.unwrap();

        assert_eq!(handle.metrics().failed, 0);

        // Dropped at once, and after some polls.
        let mut bytes = buffer(BLOCK);
        for polls in 0..8 {
            let mut read = Box::pin(file.read_at(&handle, 0, &mut bytes, LEN, ReadFlags::empty()));
            for _ in 0..polls {
                if poll!(read.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(read);
            bytes.as_mut().fill(0x55);
            assert!(bytes.as_ref().iter().all(|&byte| byte == 0x55));
        }
        let source = patterned_buffer(7, BLOCK);
        let _ = file
            .write_at(&handle, 0, &source, LEN, WriteFlags::empty())
            .now_or_never();
        let free = || handle.available_slots();
        wait_until(|| free() == Some(SLOTS), free).await;

        // Invalid requests are errors. A dropped read may have failed: the kernel can refuse its NOWAIT.
        let failed_before = handle.metrics().failed;
        let past = file.read_at(
            &handle,
            u64::MAX - LEN + 1,
            &mut bytes,
            LEN,
            ReadFlags::empty(),
        );
        assert_eq!(past.await.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let read_only = File::open($dir.path().join("work"), false).await.unwrap();
        let refused = read_only.write_at(&handle, 0, &source, LEN, WriteFlags::empty());
        assert_eq!(refused.await.unwrap_err().raw_os_error(), Some(libc::EBADF));

        let metrics = handle.metrics();
        assert_eq!(metrics.submitted, metrics.completed, "{metrics:?}");
        // The other was no request yet.
        assert_eq!(metrics.failed, failed_before + 1, "{metrics:?}");
        assert_eq!((metrics.queued, metrics.in_flight), (0, 0), "{metrics:?}");
        let ring = match $backend {
            Backend::KernelAio => !cfg!(kaio_force_getevents),
            backend => backend == Backend::IoUring,
        };
        assert_eq!(metrics.ring, ring, "{metrics:?}");
        with_hang_guard(context.close()).await;
        assert_eq!(handle.available_slots(), None);
    }};
}

/// Asserts that everything works on `backend` when the builder chooses: with every policy, on a
/// context, on shards, and on a local context.
fn everything_works_on(dirs: &[TempDir], backend: Backend) {
    let backend = match BACKENDS {
        [forced] => *forced,
        _ => backend,
    };
    for dir in dirs {
        for policy in POLICIES {
            for runtime in [current_thread(), multi_thread()] {
                runtime.block_on(with_hang_guard(async {
                    let before = open_resources();
                    let (context, handle) = builder(policy).build().unwrap();
                    work!(dir, context, handle, backend);
                    wait_until(|| is_released(before), open_resources).await; // another worker may have the file
                    let (context, handle) = builder(policy).shards(2).build().unwrap();
                    work!(dir, context, handle, backend);
                    wait_until(|| is_released(before), open_resources).await; // another worker may have the file
                }));
            }
            current_thread().block_on(with_hang_guard(LocalSet::new().run_until(async {
                let (context, handle, background) = builder(policy).build_local().unwrap();
                spawn_local(background);
                work!(dir, context, handle, backend);
            })));
        }
        many_tasks(dir, backend);
    }
}

fn many_tasks(dir: &TempDir, backend: Backend) {
    multi_thread().block_on(with_hang_guard(async {
        let (context, handle) = builder(SubmitPolicy::default()).build().unwrap();
        assert_eq!(context.backend(), backend);
        let file = Arc::new(patterned_file(dir, 64).await);
        let mut tasks = JoinSet::new();
        for task in 0..32 {
            let (handle, file) = (handle.clone(), Arc::clone(&file));
            tasks.spawn(async move {
                let mut bytes = buffer(BLOCK);
                for round in 0..32 {
                    let block = (task * 7 + round) % 64;
                    let read = read_block(&handle, &file, block * LEN, &mut bytes).await;
                    assert_eq!(read.unwrap(), LEN);
                    assert!(is_pattern(block, bytes.as_ref()));
                }
            });
        }
        tasks.join_all().await;
        assert_idle(&handle, SLOTS).await;
        with_hang_guard(context.close()).await;
    }));
}

/// The old constructors, and an explicit kernel backend.
fn only_aio_fails_with(errno: i32) {
    if !is_kernel_aio_build() {
        return;
    }
    current_thread().block_on(async {
        let before = open_resources();
        assert_eq!(setup_errno(aio_context(SLOTS, true)), Some(errno));
        assert_eq!(setup_errno(local_aio_context(SLOTS, true)), Some(errno));
        let kernel = AioContextBuilder::new(SLOTS).backend(Backend::KernelAio);
        assert_eq!(setup_errno(kernel.clone().build()), Some(errno));
        assert_eq!(setup_errno(kernel.clone().shards(4).build()), Some(errno));
        assert_eq!(setup_errno(kernel.build_local()), Some(errno));
        assert_eq!(open_resources(), before);
    });
}

fn without_io_setup(errno: i32) {
    let dirs = test_dirs();
    if !forbid_syscall(libc::SYS_io_setup, errno) {
        return;
    }
    only_aio_fails_with(errno);
    everything_works_on(&dirs, Backend::ThreadPool);
}

#[test]
fn with_aio_forbidden_everything_works_on_threads() {
    if in_child!() {
        without_io_setup(libc::EPERM);
    }
}

#[test]
fn without_aio_everything_works_on_threads() {
    if in_child!() {
        without_io_setup(libc::ENOSYS);
    }
}

#[test]
fn with_io_uring_forbidden_everything_works_on_aio() {
    if !in_child!() || !is_kernel_aio_build() {
        return;
    }
    let dirs = test_dirs();
    if !forbid_syscall(libc::SYS_io_uring_setup, libc::EPERM) {
        return;
    }
    let no_parameters = std::ptr::null::<u8>();
    // SAFETY: the kernel, which the filter does not let it get to, would say EFAULT.
    let code = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, no_parameters) };
    let error = io::Error::last_os_error();
    assert_eq!((code, error.raw_os_error()), (-1, Some(libc::EPERM)));
    everything_works_on(&dirs, Backend::KernelAio);
    current_thread().block_on(async {
        let (context, handle) = aio_context(SLOTS, true).unwrap();
        assert_eq!(handle.available_slots(), Some(SLOTS));
        with_hang_guard(context.close()).await;
    });
}

#[test]
fn with_aio_max_nr_exhausted_an_automatic_context_runs_on_threads() {
    if !in_child!() || !is_kernel_aio_build() {
        return;
    }
    let limit = fs::read_to_string("/proc/sys/fs/aio-max-nr").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let dir = disk_dir();
    current_thread().block_on(with_hang_guard(async {
        let (mine, _handle) = aio_context(SLOTS, true).unwrap();
        let before = open_resources();
        // With this process's own context there is no room for `limit` more; no other process is
        // starved.
        let all = AioContextBuilder::new(limit);
        assert_eq!(setup_errno(all.clone().build()), Some(libc::EAGAIN));
        assert_eq!(open_resources(), before);
        let (context, handle) = all.automatic_backend().build().unwrap();
        assert_eq!(context.backend(), Backend::ThreadPool);
        assert_eq!(handle.available_slots(), Some(limit));
        let file = patterned_file(&dir, 8).await;
        let mut bytes = buffer(BLOCK);
        for block in 0..8 {
            let read = read_block(&handle, &file, block * LEN, &mut bytes).await;
            assert_eq!(read.unwrap(), LEN);
            assert!(is_pattern(block, bytes.as_ref()));
        }
        drop(file);
        with_hang_guard(context.close()).await;
        wait_until(|| is_released(before), open_resources).await; // a thread may still hand over its result

        // Where there is room, the context is on kernel AIO.
        let (context, _handle) = builder(SubmitPolicy::default()).build().unwrap();
        assert_eq!(context.backend(), Backend::KernelAio);
        with_hang_guard(context.close()).await;
        with_hang_guard(mine.close()).await;
    }));
}

#[tokio::test]
async fn a_context_of_zero_requests_is_an_error_on_every_backend() {
    for nr in [0, usize::MAX] {
        let automatic = AioContextBuilder::new(nr).automatic_backend();
        assert_eq!(setup_errno(automatic.clone().build()), Some(libc::EINVAL));
        assert_eq!(setup_errno(automatic.build_local()), Some(libc::EINVAL));
        let threads = AioContextBuilder::new(nr).backend(Backend::ThreadPool);
        assert_eq!(setup_errno(threads.build()), Some(libc::EINVAL));
    }
}

#[test]
fn a_later_seccomp_filter_fails_every_request_of_the_thread_pool() {
    if !in_child!() || !BACKENDS.contains(&Backend::ThreadPool) {
        return;
    }
    current_thread().block_on(with_hang_guard(async {
        let dir = disk_dir();
        let file = patterned_file(&dir, 32).await;
        let threads = AioContextBuilder::new(4).backend(Backend::ThreadPool);
        let (context, handle) = threads.build().unwrap();
        let mut bytes = buffer(BLOCK);
        assert_eq!(
            read_block(&handle, &file, 0, &mut bytes).await.unwrap(),
            LEN
        );
        if !forbid_syscall(libc::SYS_pread64, libc::EPERM) {
            return;
        }
        join_all((0..32).map(async |block| {
            let mut bytes = patterned_buffer(99, BLOCK);
            let refused = read_block(&handle, &file, block * LEN, &mut bytes).await;
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
            assert!(is_pattern(99, bytes.as_ref()), "the buffer is as it was");
        }))
        .await;
        let source = patterned_buffer(1, BLOCK);
        let written = file.write_at(&handle, 0, &source, LEN, WriteFlags::empty());
        assert_eq!(written.await.unwrap(), LEN, "which is not forbidden");
        assert_idle(&handle, 4).await;
        with_hang_guard(context.close()).await;
    }));
}
