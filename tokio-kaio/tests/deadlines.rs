//! Operations that have a limit end at it, whatever the disk does; what the kernel has then goes on.

mod common;
#[path = "common/interposed.rs"]
mod interposed;

use std::fmt::Debug;
use std::future::Future;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use common::*;
use futures::future::join_all;
use futures::{StreamExt, poll};
use interposed::{Fault, Gate, Watched, next_submissions_meet, submissions};
use tempfile::TempDir;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, advance};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, AlignedBuf, File, PartMut, RawCommand,
    ReadFlags, SubmitPolicy, WriteFlags,
};

const LEN: u64 = BLOCK as u64;
const READ: ReadFlags = ReadFlags::empty();
const WRITE: WriteFlags = WriteFlags::empty();
/// In time that passes only when the test says so.
const SECOND: Duration = Duration::from_secs(1);
/// In time that passes.
const SOON: Duration = Duration::from_millis(20);

async fn with_data(dir: &TempDir) -> File {
    write_patterned(&dir.path().join("data"), 8);
    open_rw(dir, "data").await
}

/// With time that stands still. A context that has a thread at work can't have it pass by itself.
async fn everywhere_by_all_ways(test: impl AsyncFn(&TempDir, Way, &AioContextHandle)) {
    for dir in everywhere() {
        for way in ways() {
            let (context, handle) = context_by(way, 4);
            yield_now().await;
            tokio::time::pause();
            test(&dir, way, &handle).await;
            tokio::time::resume();
            is_idle(&handle, 4).await;
            within(context.close()).await;
        }
    }
}

fn timed_out<T: Debug>(result: Result<T, AioCommandError>) {
    assert!(
        matches!(result, Err(AioCommandError::TimedOut)),
        "{result:?}"
    );
}

/// Looks at `operation`, which is not done, until the kernel has it.
async fn until_held<T: Debug>(gate: &Gate, operation: &mut Pin<Box<impl Future<Output = T>>>) {
    while gate.held().is_empty() {
        not_yet(operation).await;
        yield_now().await;
    }
}

async fn not_yet<T: Debug>(operation: &mut Pin<Box<impl Future<Output = T>>>) {
    let polled = poll!(operation.as_mut());
    assert!(polled.is_pending(), "{polled:?}");
}

/// Waits for the context without the clock.
async fn turns_until(mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "it hangs");
        std::thread::sleep(Duration::from_micros(50));
        yield_now().await;
    }
}

// ---- In flight --------------------------------------------------------------------------------

#[tokio::test]
async fn a_stuck_read_ends_at_its_deadline_and_not_before() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = with_data(dir).await;
        for within_timeout in [false, true] {
            let hurried = match within_timeout {
                true => handle.with_timeout(10 * SECOND),
                false => handle.with_deadline(Instant::now() + 10 * SECOND),
            };
            let gate = Gate::closed();
            let mut target = patterned(1, BLOCK);
            let old = target.as_ptr();
            let mut read = Box::pin(read_block(&hurried, &file, gate.offset(), &mut target));
            until_held(&gate, &mut read).await;
            advance(9 * SECOND).await;
            not_yet(&mut read).await;
            advance(2 * SECOND).await;
            timed_out(read.await);
            // As if it had been dropped.
            let metrics = handle.metrics();
            assert_eq!(
                (metrics.in_flight, metrics.abandoned_in_flight),
                (1, 1),
                "{way:?}"
            );
            assert_eq!(handle.available_slots(), Some(3));
            assert!(target.size() == BLOCK && target.as_ptr() != old);
            assert!(target.iter().all(|&byte| byte == 0));
            gate.open();
            turns_until(|| handle.available_slots() == Some(4)).await;
            // The context and the buffer go on.
            let read = file.read_at(handle, LEN, &mut target, LEN, READ);
            assert_eq!(read.await.unwrap(), LEN);
            assert!(is_pattern(1, &target));
        }
        assert_eq!(handle.metrics().abandoned, 2);
    })
    .await;
}

