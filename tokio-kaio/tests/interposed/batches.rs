//! Batches: operations of any kind on any files, submitted together.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::time::Duration;

use crate::common::*;
use crate::interposer::{Fault, Gate, WatchedFile, inject_faults, submissions};
use futures::{Stream, StreamExt, poll};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, File, LockedBuf, PollEvents, RawCommand, ReadFlags,
    SubmitPolicy, WriteFlags,
};

fn read(offset: u64, buffer: &mut LockedBuf) -> RawCommand<'_> {
    let (flags, len) = (ReadFlags::empty(), buffer.size() as u64);
    RawCommand::Pread {
        offset,
        buffer,
        flags,
        len,
    }
}

fn write_to(offset: u64, buffer: &LockedBuf) -> RawCommand<'_> {
    let (flags, len) = (WriteFlags::empty(), buffer.size() as u64);
    RawCommand::Pwrite {
        offset,
        buffer,
        flags,
        len,
    }
}

#[test]
fn a_batch_of_any_size_is_one_io_submit_call() {
    if !is_kernel_aio_build() {
        return;
    }
    for dir in test_dirs() {
        current_thread().block_on(async {
            for count in [1, 2, 16, 64, 65, 300] {
                let (context, handle) = inline_context(300);
                let path = dir.path().join("file");
                write_patterned(&path, 300);
                let file = File::open(&path, false).await.unwrap();
                let mut buffers: Vec<_> = (0..count).map(|_| buffer(BLOCK)).collect();
                let mut batch = handle.batch();
                for (index, buffer) in buffers.iter_mut().enumerate() {
                    assert_eq!(batch.push(&file, read(index as u64 * LEN, buffer)), index);
                }
                assert_eq!(batch.len(), count);
                let before = submissions();
                let results = batch.all().await;
                assert_eq!(submissions() - before, 1, "{count}");
                assert_eq!(results.len(), count);
                for (index, (result, buffer)) in results.into_iter().zip(&buffers).enumerate() {
                    assert_eq!(result.unwrap(), LEN);
                    assert!(is_pattern(index as u64, buffer));
                }
                assert_idle(&handle, 300).await;
                context.close().await;
            }
        });
    }
}

#[test]
fn a_batch_mixes_operations_and_files() {
    Fixture::new(32)
        .everywhere()
        .multi_thread()
        .run(async |case| {
            let (dir, handle, mode) = (case.dir, case.handle, case.mode);
            let (one, two) = (dir.path().join("one"), dir.path().join("two"));
            write_patterned(&one, 4);
            write_patterned(&two, 4);
            let mut options = std::fs::OpenOptions::new();
            options.read(true).write(true);
            let first = File::from_std(options.open(&one).unwrap()).unwrap();
            let second = File::from_std(options.open(&two).unwrap()).unwrap();
            let raw = std::fs::File::open(&one).unwrap();
            let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();

            let (mut a, mut b, mut c) = (buffer(BLOCK), buffer(BLOCK), buffer(2 * BLOCK));
            let d = patterned_buffer(77, BLOCK);
            let mut parts = [c.part_mut(..BLOCK), b.part_mut(..)];
            let pieces = [d.part(..512), d.part(512..)];
            let mut batch = handle.batch();
            batch.push(&first, read(LEN, &mut a));
            batch.push(&second, write_to(3 * LEN, &d));
            let (offset, flags) = (0, ReadFlags::empty());
            batch.push(
                &second,
                RawCommand::Preadv {
                    offset,
                    buffers: &mut parts,
                    flags,
                },
            );
            let (offset, flags) = (2 * LEN, WriteFlags::DSYNC);
            batch.push(
                &first,
                RawCommand::Pwritev {
                    offset,
                    buffers: &pieces,
                    flags,
                },
            );
            batch.push(&first, RawCommand::Fdsync);
            batch.push_fd(&raw, RawCommand::Fsync);
            let events = PollEvents::OUT;
            batch.push_fd(&stream, RawCommand::Poll { events });
            batch.push_fd(&-1, RawCommand::Fsync);
            let results = batch.all().await;
            let ok: Vec<_> = results
                .iter()
                .map(|result| result.as_ref().ok().copied())
                .collect();
            let (len, out) = (Some(LEN), Some(u64::from(events.bits())));
            let expected = [len, len, Some(2 * LEN), len, Some(0), Some(0), out, None];
            assert_eq!(ok, expected, "{mode:?}: {results:?}");
            let error = results[7].as_ref().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF));
            assert!(is_pattern(1, &a) && is_pattern(0, &c[..BLOCK]) && is_pattern(1, &b));
            let mut there = vec![0; BLOCK];
            for (path, block) in [(&two, 3), (&one, 2)] {
                let file = std::fs::File::open(path).unwrap();
                file.read_exact_at(&mut there, block * LEN).unwrap();
                assert!(is_pattern(77, &there), "{mode:?}");
            }
        });
}

