//! A sandbox that closes later, and a kernel that is short of something.

use super::*;

#[test]
fn io_submit_that_fails_later_is_an_error_to_every_request() {
    if !common::on_kernel_aio() {
        return;
    }
    if !in_child("later::io_submit_that_fails_later_is_an_error_to_every_request") {
        return;
    }
    run(async {
        let dir = common::on_disk();
        common::write_patterned(&dir.path().join("data"), 32);
        let file = open_rw(&dir, "data").await;
        let (context, handle) = aio_context(4, true).unwrap();
        // Each filter is asked before the ones that were there.
        for errno in [
            libc::EPERM,
            libc::ENOMEM,
            libc::EINTR,
            libc::EAGAIN,
            libc::EIO,
        ] {
            read_or_refusal(&handle, &file).await;
            if !forbid(libc::SYS_io_submit, errno) {
                return;
            }
            let mut bytes = patterned(1, BLOCK);
            let alone = submit_errno(read(&handle, &file, 0, &mut bytes).await).unwrap();
            assert!(
                alone == errno || alone == libc::EPERM,
                "{alone} for {errno}"
            );
            assert!(is_pattern(1, bytes.as_ref()), "the buffer is as it was");
            for _wave in 0..2 {
                let reads = (0..32).map(|i| {
                    let (handle, file) = (&handle, &file);
                    async move { read(handle, file, i, &mut buffer(BLOCK)).await }
                });
                for result in join_all(reads).await {
                    assert_eq!(submit_errno(result), Some(alone));
                }
                assert_eq!(handle.available_slots(), Some(4));
            }
        }
        context.close().await;
    });
}

/// What a request comes to before and after the first filter.
async fn read_or_refusal(handle: &AioContextHandle, file: &File) {
    match read(handle, file, 0, &mut buffer(BLOCK)).await {
        Ok(read) => assert_eq!(read, LEN),
        Err(AioCommandError::IoSubmit(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn io_getevents_that_fails_later_leaves_nobody_waiting() {
    if !in_child("later::io_getevents_that_fails_later_leaves_nobody_waiting") {
        return;
    }
    run(async {
        let mut prepared = Vec::new();
        for dir in common::everywhere() {
            common::write_patterned(&dir.path().join("data"), 16);
            let file = open_rw(&dir, "data").await;
            let (context, handle) = aio_context(4, true).unwrap();
            read_is_served(&handle, &file, 3).await;
            prepared.push((dir, file, context, handle));
        }
        if !forbid(libc::SYS_io_getevents, libc::EPERM) {
            return;
        }
        for (_dir, file, context, handle) in prepared {
            // Served from the ring; an error where there is no ring. But an end.
            let reads = (0..16).map(|i| {
                let (handle, file) = (&handle, &file);
                async move { (i, read(handle, file, i, &mut buffer(BLOCK)).await) }
            });
            for (i, result) in join_all(reads).await {
                assert!(matches!(result, Ok(LEN) | Err(_)), "read {i}: {result:?}");
            }
            context.close().await;
        }
    });
}

#[test]
fn waiting_for_a_slot_without_a_descriptor_left_is_emfile() {
    if !in_child("later::waiting_for_a_slot_without_a_descriptor_left_is_emfile") {
        return;
    }
    run(async {
        let dir = common::on_disk();
        common::write_patterned(&dir.path().join("data"), LONG / BLOCK);
        let file = open_rw(&dir, "data").await;
        let plain = fs::File::open(dir.path().join("data")).unwrap();
        let (context, handle) = aio_context(1, true).unwrap();
        let (mut long, mut bytes, mut queued) = (buffer(LONG), patterned(1, BLOCK), buffer(BLOCK));
        limit(libc::RLIMIT_NOFILE, 4); // past the standard ones, all in use
        common::until_seen(async || {
            let mut running = pin!(read(&handle, &file, 0, &mut long));
            if poll!(running.as_mut()).is_ready() {
                return None;
            }
            common::pattern(1, bytes.as_mut());
            let (flags, offset, len) = (ReadFlags::empty(), 0, LEN);
            let command = RawCommand::Pread {
                offset,
                buffer: &mut bytes,
                flags,
                len,
            };
            let one_more = handle.submit_request(&plain, command).await;
            let queued = read(&handle, &file, 2, &mut queued);
            let (first, second) = futures::future::join(running, queued).await;
            assert_eq!(first.unwrap(), LONG as u64);
            assert_eq!(second.unwrap(), LEN, "a `File` needs no further descriptor");
            if one_more.is_ok() {
                return None; // the first one was done already
            }
            assert_eq!(submit_errno(one_more), Some(libc::EMFILE));
            assert!(is_pattern(1, bytes.as_ref()), "the buffer is as it was");
            Some(())
        })
        .await;
        limit(libc::RLIMIT_NOFILE, 64);
        context.close().await;
    });
}

#[tokio::test]
async fn an_error_leaves_other_contexts_and_plain_files_alone() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), 4);
    let (one, bad) = aio_context(1, true).unwrap();
    let (two, good) = aio_context(1, true).unwrap();
    let file = File::open(dir.path().join("data"), false).await.unwrap();
    let bytes = buffer(BLOCK);
    let failing = join_all((0..8).map(|_| write(&bad, &file, 0, &bytes)));
    let fine = join_all((0..4).map(|i| read_is_served(&good, &file, i)));
    let (failed, _) = within(futures::future::join(failing, fine)).await;
    for result in failed {
        assert_eq!(submit_errno(result), Some(libc::EBADF));
    }
    let mut block = vec![0; BLOCK];
    fs::File::open(dir.path().join("data"))
        .unwrap()
        .read_exact_at(&mut block, LEN)
        .unwrap();
    assert!(is_pattern(1, &block));
    one.close().await;
    two.close().await;
}