#[tokio::test]
async fn every_kind_of_operation_times_out() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = with_data(dir).await;
        let hurried = handle.with_timeout(SECOND);
        let gate = Gate::closed();
        let at = gate.offset();

        let source = patterned(1, BLOCK);
        let mut write = Box::pin(file.write_at(&hurried, at, &source, LEN, WRITE));
        until_held(&gate, &mut write).await;
        advance(2 * SECOND).await;
        timed_out(write.await);
        assert!(is_pattern(1, &source), "{way:?}");

        let mut target = patterned(1, 2 * BLOCK);
        let mut read = Box::pin(file.read_exact_at(&hurried, at, &mut target, 2 * LEN, READ));
        while gate.held().len() < 2 {
            not_yet(&mut read).await;
            yield_now().await;
        }
        advance(2 * SECOND).await;
        timed_out(read.await);
        assert!(target.size() == 2 * BLOCK && target.iter().all(|&byte| byte == 0));

        let mut targets = [1, 2].map(|i| patterned(i, BLOCK));
        let mut parts = targets.each_mut().map(PartMut::from);
        let mut read = Box::pin(file.read_vectored_at(&hurried, at, &mut parts, READ));
        while gate.held().len() < 3 {
            not_yet(&mut read).await;
            yield_now().await;
        }
        advance(2 * SECOND).await;
        timed_out(read.await);
        for target in &targets {
            assert!(target.size() == BLOCK && target.iter().all(|&byte| byte == 0));
        }

        let owned = patterned(1, BLOCK);
        let mut read = Box::pin(file.read_owned_at(&hurried, at, owned, READ));
        while gate.held().len() < 4 {
            not_yet(&mut read).await;
            yield_now().await;
        }
        advance(2 * SECOND).await;
        let (read, empty) = read.await;
        timed_out(read);
        assert_eq!(empty.size(), 0);

        assert_eq!(handle.metrics().abandoned_in_flight, 4, "{way:?}");
        gate.open();
        turns_until(|| handle.available_slots() == Some(4)).await;
    })
    .await;
}

/// A socket, of which the kernel waits inside the submission.
#[test]
fn a_read_of_an_empty_socket_ends_at_its_deadline() {
    for &backend in BACKENDS {
        two_workers().block_on(async {
            let (context, handle) = context_by((backend, SubmitPolicy::Offload), 4);
            let (reader, mut writer) = UnixStream::pair().unwrap();
            let hurried = handle.with_timeout(SOON);
            let mut target = patterned(1, BLOCK);
            let command = RawCommand::Pread {
                offset: 0,
                buffer: &mut target,
                flags: READ,
                len: LEN,
            };
            let read = within(hurried.submit_request(&reader, command)).await;
            match read {
                // A socket has no place to read at, says `pread`.
                Err(error) if error.raw_os_error() == Some(libc::ESPIPE) => {}
                read => {
                    timed_out(read);
                    assert!(target.size() == BLOCK && target.iter().all(|&byte| byte == 0));
                    assert_eq!(handle.metrics().abandoned_in_flight, 1);
                    assert_eq!(handle.available_slots(), Some(3));
                }
            }
            writer.write_all(b"late").unwrap();
            is_idle(&handle, 4).await;
            within(context.close()).await;
        });
    }
}

#[tokio::test]
async fn a_result_that_is_there_wins_over_the_deadline() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = with_data(dir).await;
        let hurried = handle.with_deadline(Instant::now() + SECOND);
        let gate = Gate::closed();
        let mut target = patterned(1, BLOCK);
        let old = target.as_ptr();
        let mut read = Box::pin(read_block(&hurried, &file, gate.offset(), &mut target));
        until_held(&gate, &mut read).await;
        gate.open();
        turns_until(|| handle.metrics().completed == 1).await;
        advance(5 * SECOND).await;
        assert_eq!(read.await.unwrap(), 1, "{way:?}");
        assert_eq!(target.as_ptr(), old);
        assert_eq!(handle.metrics().abandoned, 0);
    })
    .await;
}

