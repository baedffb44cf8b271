//! Submit policies: which thread submits a request, and what happens if the kernel refuses it.
//! Nothing else depends on the policy.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use crate::common::*;
use futures::future::join_all;
use futures::{FutureExt, poll};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    AioCommandError, AioContext, AioContextBuilder, AioContextHandle, AioOpenOptionsExt, Backend,
    File, IoBuf, LockedBuf, Metrics, RawCommand, ReadFlags, SubmitPolicy, WriteFlags,
};

fn context(nr: usize, policy: SubmitPolicy) -> (AioContext, AioContextHandle) {
    let builder = AioContextBuilder::new(nr).submit_policy(policy);
    builder.build().unwrap()
}

async fn append(handle: &AioContextHandle, file: &File, bytes: &LockedBuf) -> u64 {
    let len = bytes.size() as u64;
    let appended = file.write_at(handle, 0, bytes, len, WriteFlags::APPEND);
    appended.await.unwrap()
}

/// What `handle` has counted since `before`: refusals and offloads.
fn since(handle: &AioContextHandle, before: &Metrics) -> (u64, u64) {
    let since = handle.metrics().since(before);
    (since.nowait_refusals, since.offloads)
}

#[test]
fn every_policy_moves_the_right_bytes() {
    Fixture::new(8)
        .every_dir()
        .every_policy()
        .run(async |case| {
            let (dir, handle, policy) = (case.dir, case.handle, case.mode.1);
            let file = open_rw(dir, &format!("{policy:?}")).await;
            // Extending writes, writes into a hole, overwrites, an append.
            for block in [0, 1, 2, 7, 5, 1, 7] {
                let bytes = patterned_buffer(block, BLOCK);
                assert_eq!(write(&handle, &file, block, &bytes).await.unwrap(), LEN);
            }
            assert_eq!(
                append(&handle, &file, &patterned_buffer(8, BLOCK)).await,
                LEN
            );
            for flags in [WriteFlags::DSYNC, WriteFlags::SYNC] {
                let bytes = patterned_buffer(2, BLOCK);
                let written = file.write_at(&handle, 2 * LEN, &bytes, LEN, flags);
                assert_eq!(written.await.unwrap(), LEN);
            }
            file.sync_data(&handle).await.unwrap();
            file.sync_all(&handle).await.unwrap();
            for block in [0, 1, 2, 5, 7, 8] {
                let mut bytes = buffer(BLOCK);
                let read = read_block(&handle, &file, block * LEN, &mut bytes).await;
                assert_eq!(read.unwrap(), LEN, "{policy:?}");
                assert!(
                    is_pattern(block, bytes.as_ref()),
                    "{policy:?}: block {block}"
                );
            }
            let mut bytes = patterned_buffer(1, BLOCK);
            let hole = read_block(&handle, &file, 6 * LEN, &mut bytes).await;
            assert_eq!(hole.unwrap(), LEN);
            assert!(bytes.as_ref().iter().all(|&byte| byte == 0));
            let end = read_block(&handle, &file, 9 * LEN, &mut bytes).await;
            assert_eq!(end.unwrap(), 0);
        });
}

#[test]
fn errors_are_the_same_under_every_policy() {
    Fixture::new(4).blocks(1).every_policy().run(async |case| {
        let (dir, file, handle, policy) = (case.dir, case.file, case.handle, case.mode.1);
        let mut bytes = buffer(BLOCK);
        let misaligned = read_block(&handle, &file, 1, &mut bytes).await;
        let aligned = misaligned.is_err();
        match misaligned {
            Ok(_) => eprintln!("skipped: misaligned reads, which this file system serves"),
            Err(error @ AioCommandError::BadResult(_)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                assert!(error.to_string().contains("multiples"), "{error}");
            }
            other => panic!("{policy:?}: {other:?}"),
        }
        let past = read_block(&handle, &file, u64::MAX - LEN + 1, &mut bytes).await;
        match past {
            Err(error @ AioCommandError::IoSubmit(_)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            }
            other => panic!("{policy:?}: {other:?}"),
        }
        let unknown = ReadFlags::from_bits_retain(1 << 30);
        let refused = file.read_at(&handle, 0, &mut bytes, LEN, unknown);
        match refused.await {
            Err(error @ AioCommandError::IoSubmit(_)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
            }
            other => panic!("{policy:?}: {other:?}"),
        }
        let read_only = File::open(dir.path().join("data"), false).await.unwrap();
        match write(&handle, &read_only, 0, &bytes).await {
            Err(error @ AioCommandError::IoSubmit(_)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EBADF));
            }
            other => panic!("{policy:?}: {other:?}"),
        }
        wait_all_free(&handle, 4).await;
        let failed = 2 + u64::from(aligned); // no request is made for the range past the largest offset
        assert_eq!(handle.metrics().failed, failed, "{policy:?}");
    });
}

