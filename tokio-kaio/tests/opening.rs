//! How a file becomes a `File`, and what is refused: by opening it, and from what is open already.
#![allow(unsafe_code)]

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use common::{BLOCK, in_child, limit, obey_limits, one_thread, within};
use tokio_kaio::{
    Advice, AioCommandError, AioOpenOptionsExt, Allocate, File, ReadFlags, SyncRange, WriteFlags,
    aio_context,
};

/// From now on this process can start no thread. `false`, and a line that says so, where it can.
fn forbid_threads() -> bool {
    limit(libc::RLIMIT_NPROC, 0);
    let forbidden = std::thread::Builder::new().spawn(|| ()).is_err();
    if !forbidden {
        eprintln!("skipped: threads can be started in spite of RLIMIT_NPROC");
    }
    forbidden
}

fn allow_threads() {
    limit(libc::RLIMIT_NPROC, 1024);
}

fn is_no_thread(error: &io::Error) {
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error:?}");
    let text = error.to_string();
    for part in ["no thread", "os error 11", "ulimit -u", "pids.max"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn where_no_thread_can_be_started_a_call_on_the_pool_is_an_error_and_does_nothing() {
    if !in_child("where_no_thread_can_be_started_a_call_on_the_pool_is_an_error_and_does_nothing") {
        return;
    }
    let dir = common::on_disk();
    let path = dir.path().join("data");
    fs::write(&path, [7; 3 * BLOCK]).unwrap();
    let open = OpenOptions::new().read(true).write(true).open(&path);
    let file = File::from_std(open.unwrap()).unwrap();
    if !obey_limits() || !forbid_threads() {
        return;
    }
    one_thread().block_on(within(async {
        for is_sync in [false, true] {
            is_no_thread(&File::open("/proc/version", is_sync).await.unwrap_err());
            let mut options = OpenOptions::new();
            let opened = options
                .read(true)
                .aio_open_or_buffered("/proc/version".into(), is_sync);
            is_no_thread(&opened.await.unwrap_err());
        }
        is_no_thread(&file.set_len(BLOCK as u64).await.unwrap_err());
        is_no_thread(&file.metadata().await.unwrap_err());
        is_no_thread(&file.alignment().await.unwrap_err());
        is_no_thread(&file.atomic_writes().await.unwrap_err());
        let permissions =
            fs::Permissions::from(std::os::unix::fs::PermissionsExt::from_mode(0o600));
        is_no_thread(&file.set_permissions(permissions).await.unwrap_err());
        is_no_thread(
            &file
                .allocate(Allocate::Extend, 0, 1 << 20)
                .await
                .unwrap_err(),
        );
        is_no_thread(&file.sync_range(0, 0, SyncRange::all()).await.unwrap_err());
        is_no_thread(&file.advise(0, 0, Advice::DontNeed).await.unwrap_err());

        let (context, handle) = aio_context(2, true).unwrap();
        let (mut bytes, flags) = ([0; 5], WriteFlags::empty());
        let written = file.write_bytes_at(&handle, 3, b"hello", flags).await;
        let read = file
            .read_bytes_at(&handle, 3, &mut bytes, ReadFlags::empty())
            .await;
        for error in [written.unwrap_err(), read.unwrap_err()] {
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            match error {
                AioCommandError::IoSubmit(error) => is_no_thread(&error),
                other => panic!("{other:?}"),
            }
        }

        // What was refused does not happen later either, when there are threads again.
        allow_threads();
        assert_eq!(file.metadata().await.unwrap().len(), 3 * BLOCK as u64);
        file.write_bytes_at(&handle, 3, b"hello", flags)
            .await
            .unwrap();
        file.read_bytes_at(&handle, 3, &mut bytes, ReadFlags::empty())
            .await
            .unwrap();
        assert_eq!(&bytes, b"hello");
        let mut options = OpenOptions::new();
        let opened = options
            .read(true)
            .aio_open_or_buffered("/proc/version".into(), false);
        assert!(!opened.await.unwrap().is_direct());
        assert_eq!(file.metadata().await.unwrap().len(), 3 * BLOCK as u64);
        context.close().await;
    }));
}

#[test]
fn a_call_on_the_pool_fails_after_its_runtime_has_shut_down() {
    let home = one_thread();
    let dir = common::on_disk();
    let file = home.block_on(common::open_rw(&dir, "data"));
    let handle = home.handle().clone();
    home.shutdown_background();
    let _entered = handle.enter();
    let error = futures::executor::block_on(file.metadata()).unwrap_err();
    assert!(
        error.to_string().contains("runtime has shut down"),
        "{error}"
    );
}

fn status_flags(file: &impl AsRawFd) -> i32 {
    // SAFETY: asks for the flags of a descriptor that is open.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

#[tokio::test]
async fn a_pipe_is_no_file_and_keeps_its_bytes_together_when_it_is_refused() {
    let (mut reader, writer) = io::pipe().unwrap();
    let flags = status_flags(&writer);
    let into = [
        |fd: OwnedFd| File::from_std(fd.into()),
        |fd: OwnedFd| File::try_from(fs::File::from(fd)),
        |fd: OwnedFd| File::try_from(fd),
    ];
    for into in into {
        for end in [writer.as_fd(), reader.as_fd()] {
            let refused = into(end.try_clone_to_owned().unwrap()).unwrap_err();
            is_no_file(&refused, "pipe:");
            assert_eq!(status_flags(&writer), flags);
        }
    }
    // In packet mode (`O_DIRECT`) a read would end with the first write.
    (&writer).write_all(b"first ").unwrap();
    (&writer).write_all(b"second").unwrap();
    let mut bytes = [0; 64];
    let read = reader.read(&mut bytes).unwrap();
    assert_eq!(&bytes[..read], b"first second");
}

fn is_no_file(refused: &io::Error, name: &str) {
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    let text = refused.to_string();
    assert!(text.contains(name), "{text}");
    assert!(text.contains("regular files and block devices"), "{text}");
    let source = refused.get_ref().unwrap().source().unwrap();
    let errno = source.downcast_ref::<io::Error>().unwrap();
    assert_eq!(errno.raw_os_error(), Some(libc::EINVAL));
}

#[tokio::test]
async fn what_is_neither_a_file_nor_a_block_device_is_refused_however_it_is_opened() {
    let (reader, _writer) = io::pipe().unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let dir = fs::File::open("/").unwrap();
    let zero = fs::File::open("/dev/zero").unwrap();
    for (fd, name) in [
        (OwnedFd::from(reader.try_clone().unwrap()), "pipe:"),
        (OwnedFd::from(socket), "socket:"),
        (OwnedFd::from(dir), "/"),
        (OwnedFd::from(zero), "/dev/zero"),
    ] {
        is_no_file(&File::from_std(fd.into()).unwrap_err(), name);
    }
    let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
    let mut options = OpenOptions::new();
    let direct = options.read(true).aio_open(path.clone(), false).await;
    let either = options.aio_open_or_buffered(path.clone(), false).await;
    for refused in [direct.unwrap_err(), either.unwrap_err()] {
        is_no_file(&refused, path.to_str().unwrap());
    }
}
