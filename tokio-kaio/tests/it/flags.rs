//! Flags of single operations reach the kernel and take effect.
#![allow(unsafe_code)] // changes flags of a file, asks for pages in the page cache

use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;

use crate::common::*;
use futures::future::join_all;
use tempfile::TempDir;
use tokio_kaio::{
    AioCommandError, AioOpenOptionsExt, File, RawCommand, ReadFlags, WriteFlags, aio_context,
};

fn refused_errno(result: Result<u64, AioCommandError>) -> Option<i32> {
    match &result {
        Err(error @ AioCommandError::IoSubmit(_)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn append_ignores_its_offset() {
    Fixture::new(4).blocks(1).every_dir().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let offsets = [0, 1, i64::MAX as u64, u64::MAX - LEN + 1, u64::MAX];
        for (i, offset) in (1..).zip(offsets) {
            let bytes = patterned_buffer(i, BLOCK);
            let written = file
                .write_at(&handle, offset, &bytes, LEN, WriteFlags::APPEND)
                .await;
            assert_eq!(written.unwrap(), LEN, "{offset}");
        }
        let bytes = patterned_buffer(6, BLOCK);
        let both = WriteFlags::APPEND | WriteFlags::DSYNC;
        assert_eq!(
            file.write_at(&handle, 0, &bytes, LEN, both).await.unwrap(),
            LEN
        );
        let written = fs::read(path.clone()).unwrap();
        assert_eq!(written.len(), 7 * BLOCK);
        assert!(
            (0..)
                .zip(written.chunks(BLOCK))
                .all(|(i, block)| is_pattern(i, block))
        );
    });
}

#[test]
fn a_write_without_append_overwrites_offset_zero() {
    Fixture::new(4).blocks(2).every_dir().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let bytes = patterned_buffer(7, BLOCK);
        file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
            .await
            .unwrap();
        let written = fs::read(path.clone()).unwrap();
        assert_eq!(written.len(), 2 * BLOCK);
        assert!(is_pattern(7, &written[..BLOCK]) && is_pattern(1, &written[BLOCK..]));
    });
}

#[test]
fn concurrent_appends_do_not_overlap() {
    const APPENDS: u64 = 40;
    Fixture::new(8).every_dir().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let appends = (0..APPENDS).map(|i| {
            let (file, handle) = (&file, &handle);
            async move {
                let bytes = patterned_buffer(i, BLOCK);
                file.write_at(handle, 0, &bytes, LEN, WriteFlags::APPEND)
                    .await
                    .unwrap()
            }
        });
        assert!(
            join_all(appends)
                .await
                .iter()
                .all(|&written| written == LEN)
        );
        let written = fs::read(path.clone()).unwrap();
        assert_eq!(written.len() as u64, APPENDS * LEN);
        for i in 0..APPENDS {
            let copies = written
                .chunks(BLOCK)
                .filter(|block| is_pattern(i, block))
                .count();
            assert_eq!(copies, 1, "of append {i}");
        }
    });
}

#[test]
fn nowait_on_an_extending_write_is_eagain_and_writes_nothing() {
    Fixture::new(4).blocks(1).run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        for flags in [WriteFlags::NOWAIT, WriteFlags::NOWAIT | WriteFlags::APPEND] {
            let bytes = patterned_buffer(7, BLOCK);
            match file.write_at(&handle, LEN, &bytes, LEN, flags).await {
                Err(error @ AioCommandError::IoSubmit(_))
                    if error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
                {
                    eprintln!("skipped: NOWAIT is not for the file system of the build");
                    return;
                }
                Err(error @ AioCommandError::BadResult(_)) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
                }
                other => panic!("{other:?}"),
            }
        }
        let written = fs::read(path.clone()).unwrap();
        assert!(is_pattern(0, &written), "it is as it was");
        // Without it the same write goes through.
        let bytes = patterned_buffer(1, BLOCK);
        assert_eq!(
            file.write_at(&handle, LEN, &bytes, LEN, WriteFlags::empty())
                .await
                .unwrap(),
            LEN
        );
    });
}

#[test]
fn nowait_on_allocated_blocks_is_served_or_eagain() {
    Fixture::new(4).blocks(8).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        for i in 0..8 {
            let mut bytes = buffer(BLOCK);
            match file
                .read_at(&handle, i * LEN, &mut bytes, LEN, ReadFlags::NOWAIT)
                .await
            {
                Ok(read) => assert!(read == LEN && is_pattern(i, bytes.as_ref())),
                Err(error) => {
                    let allowed = [Some(libc::EAGAIN), Some(libc::EOPNOTSUPP)];
                    assert!(allowed.contains(&error.raw_os_error()), "{error:?}");
                }
            }
        }
    });
}

