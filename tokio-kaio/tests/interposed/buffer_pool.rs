//! `BufferPool`: a fixed number of buffers in memory that is mapped once. Waiters get buffers in
//! FIFO order. A buffer returns when no task, no `Bytes` and no request has it any more.

use std::collections::HashSet;
use std::fs;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::*;
use crate::interposer::Gate;
use futures::poll;
use tokio::task::{JoinSet, yield_now};
use tokio_kaio::{AlignedBuf, BufferPool, BufferPoolBuilder, LockedBufError, WriteFlags};

fn all_of(pool: &BufferPool) -> Vec<AlignedBuf> {
    let buffers: Vec<_> = std::iter::from_fn(|| pool.try_get()).collect();
    assert_eq!(buffers.len(), pool.capacity());
    buffers
}

// ---- The memory -------------------------------------------------------------------------------

#[test]
fn buffers_have_the_requested_size_and_alignment_and_do_not_overlap() {
    for size in [1, 512, 700, 4096, 5000, 1 << 20] {
        for alignment in [
            None,
            Some(1),
            Some(512),
            Some(4096),
            Some(1 << 16),
            Some(1 << 22),
        ] {
            let mut builder = BufferPoolBuilder::new(5, size);
            if let Some(alignment) = alignment {
                builder = builder.alignment(alignment);
            }
            let pool = builder.build().unwrap();
            assert_eq!(
                (pool.capacity(), pool.buffer_size(), pool.available()),
                (5, size, 5)
            );
            let mut buffers = all_of(&pool);
            for (i, buffer) in (1..).zip(&mut buffers) {
                assert_eq!(buffer.size(), size);
                assert_eq!(buffer.as_ptr().addr() % alignment.unwrap_or(4096), 0);
                assert!(buffer.iter().all(|&byte| byte == 0), "zeroed at first");
                buffer.fill(i);
            }
            for (i, buffer) in (1..).zip(&buffers) {
                assert!(buffer.iter().all(|&byte| byte == i));
            }
        }
    }
}

#[test]
fn an_impossible_pool_is_an_error() {
    for (count, size) in [
        (0, 4096),
        (4096, 0),
        (usize::MAX, 1),
        (1, usize::MAX),
        (1 << 33, 4096),
        (1 << 31, 1 << 40),
        (usize::MAX / 4096, 4096),
    ] {
        for huge in [false, true] {
            let made = BufferPoolBuilder::new(count, size).huge_pages(huge).build();
            assert!(
                matches!(made, Err(LockedBufError::MapAnon(_))),
                "{count}, {size}: {made:?}"
            );
        }
    }
    assert!(BufferPool::new(0, 1).is_err());
    for alignment in [0, 3, 4097] {
        catch_unwind(|| BufferPoolBuilder::new(1, 1).alignment(alignment)).unwrap_err();
    }
}

/// The buffers are so small that their free list takes more memory than they do.
#[test]
fn a_pool_without_memory_for_its_free_list_is_an_error() {
    if !in_child!() {
        return;
    }
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let page = LEN; // the least
    set_limit(libc::RLIMIT_AS, pages * page + (6 << 30));
    let builder = BufferPoolBuilder::new(u32::MAX as usize, 1).alignment(1);
    let error = builder.build().unwrap_err();
    assert!(matches!(error, LockedBufError::MapAnon(_)), "{error:?}");
}

/// Taking buffers again and again maps no memory.
#[test]
fn the_memory_is_mapped_once() {
    let pool = BufferPool::new(7, 3 * BLOCK).unwrap();
    let range = |buffers: &[AlignedBuf]| {
        let addresses = buffers.iter().map(|buffer| buffer.as_ptr().addr());
        addresses.collect::<HashSet<_>>()
    };
    let first = range(&all_of(&pool));
    assert_eq!(first.len(), 7);
    let (low, high) = (first.iter().min().unwrap(), first.iter().max().unwrap());
    assert_eq!(high - low, 6 * 3 * BLOCK);
    for i in 0..5000 {
        let one = pool.try_get().unwrap();
        assert!(first.contains(&one.as_ptr().addr()));
        if i % 100 == 0 {
            drop(one);
            assert_eq!(range(&all_of(&pool)), first);
        }
    }
}

#[test]
fn a_reused_buffer_keeps_its_content() {
    let pool = BufferPool::new(1, BLOCK).unwrap();
    pool.try_get().unwrap().fill(7);
    assert!(pool.try_get().unwrap().iter().all(|&byte| byte == 7));
}

#[test]
fn the_memory_is_unmapped_with_the_last_buffer() {
    // In a child process: another test might map something at the same address.
    if !in_child!() {
        return;
    }
    let pool = BufferPool::new(3, BLOCK).unwrap();
    let mut last = pool.try_get().unwrap();
    let address = last.as_ptr().addr();
    let other = pool.clone();
    drop(pool.try_get());
    drop((pool, other));
    last.fill(7);
    assert!(last.iter().all(|&byte| byte == 7));
    assert!(is_mapped(address));
    drop(last);
    assert!(!is_mapped(address));
}

