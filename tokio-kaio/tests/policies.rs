//! Submit policies: where requests are submitted, what becomes of those that the kernel refuses, and
//! that nothing else about them changes.
#![allow(unsafe_code)]

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use common::*;
use futures::future::join_all;
use futures::{FutureExt, poll};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    AioCommandError, AioContext, AioContextBuilder, AioContextHandle, AioOpenOptionsExt, Backend,
    File, IoBuf, LockedBuf, Metrics, RawCommand, ReadFlags, SubmitPolicy, WriteFlags,
};

const LEN: u64 = BLOCK as u64;
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

#[tokio::test]
async fn every_policy_moves_the_right_bytes() {
    for dir in everywhere() {
        for policy in POLICIES {
            let (context, handle) = context(8, policy);
            let file = open_rw(&dir, &format!("{policy:?}")).await;
            // Extending, into a hole, over what is there; then appended.
            for block in [0, 1, 2, 7, 5, 1, 7] {
                let bytes = patterned(block, BLOCK);
                assert_eq!(
                    within(write(&handle, &file, block, &bytes)).await.unwrap(),
                    LEN
                );
            }
            assert_eq!(
                within(append(&handle, &file, &patterned(8, BLOCK))).await,
                LEN
            );
            for flags in [WriteFlags::DSYNC, WriteFlags::SYNC] {
                let bytes = patterned(2, BLOCK);
                let written = file.write_at(&handle, 2 * LEN, &bytes, LEN, flags);
                assert_eq!(within(written).await.unwrap(), LEN);
            }
            within(file.sync_data(&handle)).await.unwrap();
            within(file.sync_all(&handle)).await.unwrap();
            for block in [0, 1, 2, 5, 7, 8] {
                let mut bytes = buffer(BLOCK);
                let read = within(read_block(&handle, &file, block * LEN, &mut bytes)).await;
                assert_eq!(read.unwrap(), LEN, "{policy:?}");
                assert!(
                    is_pattern(block, bytes.as_ref()),
                    "{policy:?}: block {block}"
                );
            }
            let mut bytes = patterned(1, BLOCK);
            let hole = within(read_block(&handle, &file, 6 * LEN, &mut bytes)).await;
            assert_eq!(hole.unwrap(), LEN);
            assert!(bytes.as_ref().iter().all(|&byte| byte == 0));
            let end = within(read_block(&handle, &file, 9 * LEN, &mut bytes)).await;
            assert_eq!(end.unwrap(), 0);
            is_idle(&handle, 8).await;
            within(context.close()).await;
        }
    }
}

#[tokio::test]
async fn errors_are_the_same_under_every_policy() {
    let dir = on_disk();
    for policy in POLICIES {
        let (context, handle) = context(4, policy);
        let file = patterned_file(&dir, 1).await;
        let mut bytes = buffer(BLOCK);
        let misaligned = within(read_block(&handle, &file, 1, &mut bytes)).await;
        let aligned = misaligned.is_err();
        match misaligned {
            Ok(_) => eprintln!("skipped: misaligned reads, which this file system serves"),
            Err(error @ AioCommandError::BadResult(_)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                assert!(error.to_string().contains("multiples"), "{error}");
            }
            other => panic!("{policy:?}: {other:?}"),
        }
        let past = within(read_block(&handle, &file, u64::MAX - LEN + 1, &mut bytes)).await;
        match past {
            Err(error @ AioCommandError::IoSubmit(_)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            }
            other => panic!("{policy:?}: {other:?}"),
        }
        let unknown = ReadFlags::from_bits_retain(1 << 30);
        let refused = file.read_at(&handle, 0, &mut bytes, LEN, unknown);
        match within(refused).await {
            Err(error @ AioCommandError::IoSubmit(_)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
            }
            other => panic!("{policy:?}: {other:?}"),
        }
        let read_only = File::open(dir.path().join("blocks"), false).await.unwrap();
        match within(write(&handle, &read_only, 0, &bytes)).await {
            Err(error @ AioCommandError::IoSubmit(_)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EBADF));
            }
            other => panic!("{policy:?}: {other:?}"),
        }
        all_free(&handle, 4).await;
        let failed = 2 + u64::from(aligned); // what ends past the largest offset is no request
        assert_eq!(handle.metrics().failed, failed, "{policy:?}");
        within(context.close()).await;
    }
}

