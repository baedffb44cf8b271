//! Groups: shares, limits, and that no request loses its turn for good.

use std::cell::Cell;
use std::future::poll_fn;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::common::*;
use futures::{FutureExt, StreamExt};
use tokio::task::{JoinSet, yield_now};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, AlignedBuf, File, IoGroup, PollEvents,
    RawCommand, ReadFlags, WriteFlags,
};

const READ: ReadFlags = ReadFlags::empty();

async fn read_block(handle: &AioContextHandle, file: &File, block: u64, buffer: &mut AlignedBuf) {
    let len = buffer.size() as u64;
    let read = file.read_at(handle, block * LEN, buffer, len, READ).await;
    assert_eq!(read.unwrap(), len);
}

/// Keeps `depth` reads of `len` bytes of a group waiting or in flight until `stop`. Counts them.
fn saturate(
    tasks: &mut JoinSet<()>,
    handle: &AioContextHandle,
    file: &File,
    (depth, len): (u64, usize),
    (count, stop): (&Arc<AtomicU64>, &Arc<AtomicBool>),
) {
    for block in 0..depth {
        let (handle, file) = (handle.clone(), file.clone());
        let (count, stop) = (Arc::clone(count), Arc::clone(stop));
        tasks.spawn(async move {
            let mut buffer = buffer(len);
            while !stop.load(Ordering::Relaxed) {
                read_block(&handle, &file, block, &mut buffer).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Requests of two groups that have had their turn, at one time.
type Turns = [u64; 2];

/// Counts the requests that have had their turn. `None` if a group has none that waits, or the first group
/// gets a turn meanwhile.
fn turns_of(groups: [&IoGroup; 2]) -> Option<Turns> {
    let before = groups[0].metrics().requests;
    let [other, first] = [1, 0].map(|group| groups[group].metrics());
    let is_exact = first.requests == before && first.waiting > 0 && other.waiting > 0;
    is_exact.then_some([before, other.requests])
}

/// Returns the turns of two groups while both had requests that waited, from the first request of them that was
/// served to the last one. Both groups make `total` requests, before any of them gets a slot. Calls `after_each` after
/// each of them.
///
/// So the shares do not depend on when the tasks run.
async fn shares(
    handle: &AioContextHandle,
    file: &File,
    groups: [(&IoGroup, usize); 2],
    total: u64,
    after_each: impl Fn(Turns) + Send + Sync + 'static,
) -> Vec<Turns> {
    let mut slots = Vec::new();
    for _ in 0..handle.available_slots().unwrap() {
        slots.push(occupy_slot(handle).await);
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let after_each = Arc::new(after_each);
    let mut tasks = JoinSet::new();
    for number in 0..total {
        for (group, len) in groups {
            let (handle, file) = (handle.with_group(group), file.clone());
            let (seen, after_each) = (Arc::clone(&seen), Arc::clone(&after_each));
            let groups = groups.map(|(group, _)| group.clone());
            tasks.spawn(async move {
                read_block(&handle, &file, number % 32, &mut buffer(len)).await;
                if let Some(turns) = turns_of(groups.each_ref()) {
                    seen.lock().unwrap().push(turns);
                    after_each(turns);
                }
            });
        }
    }
    let made = || -> u64 {
        let metrics = groups.map(|(group, _)| group.metrics());
        metrics.iter().map(|it| it.requests + it.waiting).sum()
    };
    wait_until(|| made() == 2 * total, made).await;
    for slot in slots {
        slot.release().await;
    }
    tasks.join_all().await;
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort_unstable_by_key(|turns| turns[0] + turns[1]);
    seen
}

/// How often the second group had its turn for each turn of the first, in `seen` of [`shares`].
fn ratio_of(seen: &[Turns]) -> f64 {
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else {
        panic!("never did requests of both groups wait");
    };
    let of = |group: usize| last[group] - first[group];
    assert!(of(1) >= 200, "from {first:?} to {last:?}");
    of(1) as f64 / of(0) as f64
}

#[test]
fn saturating_groups_share_in_proportion_to_their_weights() {
    Fixture::new(4)
        .blocks(64)
        .every_mode()
        .every_runtime()
        .run(async |case| {
            let light = IoGroup::new("light").with_weight(100);
            let heavy = IoGroup::new("heavy").with_weight(400);
            let groups = [(&light, BLOCK), (&heavy, BLOCK)];
            let seen = shares(&case.handle, &case.file, groups, 800, |_| {}).await;
            let ratio = ratio_of(&seen);
            assert!((3.6..=4.4).contains(&ratio), "{ratio}: {seen:?}");
        });
}

#[test]
fn large_requests_cost_more_of_a_share_than_small_ones() {
    Fixture::new(4)
        .blocks(128)
        .modes(modes().take(1))
        .run(async |case| {
            let small = IoGroup::new("small");
            let large = IoGroup::new("large");
            // 16 KiB a request, and 4 or 112 KiB.
            let groups = [(&large, 28 * BLOCK), (&small, BLOCK)];
            let seen = shares(&case.handle, &case.file, groups, 600, |_| {}).await;
            let ratio = ratio_of(&seen);
            assert!((5.7..=7.1).contains(&ratio), "{ratio}: {seen:?}");
        });
}

#[test]
fn a_new_weight_applies_to_requests_that_wait() {
    Fixture::new(2).blocks(64).run(async |case| {
        let first = IoGroup::new("first");
        let second = IoGroup::new("second");
        second.set_weight(900);
        let groups = [(&first, BLOCK), (&second, BLOCK)];
        let changed = Arc::new(Mutex::new(None));
        let change = {
            let (second, changed) = (second.clone(), Arc::clone(&changed));
            move |turns: Turns| {
                let mut changed = changed.lock().unwrap();
                if turns[1] >= 450 && changed.is_none() {
                    second.set_weight(100);
                    *changed = Some(turns);
                }
            }
        };
        let seen = shares(&case.handle, &case.file, groups, 900, change).await;
        let changed = changed.lock().unwrap().unwrap();
        let (before, after): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|turns| turns[1] <= changed[1]);
        let ratios = [ratio_of(&before), ratio_of(&after)];
        assert!((8.0..10.0).contains(&ratios[0]), "{ratios:?}");
        assert!((0.9..1.1).contains(&ratios[1]), "{ratios:?}");
    });
}

/// The most requests in flight at once while `tasks` tasks read.
async fn most_in_flight(handle: &AioContextHandle, file: &File, tasks: u64) -> usize {
    let buffers: Vec<_> = (0..tasks).map(|_| buffer(LONG)).collect();
    let reads = buffers
        .into_iter()
        .map(|buffer| file.read_owned_at(handle, 0, buffer, READ));
    let mut reads = pin!(futures::future::join_all(reads));
    let mut most = 0;
    poll_fn(|cx| {
        let polled = reads.as_mut().poll(cx);
        let metrics = handle.metrics();
        most = most.max(metrics.in_flight + metrics.queued);
        polled.map(|all| {
            all.into_iter()
                .for_each(|(read, _)| assert_eq!(read.unwrap(), LONG as u64))
        })
    })
    .await;
    most
}

#[test]
fn a_lone_group_uses_all_slots() {
    Fixture::new(16)
        .blocks(LONG / BLOCK)
        .every_mode()
        .run(async |case| {
            let group = IoGroup::new("lone").with_weight(1);
            let handle = case.handle.with_group(&group);
            assert_reaches(&handle, &case.file, 16).await;
            // On a busy machine, reads may complete before the last ones are made.
            retry_until(async || {
                most_in_flight(&handle, &case.file, 20).await;
                (group.metrics().waited > 0).then_some(())
            })
            .await;
            let metrics = group.metrics();
            assert_eq!(metrics.bytes, metrics.requests * LONG as u64);
        });
}

#[test]
fn the_depth_limits_requests_of_groups_and_no_others() {
    Fixture::new(16)
        .build(|builder| builder.group_depth(3))
        .blocks(LONG / BLOCK)
        .every_mode()
        .run(async |case| {
            let grouped = case.handle.with_group(&IoGroup::new("background"));
            assert_reaches(&grouped, &case.file, 3).await;
            retry_until(async || {
                let most = most_in_flight(&case.handle, &case.file, 12).await;
                (most > 3).then_some(())
            })
            .await;
        });
}

#[test]
fn an_urgent_group_does_not_wait_behind_the_backlog_of_another() {
    Fixture::new(1).blocks(64).every_mode().run(async |case| {
        let (background, urgent) = (IoGroup::new("background"), IoGroup::new("urgent"));
        let handle = case.handle.with_group(&background);
        let count = Arc::new(AtomicU64::new(0));
        let (mut tasks, stop) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        saturate(
            &mut tasks,
            &handle,
            &case.file,
            (64, BLOCK),
            (&count, &stop),
        );
        wait_until(
            || background.metrics().waiting > 32,
            || background.metrics(),
        )
        .await;
        let (handle, file) = (case.handle.with_group(&urgent), case.file.clone());
        let of_background = background.clone();
        // In a task, which has its turns as often as the others: the future of `block_on` has them more rarely.
        let reads = tokio::spawn(async move {
            let mut buffer = buffer(BLOCK);
            for _ in 0..20 {
                let before = of_background.metrics().requests;
                read_block(&handle, &file, 0, &mut buffer).await;
                let passed = of_background.metrics().requests - before;
                assert!(
                    passed <= 16,
                    "{passed} requests of the background went first"
                );
            }
        });
        reads.await.unwrap();
        stop.store(true, Ordering::Relaxed);
        tasks.join_all().await;
    });
}

/// These two tests need real time: a rate is an amount by time. Slow disks reach the rates too.
#[test]
fn a_limit_of_bytes_holds_over_two_seconds() {
    let group = IoGroup::new("limited").with_max_bandwidth(2 << 20);
    limited(&group, 2 << 20, || group.metrics().bytes);
}

#[test]
fn a_limit_of_requests_holds_over_two_seconds() {
    let group = IoGroup::new("limited").with_max_iops(500);
    limited(&group, 500, || group.metrics().requests);
}

/// Saturates a group in two contexts at once, and compares what passes in two seconds to `rate`. More than
/// the limit never passes. A machine that is busy with other things may let less pass, so that is tried again.
fn limited(group: &IoGroup, rate: u64, passed: impl Fn() -> u64) {
    Fixture::new(8).blocks(64).run(async |case| {
        let (other_context, other) = AioContextBuilder::new(8).build().unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let (mut tasks, stop) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for handle in [&case.handle, &other] {
            let handle = handle.with_group(group);
            let limits = (&count, &stop);
            saturate(&mut tasks, &handle, &case.file, (8, BLOCK), limits);
        }
        let (mut ratios, begin) = (Vec::new(), Instant::now());
        while ratios.last().is_none_or(|&ratio| ratio < 0.95) {
            assert!(begin.elapsed() < HANG / 2, "of the limit: {ratios:?}");
            let (start, before) = (Instant::now(), passed());
            tokio::time::sleep(Duration::from_secs(2)).await;
            let passed = passed() - before;
            let ratio = passed as f64 / start.elapsed().as_secs_f64() / rate as f64;
            assert!(ratio <= 1.05, "{ratio} of the limit");
            ratios.push(ratio);
        }
        stop.store(true, Ordering::Relaxed);
        tasks.join_all().await;
        other_context.close().await;
    });
}

#[test]
fn a_limit_that_is_lifted_lets_waiting_requests_go() {
    Fixture::new(8).blocks(8).every_mode().run(async |case| {
        let group = IoGroup::new("limited").with_max_bandwidth(1);
        let handle = case.handle.with_group(&group);
        let mut blocks = [buffer(BLOCK), buffer(BLOCK), buffer(BLOCK)];
        let [first, second, third] = &mut blocks;
        read_block(&handle, &case.file, 0, first).await; // takes an hour's worth
        let mut reads = pin!(async {
            tokio::join!(
                read_block(&handle, &case.file, 1, second),
                read_block(&handle, &case.file, 2, third)
            )
        });
        assert!(futures::poll!(reads.as_mut()).is_pending());
        assert_eq!(group.metrics().waiting, 2);
        group.set_max_bandwidth(0);
        reads.await;
        assert_eq!((group.metrics().waiting, group.metrics().requests), (0, 3));
    });
}

#[test]
fn a_group_held_back_by_its_limit_leaves_the_slots_to_others() {
    Fixture::new(1).blocks(8).every_mode().run(async |case| {
        let limited = IoGroup::new("limited")
            .with_max_bandwidth(1)
            .with_weight(10_000);
        let other = IoGroup::new("other").with_weight(1);
        let (slow, fast) = (
            case.handle.with_group(&limited),
            case.handle.with_group(&other),
        );
        let mut blocks = [buffer(BLOCK), buffer(BLOCK)];
        let [first, second] = &mut blocks;
        read_block(&slow, &case.file, 0, first).await; // takes an hour's worth
        let mut waits = Box::pin(read_block(&slow, &case.file, 1, first));
        assert!(futures::poll!(waits.as_mut()).is_pending());
        for block in 0..8 {
            read_block(&fast, &case.file, block, second).await;
        }
        drop(waits);
        assert_eq!(limited.metrics().waiting, 0);
    });
}

/// Asserts that as many requests of a group can be in flight as the depth allows: no permit is lost.
async fn assert_all_permits_are_free(handle: &AioContextHandle, file: &File, depth: usize) {
    let grouped = handle.with_group(&IoGroup::new("check"));
    assert_reaches(&grouped, file, depth).await;
}

/// Asserts that `depth` requests can be in flight at once, and no more.
async fn assert_reaches(handle: &AioContextHandle, file: &File, depth: usize) {
    retry_until(async || {
        let most = most_in_flight(handle, file, depth as u64 + 4).await;
        assert!(most <= depth, "{most} in flight");
        (most == depth).then_some(()) // the first may be done before the last is submitted
    })
    .await;
}

#[test]
fn operations_that_are_dropped_at_any_time_lose_no_permit() {
    Fixture::new(8)
        .build(|builder| builder.group_depth(2))
        .blocks(LONG / BLOCK)
        .every_mode()
        .every_runtime()
        .run(async |case| {
            let group = IoGroup::new("dropped");
            let handle = case.handle.with_group(&group);
            for round in 0..1000_u64 {
                let mut blocks: Vec<_> = (0..5).map(|_| buffer(BLOCK)).collect();
                let reads = blocks.iter_mut().map(|buffer| {
                    Box::pin(
                        case.file
                            .read_at(&handle, round % 16 * LEN, buffer, LEN, READ),
                    )
                });
                let mut reads: Vec<_> = reads.collect();
                for (index, read) in reads.iter_mut().enumerate() {
                    if round >> index & 1 == 0 {
                        let _ = futures::poll!(read.as_mut());
                    }
                }
                if round % 3 == 0 {
                    yield_now().await;
                }
                if round % 2 == 0 {
                    reads.reverse();
                }
                drop(reads);
            }
            assert_all_permits_are_free(&case.handle, &case.file, 2).await;
            let metrics = group.metrics();
            assert_eq!((metrics.waiting, metrics.in_flight), (0, 0));
        });
}

#[test]
fn forgotten_operations_lose_no_permit() {
    Fixture::new(64)
        .build(|builder| builder.group_depth(2))
        .blocks(LONG / BLOCK)
        .every_mode()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("forgotten"));
            for _ in 0..8 {
                // In flight, offered a permit, and waiting.
                for _ in 0..5 {
                    let buffer = buffer(BLOCK);
                    let mut read = Box::pin(case.file.read_owned_at(&handle, 0, buffer, READ));
                    let _ = futures::poll!(read.as_mut());
                    std::mem::forget(read);
                }
                assert_all_permits_are_free(&case.handle, &case.file, 2).await;
            }
        });
}

#[test]
fn completed_operations_that_are_not_polled_hold_no_permit() {
    Fixture::new(8)
        .build(|builder| builder.group_depth(2))
        .blocks(16)
        .everywhere()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("reader"));
            let mut ahead: Vec<_> = (0..2)
                .map(|block| {
                    let buffer = buffer(BLOCK);
                    Box::pin(case.file.read_owned_at(&handle, block * LEN, buffer, READ))
                })
                .collect();
            let polled: Vec<_> = ahead.iter_mut().map(|read| read.now_or_never()).collect();
            // The same task waits for another operation first.
            let mut block = buffer(BLOCK);
            for number in 0..16 {
                read_block(&handle, &case.file, number, &mut block).await;
                assert!(is_pattern(number, &block));
            }
            for (block, (read, polled)) in ahead.into_iter().zip(polled).enumerate() {
                let (read, buffer) = match polled {
                    Some(done) => done,
                    None => read.await,
                };
                assert_eq!(read.unwrap(), LEN);
                assert!(is_pattern(block as u64, &buffer));
            }
        });
}