#[test]
fn a_refused_attempt_is_offloaded_and_counted() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(8)
        .policy(SubmitPolicy::NoWaitFirst)
        .run(async |case| {
            let (dir, handle) = (case.dir, case.handle);
            let file = open_rw(dir, "file").await;
            write(&handle, &file, 0, &patterned_buffer(0, BLOCK))
                .await
                .unwrap();
            let metrics = handle.metrics();
            if metrics.nowait_refusals == 0 {
                eprintln!("skipped: this file system extends a file without waiting");
                return;
            }
            assert_eq!((metrics.nowait_refusals, metrics.offloads), (1, 1));
            assert_eq!(
                (metrics.submitted, metrics.completed, metrics.failed),
                (1, 1, 0),
                "one request, however often it was submitted"
            );
        });
}

/// The kernel serves what is in the page cache, and does not wait for the rest.
#[test]
fn a_read_of_a_partly_cached_range_is_whole_under_every_policy() {
    Fixture::new(8).blocks(16).every_policy().run(async |case| {
        let (path, handle, policy) = (case.path, case.handle, case.mode.1);
        let whole = 16 * LEN;
        let mut options = OpenOptions::new();
        let file = options.read(true).aio_open(path.clone(), false).await;
        let file = file.unwrap();
        // As on a file system that accepts O_DIRECT and ignores it, like ext4 with data journaling.
        // SAFETY: touches no memory.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) };
        assert_eq!(flags, 0);
        for cached in [1, 7, 15] {
            cache_only(&path, cached * BLOCK);
            let mut bytes = buffer(16 * BLOCK);
            let read = file.read_at(&handle, 0, &mut bytes, whole, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), whole, "{policy:?}");
            (0..16).for_each(|block| {
                let at = block as usize * BLOCK;
                assert!(is_pattern(block, &bytes.as_ref()[at..at + BLOCK]));
            });
        }
        // Short where the file ends.
        let mut bytes = buffer(4 * BLOCK);
        let read = file.read_at(&handle, 14 * LEN, &mut bytes, 4 * LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), 2 * LEN, "{policy:?}");
    });
}

/// Leaves the first `len` bytes of a file in the page cache, and nothing else of it.
fn cache_only(path: &Path, len: usize) {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    for advice in [libc::POSIX_FADV_RANDOM, libc::POSIX_FADV_DONTNEED] {
        // SAFETY: touches no memory.
        let failed = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) };
        assert_eq!(failed, 0);
    }
    file.read_exact_at(&mut vec![0; len], 0).unwrap();
}

#[test]
fn a_file_learns_nothing_from_the_thread_pool_backend() {
    if !is_kernel_aio_build() {
        return;
    }
    let fixture = Fixture::new(4).policy(SubmitPolicy::NoWaitFirst).blocks(8);
    fixture.run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let threads = AioContextBuilder::new(4).backend(Backend::ThreadPool);
        let (threads, on_threads) = threads.build().unwrap();
        let mut bytes = buffer(BLOCK);
        for block in 0..8 {
            let read = read_block(&on_threads, &file, block * LEN, &mut bytes);
            read.await.unwrap();
        }
        threads.close().await;
        read_block(&handle, &file, 0, &mut bytes).await.unwrap();
        let metrics = handle.metrics();
        assert_eq!(metrics.offloads, metrics.nowait_refusals, "{metrics:?}");
    });
}

#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "counts offloads; Plain ignores the submit policy"
)]
fn a_files_own_policy_overrides_the_contexts() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(4)
        .policy(SubmitPolicy::Offload)
        .blocks(1)
        .every_dir()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let mut bytes = buffer(BLOCK);
            for (policy, expected) in [
                (None, 1),
                (Some(SubmitPolicy::Inline), 0),
                (Some(SubmitPolicy::Offload), 1),
                (Some(SubmitPolicy::Inline), 0),
                (None, 1),
            ] {
                file.set_submit_policy(policy);
                assert_eq!(file.submit_policy(), policy);
                let before = handle.metrics();
                read_block(&handle, &file, 0, &mut bytes).await.unwrap();
                assert!(is_pattern(0, bytes.as_ref()));
                let (refusals, offloads) = since(&handle, &before);
                assert_eq!((refusals, offloads), (0, expected), "{policy:?}");
            }
        });
}