#[tokio::test]
async fn what_is_refused_goes_from_the_pool_and_is_counted() {
    if !on_kernel_aio() {
        return;
    }
    let dir = on_disk();
    let (context, handle) = context(8, SubmitPolicy::NoWaitFirst);
    let file = open_rw(&dir, "file").await;
    within(write(&handle, &file, 0, &patterned(0, BLOCK)))
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
    within(context.close()).await;
}

/// Whether a submission without the flag sleeps, for writes to these blocks of a file: `None` if
/// some do and some don't.
async fn sleeps(dir: &TempDir, blocks: std::ops::Range<u64>) -> Option<bool> {
    let (context, handle) = inline_context(4);
    let file = open_rw(dir, "slept").await;
    let bytes = patterned(0, BLOCK);
    let (mut slept, all) = (0, blocks.end - blocks.start);
    for block in blocks {
        let mut written = pin!(write(&handle, &file, block, &bytes));
        let before = times_slept();
        let done = poll!(written.as_mut());
        slept += u64::from(times_slept() != before);
        if done.is_pending() {
            within(written).await.unwrap();
        }
    }
    within(context.close()).await;
    match slept * 10 {
        n if n <= all => Some(false),
        n if n >= all * 9 => Some(true),
        _ => None,
    }
}

#[tokio::test]
async fn a_file_learns_which_of_its_writes_would_wait() {
    if !on_kernel_aio() {
        return;
    }
    const WRITES: u64 = 100;
    let dir = on_disk();
    // Extends a file, then overwrites it. ext4 waits for the first, btrfs for both, XFS for none.
    let (extending, overwriting) = (sleeps(&dir, 0..WRITES).await, sleeps(&dir, 0..WRITES).await);
    let (context, handle) = context(8, SubmitPolicy::NoWaitFirst);
    let file = open_rw(&dir, "file").await;
    let bytes = patterned(0, BLOCK);
    for (waits, what) in [(extending, "extends"), (overwriting, "overwrites")] {
        for block in 0..20 {
            // It takes a few of them.
            let block = if what == "extends" { block } else { block % 10 };
            within(write(&handle, &file, block, &bytes)).await.unwrap();
        }
        let before = handle.metrics();
        let first = if what == "extends" { 20 } else { 0 };
        for block in first..first + WRITES {
            within(write(&handle, &file, block, &bytes)).await.unwrap();
        }
        let (refusals, offloads) = since(&handle, &before);
        match waits {
            Some(true) => {
                assert!(refusals <= 2, "{refusals} attempts, for {WRITES} writes");
                assert!(
                    offloads + 8 >= WRITES,
                    "{offloads} of {WRITES} from the pool, where a write {what} the file"
                );
            }
            // A submission may be kept from running for as long as a slow one takes.
            Some(false) => assert!(
                offloads <= WRITES / 4,
                "{offloads} of {WRITES} from the pool, where a write {what} the file"
            ),
            None => eprintln!("skipped: where a write {what} the file, it sleeps now and then"),
        }
    }
    within(context.close()).await;
}

#[tokio::test]
async fn where_the_flag_is_not_known_requests_go_inline_before_long() {
    let Some(dir) = on_tmpfs().filter(|_| on_kernel_aio()) else {
        return;
    };
    let file = patterned_file(&dir, 8).await;
    let (context, handle) = context(8, SubmitPolicy::NoWaitFirst);
    let mut bytes = buffer(BLOCK);
    for _ in 0..50 {
        within(read_block(&handle, &file, 0, &mut bytes))
            .await
            .unwrap();
    }
    let before = handle.metrics();
    assert!(before.nowait_refusals >= 1);
    for block in 0..200 {
        let read = within(read_block(&handle, &file, block % 8 * LEN, &mut bytes)).await;
        assert_eq!(read.unwrap(), LEN);
        assert!(is_pattern(block % 8, bytes.as_ref()));
    }
    // A submission may be kept from running for as long as a slow one takes; it takes two.
    let (refusals, offloads) = since(&handle, &before);
    assert_eq!(refusals, 0, "the flag is not tried again");
    assert!(offloads <= 50, "{offloads} of 200 from the pool");
    within(context.close()).await;
}