#[test]
fn a_task_that_polls_a_later_operation_first_does_not_wait_for_ever() {
    Fixture::new(8)
        .build(|builder| builder.group_depth(1))
        .blocks(LONG / BLOCK)
        .every_mode()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("selected"));
            let long = case.file.read_owned_at(&handle, 0, buffer(LONG), READ);
            let mut long = pin!(long);
            let first = futures::poll!(long.as_mut());
            let mut waiting = pin!(case.file.read_owned_at(&handle, 0, buffer(BLOCK), READ));
            let second = futures::poll!(waiting.as_mut());
            // As in a `select!` whose other branch does more I/O before it comes back.
            let (read, _) = case
                .file
                .read_owned_at(&handle, LEN, buffer(BLOCK), READ)
                .await;
            assert_eq!(read.unwrap(), LEN);
            if second.is_pending() {
                let (read, buffer) = waiting.await;
                assert_eq!(read.unwrap(), LEN);
                assert!(is_pattern(0, &buffer));
            }
            if first.is_pending() {
                assert_eq!(long.await.0.unwrap(), LONG as u64);
            }
        });
}

#[test]
fn a_deadline_covers_the_wait_for_the_turn() {
    Fixture::new(8).blocks(8).every_mode().run(async |case| {
        let group = IoGroup::new("limited").with_max_bandwidth(1);
        let handle = case.handle.with_group(&group);
        let mut block = buffer(BLOCK);
        read_block(&handle, &case.file, 0, &mut block).await;
        let soon = handle.with_timeout(Duration::from_millis(5));
        for _ in 0..3 {
            let read = case.file.read_at(&soon, 0, &mut block, LEN, READ).await;
            assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
            assert_eq!(block.size(), BLOCK, "the buffer was not taken");
        }
        let past = handle.with_deadline(tokio::time::Instant::now());
        let read = case.file.read_at(&past, 0, &mut block, LEN, READ).await;
        assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
        let mut batch = soon.batch();
        batch.read(&case.file, 0, &mut block);
        let results = batch.all().await;
        assert!(
            matches!(results[..], [Err(AioCommandError::TimedOut)]),
            "{results:?}"
        );
        assert_eq!((group.metrics().requests, group.metrics().waiting), (1, 0));
        assert_eq!(
            case.handle.metrics().submitted,
            1,
            "nothing else was submitted"
        );
    });
}