#[test]
fn a_refused_nowait_of_the_caller_is_returned_to_the_caller() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(4)
        .policy(SubmitPolicy::NoWaitFirst)
        .run(async |case| {
            let (dir, handle) = (case.dir, case.handle);
            let file = open_rw(dir, "file").await;
            let bytes = patterned_buffer(0, BLOCK);
            let extending = file.write_at(&handle, 0, &bytes, LEN, WriteFlags::NOWAIT);
            match extending.await {
                Err(error) => {
                    // EOPNOTSUPP: this file system can't promise not to block.
                    let refusals = [Some(libc::EAGAIN), Some(libc::EOPNOTSUPP)];
                    assert!(refusals.contains(&error.raw_os_error()), "{error}");
                }
                Ok(written) => assert_eq!(written, LEN, "a file system that does not wait"),
            }
            let metrics = handle.metrics();
            assert_eq!((metrics.nowait_refusals, metrics.offloads), (0, 0));
        });
}

#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "counts offloads; Plain ignores the submit policy"
)]
fn a_raw_descriptor_is_submitted_inline_unless_the_policy_is_offload() {
    if !is_kernel_aio_build() || !in_child!() {
        return;
    }
    Fixture::new(4).every_policy().blocks(1).run(async |case| {
        let (file, handle, policy) = (case.file, case.handle, case.mode.1);
        let mut bytes = buffer(BLOCK);
        let before = open_resources();
        let command = RawCommand::Pread {
            offset: 0,
            buffer: &mut bytes,
            flags: ReadFlags::empty(),
            len: LEN,
        };
        assert_eq!(handle.submit_request(&file, command).await.unwrap(), LEN);
        assert!(is_pattern(0, bytes.as_ref()));
        let expected = u64::from(policy == SubmitPolicy::Offload);
        assert_eq!(handle.metrics().offloads, expected, "{policy:?}");
        // A duplicate of the descriptor, if one was made, is closed.
        wait_until(|| is_released(before), open_resources).await;
    });
}

#[test]
fn appends_land_in_submission_order() {
    const APPENDS: u64 = 64;
    for slots in [1, 4, 128] {
        let fixture = Fixture::new(slots).every_policy();
        fixture.every_dir().every_runtime().run(async |case| {
            let (path, file, handle) = (case.path, case.file, case.handle);
            let all = join_all((0..APPENDS).map(async |i| {
                let bytes = patterned_buffer(i, BLOCK);
                assert_eq!(append(&handle, &file, &bytes).await, LEN);
            }));
            all.await;
            assert_blocks_in_order(&path, APPENDS);
        });
    }
}

/// Asserts that the file has `blocks` blocks, and that block `i` holds [`pattern`] `i`.
fn assert_blocks_in_order(path: &Path, blocks: u64) {
    let content = fs::read(path).unwrap();
    assert_eq!(content.len(), blocks as usize * BLOCK);
    for (i, block) in (0..).zip(content.chunks(BLOCK)) {
        assert!(is_pattern(i, block), "block {i}");
    }
}

#[test]
fn writes_to_a_file_opened_for_appending_land_in_order() {
    const WRITES: u64 = 32;
    let fixture = Fixture::new(16).every_policy();
    fixture.every_dir().every_runtime().run(async |case| {
        let (path, handle) = (case.path, case.handle);
        let mut options = OpenOptions::new();
        let log = options.append(true).aio_open(path.clone(), false);
        let log = log.await.unwrap();
        let all = join_all((0..WRITES).map(async |i| {
            let bytes = patterned_buffer(i, BLOCK);
            assert_eq!(write(&handle, &log, 7, &bytes).await.unwrap(), LEN);
        }));
        all.await;
        assert_blocks_in_order(&path, WRITES);
    });
}

