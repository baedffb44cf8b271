//! Operations end at their deadline, whatever the disk does; their requests in flight go on.

use std::fmt::Debug;
use std::future::Future;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::common::*;
use crate::interposer::{Fault, Gate, WatchedFile, inject_faults, poll_until_at_gate, submissions};
use futures::future::join_all;
use futures::{StreamExt, poll};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, advance};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AlignedBuf, Backend, PartMut, RawCommand, ReadFlags,
    SubmitPolicy, WriteFlags,
};

const READ: ReadFlags = ReadFlags::empty();
const WRITE: WriteFlags = WriteFlags::empty();
/// On a clock that the test advances.
const SECOND: Duration = Duration::from_secs(1);
/// On the real clock.
const SOON: Duration = Duration::from_millis(20);

fn timed_out<T: Debug>(result: Result<T, AioCommandError>) {
    assert!(
        matches!(result, Err(AioCommandError::TimedOut)),
        "{result:?}"
    );
}

async fn not_yet<T: Debug>(operation: &mut Pin<Box<impl Future<Output = T>>>) {
    let polled = poll!(operation.as_mut());
    assert!(polled.is_pending(), "{polled:?}");
}

// ---- In flight --------------------------------------------------------------------------------

#[test]
fn a_stuck_read_ends_at_its_deadline_and_not_before() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            for within_timeout in [false, true] {
                let hurried = match within_timeout {
                    true => handle.with_timeout(10 * SECOND),
                    false => handle.with_deadline(Instant::now() + 10 * SECOND),
                };
                let gate = Gate::closed();
                let mut target = patterned_buffer(1, BLOCK);
                let old = target.as_ptr();
                let mut read = Box::pin(read_block(&hurried, &file, gate.offset(), &mut target));
                poll_until_at_gate(&gate, &mut read).await;
                advance(9 * SECOND).await;
                not_yet(&mut read).await;
                advance(2 * SECOND).await;
                timed_out(read.await);
                // As if it had been dropped.
                let metrics = handle.metrics();
                assert_eq!(
                    (metrics.in_flight, metrics.abandoned_in_flight),
                    (1, 1),
                    "{mode:?}"
                );
                assert_eq!(handle.available_slots(), Some(3));
                assert!(target.size() == BLOCK && target.as_ptr() != old);
                assert!(target.iter().all(|&byte| byte == 0));
                gate.open();
                spin_until(
                    || handle.available_slots() == Some(4),
                    || handle.available_slots(),
                )
                .await;
                // The context and the buffer go on.
                let read = file.read_at(handle, LEN, &mut target, LEN, READ);
                assert_eq!(read.await.unwrap(), LEN);
                assert!(is_pattern(1, &target));
            }
            assert_eq!(handle.metrics().abandoned, 2);
        });
}

#[test]
fn every_kind_of_operation_times_out() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let hurried = handle.with_timeout(SECOND);
            let gate = Gate::closed();
            let at = gate.offset();

            let source = patterned_buffer(1, BLOCK);
            let mut write = Box::pin(file.write_at(&hurried, at, &source, LEN, WRITE));
            poll_until_at_gate(&gate, &mut write).await;
            advance(2 * SECOND).await;
            timed_out(write.await);
            assert!(is_pattern(1, &source), "{mode:?}");

            let mut target = patterned_buffer(1, 2 * BLOCK);
            let mut read = Box::pin(file.read_exact_at(&hurried, at, &mut target, 2 * LEN, READ));
            while gate.waiting().len() < 2 {
                not_yet(&mut read).await;
                yield_now().await;
            }
            advance(2 * SECOND).await;
            timed_out(read.await);
            assert!(target.size() == 2 * BLOCK && target.iter().all(|&byte| byte == 0));

            let mut targets = [1, 2].map(|i| patterned_buffer(i, BLOCK));
            let mut parts = targets.each_mut().map(PartMut::from);
            let mut read = Box::pin(file.read_vectored_at(&hurried, at, &mut parts, READ));
            while gate.waiting().len() < 3 {
                not_yet(&mut read).await;
                yield_now().await;
            }
            advance(2 * SECOND).await;
            timed_out(read.await);
            for target in &targets {
                assert!(target.size() == BLOCK && target.iter().all(|&byte| byte == 0));
            }

            let owned = patterned_buffer(1, BLOCK);
            let mut read = Box::pin(file.read_owned_at(&hurried, at, owned, READ));
            while gate.waiting().len() < 4 {
                not_yet(&mut read).await;
                yield_now().await;
            }
            advance(2 * SECOND).await;
            let (read, empty) = read.await;
            timed_out(read);
            assert_eq!(empty.size(), 0);

            assert_eq!(handle.metrics().abandoned_in_flight, 4, "{mode:?}");
            gate.open();
            spin_until(
                || handle.available_slots() == Some(4),
                || handle.available_slots(),
            )
            .await;
        });
}

