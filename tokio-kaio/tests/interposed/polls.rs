//! Polls: they wait for events on descriptors, and are cancelled when nobody waits for them.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::time::Duration;

use crate::common::*;
use crate::interposer::{Fault, inject_faults, pending_faults};
use futures::poll;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, File, PollEvents, RawCommand, ReadFlags, WriteFlags,
    local_aio_context,
};

#[test]
fn a_poll_completes_when_data_arrives() {
    Fixture::new(4)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (handle, mode) = (case.handle, case.mode);
            let (reader, mut writer) = UnixStream::pair().unwrap();
            let mut waiting = pin!(handle.poll(&reader, PollEvents::IN));
            assert!(poll!(&mut waiting).is_pending(), "{mode:?}");
            writer.write_all(b"x").unwrap();
            assert_eq!(waiting.await.unwrap(), PollEvents::IN, "{mode:?}");
            // Now at once, and for more than one thing.
            let events = PollEvents::IN | PollEvents::OUT;
            assert_eq!(handle.poll(&reader, events).await.unwrap(), events);
        });
}

#[test]
fn a_hang_up_completes_a_poll_for_other_events() {
    Fixture::new(4).every_mode().run(async |case| {
        let (handle, mode) = (case.handle, case.mode);
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut waiting = pin!(handle.poll(&reader, PollEvents::PRI));
        assert!(poll!(&mut waiting).is_pending());
        drop(writer);
        assert_eq!(waiting.await.unwrap(), PollEvents::HUP, "{mode:?}");
    });
}

#[test]
fn a_poll_of_a_regular_file_completes_at_once() {
    Fixture::new(4).every_mode().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let file = File::create(dir.path().join("file"), false).await.unwrap();
        let events = PollEvents::IN | PollEvents::OUT;
        assert_eq!(handle.poll(&file, events).await.unwrap(), events);
    });
}

#[test]
fn a_dropped_poll_is_cancelled_and_frees_its_slot() {
    Fixture::new(2)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let handle = case.handle;
            let (reader, _writer) = UnixStream::pair().unwrap();
            for _ in 0..100 {
                let mut first = Box::pin(handle.poll(&reader, PollEvents::IN));
                let mut second = Box::pin(handle.poll(&reader, PollEvents::IN));
                assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
                drop((first, second));
                wait_all_free(&handle, 2).await;
            }
        });
}

#[test]
fn randomly_queued_submitted_and_dropped_polls_leave_nothing() {
    Fixture::new(3)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let handle = case.handle;
            let mut tasks = tokio::task::JoinSet::new();
            for task in 0..8_u64 {
                let handle = handle.clone();
                tasks.spawn(async move {
                    let (reader, mut writer) = UnixStream::pair().unwrap();
                    for round in 0..60 {
                        let waiting = handle.poll(&reader, PollEvents::IN);
                        let polls = (task * 7 + round * 3) % 4;
                        let mut waiting = Box::pin(waiting);
                        for _ in 0..polls {
                            let _ = poll!(&mut waiting);
                            tokio::task::yield_now().await;
                        }
                        if round % 5 == 0 {
                            writer.write_all(b"x").unwrap();
                            assert_eq!(waiting.await.unwrap(), PollEvents::IN);
                            let mut byte = [0];
                            std::io::Read::read_exact(&mut &reader, &mut byte).unwrap();
                        }
                    }
                });
            }
            tasks.join_all().await;
        });
}

#[test]
fn a_context_that_is_closed_does_not_wait_for_polls() {
    for mode in modes() {
        multi_thread().block_on(async {
            let (context, handle) = context_in(mode, 2);
            let (reader, _writer) = UnixStream::pair().unwrap();
            let mut polls = Vec::new();
            for _ in 0..3 {
                // The third waits for a slot.
                let mut waiting = Box::pin(handle.poll(&reader, PollEvents::IN));
                assert!(poll!(&mut waiting).is_pending());
                polls.push(waiting);
            }
            std::mem::forget(polls.remove(0));
            context.close().await;
            for waiting in polls {
                let error = waiting.await.unwrap_err();
                assert!(
                    matches!(error, AioCommandError::AioStopped),
                    "{mode:?}: {error}"
                );
            }
        });
    }
}

/// The context stops while the poll is being submitted, when it can't be cancelled yet.
#[test]
fn a_context_that_is_closed_while_polls_are_submitted_does_not_wait_for_them() {
    if !is_kernel_aio_build() {
        return;
    }
    for together in [false, true] {
        current_thread().block_on(async {
            let (context, handle, background) = local_aio_context(4, true).unwrap();
            let mut background = Box::pin(background);
            assert!(poll!(&mut background).is_pending());
            let (reader, _writer) = UnixStream::pair().unwrap();
            inject_faults([Fault::run_first(move || drop(context))]);
            let results = match together {
                false => {
                    let ready = with_hang_guard(handle.poll(&reader, PollEvents::IN)).await;
                    vec![ready.map(|events| events.bits().into())]
                }
                true => {
                    let mut batch = handle.batch();
                    for _ in 0..3 {
                        let events = PollEvents::IN;
                        batch.push_fd(&reader, RawCommand::Poll { events });
                    }
                    with_hang_guard(batch.all()).await
                }
            };
            for result in results {
                let stopped = matches!(result, Err(AioCommandError::AioStopped));
                assert!(stopped, "{together}: {result:?}");
            }
            assert_eq!(pending_faults(), 0);
            with_hang_guard(background).await.unwrap();
        });
    }
}

