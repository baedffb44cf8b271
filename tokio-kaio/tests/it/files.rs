//! `File`: how it is opened, the flags of its descriptor, and operations that move no data.
#![allow(unsafe_code)]

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};

use crate::common::*;
use tokio_kaio::{
    AioCommandError, AioOpenOptionsExt, File, ReadFlags, WriteFlags, aio_context, local_aio_context,
};

fn status_flags(file: &File) -> i32 {
    // SAFETY: asks for the flags of a descriptor that is open.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

fn has(file: &File, flag: i32) -> bool {
    status_flags(file) & flag == flag
}

fn read_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options
}

#[tokio::test]
async fn every_file_is_open_for_direct_io_and_only_is_sync_makes_it_synchronous() {
    for dir in test_dirs() {
        let path = dir.path().join("data");
        for is_sync in [false, true] {
            let created = File::create(&path, is_sync).await.unwrap();
            let opened = File::open(&path, is_sync).await.unwrap();
            let own = read_write().aio_open(path.clone(), is_sync).await.unwrap();
            for file in [created, opened, own] {
                assert!(has(&file, libc::O_DIRECT), "{:#o}", status_flags(&file));
                assert_eq!(
                    has(&file, libc::O_SYNC),
                    is_sync,
                    "{:#o}",
                    status_flags(&file)
                );
            }
        }
    }
}

#[tokio::test]
async fn a_file_is_closed_on_exec() {
    let dir = disk_dir();
    for is_sync in [false, true] {
        let file = File::create(dir.path().join("data"), is_sync)
            .await
            .unwrap();
        // SAFETY: asks for the flags of a descriptor that is open.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

#[tokio::test]
async fn custom_flags_are_kept() {
    let dir = disk_dir();
    let path = dir.path().join("data");
    let mut options = read_write();
    options.custom_flags(libc::O_NOATIME | libc::O_SYNC);
    let file = options.aio_open(path.clone(), false).await.unwrap();
    assert!(has(&file, libc::O_NOATIME | libc::O_SYNC | libc::O_DIRECT));

    symlink(&path, dir.path().join("link")).unwrap();
    let mut options = read_write();
    options.custom_flags(libc::O_NOFOLLOW);
    let refused = options
        .aio_open(dir.path().join("link"), false)
        .await
        .unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ELOOP));
}

#[tokio::test]
async fn a_file_has_the_access_mode_of_its_options() {
    let dir = disk_dir();
    let path = dir.path().join("data");
    for is_sync in [false, true] {
        let mut append = OpenOptions::new();
        append.append(true).create(true);
        let append = append.aio_open(path.clone(), is_sync).await.unwrap();
        assert!(has(&append, libc::O_APPEND | libc::O_WRONLY));
        let mut new = OpenOptions::new();
        new.write(true).create_new(true);
        let exists = new.aio_open(path.clone(), is_sync).await.unwrap_err();
        assert_eq!(exists.kind(), io::ErrorKind::AlreadyExists);
        let both = read_write().aio_open(path.clone(), is_sync).await.unwrap();
        assert_eq!(status_flags(&both) & libc::O_ACCMODE, libc::O_RDWR);
    }
}

#[tokio::test]
async fn open_is_read_only_and_needs_an_existing_file() {
    for dir in test_dirs() {
        let path = dir.path().join("data");
        for is_sync in [false, true] {
            let missing = File::open(dir.path().join("none"), is_sync)
                .await
                .unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            write_patterned(&path, 1);
            let file = File::open(&path, is_sync).await.unwrap();
            assert_eq!(status_flags(&file) & libc::O_ACCMODE, libc::O_RDONLY);
            let (context, handle) = aio_context(1, true).unwrap();
            let mut bytes = buffer(BLOCK);
            let written = file
                .write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
                .await;
            assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EBADF));
            let read = file
                .read_at(&handle, 0, &mut bytes, LEN, ReadFlags::empty())
                .await;
            assert_eq!(read.unwrap(), LEN);
            assert!(is_pattern(0, bytes.as_ref()));
            assert_eq!(
                file.set_len(0).await.unwrap_err().raw_os_error(),
                Some(libc::EINVAL)
            );
            context.close().await;
        }
    }
}

#[tokio::test]
async fn create_creates_or_truncates_a_file_and_is_write_only() {
    for dir in test_dirs() {
        let path = dir.path().join("data");
        for is_sync in [false, true] {
            for _there_already in [false, true] {
                let file = File::create(&path, is_sync).await.unwrap();
                assert_eq!(file.metadata().await.unwrap().len(), 0);
                assert_eq!(status_flags(&file) & libc::O_ACCMODE, libc::O_WRONLY);
                let (context, handle) = aio_context(1, true).unwrap();
                let mut bytes = patterned_buffer(1, BLOCK);
                let written = file
                    .write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
                    .await;
                assert_eq!(written.unwrap(), LEN);
                let read = file
                    .read_at(&handle, 0, &mut bytes, LEN, ReadFlags::empty())
                    .await;
                assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EBADF));
                assert!(is_pattern(1, &fs::read(&path).unwrap()));
                context.close().await;
            }
            fs::remove_file(&path).unwrap();
        }
    }
}

#[tokio::test]
async fn a_file_system_without_direct_io_is_named_in_the_error() {
    for is_sync in [false, true] {
        let refused = File::open("/proc/self/status", is_sync).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
        let text = refused.to_string();
        assert!(text.contains("/proc/self/status"), "{text}");
        assert!(text.contains("O_DIRECT"), "{text}");
        let source = std::error::Error::source(&refused).unwrap();
        let errno = source.downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(errno.raw_os_error(), Some(libc::EINVAL));
    }
}