#[tokio::test]
async fn a_deadline_that_is_far_away_changes_nothing() {
    everywhere_by_all_ways(async |dir, _, handle| {
        let file = with_data(dir).await;
        tokio::time::resume();
        for far in [
            handle.with_timeout(3600 * SECOND),
            handle.with_timeout(Duration::MAX),
            handle.with_deadline(Instant::now() + 3600 * SECOND),
        ] {
            let reads = (0..8).map(|block| {
                let (far, file) = (&far, &file);
                async move {
                    let mut target = buffer(BLOCK);
                    let read = read_block(far, file, block * LEN, &mut target).await;
                    assert_eq!(read.unwrap(), LEN);
                    assert!(is_pattern(block, &target));
                }
            });
            within(join_all(reads)).await;
        }
        tokio::time::pause();
    })
    .await;
}

// ---- Not in flight ----------------------------------------------------------------------------

#[tokio::test]
async fn one_that_waits_for_a_slot_times_out_and_never_reaches_the_kernel() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = with_data(dir).await;
        let gate = Gate::closed();
        let mut targets = [(); 4].map(|()| buffer(BLOCK));
        let mut busy: Vec<_> = targets
            .iter_mut()
            .map(|target| Box::pin(read_block(handle, &file, gate.offset(), target)))
            .collect();
        for read in &mut busy {
            not_yet(read).await;
        }
        turns_until(|| gate.held().len() == 4).await;

        let watched = Watched::file(&file);
        let hurried = handle.with_timeout(SECOND);
        let (mut target, source) = (patterned(1, BLOCK), patterned(2, BLOCK));
        let old = target.as_ptr();
        let mut read = Box::pin(file.read_at(&hurried, 0, &mut target, LEN, READ));
        not_yet(&mut read).await;
        let mut write = Box::pin(file.write_at(&hurried, 0, &source, LEN, WRITE));
        not_yet(&mut write).await;
        let own = patterned(3, BLOCK);
        let address = own.as_ptr();
        let mut owned = Box::pin(file.read_owned_at(&hurried, 0, own, READ));
        not_yet(&mut owned).await;
        let mut exact = Box::pin(file.write_all_at(&hurried, 0, &source, LEN, WRITE));
        not_yet(&mut exact).await;
        advance(2 * SECOND).await;
        timed_out(read.await);
        timed_out(write.await);
        timed_out(exact.await);
        let (owned, own) = owned.await;
        timed_out(owned);
        // No kernel has seen them.
        assert!(target.as_ptr() == old && is_pattern(1, &target), "{way:?}");
        assert!(own.as_ptr() == address && is_pattern(3, &own), "{way:?}");
        gate.open();
        for read in busy {
            assert_eq!(read.await.unwrap(), 1);
        }
        turns_until(|| handle.available_slots() == Some(4)).await;
        let metrics = handle.metrics();
        assert_eq!(
            (metrics.submitted, metrics.abandoned),
            (4, 0),
            "{way:?}: {metrics:?}"
        );
        assert_eq!(watched.seen(), []);
    })
    .await;
}

