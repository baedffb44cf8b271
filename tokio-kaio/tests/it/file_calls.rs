//! Calls of a [`BoundFile`] that io_uring performs, and the blocking pool on other backends.

#![allow(unsafe_code)] // fcntl, mkfifo

use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::common::*;
use futures::future::join_all;
use tokio::runtime::Handle;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextHandle, AioOpenOptionsExt, Allocate, Backend, BoundFile,
    File, ReadFlags, SubmitPolicy, SyncRange, WriteFlags,
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
        let late = file.with_deadline(tokio::time::Instant::now());
        let error = late
            .allocate(Allocate::Extend, 0, 32 * LEN)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(case.file.metadata().await.unwrap().len(), 16 * LEN);
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

/// The kernel ties a request to the thread that submits it. A call may end in the blocking pool.
#[test]
fn calls_outlive_the_thread_that_made_them() {
    if !is_available() {
        return;
    }
    let fixture = Fixture::new(64).runtime(multi_thread);
    fixture.modes(backends()).run(async |case| {
        let runtime = Handle::current();
        let file = Arc::new(case.file.with_handle(&case.handle));
        for _ in 0..20 {
            file.set_len(0).await.unwrap();
            let (owner, runtime) = (Arc::clone(&file), runtime.clone());
            let make = move || {
                let _entered = runtime.enter();
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
fn calls_and_opens_on_a_closed_context_say_so() {
    if !is_available() {
        return;
    }
    for mode in backends() {
        current_thread().block_on(async {
            let (context, handle) = context_in(mode, 4);
            let dir = disk_dir();
            let file: File = open_rw(&dir, "data").await;
            let file = file.with_handle(&handle);
            context.close().await;
            let new = dir.path().join("new");
            let calls = [
                file.allocate(Allocate::Extend, 0, LEN).await,
                file.set_len(LEN).await,
                file.sync_range(0, LEN, SyncRange::WRITE).await,
                handle.create(&new, false).await.map(drop),
                handle.open(dir.path().join("data"), false).await.map(drop),
            ];
            for call in calls {
                let error = call.unwrap_err().downcast::<AioCommandError>().unwrap();
                assert!(matches!(error, AioCommandError::AioStopped), "{error:?}");
            }
            assert!(!new.exists());
            assert_eq!(file.file().metadata().await.unwrap().len(), 0);
        });
    }
}

/// The settings of an open, and what of the file it makes.
async fn opened(open: impl Future<Output = io::Result<File>>) -> Result<String, String> {
    match open.await {
        Ok(file) => {
            let metadata = file.metadata().await.unwrap();
            let flags = fcntl_flags(&file);
            let opened = file.metadata_at_open();
            assert_eq!(
                (opened.len(), opened.ino()),
                (metadata.len(), metadata.ino())
            );
            let alignment = file.alignment().await.unwrap();
            let mode = metadata.mode();
            Ok(format!(
                "{mode:o} {} {flags:o} {alignment:?}",
                metadata.len()
            ))
        }
        Err(error) => Err(format!(
            "{:?} {:?} {error}",
            error.kind(),
            error.raw_os_error()
        )),
    }
}

/// The status flags, and whether the descriptor is closed by `exec`.
fn fcntl_flags(file: &File) -> i32 {
    use std::os::fd::AsRawFd;
    // SAFETY: an open descriptor.
    let status = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    let closes = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
    status | closes << 30
}

/// Options of all kinds.
fn kinds_of_options() -> Vec<OpenOptions> {
    let mut kinds = Vec::new();
    for bits in 0..64 {
        let is_set = |index: u32| bits & 1 << index != 0;
        let mut options = OpenOptions::new();
        options.read(is_set(0)).write(is_set(1)).append(is_set(2));
        options.truncate(is_set(3)).create(is_set(4));
        options.create_new(is_set(5));
        if bits % 3 == 0 {
            options.mode(0o600);
        }
        if bits % 5 == 0 {
            options.custom_flags(libc::O_NOATIME | libc::O_NOFOLLOW);
        }
        kinds.push(options);
    }
    for flags in [libc::O_PATH, libc::O_DIRECTORY, libc::O_TMPFILE, -1] {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags);
        kinds.push(options);
    }
    for mode in [0, 0o7777, !0, !0o077, 1 << 31] {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(mode);
        kinds.push(options);
    }
    kinds
}

#[test]
fn opens_by_a_handle_do_what_those_of_the_file_do() {
    if !is_available() {
        return;
    }
    let fixture = Fixture::new(4).every_dir().every_runtime();
    fixture.modes(backends()).run(async |case| {
        let path = case.path.with_file_name("opened");
        let before = case.handle.metrics().submitted;
        for options in kinds_of_options() {
            for (exists, is_sync) in [(false, false), (true, false), (true, true)] {
                let prepare = || {
                    let _ = std::fs::remove_file(&path);
                    if exists {
                        std::fs::write(&path, [7; 3 * BLOCK]).unwrap();
                    }
                };
                prepare();
                let theirs = opened(File::open_with(&options, &path, is_sync)).await;
                prepare();
                let ours = case.handle.open_with(&options, &path, is_sync);
                let ours = opened(async { Ok(ours.await?.into_parts().0) }).await;
                assert_eq!(ours, theirs, "{options:?} {exists} {is_sync}");
            }
        }
        let opens = case.handle.metrics().submitted - before;
        let is_uring = case.handle.backend() == Backend::IoUring;
        assert_eq!(opens > 0, is_uring, "{opens}");
    });
}

#[test]
fn opens_by_a_handle_fail_with_the_errors_of_the_file() {
    if !is_available() {
        return;
    }
    let fixture = Fixture::new(4).every_dir().blocks(2);
    fixture.modes(backends()).run(async |case| {
        let dir = case.path.parent().unwrap();
        let mut write = OpenOptions::new();
        write.write(true);
        let mut new = OpenOptions::new();
        new.write(true).create_new(true);
        let mut read = OpenOptions::new();
        read.read(true);
        let long = "x".repeat(300);
        for path in [
            dir.join("missing"),
            case.path.join("below"),
            dir.to_path_buf(),
            dir.join(long),
            "/dev/null".into(),
            "/proc/self/status".into(),
            "with\0zero".into(),
            "".into(),
            case.path.clone(),
        ] {
            for options in [&write, &new, &read] {
                let _ = std::fs::remove_file(dir.join("missing"));
                let theirs = opened(File::open_with(options, &path, false)).await;
                let _ = std::fs::remove_file(dir.join("missing"));
                let ours = case.handle.open_with(options, &path, false);
                let ours = opened(async { Ok(ours.await?.into_parts().0) }).await;
                assert_eq!(ours, theirs, "{path:?} {options:?}");
            }
        }
    });
}

#[test]
fn opens_wait_for_a_slot_and_keep_the_deadline_of_their_handle() {
    if !is_available() {
        return;
    }
    Fixture::new(1).modes(backends()).run(async |case| {
        let name = |number: usize| case.path.with_file_name(number.to_string());
        let files = join_all((0..16).map(async |number| {
            let file = case.handle.create(name(number), false).await.unwrap();
            file.set_len(LEN * number as u64).await.unwrap();
            file
        }));
        let files = files.await;
        for (number, file) in files.iter().enumerate() {
            let len = std::fs::metadata(name(number)).unwrap().len();
            assert_eq!(len, LEN * number as u64);
            let again = case.handle.open(name(number), false).await.unwrap();
            assert_eq!(again.file().metadata_at_open().len(), len);
            drop(file.clone());
        }
        let late = case.handle.with_deadline(tokio::time::Instant::now());
        let error = late.create(name(99), false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(!name(99).exists());
    });
}

#[test]
fn files_without_a_name_that_a_handle_opens_have_the_flags_and_the_mode_of_the_file() {
    if !is_available() {
        return;
    }
    let fixture = Fixture::new(4).every_dir();
    fixture.modes(backends()).run(async |case| {
        let dir = case.path.parent().unwrap();
        for mode in [0o600, 0o7777, !0] {
            for is_sync in [false, true] {
                let mut options = OpenOptions::new();
                options.read(true).write(true).mode(mode);
                options.custom_flags(libc::O_TMPFILE);
                let theirs = opened(File::open_with(&options, dir, is_sync)).await;
                let ours = case.handle.open_with(&options, dir, is_sync);
                let ours = opened(async { Ok(ours.await?.into_parts().0) }).await;
                assert_eq!(ours, theirs, "{mode:o} {is_sync}");
            }
        }
    });
}

#[test]
fn a_relative_path_is_relative_to_the_directory_and_the_umask_of_the_time() {
    if !is_available() || !in_child!() {
        return;
    }
    for mode in backends() {
        current_thread().block_on(async {
            let (context, handle) = context_in(mode, 4);
            for umask in [0o077, 0o022] {
                let dir = disk_dir();
                std::env::set_current_dir(dir.path()).unwrap();
                // SAFETY: takes a number; this process runs this test only.
                unsafe { libc::umask(umask) };
                for _ in 0..2 {
                    let mut options = OpenOptions::new();
                    options.write(true).create(true).mode(0o666);
                    let file = handle.open_with(&options, "data", false).await.unwrap();
                    let metadata = std::fs::metadata(dir.path().join("data")).unwrap();
                    assert_eq!(file.file().metadata_at_open().ino(), metadata.ino());
                    assert_eq!(metadata.mode() & 0o777, 0o666 & !umask);
                }
                std::env::set_current_dir("/").unwrap();
            }
            context.close().await;
        });
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until as many descriptors are open as before.
async fn is_closed(before: usize) {
    let state = || (descriptors(), before);
    wait_until(|| descriptors() <= before, state).await;
}

#[test]
fn a_dropped_open_leaves_no_descriptor() {
    if !is_available() || !in_child!() {
        return;
    }
    for mode in backends() {
        current_thread().block_on(async {
            let dir = disk_dir();
            let (context, handle) = context_in(mode, 4);
            let path = dir.path().join("data");
            drop(handle.create(&path, false).await.unwrap()); // opens what the process keeps
            let before = descriptors();
            for polls in 0..6 {
                for _ in 0..32 {
                    let create = polls % 2 == 0;
                    let mut options = OpenOptions::new();
                    options
                        .read(true)
                        .write(true)
                        .create(create)
                        .truncate(create);
                    let mut open = Box::pin(handle.open_with(&options, &path, false));
                    for _ in 0..polls {
                        if futures::poll!(open.as_mut()).is_ready() {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    drop(open);
                }
            }
            let free = || handle.available_slots();
            wait_until(|| free() == Some(4), free).await;
            is_closed(before).await;
            context.close().await;
        });
    }
}

#[test]
fn an_open_in_flight_leaves_no_descriptor_when_its_context_ends() {
    if !is_available() || !in_child!() {
        return;
    }
    for mode in backends() {
        for is_closed_in_order in [true, false] {
            let dir = disk_dir();
            let path = dir.path().join("data");
            let create = || {
                let runtime = current_thread();
                runtime.block_on(async {
                    let (context, handle) = context_in(mode, 16);
                    let mut options = OpenOptions::new();
                    options.write(true).create(true).truncate(true);
                    let mut opens: Vec<_> = (0..16)
                        .map(|_| Box::pin(handle.open_with(&options, &path, false)))
                        .collect();
                    for open in &mut opens {
                        let _ = futures::poll!(open.as_mut());
                    }
                    if is_closed_in_order {
                        drop(opens);
                        context.close().await;
                    } else {
                        opens.into_iter().for_each(std::mem::forget);
                        std::mem::forget(handle.clone());
                    }
                });
            };
            create();
            if !is_closed_in_order {
                continue; // what was forgotten is kept, and must do no harm
            }
            let before = descriptors();
            (0..8).for_each(|_| create());
            current_thread().block_on(is_closed(before + 4)); // those of this runtime
        }
    }
}

/// Makes a FIFO, of which an open waits for another process, if it is for writing. (The kernel opens it for
/// reading without waiting.)
fn fifo_in(dir: &Path) -> PathBuf {
    let path = dir.join("fifo");
    let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path ends with a 0.
    assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, 0);
    path
}

/// Opens a FIFO for reading.
fn fifo_reader(path: &Path) -> std::fs::File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).unwrap()
}

/// Runs a test with the path of a FIFO, in a context with two slots, on each backend that is wanted.
fn with_fifo(
    is_wanted: impl Fn(Backend) -> bool,
    test: impl AsyncFn(AioContext, AioContextHandle, &Path),
) {
    if !is_available() {
        return;
    }
    for mode in backends().filter(|(backend, _)| is_wanted(*backend)) {
        current_thread().block_on(async {
            let dir = disk_dir();
            let path = fifo_in(dir.path());
            let (context, handle) = context_in(mode, 2);
            test(context, handle, &path).await;
        });
    }
}

#[test]
fn a_dropped_open_of_a_fifo_gives_back_its_slot() {
    let is_uring = |backend| backend == Backend::IoUring;
    with_fifo(is_uring, async |context, handle, path| {
        let mut options = OpenOptions::new();
        options.write(true).create(true);
        for wait in [false, true] {
            let mut open = Box::pin(handle.open_with(&options, path, false));
            assert!(futures::poll!(open.as_mut()).is_pending());
            if wait {
                tokio::time::sleep(Duration::from_millis(20)).await;
                assert!(futures::poll!(open.as_mut()).is_pending());
            }
            drop(open);
            let free = || handle.available_slots();
            wait_until(|| free() == Some(2), free).await;
        }
        with_hang_guard(context.close()).await;
    });
}

#[test]
fn a_context_that_is_closed_cancels_the_open_of_a_fifo() {
    let is_uring = |backend| backend == Backend::IoUring;
    for count in [1, 3] {
        // With three, one is queued.
        with_fifo(is_uring, async |context, handle, path| {
            let mut options = OpenOptions::new();
            options.write(true).create(true);
            let mut opens: Vec<_> = (0..count)
                .map(|_| Box::pin(handle.open_with(&options, path, false)))
                .collect();
            for open in &mut opens {
                assert!(futures::poll!(open.as_mut()).is_pending());
            }
            with_hang_guard(context.close()).await;
            for open in opens {
                let error = with_hang_guard(open).await.unwrap_err();
                let error = error.downcast::<AioCommandError>().unwrap();
                assert!(matches!(error, AioCommandError::AioStopped), "{error:?}");
            }
        });
    }
}

/// Runs a test with the path of a FIFO that has no reader, and options with which a thread of the pool waits for one,
/// on each backend, in contexts with a thread of their own or without.
fn with_waiting_open(
    own_thread: &[bool],
    test: impl AsyncFn(AioContext, AioContextHandle, &OpenOptions, &Path),
) {
    if !is_available() {
        return;
    }
    let mut options = OpenOptions::new();
    options.write(true);
    let modes =
        backends().flat_map(|(backend, _)| own_thread.iter().map(move |&own| (backend, own)));
    for (backend, own_thread) in modes {
        let dir = disk_dir();
        let path = fifo_in(dir.path());
        let runtime = current_thread();
        let run = || {
            runtime.block_on(async {
                let builder = tokio_kaio::AioContextBuilder::new(2).backend(backend);
                let builder = if own_thread {
                    builder.own_thread()
                } else {
                    builder
                };
                let (context, handle) = builder.build().unwrap();
                test(context, handle, &options, &path).await;
            });
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        // A thread of the pool may open the FIFO later, and the runtime waits for that.
        let reader = fifo_reader(&path);
        drop(runtime);
        drop(reader);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn an_open_that_the_pool_performs_ends_at_its_deadline() {
    with_waiting_open(&[false, true], async |context, handle, options, path| {
        let limited = handle.with_timeout(Duration::from_millis(20));
        let open = with_hang_guard(limited.open_with(options, path, false)).await;
        assert_eq!(open.map(drop).unwrap_err().kind(), io::ErrorKind::TimedOut);
        with_hang_guard(context.close()).await;
    });
}

/// Deadlines have the clock of the context's thread.
#[test]
fn a_clock_that_was_advanced_changes_no_deadline_of_a_context_with_its_own_thread() {
    with_waiting_open(&[true], async |context, handle, options, path| {
        let name = path.with_file_name("data");
        std::fs::write(&name, vec![7; BLOCK]).unwrap();
        tokio::time::pause();
        tokio::time::advance(HANG * 10).await;

        let patient = handle.with_timeout(HANG);
        let file = patient.open(&name, false).await.unwrap();
        file.sync_range(0, 0, SyncRange::WRITE).await.unwrap();
        let mut byte = [0];
        let none = ReadFlags::empty();
        file.read_bytes_at(3, &mut byte, none).await.unwrap();
        assert_eq!(byte, [7]);

        let (start, limit) = (std::time::Instant::now(), Duration::from_millis(20));
        let limited = handle.with_timeout(limit);
        let mut open = Box::pin(limited.open_with(options, path, false));
        let open = retry_until(async || {
            tokio::task::yield_now().await;
            let Poll::Ready(open) = futures::poll!(open.as_mut()) else {
                return None;
            };
            Some(open)
        });
        assert_eq!(
            open.await.map(drop).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        assert!(start.elapsed() >= limit, "not before its deadline");
        context.close().await;
    });
}

#[test]
fn an_open_that_the_pool_performs_ends_with_its_context() {
    for (is_limited, pause) in [(false, 0), (false, 20), (true, 0), (true, 20)] {
        with_waiting_open(&[false, true], async |context, handle, options, path| {
            let limited = match is_limited {
                true => handle.with_timeout(HANG * 2),
                false => handle.clone(),
            };
            let mut open = Box::pin(limited.open_with(options, path, false));
            assert!(futures::poll!(open.as_mut()).is_pending());
            // On io_uring, the open waits for the ring or for the pool, or is ready to be polled.
            tokio::time::sleep(Duration::from_millis(pause)).await;
            with_hang_guard(context.close()).await;
            let error = with_hang_guard(open).await.map(drop).unwrap_err();
            let error = error.downcast::<AioCommandError>().unwrap();
            assert!(matches!(error, AioCommandError::AioStopped), "{error:?}");
        });
    }
}

/// The kernel tries to open without waiting first, and would fail where a FIFO has no reader.
#[test]
fn an_open_of_a_fifo_waits_for_its_reader() {
    with_fifo(
        |_| true,
        async |context, handle, path| {
            let mut options = OpenOptions::new();
            options.write(true);
            let mut theirs = Box::pin(File::open_with(&options, path, false));
            let mut ours = Box::pin(handle.open_with(&options, path, false));
            assert!(futures::poll!(theirs.as_mut()).is_pending());
            let polled = futures::poll!(ours.as_mut());
            // It has to get to where it waits, and would have failed by then.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let polled = match polled.is_pending() {
                true => futures::poll!(ours.as_mut()),
                false => polled,
            };
            // Before the assertion, which would otherwise leave a thread of the pool waiting.
            let _reader = fifo_reader(path);
            assert!(
                polled.is_pending(),
                "{:?}",
                polled.map(|open| open.map(drop))
            );
            let ours = with_hang_guard(ours).await.map(drop).unwrap_err();
            let theirs = with_hang_guard(theirs).await.map(drop).unwrap_err();
            assert_eq!(ours.to_string(), theirs.to_string());
            context.close().await;
        },
    );
}

/// The kernel ties a request to the thread that submits it. An open may end in the blocking pool, which tests the
/// alignment of some files.
#[test]
fn opens_outlive_the_thread_that_made_them() {
    if !is_available() {
        return;
    }
    let fixture = Fixture::new(64).every_dir().runtime(multi_thread);
    fixture.modes(backends()).run(async |case| {
        let runtime = Handle::current();
        for _ in 0..20 {
            let (handle, path) = (case.handle.clone(), case.path.clone());
            let runtime = runtime.clone();
            let make = move || {
                let _entered = runtime.enter();
                let open = |number: usize| {
                    let (handle, path) = (handle.clone(), path.with_file_name(number.to_string()));
                    let open = async move { handle.create(path, false).await.map(drop) };
                    Box::pin(open) as Pin<Box<dyn Future<Output = io::Result<()>> + Send>>
                };
                let mut opens: Vec<_> = (0..16).map(open).collect();
                let mut cx = Context::from_waker(Waker::noop());
                opens.retain_mut(|open| open.as_mut().poll(&mut cx).is_pending());
                opens
            };
            let opens = thread::spawn(make).join().unwrap();
            for result in join_all(opens).await {
                result.unwrap();
            }
            for number in 0..16 {
                let path = case.path.with_file_name(number.to_string());
                std::fs::remove_file(path).unwrap();
            }
        }
    });
}

/// A child shares the descriptors that were open, and not the ring.
#[test]
fn an_open_in_flight_at_a_fork_completes_in_the_parent_only() {
    if !is_available() || !in_child!() {
        return;
    }
    for mode in backends() {
        current_thread().block_on(async {
            let dir = disk_dir();
            let (context, handle) = context_in(mode, 4);
            let path = dir.path().join("data");
            let mut open = Box::pin(handle.create(&path, false));
            if futures::poll!(open.as_mut()).is_ready() {
                return;
            }
            let mut inherited = Some(open);
            let code = forked(|| {
                drop(inherited.take());
                0
            });
            assert_eq!(code, 0);
            let file = with_hang_guard(inherited.unwrap()).await.unwrap();
            file.set_len(LEN).await.unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), LEN);
            drop(file);
            context.close().await;
        });
    }
}