#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "needs requests that wait for a blocking thread; Plain offloads none"
)]
fn with_the_blocking_pool_full_only_offloaded_requests_wait() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(4)
        .policy(SubmitPolicy::Offload)
        .blocks(4)
        .every_dir()
        .runtime(one_blocking_thread)
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let busy = occupy_blocking_thread().await;
            let (mut first, mut second) = (buffer(BLOCK), buffer(BLOCK));
            let mut waits = Box::pin(read_block(&handle, &file, LEN, &mut first));
            assert!(poll!(waits.as_mut()).is_pending());
            yield_now().await;
            let metrics = handle.metrics();
            assert_eq!((metrics.waiting_for_thread, metrics.in_flight), (1, 1));
            assert_eq!(handle.available_slots(), Some(3), "it has its slot");

            file.set_submit_policy(Some(SubmitPolicy::Inline));
            read_block(&handle, &file, 2 * LEN, &mut second)
                .await
                .unwrap();
            assert!(is_pattern(2, second.as_ref()));
            assert!(poll!(waits.as_mut()).is_pending());

            drop(busy);
            assert_eq!(waits.await.unwrap(), LEN);
            assert!(is_pattern(1, first.as_ref()));
        });
}

/// A read of a socket, which blocks inside the submission.
#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "about submissions that block; Plain lets them block the runtime"
)]
fn a_blocked_submission_does_not_delay_other_files_if_a_thread_is_free() {
    if !is_kernel_aio_build() {
        return;
    }
    let mut builder = runtime::Builder::new_current_thread();
    let runtime = builder.max_blocking_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let dir = disk_dir();
        let file = patterned_file(&dir, 8).await;
        let builder = AioContextBuilder::new(8).submit_policy(SubmitPolicy::Offload);
        let (context, handle) = builder.blocking_threads(2).build().unwrap();
        let both = (
            occupy_blocking_thread().await,
            occupy_blocking_thread().await,
        );
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let mut word = buffer(BLOCK);
        let command = RawCommand::Pread {
            offset: 0,
            buffer: &mut word,
            flags: ReadFlags::empty(),
            len: 4,
        };
        let mut stuck = Box::pin(handle.submit_request(&reader, command));
        assert!(poll!(&mut stuck).is_pending());
        let mut targets = [(); 7].map(|()| buffer(BLOCK));
        let mut reads: Vec<_> = (0..)
            .zip(&mut targets)
            .map(|(block, target)| Box::pin(read_block(&handle, &file, block * LEN, target)))
            .collect();
        for read in &mut reads {
            assert!(poll!(read).is_pending());
        }
        let waiting = || handle.metrics().waiting_for_thread;
        wait_until(|| waiting() == 8, waiting).await;
        drop(both); // now each takes a share
        for read in with_hang_guard(join_all(reads)).await {
            assert_eq!(read.unwrap(), LEN);
        }
        assert!(poll!(&mut stuck).is_pending());
        writer.write_all(b"word").unwrap();
        assert_eq!(with_hang_guard(stuck).await.unwrap(), 4);
        assert_idle(&handle, 8).await;
        with_hang_guard(context.close()).await;
    });
}

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs requests that wait for a blocking thread; Plain offloads none, io_uring only merged writes"
)]
fn a_read_dropped_before_a_thread_takes_it_releases_slot_and_memory() {
    one_blocking_thread().block_on(async {
        let dir = disk_dir();
        let file = patterned_file(&dir, 2).await;
        let (context, handle) = context(2, SubmitPolicy::Offload);
        let busy = occupy_blocking_thread().await;
        let mut bytes = patterned_buffer(7, BLOCK);
        let address = bytes.as_ref().as_ptr();
        assert!(
            read_block(&handle, &file, 0, &mut bytes)
                .now_or_never()
                .is_none()
        );
        assert_eq!(bytes.as_ref().as_ptr(), address, "the kernel never had it");
        assert!(is_pattern(7, bytes.as_ref()));
        assert_eq!(handle.available_slots(), Some(2));
        assert_eq!(handle.metrics().submitted, 0);
        drop(busy);
        with_hang_guard(context.close()).await;
        assert!(is_pattern(7, bytes.as_ref()));
    });
}