fn is_mapped(address: usize) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let at = |hex| usize::from_str_radix(hex, 16).unwrap();
        (at(start)..at(end)).contains(&address)
    })
}

fn locked_memory() -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kilobytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kilobytes.parse::<usize>().unwrap() << 10
}

#[test]
fn a_locked_pool_is_resident_from_the_start() {
    if !in_child!() {
        return;
    }
    let before = locked_memory();
    let pool = BufferPoolBuilder::new(5, 3 * 4096)
        .locked(true)
        .build()
        .unwrap();
    assert_eq!(locked_memory() - before, 15 * 4096);
    let buffers = all_of(&pool);
    assert!(buffers.iter().all(AlignedBuf::is_locked));
    assert_eq!(locked_memory() - before, 15 * 4096);
    drop((buffers, pool));
    assert_eq!(locked_memory(), before);
    let pool = BufferPool::new(5, 4096).unwrap();
    assert!(!pool.try_get().unwrap().is_locked());
    assert_eq!(locked_memory(), before);
}

#[test]
fn a_locked_pool_beyond_the_memlock_limit_is_an_error() {
    if !in_child!() || !drop_root() {
        return;
    }
    set_limit(libc::RLIMIT_MEMLOCK, 64 << 10);
    let made = BufferPoolBuilder::new(64, 4096).locked(true).build();
    assert!(matches!(made, Err(LockedBufError::MemLock(_))), "{made:?}");
    BufferPool::new(64, 4096).unwrap();
    BufferPoolBuilder::new(8, 4096)
        .locked(true)
        .build()
        .unwrap();
}

#[test]
fn a_pool_on_huge_pages_is_aligned_to_huge_pages() {
    const HUGE_PAGE: usize = 2 << 20;
    let pool = BufferPoolBuilder::new(16, 1 << 20)
        .huge_pages(true)
        .build()
        .unwrap();
    let mut buffers = all_of(&pool);
    let first = buffers.iter().map(|buffer| buffer.as_ptr().addr()).min();
    assert_eq!(first.unwrap() % HUGE_PAGE, 0);
    buffers.iter_mut().for_each(|buffer| buffer.fill(1));
}

// ---- Who gets them ----------------------------------------------------------------------------

#[tokio::test]
async fn waiters_get_buffers_in_fifo_order() {
    let pool = BufferPool::new(2, BLOCK).unwrap();
    let mut taken = all_of(&pool);
    let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(pool.get())).collect();
    for get in &mut waiting {
        assert!(poll!(get).is_pending());
    }
    while !waiting.is_empty() {
        drop(taken.pop());
        // Nobody overtakes the waiters.
        assert!(pool.try_get().is_none());
        assert_eq!(pool.available(), 0);
        let first = waiting.remove(0);
        for get in &mut waiting {
            assert!(poll!(get).is_pending());
        }
        taken.push(with_hang_guard(first).await);
    }
    drop(taken);
    assert_eq!(pool.available(), 2);
}

#[tokio::test]
async fn a_dropped_waiter_leaves_its_place_to_the_next() {
    let pool = BufferPool::new(1, BLOCK).unwrap();
    let taken = pool.get().await;
    let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(pool.get())).collect();
    for get in &mut waiting {
        assert!(poll!(get).is_pending());
    }
    drop(waiting.remove(0));
    drop(taken);
    // The waiter that was served is dropped before it is polled.
    drop(waiting.remove(0));
    let got = with_hang_guard(waiting.remove(0)).await;
    drop(waiting);
    drop(got);
    assert_eq!(pool.available(), 1);
    drop(pool.get()); // never polled
    assert_eq!(pool.available(), 1);
}

#[test]
fn many_tasks_never_share_a_buffer_or_exceed_the_pool() {
    const TASKS: usize = 64;
    const BUFFERS: usize = 5;
    multi_thread().block_on(async {
        let pool = BufferPool::new(BUFFERS, BLOCK).unwrap();
        let out = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (pool, out) = (pool.clone(), Arc::clone(&out));
            tasks.spawn(async move {
                for round in 0..50 {
                    let mut buffer = pool.get().await;
                    assert!(out.fetch_add(1, Ordering::SeqCst) < BUFFERS);
                    let seed = (task * 1000 + round) as u64;
                    pattern(seed, &mut buffer);
                    yield_now().await;
                    assert!(is_pattern(seed, &buffer), "somebody else has it");
                    out.fetch_sub(1, Ordering::SeqCst);
                    drop(buffer);
                    if round % 7 == 0 {
                        drop(pool.try_get());
                        let mut given_up = Box::pin(pool.get());
                        let _ = poll!(given_up.as_mut());
                    }
                }
            });
        }
        with_hang_guard(tasks.join_all()).await;
        assert_eq!(pool.available(), BUFFERS);
    });
}

// ---- When they come back ----------------------------------------------------------------------