#[test]
fn the_handle_of_a_closed_context_keeps_no_descriptor_of_its_polls() {
    if !in_child!() {
        return;
    }
    for mode in modes() {
        current_thread().block_on(async {
            let (reader, _writer) = UnixStream::pair().unwrap();
            let before = open_resources();
            let (context, handle) = context_in(mode, 2);
            let mut waiting = Box::pin(handle.poll(&reader, PollEvents::IN));
            assert!(poll!(&mut waiting).is_pending());
            wait_until(|| handle.metrics().submitted == 1, || handle.metrics()).await;
            with_hang_guard(context.close()).await;
            drop(waiting);
            wait_until(|| is_released(before), open_resources).await;
            drop(handle);
        });
    }
}

#[test]
fn polls_do_not_delay_transfers() {
    Fixture::new(64)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (path, handle) = (case.path, case.handle);
            let (reader, _writer) = UnixStream::pair().unwrap();
            let mut polls = Vec::new();
            for _ in 0..40 {
                let mut waiting = Box::pin(handle.poll(&reader, PollEvents::IN));
                assert!(poll!(&mut waiting).is_pending());
                polls.push(waiting);
            }
            let file = File::create(&path, false).await.unwrap();
            let block = buffer(4096);
            for at in 0..20 {
                let flags = WriteFlags::empty();
                file.write_at(&handle, at * 4096, &block, 4096, flags)
                    .await
                    .unwrap();
            }
            drop(polls);
            let file = File::open(&path, false).await.unwrap();
            let mut block = buffer(4096);
            let read = file.read_at(&handle, 0, &mut block, 4096, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), 4096);
        });
}

/// The retry does not wait for the poll: it may never complete.
#[test]
fn eagain_with_only_a_poll_in_flight_is_retried() {
    if !is_kernel_aio_build() {
        return;
    }
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), 1);
    // With several workers, another thread retries, which has no faults.
    for (runtime, times) in [(current_thread(), 3), (multi_thread(), 1)] {
        runtime.block_on(async {
            let (context, handle) = inline_context(8);
            let file = open_rw(&dir, "data").await;
            let (quiet, _other_end) = UnixStream::pair().unwrap();
            let mut waiting = pin!(handle.poll(&quiet, PollEvents::IN));
            assert!(poll!(&mut waiting).is_pending());
            inject_faults((0..times).map(|_| Fault::Again));
            let mut target = buffer(BLOCK);
            let read = with_hang_guard(read_block(&handle, &file, 0, &mut target)).await;
            assert_eq!((read.unwrap(), pending_faults()), (BLOCK as u64, 0));
            assert!(poll!(&mut waiting).is_pending());
            context.close().await;
        });
    }
}

#[test]
fn a_poll_of_an_invalid_descriptor_is_an_error() {
    Fixture::new(2).every_mode().run(async |case| {
        let (handle, mode) = (case.handle, case.mode);
        let error = handle.poll(&-1, PollEvents::IN).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{mode:?}");
    });
}

#[test]
fn a_poll_may_outlive_its_descriptor() {
    Fixture::new(2).every_mode().run(async |case| {
        let (handle, mode) = (case.handle, case.mode);
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let number = reader.as_raw_fd();
        let mut waiting = Box::pin(handle.poll(&number, PollEvents::IN));
        assert!(poll!(&mut waiting).is_pending());
        drop(reader);
        // The socket is closed only when the poll has released it, too.
        let sent = writer.write_all(b"x");
        if sent.is_ok() {
            assert_eq!(waiting.await.unwrap(), PollEvents::IN, "{mode:?}");
        } else {
            drop(waiting);
        }
    });
}

#[test]
fn a_poll_is_cancelled_at_its_deadline() {
    Fixture::new(1)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (handle, mode) = (case.handle, case.mode);
            let (reader, _writer) = UnixStream::pair().unwrap();
            let hasty = handle.with_timeout(Duration::from_millis(1));
            let error = hasty.poll(&reader, PollEvents::IN).await.unwrap_err();
            assert!(matches!(error, AioCommandError::TimedOut), "{mode:?}");
            // The only slot is free for the next one.
            let ready = handle.poll(&reader, PollEvents::OUT).await.unwrap();
            assert_eq!(ready, PollEvents::OUT);
        });
}

#[test]
fn polls_work_on_a_local_context() {
    current_thread().block_on(async {
        let (context, handle, background) = local_aio_context(2, true).unwrap();
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                tokio::task::spawn_local(background);
                let (reader, mut writer) = UnixStream::pair().unwrap();
                let mut waiting = pin!(handle.poll(&reader, PollEvents::IN));
                assert!(poll!(&mut waiting).is_pending());
                writer.write_all(b"x").unwrap();
                assert_eq!(waiting.await.unwrap(), PollEvents::IN);
                context.close().await;
            })
            .await;
    });
}

#[test]
fn a_raw_poll_returns_its_events_as_bits() {
    current_thread().block_on(async {
        let (context, handle) = AioContextBuilder::new(2).build().unwrap();
        let (reader, _writer) = UnixStream::pair().unwrap();
        let events = PollEvents::OUT;
        let command = RawCommand::Poll { events };
        let ready = handle.submit_request(&reader, command).await.unwrap();
        assert_eq!(ready, u64::from(events.bits()));
        context.close().await;
    });
}
