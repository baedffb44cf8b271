//! How a file becomes a `File`, and what is refused: by opening it, and from what is open already.
#![allow(unsafe_code)]

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;

use std::fs::{self, OpenOptions};
use std::io;

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