#[test]
fn a_read_dropped_between_a_refused_attempt_and_the_pool_ends() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(2)
        .policy(SubmitPolicy::NoWaitFirst)
        .blocks(2)
        .every_dir()
        .runtime(one_blocking_thread)
        .run(async |case| {
            let (dir, file, handle) = (case.dir, case.file, case.handle);
            let busy = occupy_blocking_thread().await;
            // A dirty page makes the kernel accept the attempt and then refuse it.
            let cached = OpenOptions::new().write(true).open(dir.path().join("data"));
            cached
                .unwrap()
                .write_all_at(patterned_buffer(0, BLOCK).as_ref(), 0)
                .unwrap();
            let mut bytes = buffer(BLOCK);
            {
                let mut read = pin!(read_block(&handle, &file, 0, &mut bytes));
                let _ = poll!(read.as_mut());
                let at_rest = || {
                    let metrics = handle.metrics();
                    metrics.waiting_for_thread == 1 || metrics.completed == 1
                };
                wait_until(at_rest, || handle.metrics()).await;
                if handle.metrics().nowait_refusals == 0 {
                    eprintln!("skipped: this file system reads past a dirty page without waiting");
                }
            }
            drop(busy);
        });
}

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs requests that wait for a blocking thread; Plain offloads none, io_uring only merged writes"
)]
fn a_write_dropped_before_a_thread_takes_it_lands() {
    one_blocking_thread().block_on(async {
        for dir in test_dirs() {
            for form in 0..3 {
                let file = patterned_file(&dir, 2).await;
                let (context, handle) = context(2, SubmitPolicy::Offload);
                let busy = occupy_blocking_thread().await;
                let mut bytes = patterned_buffer(9, BLOCK);
                let flags = WriteFlags::empty();
                let parts = [bytes.part(..2048), bytes.part(2048..)];
                let waits = match form {
                    0 => write(&handle, &file, 1, &bytes).now_or_never().is_none(),
                    1 => {
                        let write = file.write_vectored_at(&handle, LEN, &parts, flags);
                        write.now_or_never().is_none()
                    }
                    _ => {
                        let owned = patterned_buffer(9, BLOCK).into_slice(..);
                        let write = file.write_owned_at(&handle, LEN, owned, flags);
                        write.now_or_never().is_none()
                    }
                };
                assert!(waits);
                bytes.as_mut().fill(0);
                assert_eq!(handle.available_slots(), Some(1), "form {form}");
                drop(busy);
                with_hang_guard(context.close()).await;
                let written = fs::read(dir.path().join("data")).unwrap();
                assert!(is_pattern(9, &written[BLOCK..]), "as it was submitted");
            }
        }
    });
}

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs requests that wait for a blocking thread; Plain offloads none, io_uring only merged writes"
)]
fn an_empty_append_dropped_before_a_thread_takes_it_does_not_block_the_next() {
    one_blocking_thread().block_on(async {
        let dir = disk_dir();
        let file = patterned_file(&dir, 1).await;
        let (context, handle) = context(4, SubmitPolicy::Offload);
        let mut empty = buffer(BLOCK);
        let mut forgotten = Box::pin(read_block(&handle, &file, 0, &mut empty));
        assert!(poll!(forgotten.as_mut()).is_pending());
        std::mem::forget(forgotten);
        assert_eq!(empty.size(), 0, "it has no memory to be kept");
        assert_idle(&handle, 4).await;

        let busy = occupy_blocking_thread().await;
        let bytes = patterned_buffer(7, BLOCK);
        let mut first = Box::pin(append(&handle, &file, &empty));
        assert!(poll!(first.as_mut()).is_pending());
        let mut second = Box::pin(append(&handle, &file, &bytes));
        assert!(poll!(second.as_mut()).is_pending());
        drop(first);
        drop(busy);
        assert_eq!(with_hang_guard(second).await, LEN);
        assert_idle(&handle, 4).await;
        with_hang_guard(context.close()).await;
        let written = fs::read(dir.path().join("data")).unwrap();
        assert!(is_pattern(7, &written[BLOCK..]));
    });
}

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs requests that wait for a blocking thread; Plain offloads none, io_uring only merged writes"
)]
fn requests_waiting_for_a_thread_hold_slots() {
    Fixture::new(1)
        .policy(SubmitPolicy::Offload)
        .build(|builder| builder.wait_for_slot(false))
        .blocks(2)
        .runtime(one_blocking_thread)
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let busy = occupy_blocking_thread().await;
            let (mut first, mut second) = (buffer(BLOCK), buffer(BLOCK));
            let mut waits = Box::pin(read_block(&handle, &file, LEN, &mut first));
            assert!(poll!(waits.as_mut()).is_pending());
            let full = read_block(&handle, &file, 0, &mut second).await;
            assert!(
                matches!(full, Err(AioCommandError::CapacityExceeded)),
                "{full:?}"
            );
            drop(busy);
            waits.await.unwrap();
            assert_eq!(handle.metrics().found_full, 1);
            read_block(&handle, &file, 0, &mut second).await.unwrap();
        });
}

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs requests that wait for a blocking thread; Plain offloads none, io_uring only merged writes"
)]
fn a_runtime_shutdown_ends_all_requests_in_the_pool() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    for round in 0..20 {
        let runtime = one_blocking_thread();
        let (handle, file, release) = runtime.block_on(async {
            let file = Arc::new(patterned_file(&dir, 8).await);
            let (context, handle) = context(8, SubmitPolicy::Offload);
            let OccupiedThread(release) = occupy_blocking_thread().await;
            for block in 0..4 {
                let (handle, file) = (handle.clone(), Arc::clone(&file));
                tokio::spawn(async move {
                    let mut bytes = buffer(BLOCK);
                    let _ = read_block(&handle, &file, block * LEN, &mut bytes).await;
                    unreachable!("its task ends with the runtime, or it is not done before");
                });
            }
            yield_now().await;
            assert_eq!(handle.metrics().waiting_for_thread, 4);
            if round % 2 == 0 {
                drop(context);
            } else {
                std::mem::forget(context);
            }
            (handle, file, release)
        });
        drop(release);
        runtime.shutdown_background();
        assert_eq!(handle.available_slots(), None);
        let mut bytes = buffer(BLOCK);
        let stopped =
            current_thread().block_on(with_hang_guard(read_block(&handle, &file, 0, &mut bytes)));
        assert!(
            matches!(stopped, Err(AioCommandError::AioStopped)),
            "{stopped:?}"
        );
    }
    current_thread().block_on(wait_until(|| rings() == 0, rings));
}