/// A read of a socket blocks inside the submission.
#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "about a submission that blocks; Plain lets it block the runtime"
)]
fn a_read_of_an_empty_socket_ends_at_its_deadline() {
    for &backend in BACKENDS {
        current_thread().block_on(async {
            let (context, handle) = context_in((backend, SubmitPolicy::Offload), 4);
            tokio::time::pause();
            let (reader, mut writer) = UnixStream::pair().unwrap();
            let hurried = handle.with_timeout(SECOND);
            let mut target = patterned_buffer(1, BLOCK);
            let command = RawCommand::Pread {
                offset: 0,
                buffer: &mut target,
                flags: READ,
                len: LEN,
            };
            let mut read = Box::pin(hurried.submit_request(&reader, command));
            not_yet(&mut read).await;
            // Before a thread takes it, it would be withdrawn. A socket has no place to read at, says `pread`.
            let state = || handle.metrics();
            let is_done = || match handle.backend() {
                Backend::ThreadPool => state().in_flight == 0,
                _ => state().waiting_for_thread == 0,
            };
            spin_until(is_done, state).await;
            advance(2 * SECOND).await;
            match read.await {
                Err(error) if error.raw_os_error() == Some(libc::ESPIPE) => {}
                read => {
                    timed_out(read);
                    assert!(target.size() == BLOCK && target.iter().all(|&byte| byte == 0));
                    if handle.backend() != Backend::IoUring {
                        // io_uring has cancelled it.
                        assert_eq!(handle.metrics().abandoned_in_flight, 1);
                        assert_eq!(handle.available_slots(), Some(3));
                    }
                }
            }
            tokio::time::resume();
            writer.write_all(b"late").unwrap();
            assert_idle(&handle, 4).await;
            with_hang_guard(context.close()).await;
        });
    }
}

#[test]
fn a_completion_wins_over_a_deadline_that_has_passed() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let hurried = handle.with_deadline(Instant::now() + SECOND);
            let gate = Gate::closed();
            let mut target = patterned_buffer(1, BLOCK);
            let old = target.as_ptr();
            let mut read = Box::pin(read_block(&hurried, &file, gate.offset(), &mut target));
            poll_until_at_gate(&gate, &mut read).await;
            gate.open();
            spin_until(|| handle.metrics().completed == 1, || handle.metrics()).await;
            advance(5 * SECOND).await;
            assert_eq!(read.await.unwrap(), 1, "{mode:?}");
            assert_eq!(target.as_ptr(), old);
            assert_eq!(handle.metrics().abandoned, 0);
        });
}

#[test]
fn a_deadline_that_is_far_away_changes_nothing() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle) = (case.file, &case.handle);
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
                with_hang_guard(join_all(reads)).await;
            }
            tokio::time::pause();
        });
}

// ---- Not in flight ----------------------------------------------------------------------------

#[test]
fn a_request_waiting_for_a_slot_times_out_and_never_reaches_the_kernel() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let gate = Gate::closed();
            let mut targets = [(); 4].map(|()| buffer(BLOCK));
            let mut busy: Vec<_> = targets
                .iter_mut()
                .map(|target| Box::pin(read_block(handle, &file, gate.offset(), target)))
                .collect();
            for read in &mut busy {
                not_yet(read).await;
            }
            spin_until(|| gate.waiting().len() == 4, || handle.metrics()).await;

            let watched = WatchedFile::new(&file);
            let hurried = handle.with_timeout(SECOND);
            let (mut target, source) = (patterned_buffer(1, BLOCK), patterned_buffer(2, BLOCK));
            let old = target.as_ptr();
            let mut read = Box::pin(file.read_at(&hurried, 0, &mut target, LEN, READ));
            not_yet(&mut read).await;
            let mut write = Box::pin(file.write_at(&hurried, 0, &source, LEN, WRITE));
            not_yet(&mut write).await;
            let own = patterned_buffer(3, BLOCK);
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
            // They never reached the kernel.
            assert!(target.as_ptr() == old && is_pattern(1, &target), "{mode:?}");
            assert!(own.as_ptr() == address && is_pattern(3, &own), "{mode:?}");
            gate.open();
            for read in busy {
                assert_eq!(read.await.unwrap(), 1);
            }
            spin_until(
                || handle.available_slots() == Some(4),
                || handle.available_slots(),
            )
            .await;
            let metrics = handle.metrics();
            assert_eq!(
                (metrics.submitted, metrics.abandoned),
                (4, 0),
                "{mode:?}: {metrics:?}"
            );
            assert_eq!(watched.transfers(), []);
        });
}

