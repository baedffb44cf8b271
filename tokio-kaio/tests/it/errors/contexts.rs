//! Contexts that can't be made.

use super::*;

#[test]
fn an_invalid_nr_is_einval_and_leaks_nothing() {
    if !in_child!() {
        return;
    }
    run(async {
        let before = open_resources();
        let past_u32 = usize::try_from((1_u64 << 32) + 8).unwrap_or(usize::MAX);
        let past_ring = u32::MAX as usize;
        let threads = !is_kernel_aio_build(); // others have no limit of `fs.aio-max-nr`
        for nr in [0, usize::MAX, past_u32, isize::MAX as usize, past_ring] {
            if threads && nr == past_ring {
                continue;
            }
            for use_semaphore in [true, false] {
                let error = setup_error(aio_context(nr, use_semaphore));
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "nr {nr}");
                let text = AioContextError::IoSetup(error).to_string();
                assert!(text.contains("`nr`"), "{text}");
                let limit = format!("fs.aio-max-nr, which is {}", sysctl("aio-max-nr"));
                assert!(text.contains(&limit), "{text}");
                let error = setup_error(local_aio_context(nr, use_semaphore));
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "nr {nr}");
            }
        }
        // The kernel's own arithmetic overflows here; it says EAGAIN.
        for nr in [1 << 31, (1 << 31) + 1].into_iter().filter(|_| !threads) {
            setup_error(aio_context(nr, true));
        }
        assert_eq!(open_resources(), before);
        let (context, handle) = aio_context(1, true).unwrap();
        assert_eq!(
            handle.available_slots(),
            Some(1),
            "a reasonable one is made after all that"
        );
        context.close().await;
        assert_eq!(open_resources(), before);
    });
}

#[test]
fn an_exhausted_aio_max_nr_is_eagain_with_its_value_and_use() {
    if !is_kernel_aio_build() {
        return;
    }
    if !in_child!() {
        return;
    }
    run(async {
        let limit = sysctl("aio-max-nr");
        let (mine, _handle) = aio_context(8, true).unwrap();
        let before = open_resources();
        // With this process's own context there is no room for `limit` more; no other process is
        // starved.
        let error = setup_error(aio_context(limit, true));
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        let text = AioContextError::IoSetup(error).to_string();
        assert!(text.contains("fs.aio-max-nr"), "{text}");
        assert!(text.contains(&format!("is {limit},")), "{text}");
        let used = text.split(" of it are in use").next().unwrap();
        let used: usize = used.rsplit(' ').next().unwrap().parse().expect("a number");
        assert!((8..=limit).contains(&used), "{text}");
        let error = setup_error(local_aio_context(limit + 1, true));
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        assert_eq!(open_resources(), before);
        mine.close().await;
    });
}

#[test]
fn forbidden_aio_is_eperm_that_says_so() {
    if !is_kernel_aio_build() {
        return;
    }
    if !in_child!() || !forbid_syscall(libc::SYS_io_setup, libc::EPERM) {
        return;
    }
    run(async {
        let before = open_resources();
        let error = setup_error(aio_context(8, true));
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let text = AioContextError::IoSetup(error).to_string();
        assert!(
            text.contains("forbidden") && text.contains("seccomp"),
            "{text}"
        );
        setup_error(local_aio_context(8, true));
        assert_eq!(open_resources(), before);
    });
}

#[test]
fn absent_aio_is_enosys_that_says_so() {
    if !is_kernel_aio_build() {
        return;
    }
    if !in_child!() || !forbid_syscall(libc::SYS_io_setup, libc::ENOSYS) {
        return;
    }
    run(async {
        let before = open_resources();
        let error = setup_error(aio_context(8, true));
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
        let text = AioContextError::IoSetup(error).to_string();
        assert!(
            text.contains("no AIO") && text.contains("CONFIG_AIO"),
            "{text}"
        );
        assert_eq!(open_resources(), before);
    });
}

#[test]
fn a_context_without_a_descriptor_left_is_an_event_fd_error() {
    if !in_child!() {
        return;
    }
    run(async {
        set_limit(libc::RLIMIT_NOFILE, 0);
        let error = aio_context(8, true).unwrap_err();
        assert!(matches!(error, AioContextError::EventFd(_)), "{error:?}");
        let text = error.to_string();
        for part in ["os error 24", "ulimit -n", "LimitNOFILE="] {
            assert!(text.contains(part), "{part}: {text}");
        }
    });
}

#[test]
fn outside_a_runtime_a_context_is_an_error_that_names_the_cause() {
    for error in [
        aio_context(8, true).map(drop).unwrap_err(),
        local_aio_context(8, true).map(drop).unwrap_err(),
        EventFd::new(0, false)
            .map(drop)
            .map_err(AioContextError::EventFd)
            .unwrap_err(),
    ] {
        assert!(matches!(error, AioContextError::EventFd(_)), "{error:?}");
        let text = error.to_string();
        let hint = "no tokio runtime on this thread: call it in one, or give the context a thread of its own";
        assert!(text.contains(hint), "{text}");
    }
}

#[test]
fn outside_a_runtime_opening_a_file_panics_and_says_how_to_do_without_one() {
    let open = AssertUnwindSafe(File::open("/dev/null", false)).catch_unwind();
    let panic = futures::executor::block_on(open).unwrap_err();
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap();
    assert!(
        text.contains("its twin with `_blocking` in the name"),
        "{text}"
    );
}

#[test]
#[should_panic = "IO is disabled"]
fn in_a_runtime_without_io_a_context_panics_and_names_the_cause() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime
        .block_on(async { aio_context(8, true).map(drop) })
        .unwrap();
}
