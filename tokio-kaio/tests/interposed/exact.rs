//! Exact transfers: short ones are resumed, and a transfer that can't be completed is an error with
//! the number of bytes moved.

#![allow(unsafe_code)] // ignores a signal

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use crate::common::*;
use crate::interposer::{Gate, WatchedFile};
use tokio_kaio::{
    AioCommandError, AioContextHandle, AlignedBuf, Backend, IoBuf, ReadFlags, SubmitPolicy,
    WriteFlags,
};

const READ: ReadFlags = ReadFlags::empty();
const WRITE: WriteFlags = WriteFlags::empty();

fn filled(len: usize) -> AlignedBuf {
    let mut buffer = AlignedBuf::new(len).unwrap();
    pattern(7, &mut buffer);
    buffer
}

/// Whether each request is submitted once, and not first with `NOWAIT`.
fn submits_once((backend, policy): Mode) -> bool {
    backend != Backend::KernelAio || policy != SubmitPolicy::NoWaitFirst
}

fn io_error(error: &AioCommandError) -> &io::Error {
    match error {
        AioCommandError::BadResult(error) => error,
        other => panic!("{other:?}"),
    }
}

// ---- All of it --------------------------------------------------------------------------------

#[test]
fn a_full_transfer_takes_one_request() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, file, handle, mode) = (case.dir, case.file, &case.handle, case.mode);
        let source = filled(4 * BLOCK);
        let write = file.write_all_at(handle, 0, &source, 4 * LEN, WRITE);
        write.await.unwrap();
        assert!(file_content(dir) == content(4 * BLOCK));
        let mut target = buffer(4 * BLOCK);
        let read = file.read_exact_at(handle, LEN, &mut target, 3 * LEN, READ);
        read.await.unwrap();
        assert!(target[..3 * BLOCK] == source[BLOCK..]);
        assert!(target[3 * BLOCK..].iter().all(|&byte| byte == 0));
        assert_eq!(handle.metrics().submitted, 2, "{mode:?}");

        let write = file.write_all_owned_at(handle, LEN, source, WRITE);
        let (written, source) = write.await;
        written.unwrap();
        assert!(file_content(dir)[BLOCK..] == source[..]);
        let read = file.read_exact_owned_at(handle, LEN, target.into_slice(..2 * BLOCK), READ);
        let (read, target) = read.await;
        read.unwrap();
        assert!(target.get_ref()[..2 * BLOCK] == source[..2 * BLOCK]);
        assert_eq!(handle.metrics().submitted, 4, "{mode:?}");
    });
}

#[test]
fn a_short_transfer_is_resumed_where_it_stopped() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, handle, mode) = (case.dir, &case.handle, case.mode);
        // Parts in a whole; requests that takes.
        for (blocks, part, requests) in [(8, 1, 8), (8, 3, 3), (8, 7, 2), (8, 8, 1), (1, 1, 1)] {
            let (size, len) = (blocks * BLOCK, blocks as u64 * LEN);
            let file = file_with_content(dir, 0).await;
            let watched = WatchedFile::new(&file);
            watched.shorten_to(part * BLOCK);
            let submitted = || handle.metrics().submitted;

            let before = submitted();
            let source = filled(size);
            let write = file.write_all_at(handle, 0, &source, len, WRITE);
            write.await.unwrap();
            assert!(file_content(dir) == content(size));
            assert_eq!(
                submitted() - before,
                requests,
                "{mode:?}: {blocks} by {part}"
            );

            let before = submitted();
            let mut target = buffer(size);
            let read = file.read_exact_at(handle, 0, &mut target, len, READ);
            read.await.unwrap();
            assert!(target[..] == content(size));
            assert_eq!(
                submitted() - before,
                requests,
                "{mode:?}: {blocks} by {part}"
            );

            let before = submitted();
            let write = file.write_all_owned_at(handle, len, source, WRITE);
            let (written, source) = write.await;
            written.unwrap();
            assert!(file_content(dir)[size..] == source[..]);
            assert_eq!(
                submitted() - before,
                requests,
                "{mode:?}: {blocks} by {part}"
            );

            let before = submitted();
            let address = target.as_ptr();
            target.fill(0);
            let read = file.read_exact_owned_at(handle, len, target, READ);
            let (read, target) = read.await;
            read.unwrap();
            assert!(target[..] == source[..]);
            assert_eq!(target.as_ptr(), address);
            assert_eq!(
                submitted() - before,
                requests,
                "{mode:?}: {blocks} by {part}"
            );

            let seen = watched.transfers();
            assert!(
                seen.iter()
                    .all(|seen| !seen.vectored && seen.offset % LEN == 0)
            );
            assert_eq!(seen.len() as u64, 4 * requests, "{mode:?}");
        }
    });
}