#[test]
fn operations_that_time_out_in_flight_return_their_permits() {
    Fixture::new(8)
        .build(|builder| builder.group_depth(2))
        .blocks(LONG / BLOCK)
        .every_mode()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("timed out"));
            let now = handle.with_timeout(Duration::ZERO);
            for _ in 0..300 {
                let read = case.file.read_owned_at(&now, 0, buffer(4 * BLOCK), READ);
                let (read, _) = read.await;
                assert!(
                    matches!(read, Ok(_) | Err(AioCommandError::TimedOut)),
                    "{read:?}"
                );
            }
            assert_all_permits_are_free(&case.handle, &case.file, 2).await;
        });
}

#[test]
fn requests_that_wait_when_the_context_is_closed_get_aio_stopped() {
    for (backend, policy) in modes() {
        current_thread().block_on(with_hang_guard(async {
            let dir = disk_dir();
            write_patterned(&dir.path().join("data"), 8);
            let file = open_rw(&dir, "data").await;
            let (context, handle) = context_in((backend, policy), 8);
            let group = IoGroup::new("limited").with_max_bandwidth(1);
            let handle = handle.with_group(&group);
            let mut first = buffer(BLOCK);
            read_block(&handle, &file, 0, &mut first).await;
            let mut second = buffer(BLOCK);
            let mut read = Box::pin(file.read_at(&handle, 0, &mut second, LEN, READ));
            assert!(futures::poll!(read.as_mut()).is_pending());
            let mut batch = handle.batch();
            batch.read(&file, 0, &mut first);
            let mut results = batch.stream();
            assert!(futures::poll!(results.next()).is_pending());
            context.close().await;
            let read = read.await;
            assert!(matches!(read, Err(AioCommandError::AioStopped)), "{read:?}");
            let (_, read) = results.next().await.unwrap();
            assert!(matches!(read, Err(AioCommandError::AioStopped)), "{read:?}");
            let late = file.sync_all(&handle).await;
            assert!(matches!(late, Err(AioCommandError::AioStopped)), "{late:?}");
            assert_eq!(group.metrics().waiting, 0);
        }));
    }
}