#[test]
fn results_arrive_in_completion_order() {
    Fixture::new(8)
        .blocks(4)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let gates = [Gate::closed(), Gate::closed(), Gate::closed()];
            let mut buffers = [buffer(BLOCK), buffer(BLOCK), buffer(BLOCK)];
            let mut batch = handle.batch();
            for (gate, buffer) in gates.iter().zip(&mut buffers) {
                batch.push(&file, read(gate.offset(), buffer));
            }
            let mut results = batch.stream();
            assert_eq!(results.size_hint(), (3, Some(3)));
            assert!(poll!(results.next()).is_pending());
            for index in [1, 2, 0] {
                gates[index].open();
                let (found, result) = results.next().await.unwrap();
                result.unwrap();
                assert_eq!(found, index, "{mode:?}");
            }
            assert!(results.next().await.is_none());
            drop(results);
        });
}

#[test]
fn a_batch_larger_than_its_context_waits_for_slots() {
    Fixture::new(3)
        .blocks(40)
        .everywhere()
        .multi_thread()
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let raw = file.as_raw_fd();
            let mut buffers: Vec<_> = (0..40).map(|_| buffer(BLOCK)).collect();
            let mut batch = handle.batch();
            for (index, buffer) in buffers.iter_mut().enumerate() {
                let command = read(index as u64 * LEN, buffer);
                match index % 2 {
                    0 => batch.push(&file, command),
                    _ => batch.push_fd(&raw, command),
                };
            }
            for result in batch.all().await {
                assert_eq!(result.unwrap(), LEN, "{mode:?}");
            }
            for (index, buffer) in buffers.iter().enumerate() {
                assert!(is_pattern(index as u64, buffer));
            }
        });
}

/// Lists of more than 1024 pieces, which take a second request, and appends, which wait for one another,
/// among them.
#[test]
fn a_stuck_request_does_not_block_the_rest_of_a_batch_larger_than_its_context() {
    Fixture::new(3)
        .blocks(2048)
        .everywhere()
        .multi_thread()
        .run(async |case| {
            let (dir, file, handle, mode) = (case.dir, case.file, case.handle, case.mode);
            let logs = [open_rw(dir, "log").await, open_rw(dir, "other log").await];
            let gate = Gate::closed();
            let mut stuck = buffer(BLOCK);
            let mut blocks: Vec<_> = (0..60).map(|_| buffer(BLOCK)).collect();
            let mut long: Vec<_> = (0..1025).map(|_| buffer(BLOCK)).collect();
            let source = patterned_buffer(7, BLOCK);
            let pieces: Vec<_> = (0..1025).map(|_| source.part(..)).collect();
            let mut parts: Vec<_> = long.iter_mut().map(|b| b.part_mut(..)).collect();

            let mut batch = handle.batch();
            batch.push(&file, read(gate.offset(), &mut stuck));
            let (offset, flags) = (0, ReadFlags::empty());
            let buffers = &mut parts[..];
            let list = RawCommand::Preadv {
                offset,
                buffers,
                flags,
            };
            batch.push(&file, list);
            for (index, block) in blocks.iter_mut().enumerate() {
                batch.push(&file, read(index as u64 * LEN, block));
                let (offset, buffer, flags, len) = (0, &source, WriteFlags::APPEND, LEN);
                let append = RawCommand::Pwrite {
                    offset,
                    buffer,
                    flags,
                    len,
                };
                batch.push(&logs[index % 2], append);
            }
            let (offset, buffers, flags) = (0, &pieces[..], WriteFlags::APPEND);
            let list = RawCommand::Pwritev {
                offset,
                buffers,
                flags,
            };
            batch.push(&logs[0], list);
            let count = batch.len();
            let mut results = batch.stream();
            let mut seen = vec![false; count];
            for _ in 1..count {
                let (index, result) = results.next().await.unwrap();
                assert!(result.is_ok(), "{mode:?}: {index}: {result:?}");
                assert!(index != 0 && !std::mem::replace(&mut seen[index], true));
            }
            assert!(poll!(results.next()).is_pending(), "{mode:?}");
            gate.open();
            assert_eq!(results.next().await.unwrap().0, 0, "{mode:?}");
            assert!(results.next().await.is_none());
            drop(results);
            for (index, block) in blocks.iter().enumerate() {
                assert!(is_pattern(index as u64, block), "{mode:?}");
            }
            for (log, blocks) in [("log", 30 + 1025), ("other log", 30)] {
                let path = dir.path().join(log);
                let len = std::fs::metadata(&path).unwrap().len();
                assert_eq!(len, blocks * LEN, "{mode:?}");
                std::fs::remove_file(path).unwrap();
            }
        });
}