#[tokio::test]
async fn after_its_deadline_nothing_is_submitted() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = with_data(dir).await;
        let watched = Watched::file(&file);
        let late = handle.with_deadline(Instant::now());
        let before = submissions();
        let (mut target, source) = (patterned(1, BLOCK), patterned(2, BLOCK));
        let old = target.as_ptr();
        timed_out(file.read_at(&late, 0, &mut target, LEN, READ).await);
        timed_out(file.write_at(&late, 0, &source, LEN, WRITE).await);
        timed_out(file.read_exact_at(&late, 0, &mut target, LEN, READ).await);
        timed_out(file.write_all_at(&late, 0, &source, LEN, WRITE).await);
        timed_out(file.sync_all(&late).await);
        let parts = &mut [target.part_mut(..)];
        timed_out(file.read_vectored_at(&late, 0, parts, READ).await);
        timed_out(
            file.write_vectored_at(&late, 0, &[source.part(..)], WRITE)
                .await,
        );
        assert!(target.as_ptr() == old && is_pattern(1, &target), "{way:?}");
        let (read, target) = file.read_owned_at(&late, 0, target, READ).await;
        timed_out(read);
        assert!(target.as_ptr() == old && is_pattern(1, &target), "{way:?}");
        let (written, vector) = file.write_all_owned_at(&late, 0, vec![7; 5], WRITE).await;
        timed_out(written);
        assert_eq!(vector, [7; 5]);
        let list = vec![target];
        let (read, list) = file.read_vectored_owned_at(&late, 0, list, READ).await;
        timed_out(read);
        assert!(
            list[0].as_ptr() == old && is_pattern(1, &list[0]),
            "{way:?}"
        );
        assert_eq!(
            (submissions() - before, watched.seen()),
            (0, vec![]),
            "{way:?}"
        );
        let metrics = handle.metrics();
        assert_eq!((metrics.submitted, metrics.found_full), (0, 0), "{way:?}");
        assert_eq!(handle.available_slots(), Some(4));
    })
    .await;
}

/// A timeout counts from when an operation is first polled, a deadline does not wait for that.
#[tokio::test]
async fn a_timeout_starts_with_its_operation() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = with_data(dir).await;
        let (timeout, deadline) = (
            handle.with_timeout(SECOND),
            handle.with_deadline(Instant::now() + SECOND),
        );
        let gate = Gate::closed();
        let (mut one, mut other) = (buffer(BLOCK), buffer(BLOCK));
        let mut late = Box::pin(read_block(&deadline, &file, gate.offset(), &mut one));
        let mut read = Box::pin(read_block(&timeout, &file, gate.offset(), &mut other));
        advance(5 * SECOND).await;
        timed_out(late.as_mut().await);
        until_held(&gate, &mut read).await;
        advance(SECOND / 2).await;
        not_yet(&mut read).await;
        advance(SECOND).await;
        timed_out(read.await);
        assert_eq!(gate.held().len(), 1, "{way:?}");
        gate.open();
        turns_until(|| handle.available_slots() == Some(4)).await;
    })
    .await;
}

/// Also where the first results are there by then, so that nothing is waited for yet.
#[tokio::test]
async fn the_timeout_of_a_batch_starts_when_it_is_first_polled() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = with_data(dir).await;
        let hurried = handle.with_timeout(10 * SECOND);
        let (open, closed) = (Gate::opened(), Gate::closed());
        let (mut one, mut other) = (buffer(BLOCK), buffer(BLOCK));
        let mut batch = hurried.batch();
        for (gate, buffer) in [(&open, &mut one), (&closed, &mut other)] {
            let (offset, flags, len) = (gate.offset(), READ, LEN);
            let read = RawCommand::Pread {
                offset,
                buffer,
                flags,
                len,
            };
            batch.push(&file, read);
        }
        let mut results = batch.stream();
        let mut first = poll!(results.next());
        while first.is_pending() {
            yield_now().await;
            first = poll!(results.next());
        }
        assert!(matches!(first, Poll::Ready(Some((0, Ok(_))))), "{first:?}");
        advance(11 * SECOND).await;
        let second = poll!(results.next());
        let Poll::Ready(Some((1, result))) = second else {
            panic!("{way:?}: {second:?}");
        };
        timed_out(result);
        drop(results);
        closed.open();
        turns_until(|| handle.available_slots() == Some(4)).await;
    })
    .await;
}