#[test]
fn batches_are_submitted_as_far_as_they_have_their_turn() {
    for depth in [1, 3, 32] {
        Fixture::new(32)
            .build(|builder| builder.group_depth(depth))
            .blocks(64)
            .everywhere()
            .run(async |case| {
                let group = IoGroup::new("batch");
                let handle = case.handle.with_group(&group);
                let mut blocks: Vec<_> = (0..64).map(|_| buffer(BLOCK)).collect();
                let mut batch = handle.batch();
                for (number, block) in blocks.iter_mut().enumerate() {
                    batch.read(&case.file, number as u64 * LEN, block);
                }
                for read in batch.all().await {
                    assert_eq!(read.unwrap(), LEN);
                }
                for (number, block) in blocks.iter().enumerate() {
                    assert!(is_pattern(number as u64, block), "block {number}");
                }
                let mut batch = handle.owned_batch();
                for number in 0..64 {
                    batch.read(&case.file, number * LEN, buffer(BLOCK));
                }
                batch.sync_data(&case.file);
                let results = batch.all().await;
                for (number, (read, block)) in results.into_iter().take(64).enumerate() {
                    assert_eq!(read.unwrap(), LEN);
                    assert!(is_pattern(number as u64, &block), "block {number}");
                }
                assert_eq!(
                    (group.metrics().requests, group.metrics().in_flight),
                    (129, 0)
                );
            });
    }
}