#[test]
fn without_waiting_for_slots_only_requests_without_a_slot_fail() {
    Fixture::new(2)
        .build(|builder| builder.wait_for_slot(false))
        .blocks(4)
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let gates: Vec<_> = (0..4).map(|_| Gate::closed()).collect();
            let mut buffers: Vec<_> = (0..4).map(|_| buffer(BLOCK)).collect();
            let mut batch = handle.batch();
            for (gate, buffer) in gates.iter().zip(&mut buffers) {
                batch.push(&file, read(gate.offset(), buffer));
            }
            let mut all = Box::pin(batch.all());
            assert!(poll!(&mut all).is_pending());
            gates.iter().for_each(Gate::open);
            let results = (&mut all).await;
            drop(all);
            let full =
                |result: &Result<_, _>| matches!(result, Err(AioCommandError::CapacityExceeded));
            assert_eq!(results.iter().filter(|result| full(result)).count(), 2);
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
            assert!(buffers.iter().all(|buffer| buffer.size() == BLOCK));
        });
}

#[test]
fn a_dropped_batch_returns_its_buffers_and_slots() {
    Fixture::new(8)
        .blocks(16)
        .everywhere()
        .multi_thread()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let mut buffers: Vec<_> = (0..16).map(|_| buffer(BLOCK)).collect();
            for polls in 0..20 {
                let mut batch = handle.batch();
                for (index, buffer) in buffers.iter_mut().enumerate() {
                    batch.push(&file, read(index as u64 * LEN, buffer));
                }
                let mut results = batch.stream();
                for _ in 0..polls {
                    let _ = poll!(results.next());
                }
                drop(results);
                assert!(buffers.iter().all(|buffer| buffer.size() == BLOCK));
            }
        });
}

#[test]
fn a_batch_can_move_to_another_task() {
    Fixture::new(8)
        .blocks(4)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let gates = [Gate::closed(), Gate::closed()];
            let mut buffers = [buffer(BLOCK), buffer(BLOCK)];
            // Through a channel, so that another waker waits for it.
            let (handle, file) = (&handle, &file);
            let mut batch = handle.batch();
            for (gate, buffer) in gates.iter().zip(&mut buffers) {
                batch.push(file, read(gate.offset(), buffer));
            }
            let mut results = Box::pin(batch.stream());
            assert!(poll!(results.next()).is_pending());
            let (mut first, mut second) = (false, false);
            let watch = futures::stream::FuturesUnordered::new();
            watch.push(async {
                while let Some((_, result)) = results.next().await {
                    result.unwrap();
                }
            });
            let mut watch = pin!(watch);
            for (gate, seen) in gates.iter().zip([&mut first, &mut second]) {
                assert!(poll!(watch.next()).is_pending());
                gate.open();
                *seen = true;
            }
            watch.next().await.unwrap();
            assert!(first && second);
        });
}

/// More requests complete than a task may take in one poll; the rest must wake another task than
/// before.
#[test]
fn a_large_batch_can_move_to_another_task() {
    Fixture::new(512)
        .blocks(4)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let (open, last) = (Gate::closed(), Gate::closed());
            let mut buffers: Vec<_> = (0..300).map(|_| buffer(512)).collect();
            let mut batch = handle.batch();
            let (bulk, rest) = buffers.split_at_mut(200);
            for (index, buffer) in bulk.iter_mut().chain(rest).enumerate() {
                let gate = if index < 200 { &open } else { &last };
                batch.push(&file, read(gate.offset(), buffer));
            }
            let mut results = Box::pin(batch.stream());
            assert!(poll!(results.next()).is_pending());
            open.open();
            let done = || handle.metrics().completed >= 200;
            wait_until(done, || handle.metrics()).await;
            // `FuturesUnordered` polls it with a waker of its own.
            let mut watch = futures::stream::FuturesUnordered::new();
            watch.push(async {
                let mut seen = 0;
                while let Some((_, result)) = results.next().await {
                    result.unwrap();
                    seen += 1;
                }
                seen
            });
            let opener = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                last.open();
                last
            });
            assert_eq!(watch.next().await, Some(300), "{mode:?}");
            opener.join().unwrap();
            drop(watch);
        });
}

