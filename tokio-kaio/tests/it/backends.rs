//! The choice among backends: the first that is available, and why others are not.
#![allow(unsafe_code)] // mounts a file over a sysctl

use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;

use crate::common::*;
use futures::future::join_all;
use tokio_kaio::{
    AioContextBuilder, AioContextError, AioContextHandle, Backend, BufferPool, RawCommand,
    ReadFlags, SizeClassPool, SubmitPolicy, WriteFlags,
};

const ALL: &[Backend] = &[Backend::IoUring, Backend::KernelAio, Backend::ThreadPool];

/// Whether every context of this build has the same backend. Prints a line if so.
fn is_forced() -> bool {
    let forced = BACKENDS.len() == 1;
    if forced {
        eprintln!("skipped: every context runs on {}", BACKENDS[0]);
    }
    forced
}

/// Whether io_uring can be used here: the feature is on, and nothing forbids it. Prints a line if not.
fn has_uring() -> bool {
    let made = AioContextBuilder::new(1).backend(Backend::IoUring).build();
    match made {
        Ok((context, _)) => context.backend() == Backend::IoUring,
        Err(error) => {
            eprintln!("skipped for io_uring: {error}");
            false
        }
    }
}

/// Writes, reads back, and syncs.
async fn use_context(handle: &AioContextHandle) {
    let dir = disk_dir();
    let file = Arc::new(patterned_file(&dir, 16).await);
    join_all((0..64).map(async |i| {
        let bytes = patterned_buffer(100 + i, BLOCK);
        let written = file.write_at(handle, i * LEN, &bytes, LEN, WriteFlags::empty());
        assert_eq!(written.await.unwrap(), LEN);
    }))
    .await;
    file.sync_all(handle).await.unwrap();
    join_all((0..64).map(async |i| {
        let mut bytes = buffer(BLOCK);
        let read = file.read_at(handle, i * LEN, &mut bytes, LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), LEN);
        assert!(is_pattern(100 + i, bytes.as_ref()));
    }))
    .await;
}

#[test]
fn the_first_available_backend_runs_and_none_is_refused() {
    if is_forced() {
        return;
    }
    current_thread().block_on(with_hang_guard(async {
        for order in [
            &[Backend::KernelAio, Backend::IoUring, Backend::ThreadPool][..],
            &[Backend::ThreadPool, Backend::KernelAio],
            &[Backend::ThreadPool],
        ] {
            let (context, handle) = AioContextBuilder::new(8).backends(order).build().unwrap();
            assert_eq!(context.backend(), order[0]);
            assert!(context.refused_backends().is_empty());
            use_context(&handle).await;
            context.close().await;
            assert!(handle.refused_backends().is_empty());
        }
        if has_uring() {
            let (context, handle) = AioContextBuilder::new(8).backends(ALL).build().unwrap();
            assert_eq!(context.backend(), Backend::IoUring);
            use_context(&handle).await;
            context.close().await;
        }
    }));
}

/// Asserts that a context which may use any backend runs on `backend`, and says why io_uring does not run.
async fn assert_refused(backend: Backend, check: impl Fn(&AioContextError) -> bool) {
    for shards in [1, 2] {
        let builder = AioContextBuilder::new(8).shards(shards).backends(ALL);
        let (context, handle) = builder.build().unwrap();
        assert_eq!(context.backend(), backend);
        let refused = context.refused_backends();
        assert_eq!(refused[0].backend(), Backend::IoUring);
        assert!(check(refused[0].error()), "{:?}", refused[0]);
        let text = refused[0].to_string();
        let reason = text.strip_prefix("io_uring is not available: ").unwrap();
        let whole = refused[0].error().to_string();
        // The error of a context that has no other backend also says that it can have one.
        let advice = whole.strip_prefix("can't set up the AIO context: io_uring: ");
        let advice = advice.and_then(|whole| whole.strip_prefix(reason)).unwrap();
        let forbidden =
            [Some(libc::EPERM), Some(libc::ENOSYS)].contains(&refused[0].error().raw_os_error());
        let expected = match forbidden {
            true => {
                "; or name another backend after `Backend::IoUring` (`AioContextBuilder::backends`)"
            }
            false => "",
        };
        assert_eq!(advice, expected, "{whole}");
        assert_eq!(handle.refused_backends().len(), refused.len());
        use_context(&handle).await;
        with_hang_guard(context.close()).await;
    }
    let alone = AioContextBuilder::new(8).backend(Backend::IoUring);
    let error = alone.build().unwrap_err();
    assert!(check(&error), "{error:?}");
}

