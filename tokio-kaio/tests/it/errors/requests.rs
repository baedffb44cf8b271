//! Invalid requests, and the end of the file.

use std::sync::atomic::{AtomicI32, Ordering};

use super::*;

#[test]
fn a_len_larger_than_the_buffer_panics_before_submission() {
    Fixture::new(2).every_dir().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut bytes = patterned_buffer(4, BLOCK);
        for len in [LEN + 1, 2 * LEN, u64::MAX] {
            let write = file.write_at(&handle, 0, &bytes, len, WriteFlags::empty());
            panics_about_len(write).await;
            let read = file.read_at(&handle, 0, &mut bytes, len, ReadFlags::empty());
            panics_about_len(read).await;
            let (flags, offset) = (ReadFlags::empty(), 0);
            let command = RawCommand::Pread {
                offset,
                buffer: &mut bytes,
                flags,
                len,
            };
            panics_about_len(handle.submit_request(&file, command)).await;
            let flags = WriteFlags::empty();
            let command = RawCommand::Pwrite {
                offset,
                buffer: &bytes,
                flags,
                len,
            };
            panics_about_len(handle.submit_request(&file, command)).await;
        }
        assert_eq!(handle.available_slots(), Some(2));
        assert_eq!(
            file.metadata().await.unwrap().len(),
            0,
            "nothing was written"
        );
        assert!(is_pattern(4, bytes.as_ref()), "the buffer is as it was");
        assert_eq!(write(&handle, &file, 4, &bytes).await.unwrap(), LEN);
        read_is_served(&handle, &file, 4).await;
    });
}

async fn panics_about_len(request: impl Future<Output = Result<u64, AioCommandError>>) {
    let panic = AssertUnwindSafe(request).catch_unwind().await.unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("len should be <= buffer.size()"), "{text}");
}

#[test]
fn a_misaligned_request_is_einval_with_the_alignment() {
    Fixture::new(8).blocks(8).run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let mut bytes = buffer(BLOCK);
        let probe = file
            .read_at(&handle, 1, &mut bytes, 511, ReadFlags::empty())
            .await;
        if probe.is_ok() {
            eprintln!("skipped: the file system takes any alignment");
            return;
        }
        for (offset, len) in [(1, LEN), (0, LEN - 1), (511, 511), (LEN - 1, 1)] {
            let reading = file
                .read_at(&handle, offset, &mut bytes, len, ReadFlags::empty())
                .await;
            let writing = file
                .write_at(&handle, offset, &bytes, len, WriteFlags::empty())
                .await;
            for result in [reading, writing] {
                let Err(error @ AioCommandError::BadResult(_)) = &result else {
                    panic!("{len} at {offset}: {result:?}");
                };
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                let text = error.to_string();
                let Some((memory, multiple)) = wanted_alignment(&file) else {
                    eprintln!("skipped: statx does not tell the alignment here");
                    continue;
                };
                assert!(
                    text.contains(&format!("{len} bytes at offset {offset}")),
                    "{text}"
                );
                assert!(
                    text.contains(&format!("multiples of {multiple} bytes")),
                    "{text}"
                );
                assert!(
                    text.contains(&format!("memory aligned to {memory}")),
                    "{text}"
                );
                assert!(text.contains("read_bytes_at and write_bytes_at"), "{text}");
            }
        }
        let untouched = fs::read(path.clone()).unwrap();
        assert!(
            (0..)
                .zip(untouched.chunks(BLOCK))
                .all(|(i, block)| is_pattern(i, block))
        );
        read_is_served(&handle, &file, 3).await;
        assert_eq!(handle.available_slots(), Some(8));
    });
}

#[test]
fn an_offset_past_the_maximum_is_einval_without_advice_on_alignment() {
    Fixture::new(2).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut bytes = patterned_buffer(6, BLOCK);
        let past = u64::MAX - LEN + 1;
        let reading = file
            .read_at(&handle, past, &mut bytes, LEN, ReadFlags::empty())
            .await;
        let writing = file
            .write_at(&handle, past, &bytes, LEN, WriteFlags::empty())
            .await;
        for result in [reading, writing] {
            assert!(
                !result
                    .as_ref()
                    .unwrap_err()
                    .to_string()
                    .contains("multiples"),
                "{result:?}"
            );
            assert_eq!(submit_errno(result), Some(libc::EINVAL));
        }
        assert!(is_pattern(6, bytes.as_ref()), "the buffer is as it was");
        assert_eq!(handle.available_slots(), Some(2));
    });
}