#[test]
fn requests_left_by_a_partial_io_submit_are_submitted_again() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(32).inline().blocks(16).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let raw = file.as_raw_fd();
        for faults in [
            vec![Fault::Partial(3)],
            vec![Fault::Partial(1), Fault::Again],
            vec![Fault::Again],
            vec![Fault::Partial(2), Fault::Partial(2), Fault::Again],
        ] {
            let mut buffers: Vec<_> = (0..16).map(|_| buffer(BLOCK)).collect();
            let mut batch = handle.batch();
            // A request is in flight, so that EAGAIN is retried at its completion.
            let gate = Gate::closed();
            let mut other = buffer(BLOCK);
            let mut blocked =
                Box::pin(file.read_at(&handle, gate.offset(), &mut other, LEN, ReadFlags::empty()));
            assert!(poll!(&mut blocked).is_pending());
            wait_until(|| handle.metrics().in_flight == 1, || handle.metrics()).await;
            for (index, buffer) in buffers.iter_mut().enumerate() {
                let command = read(index as u64 * LEN, buffer);
                match index % 3 {
                    0 => batch.push_fd(&raw, command),
                    _ => batch.push(&file, command),
                };
            }
            inject_faults(faults);
            let mut all = Box::pin(batch.all());
            let early = poll!(&mut all);
            gate.open();
            let results = match early {
                std::task::Poll::Ready(results) => results,
                std::task::Poll::Pending => (&mut all).await,
            };
            drop(all);
            blocked.await.unwrap();
            for result in results {
                assert_eq!(result.unwrap(), LEN);
            }
            for (index, buffer) in buffers.iter().enumerate() {
                assert!(is_pattern(index as u64, buffer));
            }
        }
    });
}

/// After many inline completions, a batch is submitted without an eventfd.
#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "needs a request without an eventfd; Plain signals each"
)]
fn a_late_completion_is_found_after_offloaded_requests_completed_before_it() {
    let Some(dir) = is_kernel_aio_build().then(tmpfs_dir).flatten() else {
        return;
    };
    current_thread().block_on(async {
        let (context, handle) = inline_context(8);
        let path = dir.path().join("file");
        write_patterned(&path, 4);
        let file = File::open(&path, false).await.unwrap();
        let offloaded = File::open(&path, false).await.unwrap();
        offloaded.set_submit_policy(Some(SubmitPolicy::Offload));
        let mut buffers = [buffer(BLOCK), buffer(BLOCK), buffer(BLOCK)];
        for _ in 0..FAST_REQUESTS {
            let read = read_block(&handle, &file, 0, &mut buffers[0]).await;
            assert_eq!(read.unwrap(), LEN);
        }
        let gate = Gate::closed();
        let [first, second, third] = &mut buffers;
        let mut batch = handle.batch();
        batch.push(&file, read(0, first));
        batch.push(&offloaded, read(0, second));
        batch.push(&file, read(gate.offset(), third));
        let mut results = batch.stream();
        for _ in 0..2 {
            with_hang_guard(results.next()).await.unwrap().1.unwrap();
        }
        assert_eq!(
            gate.waiting(),
            [None],
            "the eventfd is to signal its completion"
        );
        // While nothing polls the batch.
        let opener = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            gate.open();
            gate
        });
        with_hang_guard(results.next()).await.unwrap().1.unwrap();
        opener.join().unwrap();
        drop(results);
        context.close().await;
    });
}

#[test]
fn appends_in_a_batch_land_in_order() {
    Fixture::new(8)
        .everywhere()
        .multi_thread()
        .run(async |case| {
            let (path, handle, mode) = (case.path, case.handle, case.mode);
            let file = File::create(&path, false).await.unwrap();
            let blocks: Vec<_> = (0..12).map(|seed| patterned_buffer(seed, BLOCK)).collect();
            let mut batch = handle.batch();
            for block in &blocks {
                let (offset, flags, len) = (0, WriteFlags::APPEND, LEN);
                batch.push(
                    &file,
                    RawCommand::Pwrite {
                        offset,
                        buffer: block,
                        flags,
                        len,
                    },
                );
            }
            for result in batch.all().await {
                assert_eq!(result.unwrap(), LEN, "{mode:?}");
            }
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len(), 12 * BLOCK);
            for (seed, block) in bytes.chunks(BLOCK).enumerate() {
                assert!(is_pattern(seed as u64, block), "{mode:?}, block {seed}");
            }
        });
}