#[tokio::test]
async fn with_a_timeout_of_zero_an_operation_is_submitted_and_one_of_bytes_is_not() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = with_data(dir).await;
        file.alignment().await.unwrap();
        let none = handle.with_timeout(Duration::ZERO);
        let before = submissions();
        timed_out(file.read_bytes_at(&none, 1, &mut [0; 5], READ).await);
        timed_out(file.write_bytes_at(&none, 1, b"bytes", WRITE).await);
        assert_eq!(submissions(), before, "{way:?}");
        assert_eq!(handle.metrics().submitted, 0, "{way:?}");

        let gate = Gate::closed();
        let mut target = buffer(BLOCK);
        let mut read = Box::pin(read_block(&none, &file, gate.offset(), &mut target));
        until_held(&gate, &mut read).await;
        advance(SECOND).await;
        timed_out(read.await);
        assert_eq!(gate.held().len(), 1, "{way:?}");
        gate.open();
        turns_until(|| handle.available_slots() == Some(4)).await;
    })
    .await;
}

/// The limit is for the operation, however many requests it takes.
#[tokio::test]
async fn an_operation_of_several_requests_has_one_deadline() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = with_data(dir).await;
        let watched = Watched::file(&file);
        watched.cut_to(BLOCK);
        let hurried = handle.with_timeout(10 * SECOND);
        let mut target = AlignedBuf::new(8 * BLOCK).unwrap();
        let mut read = Box::pin(file.read_exact_at(&hurried, 0, &mut target, 8 * LEN, READ));
        let mut result = poll!(read.as_mut());
        let mut looks = 0;
        while result.is_pending() {
            // More than the limit together.
            advance(3 * SECOND).await;
            looks += 1;
            let submitted = handle.metrics().submitted;
            let done = || handle.metrics().completed >= submitted;
            turns_until(done).await;
            result = poll!(read.as_mut());
        }
        match result {
            Poll::Ready(Ok(())) => {} // it was fast: requests were done when they were made
            Poll::Ready(result) => {
                timed_out(result);
                assert!((4..=6).contains(&looks), "{way:?}: after {looks} looks");
            }
            Poll::Pending => unreachable!(),
        }
        drop(read);
        assert_eq!(target.size(), 8 * BLOCK);
        turns_until(|| handle.available_slots() == Some(4)).await;
    })
    .await;
}

/// As on tmpfs: each request is done inside its submission.
#[tokio::test]
async fn a_deadline_that_passes_while_requests_complete_at_once_is_met() {
    if !on_kernel_aio() {
        return;
    }
    let Some(dir) = on_tmpfs() else { return };
    let (context, handle) = inline_context(4);
    let file = with_data(&dir).await;
    let watched = Watched::file(&file);
    watched.cut_to(BLOCK);
    let mut target = AlignedBuf::new(4 * BLOCK).unwrap();
    for within_timeout in [false, true] {
        let before = watched.seen().len();
        // It passes while the second of four is made.
        let late = Fault::first(|| std::thread::sleep(2 * SOON));
        next_submissions_meet([Fault::Part(1), late]);
        let hurried = match within_timeout {
            true => handle.with_timeout(SOON),
            false => handle.with_deadline(Instant::now() + SOON),
        };
        timed_out(
            file.read_exact_at(&hurried, 0, &mut target, 4 * LEN, READ)
                .await,
        );
        assert!(watched.seen().len() - before <= 2);
        assert_eq!(target.size(), 4 * BLOCK);
    }
    within(context.close()).await;
}

// ---- Elsewhere --------------------------------------------------------------------------------