/// An invalid descriptor: past every limit, or closed.
struct Raw(RawFd);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Raw {
    /// A closed descriptor of `file`. Its number is high, and used once, so that nothing else gets it meanwhile.
    fn closed(file: &impl AsRawFd) -> Raw {
        static NEXT: AtomicI32 = AtomicI32::new(900);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: makes a duplicate.
        let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
        assert_eq!(fd, number, "{}", io::Error::last_os_error());
        // SAFETY: closes the duplicate, which nobody else has.
        assert_eq!(unsafe { libc::close(fd) }, 0);
        Raw(fd)
    }
}

#[test]
fn a_wrong_descriptor_is_ebadf() {
    Fixture::new(2).every_dir().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut bytes = patterned_buffer(7, BLOCK);
        for wrong in [Raw(-1), Raw(-100), Raw(i32::MAX), Raw::closed(&file)] {
            let (flags, offset, len) = (ReadFlags::empty(), 0, LEN);
            let command = RawCommand::Pread {
                offset,
                buffer: &mut bytes,
                flags,
                len,
            };
            assert_eq!(
                submit_errno(handle.submit_request(&wrong, command).await),
                Some(libc::EBADF)
            );
            let flags = WriteFlags::empty();
            let command = RawCommand::Pwrite {
                offset,
                buffer: &bytes,
                flags,
                len,
            };
            assert_eq!(
                submit_errno(handle.submit_request(&wrong, command).await),
                Some(libc::EBADF)
            );
            for sync in [RawCommand::Fsync, RawCommand::Fdsync] {
                let synced = handle.submit_request(&wrong, sync).await;
                assert_eq!(submit_errno(synced), Some(libc::EBADF));
            }
        }
        assert!(is_pattern(7, bytes.as_ref()), "the buffer is as it was");
        assert_eq!(handle.available_slots(), Some(2));
        assert_eq!(write(&handle, &file, 7, &bytes).await.unwrap(), LEN);
        read_is_served(&handle, &file, 7).await;
    });
}

#[test]
fn a_wrong_descriptor_is_ebadf_even_when_no_slot_is_free() {
    Fixture::new(1).blocks(LONG / BLOCK).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let (mut long, mut bytes) = (buffer(LONG), patterned_buffer(7, BLOCK));
        for wrong in [Raw(-1), Raw(-100), Raw(i32::MAX), Raw::closed(&file)] {
            let test = retry_until(async || {
                let mut running = pin!(read(&handle, &file, 0, &mut long));
                if poll!(running.as_mut()).is_ready() || handle.available_slots() != Some(0) {
                    return None;
                }
                let (flags, offset, len) = (ReadFlags::empty(), 0, LEN);
                let command = RawCommand::Pread {
                    offset,
                    buffer: &mut bytes,
                    flags,
                    len,
                };
                let refused = handle.submit_request(&wrong, command).await;
                assert_eq!(submit_errno(refused), Some(libc::EBADF));
                assert!(is_pattern(7, bytes.as_ref()), "the buffer is as it was");
                assert_eq!(running.await.unwrap(), LONG as u64);
                Some(())
            });
            test.await;
        }
    });
}

#[test]
fn files_without_support_for_an_operation_are_errors() {
    Fixture::new(2).run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let directory = fs::File::open(dir.path()).unwrap();
        let mut bytes = patterned_buffer(8, BLOCK);
        let (flags, offset, len) = (ReadFlags::empty(), 0, LEN);
        let command = RawCommand::Pread {
            offset,
            buffer: &mut bytes,
            flags,
            len,
        };
        let refused = handle.submit_request(&directory, command).await;
        assert_eq!(submit_errno(refused), Some(libc::EINVAL));
        let command = RawCommand::Pwrite {
            offset,
            buffer: &bytes,
            flags: WriteFlags::empty(),
            len,
        };
        let refused = handle.submit_request(&directory, command).await;
        assert_eq!(
            submit_errno(refused),
            Some(libc::EBADF),
            "a directory is open for reading only"
        );
        let (pipe_end, _writer) = pipe();
        let refused = handle.submit_request(&pipe_end, RawCommand::Fsync).await;
        assert_eq!(
            submit_errno(refused),
            Some(libc::EINVAL),
            "a pipe has no fsync"
        );
        assert!(is_pattern(8, bytes.as_ref()), "the buffer is as it was");
        assert_eq!(handle.available_slots(), Some(2));
    });
}

#[test]
fn a_file_opened_in_the_wrong_mode_is_ebadf() {
    Fixture::new(2).blocks(2).every_dir().run(async |case| {
        let (path, handle) = (case.path, case.handle);
        let read_only = File::open(path.clone(), false).await.unwrap();
        let mut write_only = OpenOptions::new();
        write_only.write(true);
        let write_only = write_only.aio_open(path.clone(), false).await.unwrap();
        let mut bytes = patterned_buffer(1, BLOCK);
        let refused = write(&handle, &read_only, 0, &bytes).await;
        assert_eq!(submit_errno(refused), Some(libc::EBADF));
        let refused = read(&handle, &write_only, 0, &mut bytes).await;
        assert_eq!(submit_errno(refused), Some(libc::EBADF));
        assert!(is_pattern(1, bytes.as_ref()), "the buffer is as it was");
        assert_eq!(write(&handle, &write_only, 1, &bytes).await.unwrap(), LEN);
        read_is_served(&handle, &read_only, 1).await;
    });
}

