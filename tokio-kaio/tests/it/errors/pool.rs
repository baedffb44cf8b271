//! A blocking pool that has no thread to give.

use std::os::unix::fs::OpenOptionsExt;

use crate::common::{context_by, one_blocking_thread, ways};
use tokio_kaio::{AioContextBuilder, Backend, SubmitPolicy};

use super::*;

/// From now on, until it is taken back, this process gets no further thread. `false`, and a line
/// that says so, where it does.
fn forbid_threads() -> bool {
    if !obey_limits() {
        return false;
    }
    limit(libc::RLIMIT_NPROC, 0);
    let spawned = std::thread::Builder::new().spawn(|| ());
    let forbidden = spawned.is_err();
    if !forbidden {
        eprintln!("skipped: threads can be made in spite of RLIMIT_NPROC");
    }
    forbidden
}

fn allow_threads() {
    limit(libc::RLIMIT_NPROC, 1024);
}

#[test]
fn where_no_thread_is_to_be_had_requests_of_the_pool_are_eagain_alone() {
    if !in_child!() {
        return;
    }
    let dir = crate::common::on_disk();
    crate::common::write_patterned(&dir.path().join("data"), 8);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(dir.path().join("data"))
        .unwrap();
    for &backend in crate::common::BACKENDS {
        if !forbid_threads() {
            return;
        }
        // A runtime whose pool has no thread yet.
        run(async {
            let before = held();
            let (context, handle) = AioContextBuilder::new(4)
                .backend(backend)
                .submit_policy(SubmitPolicy::Offload)
                .build()
                .unwrap();
            for _wave in 0..3 {
                let reads = join_all((0..8).map(async |block| {
                    let mut bytes = patterned(99, BLOCK);
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
                within(reads).await;
                crate::common::is_idle(&handle, 4).await;
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
                within(handle.submit_request(&file, command)).await.unwrap(),
                LEN
            );
            assert!(is_pattern(1, bytes.as_ref()));
            within(context.close()).await;
            assert!(
                crate::common::is_back(before),
                "{before:?}, then {:?}",
                held()
            );
        });
    }
}

/// Ways on which every transfer takes a thread of the pool.
fn ways_of_the_pool() -> impl Iterator<Item = crate::common::Way> {
    ways().filter(|way| way.0 == Backend::ThreadPool || way.1 == SubmitPolicy::Offload)
}

#[test]
fn where_the_only_thread_is_busy_requests_wait_for_it_and_are_served() {
    one_blocking_thread().block_on(async {
        let dir = crate::common::on_disk();
        let file = crate::common::patterned_file(&dir, 8).await;
        for way in ways_of_the_pool() {
            let (context, handle) = context_by(way, 4);
            tokio::task::yield_now().await; // the driver has run
            let busy = crate::common::busy().await;
            let reads = join_all((0..8).map(|block| read_is_served(&handle, &file, block)));
            let mut reads = pin!(reads);
            for _ in 0..100 {
                assert!(poll!(reads.as_mut()).is_pending());
                tokio::task::yield_now().await; // which other tasks do meanwhile
            }
            let metrics = handle.metrics();
            assert_eq!(metrics.waiting_for_thread, 4, "{way:?}");
            assert_eq!((metrics.in_flight, metrics.queued), (4, 4), "{way:?}");
            assert_eq!((metrics.submitted, metrics.failed), (0, 0), "{way:?}");
            drop(busy);
            within(reads).await;
            crate::common::is_idle(&handle, 4).await;
            assert_eq!(handle.metrics().completed, 8, "{way:?}");
            within(context.close()).await;
        }
    });
}

#[test]
fn what_waits_for_a_thread_is_stopped_when_its_runtime_shuts_down() {
    if !in_child!() {
        return;
    }
    let dir = crate::common::on_disk();
    drop(one_blocking_thread()); // the first one makes what all of a process share
    let before = held();
    for way in ways_of_the_pool() {
        let home = one_blocking_thread();
        let (context, handle, file, busy) = home.block_on(async {
            let file = crate::common::patterned_file(&dir, 8).await;
            let (context, handle) = context_by(way, 4);
            (context, handle, file, crate::common::busy().await)
        });
        let mut targets: Vec<_> = (0..8).map(|_| patterned(99, BLOCK)).collect();
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
                "{way:?}: {stopped:?}"
            );
        }
        drop(busy);
        assert_eq!(handle.available_slots(), None);
        drop((context, handle, file));
        crate::common::until_here(|| held() == before, held);
        assert!(targets.iter().all(|bytes| bytes.size() == BLOCK));
    }
}
