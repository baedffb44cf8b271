//! A blocking pool without a free thread.

use std::os::unix::fs::OpenOptionsExt;

use tokio_kaio::{AioContextBuilder, Backend, SubmitPolicy};

use super::*;

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs requests that wait for a blocking thread; Plain offloads none, io_uring only merged writes"
)]
fn offloaded_requests_are_eagain_when_no_thread_can_be_started() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), 8);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(dir.path().join("data"))
        .unwrap();
    for &backend in BACKENDS {
        if !forbid_threads() {
            return;
        }
        // A runtime whose pool has no thread yet.
        run(async {
            let before = open_resources();
            let (context, handle) = AioContextBuilder::new(4)
                .backend(backend)
                .submit_policy(SubmitPolicy::Offload)
                .build()
                .unwrap();
            for _wave in 0..3 {
                let reads = join_all((0..8).map(async |block| {
                    let mut bytes = patterned_buffer(99, BLOCK);
                    let command = RawCommand::Pread {
                        offset: block * LEN,
                        buffer: &mut bytes,
                        flags: ReadFlags::empty(),
                        len: LEN,
                    };
                    let refused = handle.submit_request(&file, command).await;
                    assert!(is_pattern(99, bytes.as_ref()), "the buffer is as it was");
                    let text = refused.as_ref().unwrap_err().to_string();
                    assert!(text.contains("no thread"), "{text}");
                    assert_eq!(submit_errno(refused), Some(libc::EAGAIN));
                }));
                with_hang_guard(reads).await;
                assert_idle(&handle, 4).await;
            }
            assert_eq!(handle.metrics().failed, 24);
            allow_threads();
            let mut bytes = buffer(BLOCK);
            let command = RawCommand::Pread {
                offset: LEN,
                buffer: &mut bytes,
                flags: ReadFlags::empty(),
                len: LEN,
            };
            assert_eq!(
                with_hang_guard(handle.submit_request(&file, command))
                    .await
                    .unwrap(),
                LEN
            );
            assert!(is_pattern(1, bytes.as_ref()));
            with_hang_guard(context.close()).await;
            // A thread that has freed a slot closes its descriptor a moment later.
            let state = || (before, open_resources());
            wait_until(|| is_released(before), state).await;
        });
    }
}

/// Modes in which every transfer takes a thread of the pool.
fn ways_of_the_pool() -> impl Iterator<Item = Mode> {
    modes().filter(|mode| {
        let policy_counts = mode.0 != Backend::IoUring && !cfg!(kaio_plain_policy);
        mode.0 == Backend::ThreadPool || (policy_counts && mode.1 == SubmitPolicy::Offload)
    })
}

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs requests that wait for a blocking thread; Plain offloads none, io_uring only merged writes"
)]
fn offloaded_requests_wait_for_an_occupied_thread() {
    one_blocking_thread().block_on(async {
        let dir = disk_dir();
        let file = patterned_file(&dir, 8).await;
        for mode in ways_of_the_pool() {
            let (context, handle) = context_in(mode, 4);
            tokio::task::yield_now().await; // the driver has run
            let busy = occupy_blocking_thread().await;
            let reads = join_all((0..8).map(|block| read_is_served(&handle, &file, block)));
            let mut reads = pin!(reads);
            for _ in 0..100 {
                assert!(poll!(reads.as_mut()).is_pending());
                tokio::task::yield_now().await; // which other tasks do meanwhile
            }
            let metrics = handle.metrics();
            assert_eq!(metrics.waiting_for_thread, 4, "{mode:?}");
            assert_eq!((metrics.in_flight, metrics.queued), (4, 4), "{mode:?}");
            assert_eq!((metrics.submitted, metrics.failed), (0, 0), "{mode:?}");
            drop(busy);
            with_hang_guard(reads).await;
            assert_idle(&handle, 4).await;
            assert_eq!(handle.metrics().completed, 8, "{mode:?}");
            with_hang_guard(context.close()).await;
        }
    });
}

#[test]
fn requests_waiting_for_a_thread_are_stopped_when_the_runtime_shuts_down() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    drop(one_blocking_thread()); // the first one makes what all of a process share
    let before = open_resources();
    for mode in ways_of_the_pool() {
        let home = one_blocking_thread();
        let (context, handle, file, busy) = home.block_on(async {
            let file = patterned_file(&dir, 8).await;
            let (context, handle) = context_in(mode, 4);
            (context, handle, file, occupy_blocking_thread().await)
        });
        let mut targets: Vec<_> = (0..8).map(|_| patterned_buffer(99, BLOCK)).collect();
        let stopped = {
            let reads = (0..).zip(&mut targets);
            let reads = reads.map(|(block, bytes)| read(&handle, &file, block, bytes));
            let mut reads = Box::pin(join_all(reads));
            home.block_on(async {
                assert!(poll!(reads.as_mut()).is_pending());
                tokio::task::yield_now().await;
            });
            home.shutdown_background();
            run(reads)
        };
        for stopped in stopped {
            assert!(
                matches!(stopped, Err(AioCommandError::AioStopped)),
                "{mode:?}: {stopped:?}"
            );
        }
        drop(busy);
        assert_eq!(handle.available_slots(), None);
        drop((context, handle, file));
        block_until(|| open_resources() == before, open_resources);
        assert!(targets.iter().all(|bytes| bytes.size() == BLOCK));
    }
}