#[cfg(not(feature = "io-uring"))]
#[test]
fn without_the_feature_io_uring_is_refused_and_the_feature_is_named() {
    if is_forced() {
        return;
    }
    current_thread().block_on(assert_refused(Backend::KernelAio, |error| {
        let text = error.to_string();
        error.raw_os_error().is_none() && text.contains("the feature `io-uring`")
    }));
}

/// Asserts that a program that may not call `forbidden` runs on AIO, and what the reason contains.
#[cfg(feature = "io-uring")]
fn without(forbidden: libc::c_long, errno: i32, hint: &str) {
    if is_forced() || !current_thread().block_on(async { has_uring() }) {
        return;
    }
    if !forbid_syscall(forbidden, errno) {
        return;
    }
    current_thread().block_on(assert_refused(Backend::KernelAio, |error| {
        error.raw_os_error() == Some(errno) && error.to_string().contains(hint)
    }));
}

#[cfg(feature = "io-uring")]
#[test]
fn with_io_uring_forbidden_by_seccomp_the_next_backend_runs() {
    if in_child!() {
        without(libc::SYS_io_uring_setup, libc::EPERM, "seccomp");
    }
}

/// From now on this thread reads `value` from the sysctl. The real one counts for the whole machine.
#[cfg(feature = "io-uring")]
fn pretend_io_uring_disabled(value: &str) -> bool {
    let dir = disk_dir();
    let shown = dir.path().join("io_uring_disabled");
    std::fs::write(&shown, value).unwrap();
    let path = |path: &std::path::Path| std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let (shown, sysctl) = (
        path(&shown),
        path("/proc/sys/kernel/io_uring_disabled".as_ref()),
    );
    let mount = |source: &std::ffi::CStr, target: &std::ffi::CStr, flags: libc::c_ulong| {
        let none = std::ptr::null();
        // SAFETY: two strings that live through the call.
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), none, flags, none.cast()) == 0 }
    };
    // SAFETY: takes a number.
    let is_apart = unsafe { libc::unshare(libc::CLONE_NEWNS) == 0 };
    let done = is_apart
        && mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)
        && mount(&shown, &sysctl, libc::MS_BIND);
    if !done {
        eprintln!(
            "skipped: this process may not mount: {}",
            std::io::Error::last_os_error()
        );
    }
    done
}

#[cfg(feature = "io-uring")]
#[test]
fn with_io_uring_disabled_the_sysctl_is_named() {
    if in_child!() && pretend_io_uring_disabled("2\n") {
        without(
            libc::SYS_io_uring_setup,
            libc::EPERM,
            "kernel.io_uring_disabled is 2",
        );
    }
}

#[cfg(feature = "io-uring")]
#[test]
fn without_io_uring_in_the_kernel_the_next_backend_runs() {
    if in_child!() {
        without(libc::SYS_io_uring_setup, libc::ENOSYS, "CONFIG_IO_URING");
    }
}

#[cfg(feature = "io-uring")]
#[test]
fn with_too_little_locked_memory_the_limit_is_named() {
    if in_child!() {
        without(libc::SYS_io_uring_setup, libc::ENOMEM, "RLIMIT_MEMLOCK");
    }
}

#[cfg(feature = "io-uring")]
#[test]
fn a_ring_that_can_be_made_but_not_registered_with_is_refused() {
    if in_child!() {
        without(libc::SYS_io_uring_register, libc::EPERM, "seccomp");
    }
}

#[cfg(feature = "io-uring")]
#[test]
fn with_io_uring_and_aio_forbidden_threads_run_and_both_are_named() {
    if !in_child!() || is_forced() {
        return;
    }
    if !forbid_syscall(libc::SYS_io_uring_setup, libc::EPERM)
        || !forbid_syscall(libc::SYS_io_setup, libc::EPERM)
    {
        return;
    }
    current_thread().block_on(async {
        let (context, handle) = AioContextBuilder::new(8).backends(ALL).build().unwrap();
        assert_eq!(context.backend(), Backend::ThreadPool);
        let refused: Vec<_> = context
            .refused_backends()
            .iter()
            .map(|r| r.backend())
            .collect();
        assert_eq!(refused, [Backend::IoUring, Backend::KernelAio]);
        use_context(&handle).await;
        // If none is available, the error has the reasons of all.
        let kernel = AioContextBuilder::new(8).backends(&ALL[..2]);
        let error = kernel.build().unwrap_err();
        assert!(matches!(error, AioContextError::IoSetup(_)), "{error:?}");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let reasons = context.refused_backends().iter().map(|refused| {
            let text = refused.to_string();
            text.replace(" is not available: ", ": ")
        });
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        let text = format!("can't set up the AIO context: no backend is available: {reasons}");
        assert_eq!(error.to_string(), text);
        let error = std::io::Error::from(error);
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        context.close().await;
    });
}