/// The kernel serves what is in the page cache, and does not wait for the rest.
#[tokio::test]
async fn a_read_of_what_is_cached_in_part_is_whole_under_every_policy() {
    let dir = on_disk();
    let path = dir.path().join("file");
    write_patterned(&path, 16);
    let whole = 16 * LEN;
    for policy in POLICIES {
        let (context, handle) = context(8, policy);
        let mut options = OpenOptions::new();
        let file = options.read(true).aio_open(path.clone(), false).await;
        let file = file.unwrap();
        // As where a file system takes O_DIRECT and does without, like ext4 that journals data.
        // SAFETY: touches no memory.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) };
        assert_eq!(flags, 0);
        for cached in [1, 7, 15] {
            cache_only(&path, cached * BLOCK);
            let mut bytes = buffer(16 * BLOCK);
            let read = file.read_at(&handle, 0, &mut bytes, whole, ReadFlags::empty());
            assert_eq!(within(read).await.unwrap(), whole, "{policy:?}");
            (0..16).for_each(|block| {
                let at = block as usize * BLOCK;
                assert!(is_pattern(block, &bytes.as_ref()[at..at + BLOCK]));
            });
        }
        // Short where the file ends.
        let mut bytes = buffer(4 * BLOCK);
        let read = file.read_at(&handle, 14 * LEN, &mut bytes, 4 * LEN, ReadFlags::empty());
        assert_eq!(within(read).await.unwrap(), 2 * LEN, "{policy:?}");
        within(context.close()).await;
    }
}

/// Has the first `len` bytes of a file in the page cache, and nothing else of it.
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

#[tokio::test]
async fn a_flag_of_the_callers_that_is_not_known_ends_no_attempts() {
    if !on_kernel_aio() {
        return;
    }
    let dir = on_disk();
    let file = patterned_file(&dir, 8).await;
    let (context, handle) = context(8, SubmitPolicy::NoWaitFirst);
    let mut bytes = buffer(BLOCK);
    let mut read = async |flags| {
        let read = file.read_at(&handle, 0, &mut bytes, LEN, flags);
        within(read).await
    };
    read(ReadFlags::empty()).await.unwrap();
    let unknown = ReadFlags::from_bits_retain(1 << 30);
    let error = read(unknown).await.unwrap_err();
    assert!(matches!(error, AioCommandError::IoSubmit(error)
        if error.raw_os_error() == Some(libc::EOPNOTSUPP)));
    let before = handle.metrics();
    for _ in 0..20 {
        read(ReadFlags::empty()).await.unwrap();
    }
    // A submission may be kept from running for as long as a slow one takes.
    let (refusals, offloads) = since(&handle, &before);
    assert_eq!(refusals, 0);
    assert!(offloads < 4, "{offloads} of 20 from the pool");
    within(context.close()).await;
}

#[tokio::test]
async fn a_file_learns_nothing_from_threads_that_do_all_of_the_work() {
    if !on_kernel_aio() {
        return;
    }
    let dir = on_disk();
    let file = patterned_file(&dir, 8).await;
    let threads = AioContextBuilder::new(4).backend(Backend::ThreadPool);
    let (threads, handle) = threads.build().unwrap();
    let mut bytes = buffer(BLOCK);
    for block in 0..8 {
        within(read_block(&handle, &file, block * LEN, &mut bytes))
            .await
            .unwrap();
    }
    within(threads.close()).await;
    let (context, handle) = context(4, SubmitPolicy::NoWaitFirst);
    within(read_block(&handle, &file, 0, &mut bytes))
        .await
        .unwrap();
    let metrics = handle.metrics();
    assert_eq!(metrics.offloads, metrics.nowait_refusals, "{metrics:?}");
    within(context.close()).await;
}

#[tokio::test]
async fn a_files_own_policy_is_stronger_than_the_contexts() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        let file = patterned_file(&dir, 1).await;
        let mut bytes = buffer(BLOCK);
        let (context, handle) = context(4, SubmitPolicy::Offload);
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
            within(read_block(&handle, &file, 0, &mut bytes))
                .await
                .unwrap();
            assert!(is_pattern(0, bytes.as_ref()));
            let (refusals, offloads) = since(&handle, &before);
            assert_eq!((refusals, offloads), (0, expected), "{policy:?}");
        }
        within(context.close()).await;
    }
}