/// In time that passes.
#[test]
fn tasks_on_several_workers_time_out() {
    for dir in everywhere() {
        for way in ways() {
            two_workers().block_on(async {
                let (context, handle) = context_by(way, 4);
                let file = std::sync::Arc::new(with_data(&dir).await);
                let gate = std::sync::Arc::new(Gate::closed());
                let hurried = handle.with_timeout(SOON);
                // More than there are slots.
                let reads = (0..16).map(|_| {
                    let (hurried, file, gate) = (hurried.clone(), file.clone(), gate.clone());
                    tokio::spawn(async move {
                        let mut target = patterned(1, BLOCK);
                        timed_out(read_block(&hurried, &file, gate.offset(), &mut target).await);
                        assert_eq!(target.size(), BLOCK);
                    })
                });
                for read in within(join_all(reads)).await {
                    read.unwrap();
                }
                assert!(gate.held().len() <= 4, "{way:?}");
                gate.open();
                is_idle(&handle, 4).await;
                within(context.close()).await;
            });
        }
    }
}

#[test]
fn operations_of_a_local_context_time_out() {
    for dir in everywhere() {
        for (backend, policy) in ways() {
            one_thread().block_on(LocalSet::new().run_until(async {
                let builder = AioContextBuilder::new(4).backend(backend);
                let (context, handle, background) =
                    builder.submit_policy(policy).build_local().unwrap();
                spawn_local(background);
                yield_now().await;
                tokio::time::pause();
                let file = with_data(&dir).await;
                let gate = Gate::closed();
                let hurried = handle.with_timeout(SECOND);
                let mut target = patterned(1, BLOCK);
                let read = file.read_at(&hurried, gate.offset(), &mut target, LEN, READ);
                let mut read = Box::pin(read);
                until_held(&gate, &mut read).await;
                advance(2 * SECOND).await;
                timed_out(read.await);
                assert!(target.size() == BLOCK && target.iter().all(|&byte| byte == 0));
                assert_eq!(handle.metrics().abandoned_in_flight, 1);
                gate.open();
                turns_until(|| handle.available_slots() == Some(4)).await;
                tokio::time::resume();
                within(context.close()).await;
            }));
        }
    }
}

/// Time passes by itself where nothing else is to be done, and no thread is at work.
#[tokio::test(start_paused = true)]
async fn with_paused_time_a_stuck_read_times_out_at_once() {
    if !on_kernel_aio() {
        return;
    }
    for dir in everywhere() {
        let (context, handle) = inline_context(4);
        let file = with_data(&dir).await;
        let gate = Gate::closed();
        let mut target = patterned(1, BLOCK);
        let hurried = handle.with_timeout(3600 * SECOND);
        timed_out(read_block(&hurried, &file, gate.offset(), &mut target).await);
        gate.open();
        turns_until(|| handle.available_slots() == Some(4)).await;
        context.close().await;
    }
}

#[tokio::test]
async fn a_handle_has_the_limit_that_was_given_last() {
    let dir = on_disk();
    let (context, handle) = tokio_kaio::aio_context(4, true).unwrap();
    let file = with_data(&dir).await;
    let late = handle.with_deadline(Instant::now());
    let mut target = buffer(BLOCK);
    timed_out(read_block(&late.clone(), &file, 0, &mut target).await);
    let again = late.with_timeout(3600 * SECOND);
    let read = within(read_block(&again, &file, 0, &mut target)).await;
    assert_eq!(read.unwrap(), LEN);
    let read = within(read_block(&handle, &file, 0, &mut target)).await;
    assert_eq!(
        read.unwrap(),
        LEN,
        "the handle that it was made from has none"
    );
    within(context.close()).await;
}

/// The timer is the operation's only need of one.
#[test]
fn without_a_limit_no_timer_is_needed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    runtime.unwrap().block_on(async {
        let dir = on_disk();
        let (context, handle) = tokio_kaio::aio_context(4, true).unwrap();
        let file = with_data(&dir).await;
        let mut target = buffer(BLOCK);
        let read = read_block(&handle, &file, 0, &mut target).await;
        assert_eq!(read.unwrap(), LEN);
        context.close().await;
    });
}