#[test]
fn a_batch_that_has_its_turn_takes_one_system_call() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(32)
        .inline()
        .blocks(16)
        .start_driver()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("batch"));
            let mut batch = handle.owned_batch();
            for number in 0..16 {
                batch.read(&case.file, number * LEN, buffer(BLOCK));
            }
            let before = case.handle.metrics();
            batch.all().await;
            assert_eq!(case.handle.metrics().since(&before).batches, 1);
        });
}

#[test]
fn dropped_batches_lose_no_permit() {
    Fixture::new(16)
        .build(|builder| builder.group_depth(4))
        .blocks(LONG / BLOCK)
        .every_mode()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("batch"));
            for round in 0..300 {
                let mut batch = handle.owned_batch();
                for number in 0..12 {
                    batch.read(&case.file, number * LEN, buffer(BLOCK));
                }
                let mut results = batch.stream();
                for _ in 0..round % 4 {
                    let _ = futures::poll!(results.next());
                }
            }
            assert_all_permits_are_free(&case.handle, &case.file, 4).await;
        });
}

#[test]
fn a_batch_that_moves_to_another_task_goes_on_there() {
    Fixture::new(8)
        .build(|builder| builder.group_depth(2))
        .blocks(32)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("batch"));
            let mut batch = handle.owned_batch();
            for number in 0..32 {
                batch.read(&case.file, number * LEN, buffer(BLOCK));
            }
            let mut results = batch.stream();
            let first = futures::poll!(results.next());
            let rest = tokio::spawn(async move {
                let mut count = 0;
                while let Some((_, read, _)) = results.next().await {
                    assert_eq!(read.unwrap(), LEN);
                    count += 1;
                }
                count
            });
            assert_eq!(rest.await.unwrap() + usize::from(first.is_ready()), 32);
        });
}