#[tokio::test]
async fn a_nowait_of_the_callers_is_answered_to_the_caller() {
    if !on_kernel_aio() {
        return;
    }
    let dir = on_disk();
    let (context, handle) = context(4, SubmitPolicy::NoWaitFirst);
    let file = open_rw(&dir, "file").await;
    let bytes = patterned(0, BLOCK);
    let extending = file.write_at(&handle, 0, &bytes, LEN, WriteFlags::NOWAIT);
    match within(extending).await {
        Err(error) => {
            // The second: this file system can't promise not to wait.
            let refusals = [Some(libc::EAGAIN), Some(libc::EOPNOTSUPP)];
            assert!(refusals.contains(&error.raw_os_error()), "{error}");
        }
        Ok(written) => assert_eq!(written, LEN, "a file system that does not wait"),
    }
    let metrics = handle.metrics();
    assert_eq!((metrics.nowait_refusals, metrics.offloads), (0, 0));
    within(context.close()).await;
}

#[tokio::test]
async fn a_bare_descriptor_goes_inline_unless_all_are_offloaded() {
    if !on_kernel_aio() {
        return;
    }
    let dir = on_disk();
    write_patterned(&dir.path().join("file"), 1);
    let mut options = OpenOptions::new();
    let file = options.read(true).aio_open(dir.path().join("file"), false);
    let file = file.await.unwrap();
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    for (policy, expected) in [
        (SubmitPolicy::Inline, 0),
        (SubmitPolicy::NoWaitFirst, 0),
        (SubmitPolicy::Offload, 1),
    ] {
        let (context, handle) = context(4, policy);
        let mut bytes = buffer(BLOCK);
        let before = descriptors();
        let command = RawCommand::Pread {
            offset: 0,
            buffer: &mut bytes,
            flags: ReadFlags::empty(),
            len: LEN,
        };
        assert_eq!(
            within(handle.submit_request(&file, command)).await.unwrap(),
            LEN
        );
        assert!(is_pattern(0, bytes.as_ref()));
        assert_eq!(handle.metrics().offloads, expected, "{policy:?}");
        // Other tests open and close theirs meanwhile.
        until(|| descriptors() <= before + 8, descriptors).await;
        within(context.close()).await;
    }
}

#[test]
fn appends_land_in_the_order_in_which_they_were_made() {
    const APPENDS: u64 = 64;
    for (runtime, policy) in [one_thread(), two_workers()]
        .iter()
        .flat_map(|runtime| POLICIES.map(|policy| (runtime, policy)))
    {
        runtime.block_on(async {
            for dir in everywhere() {
                for nr in [1, 4, 128] {
                    let (context, handle) = context(nr, policy);
                    let file = open_rw(&dir, &format!("{nr}")).await;
                    let all = join_all((0..APPENDS).map(async |i| {
                        let bytes = patterned(i, BLOCK);
                        assert_eq!(append(&handle, &file, &bytes).await, LEN);
                    }));
                    within(all).await;
                    let appended = fs::read(dir.path().join(format!("{nr}"))).unwrap();
                    assert_eq!(appended.len(), APPENDS as usize * BLOCK);
                    for (i, block) in (0..).zip(appended.chunks(BLOCK)) {
                        assert!(is_pattern(i, block), "{policy:?}, nr {nr}: block {i}");
                    }
                    fs::remove_file(dir.path().join(format!("{nr}"))).unwrap();
                    within(context.close()).await;
                }
            }
        });
    }
}

#[test]
fn writes_to_a_file_that_was_opened_to_append_land_at_its_end_in_order() {
    const WRITES: u64 = 32;
    for runtime in [one_thread(), two_workers()] {
        runtime.block_on(async {
            for dir in everywhere() {
                for policy in POLICIES {
                    let (context, handle) = context(16, policy);
                    let mut options = OpenOptions::new();
                    options.append(true).create(true);
                    let path = dir.path().join("log");
                    let file = options.aio_open(path.clone(), false).await.unwrap();
                    let all = join_all((0..WRITES).map(async |i| {
                        let bytes = patterned(i, BLOCK);
                        assert_eq!(write(&handle, &file, 7, &bytes).await.unwrap(), LEN);
                    }));
                    within(all).await;
                    let appended = fs::read(&path).unwrap();
                    assert_eq!(appended.len(), WRITES as usize * BLOCK);
                    for (i, block) in (0..).zip(appended.chunks(BLOCK)) {
                        assert!(is_pattern(i, block), "{policy:?}: block {i}");
                    }
                    fs::remove_file(path).unwrap();
                    within(context.close()).await;
                }
            }
        });
    }
}

