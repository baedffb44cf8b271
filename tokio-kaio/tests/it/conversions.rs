//! `File` from what is open already, and back; one open file with several owners.
#![allow(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::common::*;
use tokio_kaio::{AioContextBuilder, File, ReadFlags, SubmitPolicy, WriteFlags};

fn flags_of(file: &impl AsRawFd) -> i32 {
    // SAFETY: asks for the flags of a descriptor that is open.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

fn is_direct(file: &impl AsRawFd) -> bool {
    flags_of(file) & libc::O_DIRECT != 0
}

fn read_write(path: std::path::PathBuf) -> fs::File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

#[test]
fn a_clone_is_the_same_open_file() {
    Fixture::new(1).every_dir().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let clone = file.try_clone().unwrap();
        assert_eq!(file.as_raw_fd(), clone.as_raw_fd());

        clone.set_submit_policy(Some(SubmitPolicy::Inline));
        assert_eq!(file.submit_policy(), Some(SubmitPolicy::Inline));

        drop(file);
        let mut bytes = patterned_buffer(3, BLOCK);
        let written = clone.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty());
        assert_eq!(written.await.unwrap(), LEN);
        bytes.as_mut().fill(0);
        let read = clone.read_at(&handle, 0, &mut bytes, LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), LEN);
        assert!(is_pattern(3, bytes.as_ref()));
    });
}

#[test]
fn a_clone_of_an_appending_file_appends() {
    Fixture::new(2).every_dir().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        let file = File::from_std(options.open(dir.path().join("log")).unwrap()).unwrap();
        let clone = file.try_clone().unwrap();
        let (first, second) = (patterned_buffer(0, BLOCK), patterned_buffer(1, BLOCK));
        let both = futures::future::join(
            file.write_at(&handle, 0, &first, LEN, WriteFlags::empty()),
            clone.write_at(&handle, 0, &second, LEN, WriteFlags::empty()),
        );
        let both = both.await;
        assert_eq!((both.0.unwrap(), both.1.unwrap()), (LEN, LEN));
        let log = fs::read(dir.path().join("log")).unwrap();
        assert_eq!(log.len(), 2 * BLOCK);
        assert!(is_pattern(0, &log[..BLOCK]) && is_pattern(1, &log[BLOCK..]));
    });
}

#[test]
fn a_std_file_becomes_direct_and_keeps_its_other_flags() {
    Fixture::new(1).blocks(1).every_dir().run(async |case| {
        let (path, handle) = (case.path, case.handle);
        let standard = read_write(path);
        let (duplicate, fd) = (standard.try_clone().unwrap(), standard.as_raw_fd());
        let flags = flags_of(&standard);
        assert!(!is_direct(&standard));

        let file = File::try_from(standard).unwrap();
        assert_eq!(file.as_raw_fd(), fd);
        assert_eq!(file.as_fd().as_raw_fd(), fd);
        assert_eq!(flags_of(&file), flags | libc::O_DIRECT);
        assert!(is_direct(&duplicate));

        let mut bytes = patterned_buffer(9, BLOCK);
        let read = file.read_at(&handle, 0, &mut bytes, LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), LEN);
        assert!(is_pattern(0, bytes.as_ref()));
    });
}

#[tokio::test]
async fn a_file_becomes_a_std_file_with_its_descriptor_and_stays_direct() {
    for dir in test_dirs() {
        let file = open_rw(&dir, "data").await;
        let fd = file.as_raw_fd();
        let standard = fs::File::try_from(file).unwrap();
        assert_eq!(standard.as_raw_fd(), fd);
        assert!(is_direct(&standard));

        let owned = OwnedFd::try_from(File::from_std(standard).unwrap()).unwrap();
        assert_eq!(owned.as_raw_fd(), fd);
        let file = File::try_from(owned).unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn a_shared_file_becomes_a_std_file_with_a_duplicate_descriptor() {
    for dir in test_dirs() {
        let file = open_rw(&dir, "data").await;
        let clone = file.try_clone().unwrap();
        let standard = file.into_std().unwrap();
        assert_ne!(standard.as_raw_fd(), clone.as_raw_fd());
        assert!(is_direct(&standard));
        standard.set_len(LEN).unwrap();
        assert_eq!(clone.metadata().await.unwrap().len(), LEN);
    }
}

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs requests that wait for a blocking thread; Plain offloads none, io_uring only merged writes"
)]
fn a_file_can_become_a_std_file_while_a_dropped_write_waits_for_a_thread() {
    let dir = disk_dir();
    one_blocking_thread().block_on(async {
        let builder = AioContextBuilder::new(1).submit_policy(SubmitPolicy::Offload);
        let (context, handle) = builder.build().unwrap();
        let file = open_rw(&dir, "data").await;
        let bytes = patterned_buffer(1, BLOCK);
        let release = occupy_blocking_thread().await;
        {
            let write = file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty());
            let mut write = std::pin::pin!(write);
            assert!(futures::poll!(&mut write).is_pending());
        }
        let standard = file.into_std().unwrap();
        drop(release);
        with_hang_guard(context.close()).await;
        let len = standard.metadata().unwrap().len();
        assert!(len == 0 || len == LEN, "{len}");
    });
}

#[test]
fn a_file_without_direct_io_is_named_in_the_error() {
    let refused = File::from_std(fs::File::open("/proc/version").unwrap()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    let text = refused.to_string();
    assert!(text.contains("/proc/version"), "{text}");
    assert!(text.contains("can't do direct I/O"), "{text}");

    let null = fs::File::open("/dev/null").unwrap();
    let text = File::from_std(null).unwrap_err().to_string();
    assert!(text.contains("/dev/null"), "{text}");
    assert!(text.contains("regular files and block devices"), "{text}");
}

#[tokio::test]
async fn a_std_file_from_a_direct_one_still_needs_aligned_memory() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), 1);
    let file = open_rw(&dir, "data").await;
    let mut standard = file.into_std().unwrap();
    let mut bytes = vec![0; 3];
    match standard.read(&mut bytes) {
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
        // Some file systems read through the page cache instead.
        Ok(read) => assert_eq!(read, 3),
    }
    let aligned = patterned_buffer(7, BLOCK);
    assert_eq!(standard.write_at(aligned.as_ref(), 0).unwrap(), BLOCK);
}