#[test]
fn after_its_deadline_nothing_is_submitted() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let watched = WatchedFile::new(&file);
            let late = handle.with_deadline(Instant::now());
            let before = submissions();
            let (mut target, source) = (patterned_buffer(1, BLOCK), patterned_buffer(2, BLOCK));
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
            assert!(target.as_ptr() == old && is_pattern(1, &target), "{mode:?}");
            let (read, target) = file.read_owned_at(&late, 0, target, READ).await;
            timed_out(read);
            assert!(target.as_ptr() == old && is_pattern(1, &target), "{mode:?}");
            let (written, vector) = file.write_all_owned_at(&late, 0, vec![7; 5], WRITE).await;
            timed_out(written);
            assert_eq!(vector, [7; 5]);
            let list = vec![target];
            let (read, list) = file.read_vectored_owned_at(&late, 0, list, READ).await;
            timed_out(read);
            assert!(
                list[0].as_ptr() == old && is_pattern(1, &list[0]),
                "{mode:?}"
            );
            assert_eq!(
                (submissions() - before, watched.transfers()),
                (0, vec![]),
                "{mode:?}"
            );
            let metrics = handle.metrics();
            assert_eq!((metrics.submitted, metrics.found_full), (0, 0), "{mode:?}");
            assert_eq!(handle.available_slots(), Some(4));
        });
}

/// A timeout starts at the first poll of an operation; a deadline does not.
#[test]
fn a_timeout_starts_with_its_operation() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
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
            poll_until_at_gate(&gate, &mut read).await;
            advance(SECOND / 2).await;
            not_yet(&mut read).await;
            advance(SECOND).await;
            timed_out(read.await);
            assert_eq!(gate.waiting().len(), 1, "{mode:?}");
            gate.open();
            spin_until(
                || handle.available_slots() == Some(4),
                || handle.available_slots(),
            )
            .await;
        });
}

/// Also if the first results are there by then, so that nothing waits yet.
#[test]
fn the_timeout_of_a_batch_starts_when_it_is_first_polled() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
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
                panic!("{mode:?}: {second:?}");
            };
            timed_out(result);
            drop(results);
            closed.open();
            spin_until(
                || handle.available_slots() == Some(4),
                || handle.available_slots(),
            )
            .await;
        });
}

#[test]
fn a_timeout_of_zero_submits_an_operation_but_not_an_unaligned_one() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            file.alignment().await.unwrap();
            let none = handle.with_timeout(Duration::ZERO);
            let before = submissions();
            timed_out(file.read_bytes_at(&none, 1, &mut [0; 5], READ).await);
            timed_out(file.write_bytes_at(&none, 1, b"bytes", WRITE).await);
            assert_eq!(submissions(), before, "{mode:?}");
            assert_eq!(handle.metrics().submitted, 0, "{mode:?}");

            let gate = Gate::closed();
            let mut target = buffer(BLOCK);
            let mut read = Box::pin(read_block(&none, &file, gate.offset(), &mut target));
            poll_until_at_gate(&gate, &mut read).await;
            advance(SECOND).await;
            timed_out(read.await);
            assert_eq!(gate.waiting().len(), 1, "{mode:?}");
            gate.open();
            spin_until(
                || handle.available_slots() == Some(4),
                || handle.available_slots(),
            )
            .await;
        });
}

/// The deadline is for the operation, however many requests it takes.
#[test]
fn an_operation_of_several_requests_has_one_deadline() {
    Fixture::new(4)
        .everywhere()
        .blocks(8)
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let watched = WatchedFile::new(&file);
            watched.shorten_to(BLOCK);
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
                spin_until(done, || handle.metrics()).await;
                result = poll!(read.as_mut());
            }
            match result {
                Poll::Ready(Ok(())) => {} // it was fast: requests were done when they were made
                Poll::Ready(result) => {
                    timed_out(result);
                    assert!((4..=6).contains(&looks), "{mode:?}: after {looks} looks");
                }
                Poll::Pending => unreachable!(),
            }
            drop(read);
            assert_eq!(target.size(), 8 * BLOCK);
            spin_until(
                || handle.available_slots() == Some(4),
                || handle.available_slots(),
            )
            .await;
        });
}

/// As on tmpfs: each request completes inside its submission.
#[test]
fn a_deadline_is_kept_while_requests_complete_inline() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(4)
        .inline()
        .tmpfs()
        .blocks(8)
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let watched = WatchedFile::new(&file);
            watched.shorten_to(BLOCK);
            let mut target = AlignedBuf::new(4 * BLOCK).unwrap();
            for within_timeout in [false, true] {
                let before = watched.transfers().len();
                // The deadline passes during the second of four requests.
                let late = Fault::run_first(|| std::thread::sleep(2 * SOON));
                inject_faults([Fault::Partial(1), late]);
                let hurried = match within_timeout {
                    true => handle.with_timeout(SOON),
                    false => handle.with_deadline(Instant::now() + SOON),
                };
                timed_out(
                    file.read_exact_at(&hurried, 0, &mut target, 4 * LEN, READ)
                        .await,
                );
                assert!(watched.transfers().len() - before <= 2);
                assert_eq!(target.size(), 4 * BLOCK);
            }
        });
}

