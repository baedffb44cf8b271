//! `SizeClassPool`: buffers of many sizes under one limit. Waiters get buffers in FIFO order, whatever their
//! sizes. A buffer returns when no task, no `Bytes` and no request has it any more.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::*;
use crate::interposer::Gate;
use futures::poll;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::{JoinSet, yield_now};
use tokio_kaio::{
    AioContextBuilder, AlignedBuf, LockedBufError, SizeClassPool, SizeClassPoolBuilder,
    local_aio_context,
};

fn pool(limit: usize) -> SizeClassPool {
    SizeClassPool::new(limit).unwrap()
}

fn error_text(result: Result<AlignedBuf, LockedBufError>) -> String {
    match result {
        Err(error @ LockedBufError::MapAnon(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

// ---- The memory -------------------------------------------------------------------------------

#[test]
fn a_block_is_the_next_power_of_two_and_large_ones_are_divided_in_eighths() {
    let pool = pool(16 << 20);
    for (len, block) in [
        (1, 4096),
        (4097, 8192),
        (20 << 10, 32 << 10),
        (33 << 10, 40 << 10),
        ((64 << 10) + 1, 80 << 10),
        ((1 << 20) + 4096, (1 << 20) + (256 << 10)),
        (4 << 20, 4 << 20),
    ] {
        let buffer = pool.try_get(len).unwrap();
        assert_eq!(buffer.size(), len);
        assert_eq!(buffer.as_ptr().addr() % 4096, 0);
        let stats = pool.stats();
        assert_eq!((stats.in_use, stats.buffers), (block, 1), "{len}");
        assert_eq!(stats.in_use + stats.available, stats.limit);
    }
    assert_eq!(pool.available(), pool.limit());
}

#[test]
fn a_limit_that_is_no_power_of_two_is_used_whole() {
    let pool = pool((28 << 10) + 100);
    assert_eq!((pool.limit(), pool.max_buffer_size()), (28 << 10, 16 << 10));
    let sizes = [16 << 10, 8 << 10, 4 << 10];
    let buffers = sizes.map(|size| pool.try_get(size).unwrap());
    assert_eq!(pool.available(), 0);
    drop(buffers);
    assert!(pool.try_get(16 << 10).is_some());
}

#[test]
fn impossible_pools_and_buffers_are_errors() {
    for limit in [0, 4095, usize::MAX] {
        let made = SizeClassPool::new(limit);
        assert!(matches!(made, Err(LockedBufError::MapAnon(_))), "{limit}");
    }
    catch_unwind(|| SizeClassPoolBuilder::new(1).alignment(3)).unwrap_err();
    current_thread().block_on(async {
        let pool = pool(8192);
        for len in [0, 8193, usize::MAX] {
            assert!(pool.try_get(len).is_none());
            let text = error_text(pool.get(len).await);
            assert!(
                text.contains(if len == 0 { "at least 1" } else { "get_or_map" }),
                "{text}"
            );
        }
        error_text(pool.get_or_map(0));
        error_text(pool.get_or_map(usize::MAX));
    });
}

#[test]
fn small_and_aligned_memory_on_huge_and_populated_pages() {
    for alignment in [1, 512, 4096, 1 << 16] {
        for (huge, populate) in [(false, true), (true, false), (true, true)] {
            let builder = SizeClassPoolBuilder::new(4 << 20).alignment(alignment);
            let pool = builder.huge_pages(huge).populate(populate).build().unwrap();
            let smallest = pool.try_get(1).unwrap();
            assert_eq!(pool.stats().in_use, alignment.max(512));
            assert_eq!(smallest.as_ptr().addr() % alignment, 0);
            let largest = pool.try_get(2 << 20).unwrap();
            assert!(largest.iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn a_populated_pool_is_resident_from_the_start() {
    if !in_child!() {
        return;
    }
    // Counted page by page: the counters of `statm` lag behind. Only memory that the kernel can't discard, as it
    // can the pages of the program's file; it can swap that memory out.
    let resident = || {
        let smaps = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let kilobytes = |line: &str| {
            let (name, size) = line.split_once(':')?;
            let counts = matches!(name, "Anonymous" | "Swap");
            counts.then(|| {
                size.trim()
                    .trim_end_matches(" kB")
                    .parse::<usize>()
                    .unwrap()
            })
        };
        smaps.lines().filter_map(kilobytes).sum::<usize>() << 10
    };
    let before = resident();
    let lazy = pool(64 << 20);
    assert!(resident() - before < 32 << 20);
    let populated = SizeClassPoolBuilder::new(64 << 20)
        .populate(true)
        .build()
        .unwrap();
    assert!(resident() - before >= 64 << 20);
    drop((lazy, populated));
}

#[test]
fn a_locked_pool_beyond_the_memlock_limit_is_an_error() {
    if !in_child!() || !drop_root() {
        return;
    }
    set_limit(libc::RLIMIT_MEMLOCK, 64 << 10);
    let locked = |limit| SizeClassPoolBuilder::new(limit).locked(true).build();
    assert!(matches!(locked(1 << 20), Err(LockedBufError::MemLock(_))));
    let pool = locked(64 << 10).unwrap();
    assert!(pool.try_get(64 << 10).unwrap().is_locked());
    let whole = pool.try_get(64 << 10);
    assert!(matches!(
        pool.get_or_map(1),
        Err(LockedBufError::MemLock(_))
    ));
    drop(whole);
}

#[test]
fn mapped_buffers_do_not_return_to_the_pool() {
    let pool = pool(8192);
    let first = pool.get_or_map(8192).unwrap();
    let mapped = [
        pool.get_or_map(1).unwrap(),
        pool.get_or_map(1 << 20).unwrap(),
    ];
    let stats = pool.stats();
    assert_eq!(
        (stats.taken, stats.mapped_afresh, stats.in_use),
        (1, 2, 8192)
    );
    assert!(
        mapped
            .iter()
            .all(|buffer| buffer.iter().all(|&byte| byte == 0))
    );
    drop(mapped);
    assert_eq!(pool.available(), 0);
    drop(first);
    assert_eq!(pool.available(), 8192);
}

// ---- Who gets them ----------------------------------------------------------------------------

#[tokio::test]
async fn waiters_get_buffers_in_fifo_order_whatever_their_sizes() {
    let pool = pool(64 << 10);
    let mut small: Vec<_> = (0..16).map(|_| pool.try_get(4096).unwrap()).collect();
    let mut large = Box::pin(pool.get(64 << 10));
    let mut after = Box::pin(pool.get(4096));
    assert!(poll!(large.as_mut()).is_pending() && poll!(after.as_mut()).is_pending());
    while small.len() > 1 {
        small.pop();
        // There is room for small ones, but nobody overtakes.
        assert!(poll!(large.as_mut()).is_pending() && poll!(after.as_mut()).is_pending());
        assert!(pool.try_get(4096).is_none());
        assert_eq!(pool.get_or_map(4096).unwrap().size(), 4096);
    }
    drop(small);
    assert!(poll!(after.as_mut()).is_pending());
    drop(with_hang_guard(large).await.unwrap());
    with_hang_guard(after).await.unwrap();
    assert_eq!((pool.stats().waiting, pool.available()), (0, 64 << 10));
}

#[tokio::test]
async fn a_dropped_waiter_leaves_its_place_to_the_next() {
    let pool = pool(4096);
    let taken = pool.get(1).await.unwrap();
    let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(pool.get(4096))).collect();
    for get in &mut waiting {
        assert!(poll!(get).is_pending());
    }
    assert_eq!(pool.stats().waiting, 4);
    drop(waiting.remove(0));
    drop(taken);
    // The waiter that was woken is dropped before it is polled.
    drop(waiting.remove(0));
    let got = with_hang_guard(waiting.remove(0)).await.unwrap();
    drop(waiting);
    drop(got);
    drop(pool.get(1)); // never polled
    assert!(pool.try_get(4096).is_some());
}

#[test]
fn many_tasks_never_share_memory_or_exceed_the_limit() {
    const LIMIT: usize = 64 << 10;
    multi_thread().block_on(async {
        let pool = pool(LIMIT);
        let out = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for task in 0..32_u64 {
            let (pool, out) = (pool.clone(), Arc::clone(&out));
            tasks.spawn(async move {
                let mut random = StdRng::seed_from_u64(task);
                for round in 0..60 {
                    let class = LIMIT >> random.random_range(0..5);
                    let len = random.random_range(1..=class);
                    let mut buffer = match round % 3 {
                        0 => match pool.try_get(len) {
                            Some(buffer) => buffer,
                            None => continue,
                        },
                        _ => pool.get(len).await.unwrap(),
                    };
                    assert!(out.fetch_add(len, Ordering::SeqCst) + len <= LIMIT);
                    let byte = random.random();
                    buffer.fill(byte);
                    yield_now().await;
                    assert!(buffer.iter().all(|&it| it == byte), "somebody else has it");
                    out.fetch_sub(len, Ordering::SeqCst);
                    drop(buffer);
                    if round % 7 == 0 {
                        let mut given_up = Box::pin(pool.get(len));
                        let _ = poll!(given_up.as_mut());
                    }
                }
            });
        }
        with_hang_guard(tasks.join_all()).await;
        assert_eq!((pool.available(), pool.stats().waiting), (LIMIT, 0));
        assert!(pool.try_get(LIMIT).is_some(), "all blocks are merged again");
    });
}

// ---- When they come back ----------------------------------------------------------------------

#[test]
fn the_buffer_of_a_dropped_read_returns_after_its_completion() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .blocks(1)
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let pool = pool(BLOCK);
            let gate = Gate::closed();
            let mut buffer = pool.get(BLOCK).await.unwrap();
            let old = buffer.as_ptr();
            let mut read = Box::pin(read_block(&handle, &file, gate.offset(), &mut buffer));
            while gate.waiting().is_empty() {
                assert!(poll!(read.as_mut()).is_pending());
                yield_now().await;
            }
            drop(read);
            assert!(buffer.size() == BLOCK && buffer.as_ptr() != old);
            drop(buffer);
            assert_eq!(pool.available(), 0, "{mode:?}: the kernel has it");
            let mut waiting = Box::pin(pool.get(BLOCK));
            assert!(poll!(waiting.as_mut()).is_pending());
            gate.open();
            let buffer = waiting.await.unwrap();
            assert_eq!(buffer.as_ptr(), old, "{mode:?}");
            drop(buffer);
            assert_eq!(pool.available(), BLOCK);
        });
}

// ---- The pool of a handle ---------------------------------------------------------------------

#[tokio::test]
async fn a_context_has_a_pool_that_its_handles_share() {
    let (context, handle) = tokio_kaio::aio_context(8, true).unwrap();
    assert_eq!(handle.buffers().limit(), 64 << 20);
    let buffer = handle.buffers().get(1 << 20).await.unwrap();
    let derived = handle.with_timeout(std::time::Duration::from_secs(1));
    assert_eq!(derived.buffers().stats().in_use, 1 << 20);

    let own = pool(8192);
    let with_own = derived.with_buffers(&own);
    let small = with_own.clone().buffers().try_get(8192).unwrap();
    assert_eq!((own.available(), handle.buffers().stats().buffers), (0, 1));
    with_hang_guard(context.close()).await;
    drop((small, buffer));
    assert_eq!(handle.buffers().stats().in_use, 0);

    let builder = AioContextBuilder::new(8).buffers(&own);
    let contexts = [builder.clone().build().unwrap(), builder.build().unwrap()];
    for (context, handle) in contexts {
        assert_eq!(handle.buffers().limit(), 8192);
        with_hang_guard(context.close()).await;
    }
    let (_context, handle, _background) = local_aio_context(8, true).unwrap();
    let local = handle.with_buffers(&own);
    assert_eq!(
        (handle.buffers().limit(), local.buffers().limit()),
        (64 << 20, 8192)
    );
}

#[test]
fn without_address_space_for_the_pool_every_buffer_is_mapped() {
    if !in_child!() {
        return;
    }
    current_thread().block_on(async {
        let (_context, handle) = tokio_kaio::aio_context(8, true).unwrap();
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        set_limit(libc::RLIMIT_AS, pages * LEN + (16 << 20));
        assert!(handle.buffers().try_get(4096).is_none());
        let error = handle.buffers().get(4096).await.unwrap_err();
        assert!(matches!(error, LockedBufError::MapAnon(_)), "{error:?}");
        assert_eq!(handle.buffers().get_or_map(4096).unwrap().size(), 4096);
        assert_eq!(handle.buffers().stats().mapped_afresh, 1);
    });
}

// ---- Forked children --------------------------------------------------------------------------

#[test]
fn a_forked_child_maps_its_own_buffers_and_does_not_inherit_the_pool() {
    if !in_child!() {
        return;
    }
    let pool = pool(64 << 10);
    let mut buffer = pool.try_get(BLOCK).unwrap();
    pattern(1, &mut buffer);
    let mut inherited = Some((buffer, pool));
    let code = forked(|| {
        let (buffer, pool) = inherited.take().unwrap();
        drop(buffer);
        let get = futures::executor::block_on(pool.get(1));
        let mut fresh = pool.get_or_map(BLOCK).unwrap();
        fresh.fill(7);
        let is_right = pool.try_get(1).is_none() && get.is_err() && pool.stats().buffers == 0;
        drop((fresh, pool));
        i32::from(!is_right)
    });
    assert_eq!(code, 0);
    let (buffer, pool) = inherited.unwrap();
    assert!(is_pattern(1, &buffer));
    drop(buffer);
    assert!(pool.try_get(64 << 10).is_some());
}