#[tokio::test]
async fn an_invalid_nr_is_an_error_whatever_backends_there_are() {
    for nr in [0, usize::MAX] {
        let error = AioContextBuilder::new(nr)
            .backends(ALL)
            .build()
            .unwrap_err();
        let AioContextError::IoSetup(error) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}

#[test]
#[should_panic = "the list of backends is empty"]
fn an_empty_list_of_backends_panics() {
    let _ = AioContextBuilder::new(8).backends(&[]);
}

#[test]
fn on_io_uring_only_merged_writes_use_the_blocking_pool() {
    if !current_thread().block_on(async { has_uring() }) {
        return;
    }
    let modes = POLICIES.map(|policy| (Backend::IoUring, policy));
    Fixture::new(8)
        .every_dir()
        .every_runtime()
        .modes(modes)
        .run(async |case| {
            let extend = async |i| {
                let bytes = patterned_buffer(i, BLOCK);
                let none = WriteFlags::empty();
                let written = case.file.write_at(&case.handle, i * LEN, &bytes, LEN, none);
                assert_eq!(written.await.unwrap(), LEN);
            };
            // Writes that extend the file, for which other backends need a thread.
            for policy in [SubmitPolicy::Inline, SubmitPolicy::Offload] {
                case.file.set_submit_policy(Some(policy));
                case.file.set_len(0).await.unwrap();
                join_all((0..16).map(extend)).await;
                case.file.sync_all(&case.handle).await.unwrap();
            }
            // One at a time, so that there is nothing to merge.
            case.file.set_submit_policy(None);
            case.file.set_len(0).await.unwrap();
            for i in 0..16 {
                extend(i).await;
            }
            case.file.sync_all(&case.handle).await.unwrap();
            let metrics = case.handle.metrics();
            assert_eq!((metrics.offloads, metrics.nowait_refusals), (0, 0));
            assert_eq!((metrics.submitted, metrics.completed), (51, 51));
            assert!(metrics.ring);
        });
}

/// Writes and reads back with buffers of each pool, and with others.
async fn use_pools(handle: &AioContextHandle, pools: (&BufferPool, &SizeClassPool)) {
    let dir = disk_dir();
    let file = patterned_file(&dir, 16).await;
    let turns = (0..32).map(async |i| {
        let mut bytes = match i % 3 {
            0 => pools.0.get().await,
            1 => pools.1.get(BLOCK).await.unwrap(),
            _ => buffer(BLOCK),
        };
        let place = i % 16 * LEN;
        let read = file.read_at(handle, place, &mut bytes, LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), LEN);
        assert!(is_pattern(i % 16, bytes.as_ref()));
        // The same bytes again, and a read that is dropped in flight.
        let written = file.write_at(handle, place, &bytes, LEN, WriteFlags::empty());
        assert_eq!(written.await.unwrap(), LEN);
        let mut dropped = Box::pin(file.read_at(handle, 0, &mut bytes, LEN, ReadFlags::empty()));
        let _ = futures::poll!(dropped.as_mut());
    });
    join_all(turns).await;
}

#[test]
fn contexts_on_any_backend_serve_pools_that_are_registered() {
    for backend in ALL
        .iter()
        .filter(|it| BACKENDS.len() > 1 || BACKENDS[0] == **it)
    {
        for shards in [1, 2] {
            current_thread().block_on(with_hang_guard(async {
                let fixed = BufferPool::new(4, BLOCK).unwrap();
                let sized = SizeClassPool::new(16 * BLOCK).unwrap();
                let builder = AioContextBuilder::new(8).backend(*backend).shards(shards);
                let builder = builder.register_buffers(&fixed).register_buffers(&sized);
                let Ok((context, handle)) = builder.build() else {
                    return eprintln!("skipped on {backend}: it is not available");
                };
                let registered = match context.backend() {
                    Backend::IoUring => 20 * BLOCK,
                    _ => 0,
                };
                let bytes = handle.registered_bytes();
                assert!(bytes == registered || bytes == 0, "{bytes}");
                if bytes != registered {
                    eprintln!("skipped: RLIMIT_MEMLOCK permits no registered memory");
                }
                use_pools(&handle, (&fixed, &sized)).await;
                drop((fixed, sized)); // the context keeps the memory
                context.close().await;
            }));
        }
    }
}