// ---- Elsewhere --------------------------------------------------------------------------------

/// On the real clock.
#[test]
fn tasks_on_several_workers_time_out() {
    Fixture::new(4)
        .everywhere()
        .multi_thread()
        .blocks(8)
        .run(async |case| {
            let (handle, mode) = (case.handle, case.mode);
            let file = std::sync::Arc::new(case.file);
            let gate = std::sync::Arc::new(Gate::closed());
            let hurried = handle.with_timeout(SOON);
            // More than there are slots.
            let reads = (0..16).map(|_| {
                let (hurried, file, gate) = (hurried.clone(), file.clone(), gate.clone());
                tokio::spawn(async move {
                    let mut target = patterned_buffer(1, BLOCK);
                    timed_out(read_block(&hurried, &file, gate.offset(), &mut target).await);
                    assert_eq!(target.size(), BLOCK);
                })
            });
            for read in join_all(reads).await {
                read.unwrap();
            }
            assert!(gate.waiting().len() <= 4, "{mode:?}");
            gate.open();
        });
}

#[test]
fn operations_of_a_local_context_time_out() {
    for dir in test_dirs() {
        for (backend, policy) in modes() {
            current_thread().block_on(LocalSet::new().run_until(async {
                let builder = AioContextBuilder::new(4).backend(backend);
                let (context, handle, background) =
                    builder.submit_policy(policy).build_local().unwrap();
                spawn_local(background);
                yield_now().await;
                tokio::time::pause();
                let file = patterned_file(&dir, 8).await;
                let gate = Gate::closed();
                let hurried = handle.with_timeout(SECOND);
                let mut target = patterned_buffer(1, BLOCK);
                let read = file.read_at(&hurried, gate.offset(), &mut target, LEN, READ);
                let mut read = Box::pin(read);
                poll_until_at_gate(&gate, &mut read).await;
                advance(2 * SECOND).await;
                timed_out(read.await);
                assert!(target.size() == BLOCK && target.iter().all(|&byte| byte == 0));
                assert_eq!(handle.metrics().abandoned_in_flight, 1);
                gate.open();
                spin_until(
                    || handle.available_slots() == Some(4),
                    || handle.available_slots(),
                )
                .await;
                tokio::time::resume();
                with_hang_guard(context.close()).await;
            }));
        }
    }
}

/// A paused clock advances by itself when the runtime is idle and no blocking thread is at work.
#[tokio::test(start_paused = true)]
async fn with_paused_time_a_stuck_read_times_out_at_once() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        let (context, handle) = inline_context(4);
        let file = patterned_file(&dir, 8).await;
        let gate = Gate::closed();
        let mut target = patterned_buffer(1, BLOCK);
        let hurried = handle.with_timeout(3600 * SECOND);
        timed_out(read_block(&hurried, &file, gate.offset(), &mut target).await);
        gate.open();
        spin_until(
            || handle.available_slots() == Some(4),
            || handle.available_slots(),
        )
        .await;
        context.close().await;
    }
}

#[tokio::test]
async fn the_last_limit_set_on_a_handle_counts() {
    let dir = disk_dir();
    let (context, handle) = tokio_kaio::aio_context(4, true).unwrap();
    let file = patterned_file(&dir, 8).await;
    let late = handle.with_deadline(Instant::now());
    let mut target = buffer(BLOCK);
    timed_out(read_block(&late.clone(), &file, 0, &mut target).await);
    let again = late.with_timeout(3600 * SECOND);
    let read = with_hang_guard(read_block(&again, &file, 0, &mut target)).await;
    assert_eq!(read.unwrap(), LEN);
    let read = with_hang_guard(read_block(&handle, &file, 0, &mut target)).await;
    assert_eq!(
        read.unwrap(),
        LEN,
        "the handle that it was made from has none"
    );
    with_hang_guard(context.close()).await;
}

/// Only a deadline needs a timer.
#[test]
fn without_a_deadline_a_runtime_needs_no_timer() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    runtime.unwrap().block_on(async {
        let dir = disk_dir();
        let (context, handle) = tokio_kaio::aio_context(4, true).unwrap();
        let file = patterned_file(&dir, 8).await;
        let mut target = buffer(BLOCK);
        let read = read_block(&handle, &file, 0, &mut target).await;
        assert_eq!(read.unwrap(), LEN);
        context.close().await;
    });
}
