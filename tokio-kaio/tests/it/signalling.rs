//! After many inline completions, requests are submitted without an eventfd. A request that does
//! not complete inline after all must still complete.

use crate::common::*;
use tokio::time::timeout;
use tokio_kaio::{AioContextHandle, File, ReadFlags, aio_context};

async fn read(handle: &AioContextHandle, file: &File, block: u64) {
    let mut target = buffer(BLOCK);
    let offset = block * BLOCK as u64;
    let read = file.read_at(
        handle,
        offset,
        &mut target,
        BLOCK as u64,
        ReadFlags::empty(),
    );
    assert_eq!(
        timeout(HANG, read).await.expect("hangs").unwrap(),
        BLOCK as u64
    );
    assert!(is_pattern(block, target.as_ref()));
}

/// Reads block 0 again and again.
async fn many_at_once(handle: &AioContextHandle, file: &File, reads: usize) {
    let mut target = buffer(BLOCK);
    for _ in 0..reads {
        let read = file.read_at(handle, 0, &mut target, BLOCK as u64, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), BLOCK as u64);
    }
}

async fn slow_after_fast() {
    let (Some(fast_dir), slow_dir) = (tmpfs_dir(), disk_dir()) else {
        return;
    };
    write_patterned(&fast_dir.path().join("fast"), 16);
    write_patterned(&slow_dir.path().join("slow"), 16);
    let (context, handle) = aio_context(64, true).unwrap();
    let fast = open_rw(&fast_dir, "fast").await;
    let slow = open_rw(&slow_dir, "slow").await;
    for (round, fast_ones) in [FAST_REQUESTS, 100, 4 * FAST_REQUESTS, 100]
        .into_iter()
        .enumerate()
    {
        many_at_once(&handle, &fast, fast_ones).await;
        let round = round as u64;
        read(&handle, &slow, round % 16).await;
        let together = (0..16).map(|i| read(&handle, if i < 8 { &fast } else { &slow }, i));
        futures::future::join_all(together).await;
    }
    assert_eq!(handle.available_slots(), Some(64));
    timeout(HANG, context.close()).await.expect("close hangs");
}

#[tokio::test]
async fn a_slow_request_after_many_inline_ones_completes_on_one_thread() {
    slow_after_fast().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_after_many_inline_ones_completes_on_two_threads() {
    slow_after_fast().await;
}

#[test]
fn a_slow_request_after_many_inline_ones_completes_without_a_timer() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let (Some(fast_dir), slow_dir) = (tmpfs_dir(), disk_dir()) else {
        return;
    };
    write_patterned(&fast_dir.path().join("fast"), 1);
    write_patterned(&slow_dir.path().join("slow"), 1);
    runtime.block_on(async {
        let (context, handle) = aio_context(4, true).unwrap();
        let fast = open_rw(&fast_dir, "fast").await;
        let slow = open_rw(&slow_dir, "slow").await;
        let mut target = buffer(BLOCK);
        for file in std::iter::repeat_n(&fast, FAST_REQUESTS).chain([&slow, &fast, &slow]) {
            let read = file.read_at(&handle, 0, &mut target, BLOCK as u64, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), BLOCK as u64);
        }
        context.close().await;
    });
}