/// An append whose task does not poll it for this long after its turn has come is overtaken by others.
const APPEND_PATIENCE: Duration = Duration::from_secs(1);

#[test]
fn appends_of_a_group_keep_their_order() {
    for depth in [1, 3] {
        Fixture::new(16)
            .build(|builder| builder.group_depth(depth))
            .everywhere()
            .every_runtime()
            .run(async |case| {
                // On a busy machine, a task may be held up for longer than the patience.
                retry_until(async || {
                    std::fs::write(&case.path, "").unwrap();
                    let elapsed = append_in_tasks(&case, 40).await;
                    let content = std::fs::read(&case.path).unwrap();
                    assert_eq!(content.len(), 40 * BLOCK);
                    let mut blocks = (0..).zip(content.chunks(BLOCK));
                    let misplaced = blocks.find(|&(number, block)| !is_pattern(number, block));
                    let misplaced = misplaced.map(|(number, _)| number);
                    if elapsed < APPEND_PATIENCE {
                        assert_eq!(misplaced, None, "the first block that is not in its place");
                    }
                    misplaced.is_none().then_some(())
                })
                .await;
            });
    }
}

/// Appends the blocks `0..count`, each in a task of its own, first polled in the order of their numbers. Another group
/// reads meanwhile. Returns the time until all blocks were appended.
async fn append_in_tasks(case: &Case<'_>, count: u64) -> Duration {
    let start = Instant::now();
    let handle = case.handle.with_group(&IoGroup::new("log"));
    let reader = case.handle.with_group(&IoGroup::new("other"));
    let mut tasks = JoinSet::new();
    let turn = Arc::new(AtomicU64::new(0));
    for number in 0..count {
        let (handle, file) = (handle.clone(), case.file.clone());
        let turn = Arc::clone(&turn);
        tasks.spawn(async move {
            let mut block = buffer(BLOCK);
            pattern(number, &mut block);
            let append = file.write_at(&handle, 0, &block, LEN, WriteFlags::APPEND);
            let mut append = pin!(append);
            let mut first = None;
            while first.is_none() {
                if turn.load(Ordering::Acquire) == number {
                    first = Some(futures::poll!(append.as_mut()));
                    turn.store(number + 1, Ordering::Release);
                } else {
                    yield_now().await;
                }
            }
            match first {
                Some(Poll::Ready(written)) => assert_eq!(written.unwrap(), LEN),
                _ => assert_eq!(append.await.unwrap(), LEN),
            }
        });
    }
    let appended = async {
        tasks.join_all().await;
        start.elapsed()
    };
    let other = async {
        let mut block = buffer(BLOCK);
        for _ in 0..count {
            let read = case.file.read_at(&reader, 0, &mut block, LEN, READ);
            read.await.unwrap();
        }
    };
    tokio::join!(appended, other).0
}

