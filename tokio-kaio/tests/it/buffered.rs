//! Files without direct I/O, opened buffered.
#![allow(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::common::*;
use tokio_kaio::{
    AioOpenOptionsExt, AlignmentSource, File, ReadFlags, SubmitPolicy, WriteFlags, aio_context,
};

/// A file that has no direct I/O anywhere.
const PROC: &str = "/proc/version";

async fn open(path: &Path, is_sync: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let opening = options
        .read(true)
        .aio_open_or_buffered(path.into(), is_sync);
    opening.await
}

fn flags_of(file: &File) -> i32 {
    // SAFETY: asks for the flags of a descriptor that is open.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

#[tokio::test]
async fn a_file_with_direct_io_is_opened_direct_and_so_is_its_clone() {
    for dir in test_dirs() {
        let path = dir.path().join("data");
        write_patterned(&path, 1);
        for is_sync in [false, true] {
            let file = open(&path, is_sync).await.unwrap();
            assert!(file.is_direct() && file.try_clone().unwrap().is_direct());
            assert_ne!(flags_of(&file) & libc::O_DIRECT, 0);
            assert_eq!(flags_of(&file) & libc::O_SYNC == libc::O_SYNC, is_sync);
            assert_eq!(file.submit_policy(), None);
        }
        let by_the_usual_way = File::open(&path, false).await.unwrap();
        assert!(by_the_usual_way.is_direct());
    }
}

#[tokio::test]
async fn a_file_without_direct_io_is_opened_buffered_and_reports_it() {
    for is_sync in [false, true] {
        let file = open(Path::new(PROC), is_sync).await.unwrap();
        for file in [file.try_clone().unwrap(), file] {
            assert!(!file.is_direct());
            assert_eq!(flags_of(&file) & libc::O_DIRECT, 0);
            assert_eq!(flags_of(&file) & libc::O_SYNC == libc::O_SYNC, is_sync);
            assert_eq!(file.submit_policy(), Some(SubmitPolicy::Offload));
            let alignment = file.alignment().await.unwrap();
            assert_eq!(alignment.source, AlignmentSource::Buffered);
            let all = (alignment.memory, alignment.offset, alignment.read_offset);
            assert_eq!(all, (1, 1, 1));
            assert_eq!(file.atomic_writes().await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn a_buffered_file_is_read_at_any_offset() {
    let file = open(Path::new(PROC), false).await.unwrap();
    let (context, handle) = aio_context(1, true).unwrap();
    let mut bytes = buffer(BLOCK);
    let read = file.read_at(&handle, 0, &mut bytes, 5, ReadFlags::empty());
    assert_eq!(read.await.unwrap(), 5);
    assert_eq!(&bytes.as_ref()[..5], b"Linux");
    let read = file.read_at(&handle, 3, &mut bytes, 2, ReadFlags::empty());
    assert_eq!(read.await.unwrap(), 2);
    assert_eq!(&bytes.as_ref()[..2], b"ux");
    if is_kernel_aio_build() && !cfg!(kaio_plain_policy) {
        assert_eq!(handle.metrics().offloads, 2);
    }
    context.close().await;
}

#[tokio::test]
async fn opening_a_directory_or_device_buffered_is_refused() {
    let dir = disk_dir();
    for path in [dir.path(), Path::new("/dev/null")] {
        let text = open(path, false).await.unwrap_err().to_string();
        assert!(text.contains("regular files and block devices"), "{text}");
    }
    let missing = open(&dir.path().join("none"), false).await.unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn an_explicit_o_direct_does_not_fall_back_to_buffered() {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    let refused = options.aio_open_or_buffered(PROC.into(), false).await;
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn a_file_that_accepts_o_direct_without_direct_io_is_opened_buffered() {
    Fixture::new(1).run(async |case| {
        let (path, handle) = (case.dir.path().join("journaled"), case.handle);
        if let Err(why) = journaled(&path) {
            eprintln!("skipped: {why}");
            return;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.aio_open_or_buffered(path.clone(), false).await;
        let file = file.unwrap();
        if file.is_direct() {
            eprintln!("skipped: the kernel does not report that it has none (Linux before 6.1)");
            return;
        }
        assert_eq!(flags_of(&file) & libc::O_DIRECT, 0);

        let bytes = patterned_buffer(1, BLOCK);
        let written = file.write_at(&handle, 3, &bytes, 7, WriteFlags::empty());
        assert_eq!(written.await.unwrap(), 7);
        file.sync_all(&handle).await.unwrap();
        let found = fs::read(path).unwrap();
        assert_eq!(
            (&found[..3], &found[3..]),
            (&[0; 3][..], &bytes.as_ref()[..7])
        );
    });
}

/// As on ext4 with data journaling, which accepts `O_DIRECT` and ignores it: only the completion of
/// a write says that the kernel can't promise not to block.
#[test]
fn a_file_that_lost_o_direct_is_still_overwritten() {
    Fixture::new(4).everywhere().run(async |case| {
        let (path, file, handle, mode) = (case.path, case.file, case.handle, case.mode);
        // SAFETY: changes the flags of a file that is open.
        let code = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) };
        assert_eq!(code, 0);
        for seed in 1..20 {
            let bytes = patterned_buffer(seed, BLOCK);
            let written = write(&handle, &file, 0, &bytes).await;
            assert_eq!(written.unwrap(), BLOCK as u64, "{mode:?}, write {seed}");
            let found = fs::read(path.clone()).unwrap();
            assert!(is_pattern(seed, &found));
        }
    });
}