/// Reads a file with more tasks than there are buffers.
#[test]
fn a_few_buffers_serve_many_reads() {
    Fixture::new(8)
        .everywhere()
        .multi_thread()
        .blocks(64)
        .run(async |case| {
            let handle = case.handle;
            let file = Arc::new(case.file);
            let pool = BufferPool::new(4, BLOCK).unwrap();
            let mut tasks = JoinSet::new();
            for block in 0..64 {
                let (pool, handle, file) = (pool.clone(), handle.clone(), Arc::clone(&file));
                tasks.spawn(async move {
                    let mut buffer = pool.get().await;
                    let read = read_block(&handle, &file, block * LEN, &mut buffer).await;
                    assert_eq!(read.unwrap(), LEN);
                    assert!(is_pattern(block, &buffer));
                });
            }
            tasks.join_all().await;
            assert_eq!(pool.available(), 4);
        });
}

#[test]
fn the_buffer_of_a_dropped_read_is_reused_only_after_its_completion() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .blocks(1)
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let pool = BufferPool::new(1, BLOCK).unwrap();
            let gate = Gate::closed();
            let mut buffer = pool.get().await;
            buffer.fill(0xaa);
            let old = buffer.as_ptr();
            let mut read = Box::pin(read_block(&handle, &file, gate.offset(), &mut buffer));
            while gate.waiting().is_empty() {
                assert!(poll!(read.as_mut()).is_pending());
                yield_now().await;
            }
            drop(read);
            // The caller's new memory is the system's, not the pool's.
            assert!(buffer.size() == BLOCK && buffer.as_ptr() != old);
            assert!(buffer.iter().all(|&byte| byte == 0));
            drop(buffer);
            assert_eq!(pool.available(), 0, "{mode:?}: the kernel has it");
            let mut waiting = Box::pin(pool.get());
            assert!(poll!(waiting.as_mut()).is_pending());
            gate.open();
            let buffer = waiting.await;
            assert_eq!(buffer.as_ptr(), old, "{mode:?}");
            drop(buffer);
            assert_eq!(pool.available(), 1);
        });
}

#[test]
fn a_buffer_changed_during_a_dropped_write_moves_to_new_memory() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .blocks(1)
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let pool = BufferPool::new(1, BLOCK).unwrap();
            let gate = Gate::closed();
            let mut buffer = pool.get().await;
            pattern(3, &mut buffer);
            let write = file.write_at(&handle, gate.offset(), &buffer, LEN, WriteFlags::empty());
            let mut write = Box::pin(write);
            while gate.waiting().is_empty() {
                assert!(poll!(write.as_mut()).is_pending());
                yield_now().await;
            }
            drop(write);
            let old = buffer.as_ptr();
            buffer[0] = !buffer[0];
            assert_ne!(buffer.as_ptr(), old);
            gate.open();
            wait_until(|| pool.available() == 1, || pool.available()).await;
            drop(buffer);
            assert_eq!(pool.available(), 1, "{mode:?}: it was the copy");
        });
}

#[cfg(feature = "bytes")]
#[tokio::test]
async fn bytes_keep_their_pooled_buffer_until_the_last_clone_is_dropped() {
    use bytes::Bytes;
    use tokio_kaio::ReadFlags;

    let dir = disk_dir();
    let (context, handle) = tokio_kaio::aio_context(8, true).unwrap();
    let file = patterned_file(&dir, 1).await;
    let pool = BufferPool::new(1, BLOCK).unwrap();
    for _ in 0..3 {
        let (read, buffer) = file
            .read_owned_at(&handle, 0, pool.get().await, ReadFlags::empty())
            .await;
        assert_eq!(read.unwrap(), LEN);
        let address = buffer.as_ptr();
        let bytes = Bytes::from(buffer);
        assert_eq!(bytes.as_ptr(), address, "it was not copied");
        let (header, clone) = (bytes.slice(..512), bytes.clone());
        drop(bytes);
        assert_eq!(pool.available(), 0);
        drop(clone);
        assert_eq!(pool.available(), 0);
        let elsewhere = std::thread::spawn(move || {
            let mut block = [0; BLOCK];
            pattern(0, &mut block);
            assert!(header[..] == block[..512]);
        });
        elsewhere.join().unwrap();
        assert_eq!(pool.available(), 1);
    }
    with_hang_guard(context.close()).await;
}

// ---- Forked children --------------------------------------------------------------------------

/// As with any other buffer.
#[test]
fn a_forked_child_does_not_inherit_the_pool() {
    if !in_child!() {
        return;
    }
    let pool = BufferPool::new(3, BLOCK).unwrap();
    let mut buffer = pool.try_get().unwrap();
    pattern(1, &mut buffer);
    let address = buffer.as_ptr().addr();
    assert!(is_mapped(address));
    let mut inherited = Some((buffer, pool));
    let code = forked(|| {
        let is_there = is_mapped(address);
        drop(inherited.take());
        is_there.into()
    });
    assert_eq!(code, 0, "the memory is there");
    let (buffer, pool) = inherited.unwrap();
    assert!(is_pattern(1, &buffer));
    assert_eq!(pool.available(), 2);
    drop(buffer);
    assert_eq!(all_of(&pool).len(), 3);
}