#[test]
fn requests_submitted_with_a_refused_one_are_served() {
    const TOGETHER: usize = 32;
    Fixture::new(64)
        .blocks(TOGETHER)
        .every_dir()
        .run(async |case| {
            let (path, handle) = (case.path, case.handle);
            let file = File::open(path.clone(), false).await.unwrap();
            let bad_sets: [&[usize]; 5] = [&[0], &[31], &[7, 8], &[0, 1, 30, 31], &[5, 15, 25]];
            for bad in bad_sets {
                for _wave in 0..3 {
                    let requests = (0..TOGETHER).map(|i| {
                        let (handle, file) = (&handle, &file);
                        async move {
                            if !bad.contains(&i) {
                                return read_is_served(handle, file, i as u64).await;
                            }
                            // Alternately by mode, refused at once; and by alignment, which runs.
                            if i % 2 == 0 {
                                let refused = write(handle, file, 0, &buffer(BLOCK)).await;
                                assert_eq!(submit_errno(refused), Some(libc::EBADF));
                            } else {
                                let past = u64::MAX - LEN + 1;
                                let mut bytes = buffer(BLOCK);
                                let flags = ReadFlags::empty();
                                let refused =
                                    file.read_at(handle, past, &mut bytes, LEN, flags).await;
                                assert_eq!(submit_errno(refused), Some(libc::EINVAL));
                            }
                        }
                    });
                    join_all(requests).await;
                    assert_eq!(handle.available_slots(), Some(64));
                }
            }
        });
}

#[test]
fn a_batch_of_refused_requests_only_releases_every_slot() {
    Fixture::new(3).blocks(1).run(async |case| {
        let (path, handle) = (case.path, case.handle);
        let file = File::open(path.clone(), false).await.unwrap();
        let bytes = buffer(BLOCK);
        for _wave in 0..3 {
            let refused = join_all((0..40).map(|_| write(&handle, &file, 0, &bytes))).await;
            for result in refused {
                assert_eq!(submit_errno(result), Some(libc::EBADF));
            }
            assert_eq!(handle.available_slots(), Some(3));
        }
        read_is_served(&handle, &file, 0).await;
    });
}

#[test]
fn a_read_at_or_past_the_end_returns_zero() {
    Fixture::new(2).blocks(2).every_dir().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut bytes = patterned_buffer(3, BLOCK);
        for block in [2, 3, 1 << 20] {
            assert_eq!(read(&handle, &file, block, &mut bytes).await.unwrap(), 0);
        }
        assert!(is_pattern(3, bytes.as_ref()), "the buffer is as it was");
    });
}

#[test]
fn a_read_across_the_end_is_short() {
    Fixture::new(2).blocks(2).every_dir().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut bytes = patterned_buffer(3, 4 * BLOCK);
        let old = patterned_buffer(3, 4 * BLOCK);
        let read = file.read_at(&handle, LEN, &mut bytes, 2 * LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), LEN);
        assert!(is_pattern(1, &bytes.as_ref()[..BLOCK]));
        // A file system may fill the bytes past the end, but within `len`, with zeroes.
        let past_end = &bytes.as_ref()[BLOCK..2 * BLOCK];
        let kept = past_end == &old.as_ref()[BLOCK..2 * BLOCK];
        assert!(kept || past_end.iter().all(|&byte| byte == 0));
        assert!(
            bytes.as_ref()[2 * BLOCK..] == old.as_ref()[2 * BLOCK..],
            "what lies past `len` is as it was"
        );
    });
}

#[test]
fn a_read_across_an_unaligned_end_counts_the_bytes_before_it() {
    Fixture::new(2).blocks(2).every_dir().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(LEN + 100)
            .unwrap();
        let mut bytes = buffer(2 * BLOCK);
        assert_eq!(
            read(&handle, &file, 0, &mut bytes).await.unwrap(),
            LEN + 100
        );
        let mut block = buffer(BLOCK);
        assert_eq!(read(&handle, &file, 1, &mut block).await.unwrap(), 100);
        let mut expected = vec![0; BLOCK];
        pattern(1, &mut expected);
        assert_eq!(&block.as_ref()[..100], &expected[..100]);
        assert_eq!(&bytes.as_ref()[BLOCK..BLOCK + 100], &expected[..100]);
    });
}