#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "needs requests that wait for a blocking thread; Plain offloads none"
)]
fn closing_waits_for_requests_in_the_pool() {
    if cfg!(kaio_force_uring) {
        return eprintln!("skipped: no read waits for a blocking thread on io_uring");
    }
    one_blocking_thread().block_on(async {
        for dir in test_dirs() {
            let file = patterned_file(&dir, 8).await;
            let (context, handle) = context(8, SubmitPolicy::Offload);
            let busy = occupy_blocking_thread().await;
            let mut buffers: Vec<_> = (0..4).map(|_| buffer(BLOCK)).collect();
            let mut reads: Vec<_> = (0..)
                .zip(&mut buffers)
                .map(|(i, bytes)| Box::pin(read_block(&handle, &file, i * LEN, bytes)))
                .collect();
            for read in &mut reads {
                assert!(poll!(read).is_pending());
            }
            let mut closing = pin!(context.close());
            assert!(poll!(closing.as_mut()).is_pending());
            yield_now().await;
            assert!(poll!(closing.as_mut()).is_pending());
            drop(busy);
            with_hang_guard(closing).await;
            for (i, read) in (0..).zip(reads) {
                assert_eq!(with_hang_guard(read).await.unwrap(), LEN, "read {i}");
            }
        }
    });
}

#[test]
fn a_local_context_offloads() {
    current_thread().block_on(LocalSet::new().run_until(async {
        for dir in test_dirs() {
            for policy in POLICIES {
                let (context, handle, background) = AioContextBuilder::new(4)
                    .submit_policy(policy)
                    .build_local()
                    .unwrap();
                spawn_local(background);
                let file = open_rw(&dir, &format!("{policy:?}")).await;
                let all = join_all((0..32).map(async |i| {
                    let mut bytes = patterned_buffer(i, BLOCK);
                    let flags = WriteFlags::empty();
                    let written = file.write_at(&handle, i * LEN, &bytes, LEN, flags).await;
                    assert_eq!(written.unwrap(), LEN);
                    let flags = ReadFlags::empty();
                    let read = file.read_at(&handle, i * LEN, &mut bytes, LEN, flags).await;
                    assert_eq!(read.unwrap(), LEN);
                    assert!(is_pattern(i, bytes.as_ref()), "{policy:?}");
                }));
                with_hang_guard(all).await;
                // A request that the kernel rejects returns an error, too.
                let unknown = ReadFlags::from_bits_retain(1 << 30);
                let mut bytes = buffer(BLOCK);
                let refused = file.read_at(&handle, 0, &mut bytes, LEN, unknown);
                with_hang_guard(refused).await.unwrap_err();
                let metrics = handle.metrics();
                // io_uring takes every request, and looks at its flags later.
                let completed = 64 + u64::from(handle.backend() == Backend::IoUring);
                let counted = (metrics.completed, metrics.failed);
                assert_eq!(counted, (completed, 1), "{policy:?}");
                with_hang_guard(context.close()).await;
            }
        }
    }));
}

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "counts offloads; Plain and io_uring submit these inline"
)]
fn shards_share_the_pool_threads() {
    Fixture::new(32)
        .policy(SubmitPolicy::Offload)
        .build(|builder| builder.shards(2).blocking_threads(1))
        .blocks(64)
        .multi_thread()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            read_in_tasks(&handle, file, 64).await;
            assert_eq!(handle.metrics().offloads, 64);
        });
}