#[test]
fn appends_in_a_batch_keep_their_order() {
    Fixture::new(16)
        .build(|builder| builder.group_depth(2))
        .everywhere()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("log"));
            let mut batch = handle.owned_batch();
            for number in 0..20 {
                let mut block = buffer(BLOCK);
                pattern(number, &mut block);
                batch.write_with(&case.file, 0, block, WriteFlags::APPEND);
            }
            for (written, _) in batch.all().await {
                assert_eq!(written.unwrap(), LEN);
            }
            let content = std::fs::read(&case.path).unwrap();
            for (number, block) in content.chunks(BLOCK).enumerate() {
                assert!(is_pattern(number as u64, block), "block {number}");
            }
        });
}

#[test]
fn every_request_of_an_operation_needs_a_permit() {
    const PIECES: usize = 1100; // more than a request takes
    Fixture::new(8)
        .build(|builder| builder.group_depth(1))
        .blocks(PIECES)
        .every_mode()
        .run(async |case| {
            let group = IoGroup::new("parts");
            let handle = case.handle.with_group(&group);
            let buffers: Vec<_> = (0..PIECES).map(|_| buffer(BLOCK)).collect();
            let read = case.file.read_vectored_owned_at(&handle, 0, buffers, READ);
            let (read, buffers) = read.await;
            assert_eq!(read.unwrap(), PIECES as u64 * LEN);
            for (number, block) in buffers.iter().enumerate() {
                assert!(is_pattern(number as u64, block), "block {number}");
            }
            let metrics = group.metrics();
            assert_eq!((metrics.requests, metrics.bytes), (2, PIECES as u64 * LEN));
            assert_eq!((metrics.waiting, metrics.in_flight), (0, 0));
        });
}

#[test]
fn polls_need_no_permit() {
    Fixture::new(8)
        .build(|builder| builder.group_depth(1))
        .blocks(1)
        .every_mode()
        .run(async |case| {
            let group = IoGroup::new("polls");
            let handle = case.handle.with_group(&group);
            let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
            let mut polls: Vec<_> = (0..3)
                .map(|_| Box::pin(handle.poll(&reader, PollEvents::IN)))
                .collect();
            for poll in &mut polls {
                assert!(futures::poll!(poll.as_mut()).is_pending());
            }
            let mut block = buffer(BLOCK);
            read_block(&handle, &case.file, 0, &mut block).await;
            let mut batch = handle.batch();
            batch.push_fd(
                &writer,
                RawCommand::Poll {
                    events: PollEvents::OUT,
                },
            );
            assert!(batch.all().await.remove(0).is_ok());
            assert_eq!(group.metrics().requests, 1);
        });
}

#[test]
fn requests_of_groups_wait_also_where_requests_do_not_wait_for_slots() {
    Fixture::new(2)
        .build(|builder| builder.wait_for_slot(false))
        .blocks(8)
        .every_mode()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("patient"));
            let mut blocks: Vec<_> = (0..16).map(|_| buffer(BLOCK)).collect();
            let reads = blocks
                .iter_mut()
                .map(|block| read_block(&handle, &case.file, 0, block));
            futures::future::join_all(reads).await;
        });
}

#[test]
fn groups_span_the_shards_of_a_context() {
    Fixture::new(8)
        .build(|builder| builder.shards(2).group_depth(3))
        .blocks(64)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (light, heavy) = (
                IoGroup::new("light"),
                IoGroup::new("heavy").with_weight(400),
            );
            let groups = [(&light, BLOCK), (&heavy, BLOCK)];
            let seen = shares(&case.handle, &case.file, groups, 800, |_| {}).await;
            let ratio = ratio_of(&seen);
            assert!((3.6..=4.4).contains(&ratio), "{ratio}: {seen:?}");
        });
}