#[cfg(feature = "io-uring")]
#[test]
fn memory_that_may_not_be_registered_is_served_all_the_same() {
    if !in_child!() || !current_thread().block_on(async { has_uring() }) || !drop_root() {
        return;
    }
    set_limit(libc::RLIMIT_MEMLOCK, 2 * LEN);
    current_thread().block_on(with_hang_guard(async {
        let fixed = BufferPool::new(4, BLOCK).unwrap();
        let sized = SizeClassPool::new(16 * BLOCK).unwrap();
        let builder = AioContextBuilder::new(8).backend(Backend::IoUring);
        let builder = builder.register_buffers(&fixed).register_buffers(&sized);
        let (context, handle) = builder.build().unwrap();
        assert_eq!(handle.registered_bytes(), 0);
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = open_rw(&dir, "data").await;
        let bytes = fixed.get().await;
        let written = file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty());
        assert_eq!(written.await.unwrap(), LEN);
        context.close().await;
    }));
}

#[test]
fn on_io_uring_a_dropped_read_of_a_socket_frees_its_slot() {
    if !current_thread().block_on(async { has_uring() }) {
        return;
    }
    Fixture::new(1)
        .every_runtime()
        .modes([(Backend::IoUring, SubmitPolicy::default())])
        .run(async |case| {
            let (reader, mut writer) = UnixStream::pair().unwrap();
            for _ in 0..20 {
                let mut bytes = buffer(BLOCK);
                let read = RawCommand::Pread {
                    offset: 0,
                    buffer: &mut bytes,
                    len: LEN,
                    flags: ReadFlags::empty(),
                };
                let mut read = Box::pin(case.handle.submit_request(&reader, read));
                assert!(futures::poll!(read.as_mut()).is_pending());
                drop(read);
                let free = || case.handle.available_slots();
                wait_until(|| free() == Some(1), free).await;
            }
            // Nobody reads any more.
            std::io::Write::write_all(&mut writer, b"!").unwrap();
            let mut byte = [0];
            std::io::Read::read_exact(&mut &reader, &mut byte).unwrap();
            assert_eq!(&byte, b"!");
        });
}

/// The kernel ties a request to the thread that submits it.
#[test]
fn on_io_uring_operations_outlive_the_thread_that_submitted_them() {
    if !current_thread().block_on(async { has_uring() }) {
        return;
    }
    Fixture::new(64)
        .every_dir()
        .runtime(multi_thread)
        .modes([(Backend::IoUring, SubmitPolicy::default())])
        .run(async |case| {
            let (file, handle) = (Arc::new(case.file), case.handle);
            for round in 0..20 {
                file.set_len(0).await.unwrap();
                let submit = {
                    let (file, handle) = (Arc::clone(&file), handle.clone());
                    move || {
                        let write = |i| {
                            let (file, handle) = (Arc::clone(&file), handle.clone());
                            let write = async move {
                                let bytes = patterned_buffer(round + i, BLOCK);
                                let none = WriteFlags::empty();
                                let written = file.write_at(&handle, i * LEN, &bytes, LEN, none);
                                assert_eq!(written.await.unwrap(), LEN);
                                file.sync_data(&handle).await.unwrap();
                            };
                            Box::pin(write) as Pin<Box<dyn Future<Output = ()> + Send>>
                        };
                        let mut writes: Vec<_> = (0..8).map(write).collect();
                        let mut cx = Context::from_waker(Waker::noop());
                        writes.retain_mut(|write| write.as_mut().poll(&mut cx).is_pending());
                        writes
                    }
                };
                join_all(thread::spawn(submit).join().unwrap()).await;
                wait_until(
                    || handle.available_slots() == Some(64),
                    || handle.available_slots(),
                )
                .await;
                let content = std::fs::read(&case.path).unwrap();
                for (i, block) in content.chunks(BLOCK).enumerate() {
                    assert!(is_pattern(round + i as u64, block), "{i}");
                }
                assert_eq!(content.len(), 8 * BLOCK);
            }
        });
}