#[test]
fn a_transfer_of_a_part_of_a_buffer_is_resumed_within_the_part() {
    Fixture::new(8)
        .everywhere()
        .content(content(8 * BLOCK))
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let watched = WatchedFile::new(&file);
            watched.shorten_to(BLOCK);
            let mut whole = buffer(8 * BLOCK);
            whole.fill(0xaa);
            let read =
                file.read_exact_owned_at(handle, LEN, whole.into_slice(2 * BLOCK..7 * BLOCK), READ);
            let (read, slice) = read.await;
            read.unwrap();
            let whole = slice.into_inner();
            assert!(
                whole[2 * BLOCK..7 * BLOCK] == content(8 * BLOCK)[BLOCK..6 * BLOCK],
                "{mode:?}"
            );
            let mut around = whole[..2 * BLOCK].iter().chain(&whole[7 * BLOCK..]);
            assert!(around.all(|&byte| byte == 0xaa));
            // Of a buffer of which it is the front.
            let mut whole = whole;
            whole.fill(0xaa);
            let read = file.read_exact_at(handle, 3 * LEN, &mut whole, 4 * LEN, READ);
            read.await.unwrap();
            assert!(
                whole[..4 * BLOCK] == content(8 * BLOCK)[3 * BLOCK..7 * BLOCK],
                "{mode:?}"
            );
            assert!(whole[4 * BLOCK..].iter().all(|&byte| byte == 0xaa));
        });
}

/// Without the flag, the rest would be written at the old end of the file.
#[test]
fn a_short_append_is_resumed_at_the_end() {
    Fixture::new(8)
        .everywhere()
        .content(content(BLOCK))
        .run(async |case| {
            let (dir, file, handle, mode) = (case.dir, case.file, &case.handle, case.mode);
            let watched = WatchedFile::new(&file);
            watched.shorten_to(BLOCK);
            let source = filled(4 * BLOCK);
            let write = file.write_all_at(handle, 0, &source, 4 * LEN, WriteFlags::APPEND);
            write.await.unwrap();
            assert!(file_content(dir)[BLOCK..] == source[..], "{mode:?}");
        });
}

#[test]
fn a_transfer_of_zero_bytes_completes_at_once() {
    Fixture::new(8)
        .everywhere()
        .content(content(BLOCK))
        .run(async |case| {
            let (dir, file, handle) = (case.dir, case.file, &case.handle);
            let mut target = buffer(BLOCK);
            file.read_exact_at(handle, 0, &mut target, 0, READ)
                .await
                .unwrap();
            // Also past the end: nothing is missing.
            file.read_exact_at(handle, 2 * LEN, &mut target, 0, READ)
                .await
                .unwrap();
            file.write_all_at(handle, 0, &target, 0, WRITE)
                .await
                .unwrap();
            assert!(file_content(dir) == content(BLOCK));
            let none = AlignedBuf::default();
            let (read, none) = file.read_exact_owned_at(handle, 0, none, READ).await;
            read.unwrap();
            let (written, _) = file.write_all_owned_at(handle, 0, none, WRITE).await;
            written.unwrap();
        });
}

#[tokio::test]
async fn a_length_beyond_the_buffer_panics_and_submits_nothing() {
    let dir = disk_dir();
    let (context, handle) = aio_context_of_eight();
    let file = file_with_content(&dir, BLOCK).await;
    let file = std::sync::Arc::new(file);
    let (reads, writes) = (
        (handle.clone(), file.clone()),
        (handle.clone(), file.clone()),
    );
    let read = tokio::spawn(async move {
        let (handle, file) = reads;
        let mut target = buffer(BLOCK);
        let _ = file
            .read_exact_at(&handle, 0, &mut target, LEN + 1, READ)
            .await;
    });
    assert!(read.await.unwrap_err().is_panic());
    let write = tokio::spawn(async move {
        let (handle, file) = writes;
        let _ = file
            .write_all_at(&handle, 0, &buffer(BLOCK), LEN + 1, WRITE)
            .await;
    });
    assert!(write.await.unwrap_err().is_panic());
    assert_eq!(handle.metrics().submitted, 0);
    with_hang_guard(context.close()).await;
}

