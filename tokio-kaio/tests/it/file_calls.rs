//! Calls of a [`BoundFile`] that io_uring performs, and the blocking pool on other backends.

use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;

use crate::common::*;
use futures::future::join_all;
use tokio_kaio::{
    AioOpenOptionsExt, Allocate, Backend, BoundFile, File, SubmitPolicy, SyncRange, WriteFlags,
};

/// Each backend of this build, and io_uring if it is compiled in.
fn backends() -> impl Iterator<Item = Mode> {
    let with_uring = cfg!(feature = "io-uring") && BACKENDS.len() > 1;
    let uring = with_uring.then_some(Backend::IoUring);
    let all = BACKENDS.iter().copied().chain(uring);
    all.map(|backend| (backend, SubmitPolicy::default()))
}

/// Whether contexts on io_uring can be made, or are not wanted.
fn is_available() -> bool {
    if !backends().any(|(backend, _)| backend == Backend::IoUring) {
        return true;
    }
    let made = current_thread().block_on(async {
        let builder = tokio_kaio::AioContextBuilder::new(1);
        builder.backend(Backend::IoUring).build().map(drop)
    });
    if let Err(error) = &made {
        eprintln!("skipped: {error}");
    }
    made.is_ok()
}

/// How many requests the context has submitted.
fn submitted(file: &BoundFile) -> u64 {
    file.handle().metrics().submitted
}

fn is_uring(file: &BoundFile) -> bool {
    file.handle().backend() == Backend::IoUring
}

#[test]
fn calls_of_a_bound_file_do_what_those_of_the_file_do() {
    if !is_available() {
        return;
    }
    let fixture = Fixture::new(4).every_dir().every_runtime();
    fixture.modes(backends()).run(async |case| {
        let file = case.file.with_handle(&case.handle);
        let metadata = || std::fs::metadata(&case.path).unwrap();
        let before = submitted(&file);
        file.allocate(Allocate::Extend, 0, 8 * LEN).await.unwrap();
        assert_eq!((metadata().len(), metadata().blocks()), (8 * LEN, 64));
        let kept = file.allocate(Allocate::KeepSize, 8 * LEN, 8 * LEN).await;
        kept.unwrap();
        assert_eq!((metadata().len(), metadata().blocks()), (8 * LEN, 128));
        file.set_len(3 * LEN).await.unwrap();
        assert_eq!((metadata().len(), metadata().blocks()), (3 * LEN, 24));
        let bytes = patterned_buffer(5, BLOCK);
        let written = file.write_at(LEN, &bytes, LEN, WriteFlags::empty()).await;
        assert_eq!(written.unwrap(), LEN);
        file.sync_range(0, 0, SyncRange::all()).await.unwrap();
        file.sync_range(LEN, LEN, SyncRange::WRITE).await.unwrap();
        let punched = file.allocate(Allocate::PunchHole, LEN, LEN).await;
        punched.unwrap();
        let content = std::fs::read(&case.path).unwrap();
        assert!(content == vec![0; 3 * BLOCK]);
        // set_len is one of io_uring since Linux 6.9.
        let calls = submitted(&file) - before - 1;
        match is_uring(&file) {
            true => assert!((5..=6).contains(&calls), "{calls}"),
            false => assert_eq!(calls, 0),
        }
    });
}

#[test]
fn calls_of_a_bound_file_fail_with_the_errors_of_the_file() {
    if !is_available() {
        return;
    }
    let fixture = Fixture::new(4).every_dir().blocks(2);
    fixture.modes(backends()).run(async |case| {
        let same = |ours: io::Result<()>, theirs: io::Result<()>| {
            let (ours, theirs) = (ours.unwrap_err(), theirs.unwrap_err());
            let of = |error: &io::Error| (error.kind(), error.raw_os_error(), error.to_string());
            assert_eq!(of(&ours), of(&theirs));
        };
        let read_only = OpenOptions::new()
            .read(true)
            .aio_open(case.path.clone(), false)
            .await;
        let read_only = read_only.unwrap();
        let (reader, huge) = (read_only.with_handle(&case.handle), u64::MAX / 2 + 1);
        let file = case.file.with_handle(&case.handle);
        for (offset, len) in [
            (0, LEN),
            (0, 0),
            (huge, LEN),
            (0, huge),
            (huge - 1, huge - 1),
        ] {
            let extend = Allocate::Extend;
            same(
                reader.allocate(extend, offset, len).await,
                read_only.allocate(extend, offset, len).await,
            );
            if (offset, len) != (0, LEN) {
                same(
                    file.allocate(extend, offset, len).await,
                    case.file.allocate(extend, offset, len).await,
                );
            }
        }
        for len in [LEN, huge, u64::MAX] {
            same(reader.set_len(len).await, read_only.set_len(len).await);
        }
        for len in [huge, u64::MAX] {
            same(file.set_len(len).await, case.file.set_len(len).await);
        }
        let all = SyncRange::all();
        for (offset, len) in [(huge, 1), (huge - 1, LEN), (1, huge - 1)] {
            let (ours, theirs) = (
                file.sync_range(offset, len, all),
                case.file.sync_range(offset, len, all),
            );
            same(ours.await, theirs.await);
        }
        assert_eq!(std::fs::metadata(&case.path).unwrap().len(), 2 * LEN);
    });
}