/// Polls a future up to `polls` times, then drops it.
async fn given_up<T>(future: impl Future<Output = T>, polls: u64) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Some(done) = future.as_mut().now_or_never() {
            return Some(done);
        }
        yield_now().await;
    }
    None
}

/// Whether each byte of `block` is that of [`pattern`] `seeds[0]` or that of [`pattern`] `seeds[1]`.
fn is_mixture(seeds: [u64; 2], block: &[u8]) -> bool {
    let [one, other] = seeds.map(|seed| patterned_buffer(seed, block.len()));
    let mut bytes = block.iter().zip(one.iter().zip(other.iter()));
    bytes.all(|(byte, (one, other))| byte == one || byte == other)
}

fn change_policies_under_load(runtime: &Runtime, dir: &TempDir) {
    const SLOTS: usize = 16;
    runtime.block_on(async {
        let file = Arc::new(patterned_file(dir, 256).await);
        let (context, handle) = context(SLOTS, SubmitPolicy::NoWaitFirst);
        let mut tasks = JoinSet::new();
        for task in 0..8_u64 {
            let (handle, file) = (handle.clone(), Arc::clone(&file));
            tasks.spawn(async move {
                let mut random = task + 1;
                let mut next = |n: u64| {
                    random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    (random >> 33) % n
                };
                let (mut target, source) = (buffer(BLOCK), patterned_buffer(task, BLOCK));
                // Only this task writes to its blocks, always the same bytes: a block that has them all keeps them.
                let mut written = HashSet::new();
                let mut given_up_writes = HashSet::new();
                for _ in 0..400 {
                    if next(8) == 0 {
                        file.set_submit_policy(Some(POLICIES[next(3) as usize]));
                    } else if next(8) == 0 {
                        file.set_submit_policy(None);
                    }
                    let polls = if next(3) == 0 { next(4) } else { u64::MAX };
                    let block = task * 32 + next(32);
                    match next(4) {
                        0 | 1 => {
                            if target.size() == 0 {
                                target = buffer(BLOCK);
                            }
                            let read = read_block(&handle, &file, block * LEN, &mut target);
                            if let Some(read) = given_up(read, polls).await {
                                assert_eq!(read.unwrap(), LEN);
                                let bytes = target.as_ref();
                                let is_right = if written.contains(&block) {
                                    is_pattern(task, bytes)
                                } else if given_up_writes.contains(&block) {
                                    // The write may not have completed, or have completed during the read.
                                    is_mixture([block, task], bytes)
                                } else {
                                    is_pattern(block, bytes)
                                };
                                assert!(is_right, "block {block}");
                            }
                        }
                        2 => {
                            let write = write(&handle, &file, block, &source);
                            match given_up(write, polls).await {
                                Some(len) => {
                                    assert_eq!(len.unwrap(), LEN);
                                    written.insert(block);
                                }
                                None => drop(given_up_writes.insert(block)),
                            }
                        }
                        _ => {
                            // Far out, so that it extends the file.
                            let written = write(&handle, &file, 300 + next(1000), &source);
                            if let Some(written) = given_up(written, polls).await {
                                assert_eq!(written.unwrap(), LEN);
                            }
                        }
                    }
                }
            });
        }
        with_hang_guard(tasks.join_all()).await;
        assert_idle(&handle, SLOTS).await;
        with_hang_guard(context.close()).await;
    });
}

#[test]
fn policy_changes_under_dropped_requests_lose_nothing() {
    for dir in test_dirs() {
        change_policies_under_load(&current_thread(), &dir);
        change_policies_under_load(&multi_thread(), &dir);
    }
}