#[test]
fn nowait_without_file_system_support_is_eopnotsupp() {
    Fixture::new(4).tmpfs().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let mut bytes = patterned_buffer(7, BLOCK);
        let writing = file
            .write_at(&handle, 0, &bytes, LEN, WriteFlags::NOWAIT)
            .await;
        let reading = file
            .read_at(&handle, 0, &mut bytes, LEN, ReadFlags::NOWAIT)
            .await;
        if writing.is_ok() {
            eprintln!("skipped: this kernel's tmpfs can do NOWAIT");
            return;
        }
        assert_eq!(refused_errno(writing), Some(libc::EOPNOTSUPP));
        assert_eq!(refused_errno(reading), Some(libc::EOPNOTSUPP));
        assert!(is_pattern(7, bytes.as_ref()), "the buffer is as it was");
        assert_eq!(fs::read(path.clone()).unwrap().len(), 0);
    });
}

#[tokio::test]
async fn unknown_flags_are_eopnotsupp() {
    // Bit 31 and the bits above do not fit into the request.
    let mut unknown = vec![1 << 29, 1 << 30, -1, isize::MIN, isize::MAX];
    unknown.extend((31..isize::BITS - 1).map(|bit| 1_isize << bit));
    for dir in test_dirs() {
        write_patterned(&dir.path().join("data"), 1);
        let (context, handle) = aio_context(4, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let mut bytes = patterned_buffer(7, BLOCK);
        for &bits in &unknown {
            let flags = WriteFlags::from_bits_retain(bits);
            let writing = file.write_at(&handle, 0, &bytes, LEN, flags).await;
            assert_eq!(
                refused_errno(writing),
                Some(libc::EOPNOTSUPP),
                "write with {bits:#x}"
            );
            let both = WriteFlags::from_bits_retain(bits) | WriteFlags::DSYNC;
            let writing = file.write_at(&handle, 0, &bytes, LEN, both).await;
            assert_eq!(
                refused_errno(writing),
                Some(libc::EOPNOTSUPP),
                "write with {bits:#x}"
            );
            let flags = ReadFlags::from_bits_retain(bits);
            let reading = file.read_at(&handle, 0, &mut bytes, LEN, flags).await;
            assert_eq!(
                refused_errno(reading),
                Some(libc::EOPNOTSUPP),
                "read with {bits:#x}"
            );
            let offset = 0;
            let command = RawCommand::Pread {
                offset,
                buffer: &mut bytes,
                flags,
                len: LEN,
            };
            let reading = handle.submit_request(&file, command).await;
            assert_eq!(
                refused_errno(reading),
                Some(libc::EOPNOTSUPP),
                "read with {bits:#x}"
            );
        }
        assert!(is_pattern(7, bytes.as_ref()), "the buffer is as it was");
        assert!(
            is_pattern(0, &fs::read(dir.path().join("data")).unwrap()),
            "and the file"
        );
        assert_eq!(handle.available_slots(), Some(4));
        let read = file
            .read_at(&handle, 0, &mut bytes, LEN, ReadFlags::empty())
            .await;
        assert_eq!(read.unwrap(), LEN);
        context.close().await;
    }
}

#[tokio::test]
async fn noappend_writes_at_its_offset_in_a_file_opened_for_appending() {
    for dir in test_dirs() {
        for mode in modes() {
            no_append(&dir, mode).await;
        }
    }
}

async fn no_append(dir: &TempDir, mode: Mode) {
    const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
    if file_system(dir.path()) == Some(OVERLAYFS_MAGIC) {
        eprintln!("skipped: overlayfs appends in spite of NOAPPEND");
        return;
    }
    write_patterned(&dir.path().join("data"), 2);
    let (context, handle) = context_in(mode, 4);
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    let file = options
        .aio_open(dir.path().join("data"), false)
        .await
        .unwrap();
    let bytes = patterned_buffer(2, BLOCK);
    file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
        .await
        .unwrap();
    let here = patterned_buffer(9, BLOCK);
    match file
        .write_at(&handle, 0, &here, LEN, WriteFlags::NOAPPEND)
        .await
    {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            eprintln!("skipped: this kernel has no RWF_NOAPPEND");
            return;
        }
        written => assert_eq!(written.unwrap(), LEN),
    }
    let written = fs::read(dir.path().join("data")).unwrap();
    let found: Vec<bool> = [9, 1, 2]
        .into_iter()
        .zip(written.chunks(BLOCK))
        .map(|(i, b)| is_pattern(i, b))
        .collect();
    assert_eq!((found, written.len()), (vec![true; 3], 3 * BLOCK));
    // Writes without the flag still go to the end; both flags together are invalid.
    let bytes = patterned_buffer(3, BLOCK);
    let appended = file
        .write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
        .await;
    assert_eq!(appended.unwrap(), LEN);
    assert!(is_pattern(
        3,
        &fs::read(dir.path().join("data")).unwrap()[3 * BLOCK..]
    ));
    let both = WriteFlags::APPEND | WriteFlags::NOAPPEND;
    let error = file
        .write_at(&handle, 0, &bytes, LEN, both)
        .await
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{mode:?}");
    context.close().await;
}