fn aio_context_of_eight() -> (tokio_kaio::AioContext, AioContextHandle) {
    tokio_kaio::aio_context(8, true).unwrap()
}

// ---- The end of the file ----------------------------------------------------------------------

#[test]
fn an_early_end_of_file_is_an_error_with_its_offset() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, handle, mode) = (case.dir, &case.handle, case.mode);
        // The end of the file; the start of the read; whether requests are shortened.
        for (size, start, cut) in [
            (3 * BLOCK, 0, false),
            (3 * BLOCK, BLOCK, true),
            (3 * BLOCK + 100, 0, false),
            (3 * BLOCK + 100, BLOCK, true),
            (2 * BLOCK, 2 * BLOCK, false),
            (2 * BLOCK, 3 * BLOCK, false),
            (0, 0, false),
            (17, 0, false),
        ] {
            let file = file_with_content(dir, size).await;
            let watched = WatchedFile::new(&file);
            if cut {
                watched.shorten_to(BLOCK);
            }
            let there = size.saturating_sub(start);
            let says = |error: AioCommandError| {
                assert_eq!(io_error(&error).kind(), ErrorKind::UnexpectedEof, "{error}");
                let message = error.to_string();
                let end = match there {
                    0 => format!("ends at or before offset {start}, where 16384 bytes"),
                    _ => format!(
                        "ends at offset {}, after {there} bytes of the 16384",
                        start + there
                    ),
                };
                assert!(message.contains(&end), "{mode:?}: {message}, not {end}");
            };
            let mut target = filled(5 * BLOCK);
            let read = file.read_exact_at(handle, start as u64, &mut target, 4 * LEN, READ);
            says(read.await.unwrap_err());
            assert!(
                target[..there] == content(size.max(start))[start..],
                "{mode:?}: what there was"
            );
            assert!(target[4 * BLOCK..] == content(5 * BLOCK)[4 * BLOCK..]);
            let target = target.into_slice(..4 * BLOCK);
            let read = file.read_exact_owned_at(handle, start as u64, target, READ);
            let (read, target) = read.await;
            says(read.unwrap_err());
            assert_eq!(target.into_inner().size(), 5 * BLOCK);
        }
    });
}

#[test]
fn a_misaligned_offset_is_einval_not_end_of_file() {
    Fixture::new(8)
        .every_mode()
        .content(content(2 * BLOCK))
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let mut target = filled(BLOCK);
            let read = file.read_exact_at(&handle, 1, &mut target, LEN, READ);
            let error = read.await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
            assert!(target[..] == content(BLOCK));
        });
}

// ---- Errors -----------------------------------------------------------------------------------

#[test]
fn an_error_after_some_progress_is_reported_and_returns_the_buffer() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, handle, mode) = (case.dir, &case.handle, case.mode);
        if !submits_once(mode) {
            return;
        }
        let refused = |error: AioCommandError| {
            assert!(matches!(error, AioCommandError::IoSubmit(_)), "{error:?}");
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{mode:?}");
        };
        let file = file_with_content(dir, 8 * BLOCK).await;
        let watched = WatchedFile::new(&file);
        watched.shorten_to(BLOCK);
        for good in [0, 1, 5] {
            watched.fail_after(good);
            let mut target = buffer(8 * BLOCK);
            let read = file.read_exact_at(handle, 0, &mut target, 8 * LEN, READ);
            refused(read.await.unwrap_err());
            assert_eq!(target.size(), 8 * BLOCK);
            assert!(target[..good * BLOCK] == content(8 * BLOCK)[..good * BLOCK]);
            assert!(target[good * BLOCK..].iter().all(|&byte| byte == 0));

            watched.fail_after(good);
            let address = target.as_ptr();
            let (read, target) = file.read_exact_owned_at(handle, 0, target, READ).await;
            refused(read.unwrap_err());
            assert_eq!((target.size(), target.as_ptr()), (8 * BLOCK, address));

            fs::write(dir.path().join("data"), vec![0; 8 * BLOCK]).unwrap();
            let source = filled(8 * BLOCK);
            watched.fail_after(good);
            let write = file.write_all_at(handle, 0, &source, 8 * LEN, WRITE);
            refused(write.await.unwrap_err());
            let found = file_content(dir);
            assert!(found[..good * BLOCK] == source[..good * BLOCK]);
            assert!(found[good * BLOCK..].iter().all(|&byte| byte == 0));
            watched.fail_after(good);
            let (written, source) = file.write_all_owned_at(handle, 0, source, WRITE).await;
            refused(written.unwrap_err());
            assert!(source[..] == content(8 * BLOCK));
            fs::write(dir.path().join("data"), content(8 * BLOCK)).unwrap();
        }
    });
}