#[test]
fn local_contexts_have_groups_too() {
    current_thread().block_on(with_hang_guard(async {
        let dir = disk_dir();
        write_patterned(&dir.path().join("data"), 8);
        let file = open_rw(&dir, "data").await;
        let builder = AioContextBuilder::new(4).group_depth(1);
        let (context, handle, driver) = builder.build_local().unwrap();
        let local = tokio::task::LocalSet::new();
        local.spawn_local(driver);
        local
            .run_until(async {
                let group = IoGroup::new("local").with_max_iops(100_000);
                let handle = handle.with_group(&group);
                let order = Rc::new(Cell::new(0));
                let reads = (0..8).map(|block| {
                    let (handle, file, order) = (handle.clone(), file.clone(), Rc::clone(&order));
                    async move {
                        let buffer = buffer(BLOCK);
                        let (read, buffer) =
                            file.read_owned_at(&handle, block * LEN, buffer, READ).await;
                        assert_eq!(read.unwrap(), LEN);
                        assert!(is_pattern(block, &buffer));
                        order.set(order.get() + 1);
                    }
                });
                futures::future::join_all(reads).await;
                assert_eq!((order.get(), group.metrics().requests), (8, 8));
                context.close().await;
            })
            .await;
    }));
}

#[test]
fn limits_need_no_runtime_if_the_context_has_a_thread_of_its_own() {
    let dir = disk_dir();
    let path = dir.path().join("data");
    write_patterned(&path, 8);
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    let file = File::from_std(options.open(path).unwrap()).unwrap();
    let builder = AioContextBuilder::new(4).own_thread();
    let handle = builder.build_detached().unwrap();
    let group = IoGroup::new("limited").with_max_iops(2);
    let grouped = handle.with_group(&group);
    futures::executor::block_on(async {
        let mut block = buffer(BLOCK);
        // A read waits if the one before it took less than half a second.
        retry_until(async || {
            for number in 0..2 {
                read_block(&grouped, &file, number, &mut block).await;
                assert!(is_pattern(number, &block));
            }
            (group.metrics().waited > 0).then_some(())
        })
        .await;
        drop(grouped);
        handle.closed().await;
    });
}

#[test]
fn a_waker_that_panics_loses_no_turn() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics, on purpose");
        }
    }
    Fixture::new(4)
        .build(|builder| builder.group_depth(1))
        .blocks(LONG / BLOCK)
        .every_mode()
        .run(async |case| {
            let handle = case.handle.with_group(&IoGroup::new("panics"));
            let waker = Waker::from(Arc::new(Panics));
            let mut panicking: Vec<Pin<Box<_>>> = (0..3)
                .map(|_| Box::pin(case.file.read_owned_at(&handle, 0, buffer(BLOCK), READ)))
                .collect();
            for read in &mut panicking {
                let _ = read.as_mut().poll(&mut Context::from_waker(&waker));
            }
            let mut block = buffer(BLOCK);
            read_block(&handle, &case.file, 1, &mut block).await;
            drop(panicking);
            assert_all_permits_are_free(&case.handle, &case.file, 1).await;
        });
}

#[test]
fn a_batch_goes_on_after_a_panic() {
    let dir = disk_dir();
    let path = dir.path().join("data");
    write_patterned(&path, 4);
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    let file = File::from_std(options.open(path).unwrap()).unwrap();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let without_timer = builder.enable_io().build().unwrap();
    bounded(move || {
        without_timer.block_on(async {
            let (context, handle) = AioContextBuilder::new(4).build().unwrap();
            let group = IoGroup::new("limited").with_max_bandwidth(1);
            let handle = handle.with_group(&group);
            let mut block = buffer(BLOCK);
            read_block(&handle, &file, 0, &mut block).await; // takes an hour's worth
            let mut waits = Box::pin(read_block(&handle, &file, 0, &mut block));
            let mut panics = || {
                let polled = AssertUnwindSafe(waits.as_mut()).catch_unwind();
                polled.now_or_never().is_some()
            };
            while !panics() {
                yield_now().await; // until it is known that there is no timer
            }
            drop(waits);
            group.set_max_bandwidth(0);
            group.set_max_bandwidth(1); // allows one
            let mut blocks: Vec<_> = (0..4).map(|_| buffer(BLOCK)).collect();
            let mut batch = handle.batch();
            for (block, buffer) in blocks.iter_mut().enumerate() {
                batch.read(&file, block as u64 * LEN, buffer);
            }
            let mut results = batch.stream();
            let panicked = AssertUnwindSafe(results.next()).catch_unwind().await;
            assert!(panicked.is_err());
            group.set_max_bandwidth(0);
            let mut done: Vec<_> = results.collect().await;
            done.sort_by_key(|&(index, _)| index);
            let indices: Vec<_> = done.iter().map(|&(index, _)| index).collect();
            assert_eq!(indices, [0, 1, 2, 3]);
            assert!(done.into_iter().all(|(_, read)| read.is_ok()));
            context.close().await;
        });
    });
}