#[test]
fn with_the_blocking_pool_full_what_needs_it_waits_and_the_rest_goes_on() {
    if !on_kernel_aio() {
        return;
    }
    one_blocking_thread().block_on(async {
        for dir in everywhere() {
            let file = patterned_file(&dir, 4).await;
            let (context, handle) = context(4, SubmitPolicy::Offload);
            let busy = busy().await;
            let (mut first, mut second) = (buffer(BLOCK), buffer(BLOCK));
            let mut waits = Box::pin(read_block(&handle, &file, LEN, &mut first));
            assert!(poll!(waits.as_mut()).is_pending());
            yield_now().await;
            let metrics = handle.metrics();
            assert_eq!((metrics.waiting_for_thread, metrics.in_flight), (1, 1));
            assert_eq!(handle.available_slots(), Some(3), "it has its slot");

            file.set_submit_policy(Some(SubmitPolicy::Inline));
            within(read_block(&handle, &file, 2 * LEN, &mut second))
                .await
                .unwrap();
            assert!(is_pattern(2, second.as_ref()));
            assert!(poll!(waits.as_mut()).is_pending());

            drop(busy);
            assert_eq!(within(waits).await.unwrap(), LEN);
            assert!(is_pattern(1, first.as_ref()));
            is_idle(&handle, 4).await;
            within(context.close()).await;
        }
    });
}

/// As on a socket, for which the kernel waits inside the submission.
#[test]
fn a_submission_that_waits_for_long_holds_up_no_other_files_where_a_thread_is_free() {
    if !on_kernel_aio() {
        return;
    }
    let mut builder = runtime::Builder::new_current_thread();
    let runtime = builder.max_blocking_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let dir = on_disk();
        let file = patterned_file(&dir, 8).await;
        let builder = AioContextBuilder::new(8).submit_policy(SubmitPolicy::Offload);
        let (context, handle) = builder.blocking_threads(2).build().unwrap();
        let both = (busy().await, busy().await);
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
        until(|| waiting() == 8, waiting).await;
        drop(both); // now each takes a share
        for read in within(join_all(reads)).await {
            assert_eq!(read.unwrap(), LEN);
        }
        assert!(poll!(&mut stuck).is_pending());
        writer.write_all(b"word").unwrap();
        assert_eq!(within(stuck).await.unwrap(), 4);
        is_idle(&handle, 8).await;
        within(context.close()).await;
    });
}

#[test]
fn a_read_dropped_before_a_thread_takes_it_gives_back_slot_and_memory() {
    one_blocking_thread().block_on(async {
        let dir = on_disk();
        let file = patterned_file(&dir, 2).await;
        let (context, handle) = context(2, SubmitPolicy::Offload);
        let busy = busy().await;
        let mut bytes = patterned(7, BLOCK);
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
        within(context.close()).await;
        assert!(is_pattern(7, bytes.as_ref()));
    });
}

#[test]
fn a_read_dropped_between_its_attempt_and_the_pool_is_done() {
    if !on_kernel_aio() {
        return;
    }
    one_blocking_thread().block_on(async {
        for dir in everywhere() {
            let file = patterned_file(&dir, 2).await;
            let (context, handle) = context(2, SubmitPolicy::NoWaitFirst);
            let busy = busy().await;
            // A dirty page is in the way of an attempt, which the kernel takes and then refuses.
            let cached = OpenOptions::new()
                .write(true)
                .open(dir.path().join("blocks"));
            cached
                .unwrap()
                .write_all_at(patterned(0, BLOCK).as_ref(), 0)
                .unwrap();
            let mut bytes = buffer(BLOCK);
            {
                let mut read = pin!(read_block(&handle, &file, 0, &mut bytes));
                let _ = poll!(read.as_mut());
                let at_rest = || {
                    let metrics = handle.metrics();
                    metrics.waiting_for_thread == 1 || metrics.completed == 1
                };
                until(at_rest, || handle.metrics()).await;
                if handle.metrics().nowait_refusals == 0 {
                    eprintln!("skipped: this file system reads past a dirty page without waiting");
                }
            }
            drop(busy);
            is_idle(&handle, 2).await;
            within(context.close()).await;
        }
    });
}