#[tokio::test]
async fn opening_a_directory_or_device_is_an_error_that_says_so() {
    let dir = disk_dir();
    for path in [dir.path(), "/dev/null".as_ref()] {
        let text = File::open(path, false).await.unwrap_err().to_string();
        assert!(text.contains("regular files and block devices"), "{text}");
    }
}

#[tokio::test]
async fn open_options_can_be_used_as_a_temporary() {
    let dir = disk_dir();
    let path = dir.path().join("new");
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .aio_open(path.clone(), true)
        .await;
    assert!(status_flags(&file.unwrap()) & libc::O_SYNC != 0);
    assert_eq!(fs::metadata(path).unwrap().len(), 0);
}

#[test]
fn set_len_truncates_and_extends_with_zeroes() {
    Fixture::new(1).blocks(3).every_dir().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        file.set_len(LEN).await.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), LEN);
        file.set_len(4 * LEN).await.unwrap();
        let mut bytes = patterned_buffer(9, 4 * BLOCK);
        let read = file
            .read_at(&handle, 0, &mut bytes, 4 * LEN, ReadFlags::empty())
            .await;
        assert_eq!(read.unwrap(), 4 * LEN);
        assert!(is_pattern(0, &bytes.as_ref()[..BLOCK]));
        assert!(bytes.as_ref()[BLOCK..].iter().all(|&byte| byte == 0));
        let absurd = file.set_len(u64::MAX).await.unwrap_err();
        assert_eq!(absurd.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(file.metadata().await.unwrap().len(), 4 * LEN);
    });
}

#[tokio::test]
async fn metadata_is_that_of_the_open_file_even_if_unlinked() {
    for dir in test_dirs() {
        let path = dir.path().join("data");
        write_patterned(&path, 2);
        let file = File::open(&path, false).await.unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        fs::remove_file(&path).unwrap();
        let metadata = file.metadata().await.unwrap();
        assert_eq!(
            (metadata.ino(), metadata.len(), metadata.nlink()),
            (inode, 2 * LEN, 0)
        );
        assert!(metadata.is_file());
    }
}

#[tokio::test]
async fn permissions_are_set_on_the_file() {
    for dir in test_dirs() {
        let path = dir.path().join("data");
        let file = File::create(&path, false).await.unwrap();
        for mode in [0o600, 0o444, 0o755] {
            file.set_permissions(Permissions::from_mode(mode))
                .await
                .unwrap();
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                mode
            );
            assert_eq!(
                file.metadata().await.unwrap().permissions().mode() & 0o777,
                mode
            );
        }
    }
}

#[tokio::test]
async fn syncs_succeed_with_every_kind_of_context() {
    for dir in test_dirs() {
        let file = open_rw(&dir, "data").await;
        let bytes = patterned_buffer(1, BLOCK);
        let (context, handle) = aio_context(2, true).unwrap();
        file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
            .await
            .unwrap();
        file.sync_all(&handle).await.unwrap();
        file.sync_data(&handle).await.unwrap();
        let both = futures::future::join(file.sync_all(&handle), file.sync_data(&handle)).await;
        assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
        assert_eq!(handle.available_slots(), Some(2));
        context.close().await;

        let (context, handle, background) = local_aio_context(1, true).unwrap();
        file.sync_all(&handle).await.unwrap();
        file.sync_data(&handle).await.unwrap();
        drop(context);
        background.await.unwrap();
        let stopped = file.sync_all(&handle).await;
        assert!(
            matches!(stopped, Err(AioCommandError::AioStopped)),
            "{stopped:?}"
        );
    }
}

#[test]
fn a_synchronous_file_is_written_and_read() {
    Fixture::new(2).every_dir().run(async |case| {
        let (path, handle) = (case.path, case.handle);
        let file = read_write().aio_open(path.clone(), true).await.unwrap();
        let mut bytes = patterned_buffer(5, 2 * BLOCK);
        let written = file
            .write_at(&handle, LEN, &bytes, 2 * LEN, WriteFlags::empty())
            .await;
        assert_eq!(written.unwrap(), 2 * LEN);
        bytes.as_mut().fill(0);
        let read = file
            .read_at(&handle, LEN, &mut bytes, 2 * LEN, ReadFlags::empty())
            .await;
        assert_eq!(read.unwrap(), 2 * LEN);
        assert!(is_pattern(5, bytes.as_ref()));
    });
}

#[test]
fn a_transfer_of_a_part_of_the_buffer_leaves_the_rest() {
    Fixture::new(2).every_dir().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let bytes = patterned_buffer(5, 4 * BLOCK);
        let written = file
            .write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
            .await;
        assert_eq!(written.unwrap(), LEN);
        assert_eq!(fs::read(path.clone()).unwrap(), &bytes.as_ref()[..BLOCK]);
        let mut target = patterned_buffer(6, 4 * BLOCK);
        let read = file
            .read_at(&handle, 0, &mut target, LEN, ReadFlags::empty())
            .await;
        assert_eq!(read.unwrap(), LEN);
        assert_eq!(target.as_ref()[..BLOCK], bytes.as_ref()[..BLOCK]);
        let rest = patterned_buffer(6, 4 * BLOCK);
        assert!(target.as_ref()[BLOCK..] == rest.as_ref()[BLOCK..]);
        let nothing = file
            .read_at(&handle, 0, &mut target, 0, ReadFlags::empty())
            .await;
        assert_eq!(nothing.unwrap(), 0);
        let nothing = file
            .write_at(&handle, 0, &bytes, 0, WriteFlags::empty())
            .await;
        assert_eq!(nothing.unwrap(), 0);
    });
}