#[test]
fn a_call_waits_for_a_slot_and_keeps_the_deadline_of_its_handle() {
    if !is_available() {
        return;
    }
    Fixture::new(1).modes(backends()).run(async |case| {
        let file = case.file.with_handle(&case.handle);
        join_all((0..16).map(async |block| {
            let allocated = file.allocate(Allocate::Extend, block * LEN, LEN);
            allocated.await.unwrap();
        }))
        .await;
        assert_eq!(case.file.metadata().await.unwrap().len(), 16 * LEN);
        if is_uring(&file) {
            let late = file.with_deadline(tokio::time::Instant::now());
            let error = late
                .allocate(Allocate::Extend, 0, 32 * LEN)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(case.file.metadata().await.unwrap().len(), 16 * LEN);
        }
    });
}

#[test]
fn a_dropped_call_leaves_its_slot_and_the_context_in_order() {
    if !is_available() {
        return;
    }
    Fixture::new(4)
        .every_dir()
        .modes(backends())
        .run(async |case| {
            let file = case.file.with_handle(&case.handle);
            for block in 0..32 {
                let mut call = Box::pin(file.allocate(Allocate::Extend, block * LEN, LEN));
                let _ = futures::poll!(call.as_mut());
                drop(call);
            }
            let free = || case.handle.available_slots();
            wait_until(|| free() == Some(4), free).await;
            file.set_len(LEN).await.unwrap();
        });
}

/// The kernel ties a request to the thread that submits it.
#[test]
fn calls_outlive_the_thread_that_made_them() {
    if !is_available() {
        return;
    }
    let fixture = Fixture::new(64).runtime(multi_thread);
    fixture.modes(backends()).run(async |case| {
        if case.mode.0 != Backend::IoUring {
            return; // needs a runtime on the other thread
        }
        let file = Arc::new(case.file.with_handle(&case.handle));
        for _ in 0..20 {
            file.set_len(0).await.unwrap();
            let owner = Arc::clone(&file);
            let make = move || {
                let call = |block: u64| {
                    let file = Arc::clone(&owner);
                    let call = async move {
                        file.allocate(Allocate::Extend, block * LEN, LEN)
                            .await
                            .unwrap();
                    };
                    Box::pin(call) as Pin<Box<dyn Future<Output = ()> + Send>>
                };
                let mut calls: Vec<_> = (0..16).map(call).collect();
                let mut cx = Context::from_waker(Waker::noop());
                calls.retain_mut(|call| call.as_mut().poll(&mut cx).is_pending());
                calls
            };
            join_all(thread::spawn(make).join().unwrap()).await;
            assert_eq!(file.file().metadata().await.unwrap().len(), 16 * LEN);
        }
    });
}

#[test]
fn a_call_on_a_closed_context_says_so() {
    if !is_available() {
        return;
    }
    for (backend, _) in backends().filter(|(backend, _)| *backend == Backend::IoUring) {
        current_thread().block_on(async {
            let (context, handle) = context_in((backend, SubmitPolicy::default()), 4);
            let dir = disk_dir();
            let file: File = open_rw(&dir, "data").await;
            let file = file.with_handle(&handle);
            context.close().await;
            let error = file.allocate(Allocate::Extend, 0, LEN).await.unwrap_err();
            assert!(
                error.to_string().contains("the AIO context has ended"),
                "{error}"
            );
        });
    }
}