#[test]
fn a_write_dropped_before_a_thread_takes_it_lands() {
    one_blocking_thread().block_on(async {
        for dir in everywhere() {
            for form in 0..3 {
                let file = patterned_file(&dir, 2).await;
                let (context, handle) = context(2, SubmitPolicy::Offload);
                let busy = busy().await;
                let mut bytes = patterned(9, BLOCK);
                let flags = WriteFlags::empty();
                let parts = [bytes.part(..2048), bytes.part(2048..)];
                let waits = match form {
                    0 => write(&handle, &file, 1, &bytes).now_or_never().is_none(),
                    1 => {
                        let write = file.write_vectored_at(&handle, LEN, &parts, flags);
                        write.now_or_never().is_none()
                    }
                    _ => {
                        let owned = patterned(9, BLOCK).into_slice(..);
                        let write = file.write_owned_at(&handle, LEN, owned, flags);
                        write.now_or_never().is_none()
                    }
                };
                assert!(waits);
                bytes.as_mut().fill(0);
                assert_eq!(handle.available_slots(), Some(1), "form {form}");
                drop(busy);
                within(context.close()).await;
                let written = fs::read(dir.path().join("blocks")).unwrap();
                assert!(is_pattern(9, &written[BLOCK..]), "as it was submitted");
            }
        }
    });
}

#[test]
fn an_append_of_nothing_dropped_before_a_thread_takes_it_leaves_the_turn_to_the_next() {
    one_blocking_thread().block_on(async {
        let dir = on_disk();
        let file = patterned_file(&dir, 1).await;
        let (context, handle) = context(4, SubmitPolicy::Offload);
        let mut empty = buffer(BLOCK);
        let mut forgotten = Box::pin(read_block(&handle, &file, 0, &mut empty));
        assert!(poll!(forgotten.as_mut()).is_pending());
        std::mem::forget(forgotten);
        assert_eq!(empty.size(), 0, "it has no memory to be kept");
        is_idle(&handle, 4).await;

        let busy = busy().await;
        let bytes = patterned(7, BLOCK);
        let mut first = Box::pin(append(&handle, &file, &empty));
        assert!(poll!(first.as_mut()).is_pending());
        let mut second = Box::pin(append(&handle, &file, &bytes));
        assert!(poll!(second.as_mut()).is_pending());
        drop(first);
        drop(busy);
        assert_eq!(within(second).await, LEN);
        is_idle(&handle, 4).await;
        within(context.close()).await;
        let written = fs::read(dir.path().join("blocks")).unwrap();
        assert!(is_pattern(7, &written[BLOCK..]));
    });
}

#[test]
fn slots_are_taken_by_what_waits_for_a_thread() {
    one_blocking_thread().block_on(async {
        let dir = on_disk();
        let file = patterned_file(&dir, 2).await;
        let (context, handle) = AioContextBuilder::new(1)
            .wait_for_slot(false)
            .submit_policy(SubmitPolicy::Offload)
            .build()
            .unwrap();
        let busy = busy().await;
        let (mut first, mut second) = (buffer(BLOCK), buffer(BLOCK));
        let mut waits = Box::pin(read_block(&handle, &file, LEN, &mut first));
        assert!(poll!(waits.as_mut()).is_pending());
        let full = within(read_block(&handle, &file, 0, &mut second)).await;
        assert!(
            matches!(full, Err(AioCommandError::CapacityExceeded)),
            "{full:?}"
        );
        drop(busy);
        within(waits).await.unwrap();
        assert_eq!(handle.metrics().found_full, 1);
        within(read_block(&handle, &file, 0, &mut second))
            .await
            .unwrap();
        within(context.close()).await;
    });
}