/// The kernel writes up to the limit, and refuses the rest.
#[test]
fn a_write_past_the_file_size_limit_is_short_then_efbig() {
    if !in_child!() {
        return;
    }
    // SAFETY: the signal that comes with it is ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    set_limit(libc::RLIMIT_FSIZE, 2 * LEN);
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, file, handle, mode) = (case.dir, case.file, &case.handle, case.mode);
        let source = filled(4 * BLOCK);
        let write = file.write_at(handle, 0, &source, 4 * LEN, WRITE);
        assert_eq!(
            with_hang_guard(write).await.unwrap(),
            2 * LEN,
            "{mode:?}: short"
        );
        let write = file.write_all_at(handle, 0, &source, 4 * LEN, WRITE);
        let error = with_hang_guard(write).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{mode:?}");
        let (written, source) =
            with_hang_guard(file.write_all_owned_at(handle, 0, source, WRITE)).await;
        assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EFBIG));
        assert!(file_content(dir) == source[..2 * BLOCK]);
    });
}

// ---- Given up ---------------------------------------------------------------------------------

#[test]
fn a_dropped_exact_read_leaves_the_buffer_its_size() {
    Fixture::new(8)
        .everywhere()
        .content(content(8 * BLOCK))
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let gate = Gate::closed();
            let mut target = filled(2 * BLOCK);
            let read = file.read_exact_at(handle, gate.offset(), &mut target, 2 * LEN, READ);
            let mut read = Box::pin(read);
            while gate.waiting().is_empty() {
                assert!(futures::poll!(read.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            drop(read);
            assert_eq!(target.size(), 2 * BLOCK, "{mode:?}");
            assert!(target.iter().all(|&byte| byte == 0));
            gate.open();
            wait_all_free(handle, 8).await;

            // Between requests: what has been read is lost with the memory.
            let watched = WatchedFile::new(&file);
            watched.shorten_to(BLOCK);
            for polls in 0..8 {
                let mut target = filled(8 * BLOCK);
                let mut read = Box::pin(file.read_exact_at(handle, 0, &mut target, 8 * LEN, READ));
                for _ in 0..polls {
                    if futures::poll!(read.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(read);
                assert_eq!(target.size(), 8 * BLOCK, "{mode:?}");
            }
        });
}

// ---- More than the kernel moves at once -------------------------------------------------------

const HUGE: usize = (2 << 30) + 8192;
/// The most bytes that the kernel moves in one request.
const MAX_RW_COUNT: usize = 0x7fff_f000;

/// Held by a test that takes gigabytes: two together could need more than is available.
static MEMORY: Mutex<()> = Mutex::new(());

fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<u64>().unwrap() << 10
}

/// Where errors are likely: at both ends, and around the end of the first request.
fn marks() -> [usize; 5] {
    [
        0,
        MAX_RW_COUNT - BLOCK,
        MAX_RW_COUNT,
        MAX_RW_COUNT + BLOCK,
        HUGE - BLOCK,
    ]
}

/// One after another: each takes as much memory as it moves.
#[test]
fn one_call_moves_more_than_two_gigabytes() {
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    if available() < 6 << 30 {
        eprintln!("skipped: less than 6 GiB of memory is available");
        return;
    }
    let Some(dir) = tmpfs_dir() else { return };
    current_thread().block_on(async {
        let path = dir.path().join("data");
        let sparse = fs::File::create(&path).unwrap();
        sparse.set_len(HUGE as u64).unwrap();
        for (seed, mark) in (1..).zip(marks()) {
            let block = patterned_buffer(seed, BLOCK);
            sparse.write_all_at(&block, mark as u64).unwrap();
        }
        drop(sparse);
        let file = open_rw(&dir, "data").await;
        let mut bytes = AlignedBuf::huge(HUGE).unwrap();
        for &backend in BACKENDS {
            let (context, handle) = context_in((backend, SubmitPolicy::NoWaitFirst), 8);
            bytes.fill(0xaa);
            let read = file.read_at(&handle, 0, &mut bytes, HUGE as u64, READ);
            assert_eq!(
                with_hang_guard(read).await.unwrap(),
                HUGE as u64,
                "{backend:?}"
            );
            let submitted = handle.metrics().submitted;
            assert_eq!(submitted, 2, "{backend:?}");
            has_marks(&bytes);
            with_hang_guard(context.close()).await;
        }

        // Past the end it is short, in whichever request.
        let (context, handle) = context_in((BACKENDS[0], SubmitPolicy::NoWaitFirst), 8);
        for size in [MAX_RW_COUNT + BLOCK, MAX_RW_COUNT, BLOCK] {
            let shorter = fs::OpenOptions::new().write(true).open(&path).unwrap();
            shorter.set_len(size as u64).unwrap();
            let read = file.read_at(&handle, 0, &mut bytes, HUGE as u64, READ);
            assert_eq!(with_hang_guard(read).await.unwrap(), size as u64);
            let read = file.read_exact_at(&handle, 0, &mut bytes, HUGE as u64, READ);
            let error = with_hang_guard(read).await.unwrap_err();
            assert_eq!(io_error(&error).kind(), ErrorKind::UnexpectedEof);
        }
        for (seed, mark) in (1..).zip(marks()) {
            pattern(seed, &mut bytes[mark..mark + BLOCK]);
        }
        let before = handle.metrics().submitted;
        let written = file.write_at(&handle, 0, &bytes, HUGE as u64, WRITE);
        assert_eq!(with_hang_guard(written).await.unwrap(), HUGE as u64);
        assert_eq!(handle.metrics().submitted - before, 2);
        let written = fs::File::open(&path).unwrap();
        assert_eq!(written.metadata().unwrap().len(), HUGE as u64);
        for (seed, mark) in (1..).zip(marks()) {
            let mut block = [0; BLOCK];
            written.read_exact_at(&mut block, mark as u64).unwrap();
            assert!(is_pattern(seed, &block));
        }
        with_hang_guard(context.close()).await;
    });
}

/// The rest after a first request of maximum length is not aligned.
#[test]
fn a_misaligned_tail_after_the_first_request_is_einval_not_end_of_file() {
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    if available() < 6 << 30 {
        eprintln!("skipped: less than 6 GiB of memory is available");
        return;
    }
    let dir = disk_dir();
    current_thread().block_on(async {
        let path = dir.path().join("data");
        let sparse = fs::File::create(&path).unwrap();
        sparse.set_len(3 << 30).unwrap();
        sparse
            .write_all_at(&content(BLOCK), MAX_RW_COUNT as u64)
            .unwrap();
        sparse.sync_all().unwrap();
        let file = open_rw(&dir, "data").await;
        if file.alignment().await.unwrap().offset < 2 {
            eprintln!("skipped: direct I/O takes any length here");
            return;
        }
        let (context, handle) = context_in((BACKENDS[0], SubmitPolicy::NoWaitFirst), 8);
        let mut bytes = AlignedBuf::huge(MAX_RW_COUNT + BLOCK).unwrap();
        let odd = MAX_RW_COUNT as u64 + 100;
        let read = file.read_exact_at(&handle, 0, &mut bytes, odd, READ);
        let error = with_hang_guard(read).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
        // The end of the file is reported even if it makes the rest misaligned.
        sparse.set_len(odd).unwrap();
        let read = file.read_exact_at(&handle, 0, &mut bytes, odd - 100 + LEN, READ);
        let error = with_hang_guard(read).await.unwrap_err();
        assert_eq!(io_error(&error).kind(), ErrorKind::UnexpectedEof, "{error}");
        with_hang_guard(context.close()).await;
    });
}

/// Asserts that the marks are there; looks at samples of the bytes between them.
fn has_marks(bytes: &[u8]) {
    for (seed, mark) in (1..).zip(marks()) {
        assert!(is_pattern(seed, &bytes[mark..mark + BLOCK]), "at {mark}");
    }
    let holes = (BLOCK..MAX_RW_COUNT - BLOCK).step_by(1 << 20);
    assert!(holes.into_iter().all(|at| bytes[at] == 0));
}
