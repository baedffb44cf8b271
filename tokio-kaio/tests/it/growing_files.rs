//! Writes that extend a file together: the offload pool merges those that are adjacent.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::common::*;
use futures::future::join_all;
use tokio_kaio::{AioContextBuilder, AioContextHandle, Backend, File, SubmitPolicy, WriteFlags};

/// Writes blocks `range` of `file` at once, each with its pattern.
async fn extend(
    handle: &AioContextHandle,
    file: &File,
    range: std::ops::Range<u64>,
    flags: WriteFlags,
) {
    let writes = range.map(async |block| {
        let bytes = patterned_buffer(block, BLOCK);
        let written = file.write_at(handle, block * LEN, &bytes, LEN, flags);
        assert_eq!(written.await.unwrap(), LEN, "block {block}");
    });
    with_hang_guard(join_all(writes)).await;
}

/// The backends of this build, and io_uring where it is available.
fn backends() -> Vec<Backend> {
    let mut backends = BACKENDS.to_vec();
    if !backends.contains(&Backend::IoUring) {
        let made = AioContextBuilder::new(1).backend(Backend::IoUring);
        match current_thread().block_on(async { made.build().map(drop) }) {
            Ok(()) if BACKENDS.len() > 1 => backends.push(Backend::IoUring),
            Ok(()) => {}
            Err(error) => eprintln!("skipped for io_uring: {error}"),
        }
    }
    backends
}

#[test]
fn writes_that_extend_a_file_together_are_all_in_the_file() {
    const ROUND: u64 = 48;
    let modes = backends().into_iter().flat_map(|backend| {
        [SubmitPolicy::NoWaitFirst, SubmitPolicy::Offload].map(|policy| (backend, policy))
    });
    Fixture::new(32)
        .every_dir()
        .every_runtime()
        .modes(modes)
        .run(async |case| {
            let durable = [WriteFlags::empty(), WriteFlags::DSYNC];
            for (round, flags) in durable.into_iter().cycle().take(6).enumerate() {
                let first = round as u64 * ROUND;
                extend(&case.handle, &case.file, first..first + ROUND, flags).await;
            }
            let bytes = fs::read(&case.path).unwrap();
            assert_eq!(bytes.len() as u64, 6 * ROUND * LEN);
            for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
                assert!(is_pattern(block as u64, bytes), "block {block}");
            }
            let metrics = case.handle.metrics();
            let expected = 6 * ROUND;
            assert_eq!((metrics.completed, metrics.failed), (expected, 0));
            assert_eq!(metrics.submitted, expected);
        });
}

#[test]
#[cfg_attr(kaio_plain_policy, ignore = "needs merged writes; Plain offloads none")]
fn where_extending_a_file_blocks_adjacent_writes_share_a_system_call() {
    const ROUND: u64 = 32;
    for backend in backends() {
        if backend == Backend::ThreadPool {
            continue; // performs each request by itself
        }
        let mode = (backend, SubmitPolicy::NoWaitFirst);
        Fixture::new(32).modes([mode]).run(async |case| {
            let mut first = 0;
            // The first rounds show that extending the file blocks. How many writes a thread finds waiting
            // depends on the scheduler.
            for _ in 0..100 {
                let before = case.handle.metrics();
                let range = first..first + ROUND;
                extend(&case.handle, &case.file, range, WriteFlags::empty()).await;
                first += ROUND;
                let since = case.handle.metrics().since(&before);
                if since.offloads == 0 && first > 10 * ROUND {
                    return eprintln!("skipped: extending a file does not block here");
                }
                if since.batches < ROUND / 2 && since.offloads >= ROUND / 2 {
                    return;
                }
            }
            panic!("no calls with several writes: {:?}", case.handle.metrics());
        });
    }
}

#[test]
fn writes_that_are_dropped_while_others_extend_the_file_leave_it_whole() {
    let modes = backends()
        .into_iter()
        .map(|backend| (backend, SubmitPolicy::NoWaitFirst));
    Fixture::new(16)
        .every_runtime()
        .modes(modes)
        .run(async |case| {
            for round in 0..40 {
                let first = round * 16;
                let write = async |block: u64| {
                    let bytes = patterned_buffer(block, BLOCK);
                    let none = WriteFlags::empty();
                    let written = case
                        .file
                        .write_at(&case.handle, block * LEN, &bytes, LEN, none);
                    assert_eq!(written.await.unwrap(), LEN);
                };
                let kept = join_all((first..first + 16).step_by(2).map(write));
                let dropped = join_all((first + 1..first + 16).step_by(2).map(write));
                with_hang_guard(async {
                    tokio::select! {
                        _ = kept => {}
                        () = async { dropped.await; std::future::pending().await } => {}
                    }
                })
                .await;
            }
            let file = fs::File::open(&case.path).unwrap();
            for block in (0..640).step_by(2) {
                let mut bytes = vec![0; BLOCK];
                file.read_exact_at(&mut bytes, block * LEN).unwrap();
                assert!(is_pattern(block, &bytes), "block {block}");
            }
            // The abandoned ones are done when nothing is in flight any more.
            let in_flight = || case.handle.metrics().in_flight;
            wait_until(|| in_flight() == 0, in_flight).await;
        });
}