#[test]
fn a_runtime_that_ends_with_requests_in_the_pool_ends_them_all() {
    if !in_child("a_runtime_that_ends_with_requests_in_the_pool_ends_them_all") {
        return;
    }
    let dir = on_disk();
    for round in 0..20 {
        let runtime = one_blocking_thread();
        let (handle, file, release) = runtime.block_on(async {
            let file = Arc::new(patterned_file(&dir, 8).await);
            let (context, handle) = context(8, SubmitPolicy::Offload);
            let Busy(release) = busy().await;
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
        let stopped = one_thread().block_on(within(read_block(&handle, &file, 0, &mut bytes)));
        assert!(
            matches!(stopped, Err(AioCommandError::AioStopped)),
            "{stopped:?}"
        );
    }
    one_thread().block_on(until(|| rings() == 0, rings));
}

#[test]
fn closing_waits_for_what_is_in_the_pool() {
    one_blocking_thread().block_on(async {
        for dir in everywhere() {
            let file = patterned_file(&dir, 8).await;
            let (context, handle) = context(8, SubmitPolicy::Offload);
            let busy = busy().await;
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
            within(closing).await;
            for (i, read) in (0..).zip(reads) {
                assert_eq!(within(read).await.unwrap(), LEN, "read {i}");
            }
        }
    });
}

#[test]
fn a_context_that_stays_on_its_thread_offloads_too() {
    one_thread().block_on(LocalSet::new().run_until(async {
        for dir in everywhere() {
            for policy in POLICIES {
                let (context, handle, background) = AioContextBuilder::new(4)
                    .submit_policy(policy)
                    .build_local()
                    .unwrap();
                spawn_local(background);
                let file = open_rw(&dir, &format!("{policy:?}")).await;
                let all = join_all((0..32).map(async |i| {
                    let mut bytes = patterned(i, BLOCK);
                    let flags = WriteFlags::empty();
                    let written = file.write_at(&handle, i * LEN, &bytes, LEN, flags).await;
                    assert_eq!(written.unwrap(), LEN);
                    let flags = ReadFlags::empty();
                    let read = file.read_at(&handle, i * LEN, &mut bytes, LEN, flags).await;
                    assert_eq!(read.unwrap(), LEN);
                    assert!(is_pattern(i, bytes.as_ref()), "{policy:?}");
                }));
                within(all).await;
                // What the kernel does not take comes back, too.
                let unknown = ReadFlags::from_bits_retain(1 << 30);
                let mut bytes = buffer(BLOCK);
                let refused = file.read_at(&handle, 0, &mut bytes, LEN, unknown);
                within(refused).await.unwrap_err();
                let metrics = handle.metrics();
                assert_eq!((metrics.completed, metrics.failed), (64, 1), "{policy:?}");
                within(context.close()).await;
            }
        }
    }));
}

#[test]
fn shards_share_out_the_threads() {
    two_workers().block_on(async {
        let dir = on_disk();
        let (context, handle) = AioContextBuilder::new(32)
            .shards(2)
            .blocking_threads(1)
            .submit_policy(SubmitPolicy::Offload)
            .build()
            .unwrap();
        let file = patterned_file(&dir, 64).await;
        read_in_tasks(&handle, file, 64).await;
        assert_eq!(handle.metrics().offloads, 64);
        is_idle(&handle, 32).await;
        within(context.close()).await;
    });
}

/// Drops a future after a while, if it is not done.
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

fn storm_of_tasks(runtime: &Runtime, dir: &TempDir) {
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
                let (mut target, source) = (buffer(BLOCK), patterned(task, BLOCK));
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
                                assert!(is_pattern(block, bytes) || is_pattern(task, bytes));
                            }
                        }
                        2 => {
                            let written = write(&handle, &file, block, &source);
                            if let Some(written) = given_up(written, polls).await {
                                assert_eq!(written.unwrap(), LEN);
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
        within(tasks.join_all()).await;
        is_idle(&handle, SLOTS).await;
        within(context.close()).await;
    });
}

#[test]
fn policies_that_change_under_requests_that_are_given_up_lose_nothing() {
    for dir in everywhere() {
        storm_of_tasks(&one_thread(), &dir);
        storm_of_tasks(&two_workers(), &dir);
    }
}