#[test]
fn a_batch_ends_at_its_deadline() {
    const SECOND: Duration = Duration::from_secs(1);
    Fixture::new(8)
        .blocks(4)
        .every_mode()
        .pause_clock()
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let gate = Gate::closed();
            let hasty = handle.with_timeout(SECOND);
            let mut buffers = [buffer(BLOCK), buffer(BLOCK)];
            let [stuck, done] = &mut buffers;
            let mut batch = hasty.batch();
            batch.push(&file, read(gate.offset(), stuck));
            batch.push(&file, read(0, done));
            let mut all = Box::pin(batch.all());
            assert!(poll!(&mut all).is_pending());
            let state = || (handle.metrics(), gate.waiting());
            spin_until(|| state().0.completed == 1 && state().1.len() == 1, state).await;
            tokio::time::advance(2 * SECOND).await;
            let results = all.await;
            assert!(
                matches!(results[0], Err(AioCommandError::TimedOut)),
                "{mode:?}: {results:?}"
            );
            assert!(matches!(results[1], Ok(LEN)), "{mode:?}: {results:?}");
            assert!(buffers.iter().all(|buffer| buffer.size() == BLOCK));

            let watched = WatchedFile::new(&file);
            let late = handle.with_deadline(tokio::time::Instant::now());
            let mut batch = late.batch();
            batch.push(&file, read(0, &mut buffers[0]));
            let results = batch.all().await;
            assert!(matches!(results[0], Err(AioCommandError::TimedOut)));
            gate.open();
            let free = || handle.available_slots();
            spin_until(|| free() == Some(8), free).await;
            assert_eq!(watched.transfers(), [], "{mode:?}");
        });
}

#[test]
fn an_empty_batch_completes_at_once() {
    current_thread().block_on(async {
        let (context, handle) = inline_context(2);
        assert!(handle.batch().is_empty());
        assert!(handle.batch().all().await.is_empty());
        assert!(handle.batch().stream().next().await.is_none());
        context.close().await;
    });
}

#[test]
#[should_panic = "len should be <= buffer.size()"]
fn a_length_beyond_the_buffer_panics_before_submission() {
    current_thread().block_on(async {
        let (_context, handle) = inline_context(2);
        let buffer = buffer(512);
        let (offset, flags, len) = (0, WriteFlags::empty(), 513);
        let command = RawCommand::Pwrite {
            offset,
            buffer: &buffer,
            flags,
            len,
        };
        handle.batch().push_fd(&0, command);
    });
}

#[test]
fn a_batch_uses_any_of_several_shards() {
    if !is_kernel_aio_build() {
        return;
    }
    let dir = disk_dir();
    multi_thread().block_on(async {
        let builder = AioContextBuilder::new(6).shards(3);
        let builder = builder.submit_policy(SubmitPolicy::Inline);
        let (context, handle) = builder.build().unwrap();
        let path = dir.path().join("file");
        write_patterned(&path, 24);
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true);
        let file = File::from_std(options.open(&path).unwrap()).unwrap();
        let mut buffers: Vec<_> = (0..24).map(|_| buffer(BLOCK)).collect();
        let appended = patterned_buffer(24, BLOCK);
        let mut batch = handle.batch();
        for (index, buffer) in buffers.iter_mut().enumerate() {
            batch.push(&file, read(index as u64 * LEN, buffer));
        }
        let (offset, flags, len) = (0, WriteFlags::APPEND, LEN);
        let command = RawCommand::Pwrite {
            offset,
            buffer: &appended,
            flags,
            len,
        };
        batch.push(&file, command);
        for result in batch.all().await {
            assert_eq!(result.unwrap(), LEN);
        }
        for (index, buffer) in buffers.iter().enumerate() {
            assert!(is_pattern(index as u64, buffer));
        }
        context.close().await;
    });
}

#[test]
fn without_waiting_for_slots_a_batch_uses_the_slots_of_all_shards() {
    Fixture::new(6)
        .build(|builder| builder.shards(3).wait_for_slot(false))
        .blocks(4)
        .every_backend()
        .multi_thread()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let gate = Gate::closed();
            let mut buffers: Vec<_> = (0..7).map(|_| buffer(BLOCK)).collect();
            let mut batch = handle.batch();
            for buffer in &mut buffers {
                batch.push(&file, read(gate.offset(), buffer));
            }
            let mut all = Box::pin(batch.all());
            assert!(poll!(&mut all).is_pending());
            let metrics = handle.metrics();
            assert_eq!(metrics.in_flight + metrics.queued, 6);
            gate.open();
            let results = (&mut all).await;
            drop(all);
            assert!(results[..6].iter().all(Result::is_ok), "{results:?}");
            let full = matches!(results[6], Err(AioCommandError::CapacityExceeded));
            assert!(full, "{results:?}");
            assert!(buffers.iter().all(|buffer| buffer.size() == BLOCK));
        });
}