#[test]
fn durable_and_high_priority_operations_move_their_data() {
    Fixture::new(4).every_dir().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let all = [
            WriteFlags::DSYNC,
            WriteFlags::SYNC,
            WriteFlags::DSYNC | WriteFlags::SYNC,
            WriteFlags::HIPRI,
            WriteFlags::HIPRI | WriteFlags::SYNC,
        ];
        for (i, flags) in (0..).zip(all) {
            let mut bytes = patterned_buffer(i, BLOCK);
            let written = file.write_at(&handle, i * LEN, &bytes, LEN, flags).await;
            assert_eq!(written.unwrap(), LEN, "{flags:?}");
            bytes.as_mut().fill(0);
            let read = file
                .read_at(&handle, i * LEN, &mut bytes, LEN, ReadFlags::HIPRI)
                .await;
            assert_eq!(read.unwrap(), LEN);
            assert!(is_pattern(i, bytes.as_ref()), "{flags:?}");
        }
    });
}

#[test]
fn each_request_of_a_batch_has_its_own_flags() {
    Fixture::new(32).blocks(4).every_dir().run(async |case| {
        let (dir, path, handle) = (case.dir, case.path, case.handle);
        let file: File = open_rw(dir, "data").await;
        for _wave in 0..3 {
            let before = file.metadata().await.unwrap().len();
            let writes = (0..20_u64).map(|i| {
                let (file, handle) = (&file, &handle);
                async move {
                    let flags = match i % 4 {
                        0 => WriteFlags::APPEND,
                        1 => WriteFlags::DSYNC,
                        2 => WriteFlags::from_bits_retain(1 << 30),
                        _ => WriteFlags::empty(),
                    };
                    let bytes = patterned_buffer(i % 4, BLOCK);
                    let written = file
                        .write_at(handle, (i % 4) * LEN, &bytes, LEN, flags)
                        .await;
                    if i % 4 == 2 {
                        assert_eq!(refused_errno(written), Some(libc::EOPNOTSUPP));
                    } else {
                        assert_eq!(written.unwrap(), LEN);
                    }
                }
            });
            join_all(writes).await;
            let after = file.metadata().await.unwrap().len();
            assert_eq!(
                after,
                before + 5 * LEN,
                "five appends, and nothing else that grows it"
            );
        }
        let written = fs::read(path.clone()).unwrap();
        assert!(
            (0..4)
                .zip(written.chunks(BLOCK))
                .all(|(i, block)| is_pattern(i, block))
        );
        assert!(
            written[4 * BLOCK..]
                .chunks(BLOCK)
                .all(|block| is_pattern(0, block))
        );
    });
}

#[tokio::test]
async fn atomic_writes_work_within_the_reported_limits() {
    for dir in test_dirs() {
        for mode in modes() {
            let (context, handle) = context_in(mode, 4);
            write_patterned(&dir.path().join("data"), 16);
            let file = open_rw(&dir, "data").await;
            let Some(sizes) = file.atomic_writes().await.unwrap() else {
                let bytes = patterned_buffer(17, BLOCK);
                let written = file
                    .write_at(&handle, 0, &bytes, LEN, WriteFlags::ATOMIC)
                    .await;
                assert_eq!(refused_errno(written), Some(libc::EOPNOTSUPP), "{mode:?}");
                assert!(is_pattern(
                    0,
                    &fs::read(dir.path().join("data")).unwrap()[..BLOCK]
                ));
                context.close().await;
                continue;
            };
            let len = u64::from(sizes.unit_min);
            let bytes = patterned_buffer(17, 4 * sizes.unit_min as usize);
            let written = file
                .write_at(&handle, 0, &bytes, len, WriteFlags::ATOMIC)
                .await;
            assert_eq!(written.unwrap(), len, "{mode:?}");
            // Not a power of two; not at a multiple of its length.
            for (offset, len) in [(0, 3 * len), (len, 2 * len)] {
                let written = file.write_at(&handle, offset, &bytes, len, WriteFlags::ATOMIC);
                let error = written.await.unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{mode:?}");
            }
            context.close().await;
        }
    }
}

/// Pages of a file in the page cache, as `cachestat(2)` counts them (Linux 6.5).
fn cached(file: &impl AsRawFd) -> Option<u64> {
    const SYS_CACHESTAT: libc::c_long = 451;
    let all = [0_u64; 2];
    let mut counts = [0_u64; 5];
    let (range, counts_) = (all.as_ptr(), counts.as_mut_ptr());
    // SAFETY: a range and counts as the kernel has them.
    let code = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range, counts_, 0) };
    (code == 0).then_some(counts[0])
}

/// `None`, and a line that says so: the file system does not know the flag.
fn known(result: Result<u64, AioCommandError>, dir: &TempDir) -> Option<u64> {
    match result {
        Err(error @ AioCommandError::IoSubmit(_))
            if error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            eprintln!("skipped: {} has no DONTCACHE", dir.path().display());
            None
        }
        result => Some(result.unwrap()),
    }
}

#[tokio::test]
async fn dontcache_keeps_a_buffered_file_out_of_the_page_cache() {
    const BLOCKS: usize = 64;
    const ALL: u64 = BLOCKS as u64 * LEN;
    for dir in test_dirs() {
        for (i, mode) in modes().enumerate() {
            let (context, handle) = context_in(mode, 4);
            let file = open_rw(&dir, &format!("data{i}")).await;
            // Pages cached before would stay, so this is a new file.
            // SAFETY: changes the flags of a file that is open.
            let code = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) };
            assert_eq!(code, 0);
            let none = || async {
                wait_until(
                    || cached(&file).is_none_or(|pages| pages == 0),
                    || cached(&file),
                )
                .await;
            };
            let mut bytes = patterned_buffer(1, BLOCKS * BLOCK);
            let written = file
                .write_at(&handle, 0, &bytes, ALL, WriteFlags::DONTCACHE)
                .await;
            let Some(written) = known(written, &dir) else {
                context.close().await;
                continue;
            };
            assert_eq!(written, ALL);
            // They go when they have been written.
            file.sync_all(&handle).await.unwrap();
            none().await;
            bytes.fill(0);
            let read = file
                .read_at(&handle, 0, &mut bytes, ALL, ReadFlags::DONTCACHE)
                .await;
            assert_eq!(read.unwrap(), ALL, "{mode:?}");
            assert!(is_pattern(1, &bytes));
            none().await;
            // Without it they stay, unless the kernel needs the memory.
            retry_until(async || {
                let none = ReadFlags::empty();
                let read = file.read_at(&handle, 0, &mut bytes, ALL, none).await;
                assert_eq!(read.unwrap(), ALL, "{mode:?}");
                let stay = cached(&file).is_none_or(|pages| pages > 0);
                stay.then_some(())
            })
            .await;
            context.close().await;
        }
    }
}

#[test]
fn dontcache_is_accepted_with_direct_io_where_supported() {
    Fixture::new(4).everywhere().run(async |case| {
        let (dir, file, handle, mode) = (case.dir, case.file, case.handle, case.mode);
        let mut bytes = patterned_buffer(1, BLOCK);
        let written = file
            .write_at(&handle, 0, &bytes, LEN, WriteFlags::DONTCACHE)
            .await;
        let read = file
            .read_at(&handle, 0, &mut bytes, LEN, ReadFlags::DONTCACHE)
            .await;
        if known(written, dir).is_some() {
            assert_eq!(read.unwrap(), LEN, "{mode:?}");
            assert_eq!(cached(&file).unwrap_or(0), 0, "{mode:?}");
        } else {
            assert_eq!(refused_errno(read), Some(libc::EOPNOTSUPP), "{mode:?}");
        }
        assert!(is_pattern(1, &bytes), "{mode:?}");
    });
}
