//! Open files: the options that open them, their lengths and facts, and their descriptors.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use tokio_kaio::simulation::SimDisk;
use tokio_kaio::{
    Advice, AioContextBuilder, AioOpenOptionsExt, AlignmentSource, Allocate, Backend, File,
    RawCommand, ReadFlags, SyncRange, WriteFlags, read_dir_blocking, try_exists,
};

use crate::common::{in_child, set_limit};
use crate::support::{BLOCK, Simulated, blocks, errno, io_errno};

fn options() -> OpenOptions {
    OpenOptions::new()
}

#[tokio::test(start_paused = true)]
async fn files_are_opened_as_the_options_say() {
    let simulated = Simulated::new(1);
    let path = simulated.disk.path().join("file");
    let missing = options().read(true).aio_open(path.clone(), false).await;
    assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    let mut new = options();
    new.write(true).create_new(true);
    let file = new.clone().aio_open(path.clone(), false).await.unwrap();
    let taken = new.clone().aio_open(path.clone(), false).await;
    assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    let handle = &simulated.handle;
    let buffer = blocks(1, 1);
    file.write_at(handle, 0, &buffer, BLOCK, WriteFlags::empty())
        .await
        .unwrap();
    let mut read = blocks(0, 1);
    let unreadable = file
        .read_at(handle, 0, &mut read, BLOCK, ReadFlags::empty())
        .await;
    assert_eq!(errno(unreadable), libc::EBADF);

    let file = File::open(&path, false).await.unwrap();
    assert_eq!(file.metadata_at_open().len(), BLOCK);
    let unwritable = file
        .write_at(handle, 0, &buffer, BLOCK, WriteFlags::empty())
        .await;
    assert_eq!(errno(unwritable), libc::EBADF);
    assert_eq!(io_errno(file.set_len(0).await), libc::EINVAL);
    let truncated = File::create(&path, true).await.unwrap();
    assert_eq!(truncated.metadata().await.unwrap().len(), 0);

    for mut refused in [options(), options()] {
        refused.truncate(true);
        let opened = refused.aio_open(path.clone(), false).await;
        assert_eq!(io_errno(opened), libc::EINVAL);
    }
    let directory = File::open(simulated.disk.path(), false).await;
    assert_eq!(directory.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let buffered = options()
        .read(true)
        .aio_open_or_buffered(path.clone(), false)
        .await;
    assert!(buffered.unwrap().is_direct());
    let mut unnamed = options();
    unnamed.read(true).write(true).custom_flags(libc::O_TMPFILE);
    let unnamed = unnamed
        .aio_open_blocking(simulated.disk.path(), false)
        .unwrap();
    unnamed.set_len_blocking(5).unwrap();
    assert_eq!(unnamed.metadata_blocking().unwrap().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn appends_go_to_the_end_of_the_file() {
    let simulated = Simulated::new(1);
    let (disk, handle) = (&simulated.disk, &simulated.handle);
    let path = disk.path().join("log");
    let mut append = options();
    append.append(true).create(true);
    let log = append.aio_open(path.clone(), false).await.unwrap();
    let appends = (1..=8).map(|byte| {
        let (log, handle) = (log.clone(), handle.clone());
        async move {
            let write = log
                .write_at(&handle, 0, &blocks(byte, 1), BLOCK, WriteFlags::empty())
                .await;
            write.unwrap()
        }
    });
    futures::future::join_all(appends).await;
    log.write_bytes_at(handle, 0, b"tail", WriteFlags::empty())
        .await
        .unwrap();
    assert_eq!(log.metadata().await.unwrap().len(), 8 * BLOCK + 4);
    let log = File::open(&path, false).await.unwrap();
    let mut bytes = vec![0; 8 * BLOCK as usize + 4];
    log.read_bytes_at(handle, 0, &mut bytes, ReadFlags::empty())
        .await
        .unwrap();
    for (index, block) in bytes.chunks(BLOCK as usize).take(8).enumerate() {
        assert!(
            block.iter().all(|&byte| byte == index as u8 + 1),
            "block {index}"
        );
    }
    assert_eq!(&bytes[8 * BLOCK as usize..], b"tail");
}

#[tokio::test(start_paused = true)]
async fn lengths_and_allocations_change_as_on_real_files() {
    let simulated = Simulated::new(1);
    let file = simulated.file("file").await;
    let len = async || file.metadata().await.unwrap().len();
    file.set_len(10_000).await.unwrap();
    assert_eq!(len().await, 10_000);
    file.allocate(Allocate::KeepSize, 0, 1 << 20).await.unwrap();
    assert_eq!(len().await, 10_000);
    file.allocate(Allocate::Extend, 0, 1 << 20).await.unwrap();
    assert_eq!(len().await, 1 << 20);
    let bound = file.with_handle(&simulated.handle);
    bound.set_len(2 * BLOCK).await.unwrap();
    assert_eq!(len().await, 2 * BLOCK);
    let buffer = blocks(1, 2);
    bound
        .write_at(0, &buffer, 2 * BLOCK, WriteFlags::empty())
        .await
        .unwrap();
    bound.allocate(Allocate::PunchHole, 0, BLOCK).await.unwrap();
    let mut bytes = vec![9; 2 * BLOCK as usize];
    bound
        .read_bytes_at(0, &mut bytes, ReadFlags::empty())
        .await
        .unwrap();
    let (hole, rest) = bytes.split_at(BLOCK as usize);
    assert!(hole.iter().all(|&byte| byte == 0) && rest.iter().all(|&byte| byte == 1));
    bound.sync_range(0, BLOCK, SyncRange::WRITE).await.unwrap();
    file.advise(0, 0, Advice::WillNeed).await.unwrap();
    file.sync_all_blocking().unwrap();
    file.sync_data_blocking().unwrap();
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_has_the_alignment_and_the_atomic_writes_of_the_disk() {
    for sector in [512, 4096] {
        let simulated = Simulated::of(SimDisk::builder().sector(sector));
        let file = simulated.file("file").await;
        let alignment = file.alignment().await.unwrap();
        assert_eq!(alignment.offset, u64::from(sector));
        assert_eq!(alignment.source, AlignmentSource::BlockDevice);
        assert_eq!(file.atomic_writes().await.unwrap(), None);
        let buffer = blocks(1, 1);
        let len = u64::from(sector);
        for (offset, len) in [(1, len), (0, len - 1), (len / 2, len)] {
            let misaligned =
                file.write_at(&simulated.handle, offset, &buffer, len, WriteFlags::empty());
            assert_eq!(errno(misaligned.await), libc::EINVAL);
        }
    }
    let simulated = Simulated::of(SimDisk::builder().atomic_write_unit(16384));
    let file = simulated.file("file").await;
    let sizes = file.atomic_writes().await.unwrap().unwrap();
    assert_eq!((sizes.unit_min, sizes.unit_max), (4096, 16384));
    let buffer = blocks(1, 8);
    let write =
        |offset, len| file.write_at(&simulated.handle, offset, &buffer, len, WriteFlags::ATOMIC);
    assert_eq!(write(0, 16384).await.unwrap(), 16384);
    assert_eq!(errno(write(4096, 16384).await), libc::EINVAL);
    assert_eq!(errno(write(0, 32768).await), libc::EINVAL);
}

#[tokio::test]
async fn a_context_refuses_files_that_are_not_of_its_disk() {
    let (one, other) = (Simulated::new(1), Simulated::new(2));
    let file = one.file("file").await;
    let buffer = blocks(1, 1);
    let foreign = file
        .write_at(&other.handle, 0, &buffer, BLOCK, WriteFlags::empty())
        .await;
    assert_eq!(errno(foreign), libc::EBADF);
    let real = tempfile::tempfile_in(".").unwrap();
    let of_kernel = one.handle.submit_request(&real, RawCommand::Fsync).await;
    assert_eq!(errno(of_kernel), libc::EBADF);
    let (context, handle) = AioContextBuilder::new(8)
        .backend(Backend::ThreadPool)
        .build()
        .unwrap();
    let simulated = file
        .write_at(&handle, 0, &buffer, BLOCK, WriteFlags::empty())
        .await;
    assert_eq!(errno(simulated), libc::EBADF);
    context.close().await;
}

#[tokio::test]
async fn the_descriptor_of_a_simulated_file_can_neither_be_read_nor_written() {
    let simulated = Simulated::new(1);
    let file = simulated.file("file").await;
    file.set_len(100).await.unwrap();
    let mut placeholder = file.into_std().unwrap();
    assert_eq!(io_errno(placeholder.read(&mut [0; 8])), libc::EBADF);
    assert_eq!(io_errno(placeholder.sync_all()), libc::EBADF);
    assert_eq!(io_errno(placeholder.set_len(1)), libc::EBADF);
    assert!(File::from_std(placeholder).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_request_on_a_borrowed_descriptor_may_wait_for_a_slot() {
    let disk = SimDisk::builder().build();
    let (_context, handle) = AioContextBuilder::new(1).simulated(&disk).build().unwrap();
    let file = crate::support::open(&disk, "file").await.unwrap();
    let sync = || handle.submit_request(&file, RawCommand::Fsync);
    let results = tokio::join!(sync(), sync(), sync());
    assert!(
        results.0.is_ok() && results.1.is_ok() && results.2.is_ok(),
        "{results:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dropped_file_whose_write_is_in_flight_is_written_all_the_same() {
    let simulated = Simulated::new(1);
    let handle = &simulated.handle;
    let file = simulated.file("file").await;
    let (writing, buffer) = (handle.clone(), blocks(7, 1));
    let task = tokio::spawn(async move {
        file.write_at(&writing, 0, &buffer, BLOCK, WriteFlags::empty())
            .await
    });
    tokio::task::yield_now().await;
    task.abort();
    let _ = task.await;
    let file = simulated.file("file").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let mut bytes = [0; 4];
    let read = file
        .read_bytes_at(handle, 0, &mut bytes, ReadFlags::empty())
        .await;
    assert_eq!((read.unwrap(), bytes), (4, [7; 4]));
}

#[tokio::test(start_paused = true)]
async fn a_file_without_permissions_has_its_current_length() {
    let of = Simulated::new(1);
    let file = of.file("file").await;
    let permissions = Permissions::from_mode(0o400);
    file.set_permissions(permissions).await.unwrap();
    file.set_len(8192).await.unwrap();
    let metadata = file.metadata().await.unwrap(); // the placeholder is not writable, unless by root
    assert_eq!(metadata.len(), 8192);
    assert_eq!(metadata.permissions().mode() & 0o777, 0o400);
}

#[tokio::test]
async fn a_path_that_leaves_the_mount_points_is_on_no_disk() {
    let of = Simulated::new(1);
    of.file("file").await;
    let number = of.disk.path().file_name().unwrap().to_str().unwrap();
    let path = format!("/simulated-disk/../elsewhere/{number}/file");
    assert!(!try_exists(path).await.unwrap());
}

#[test]
fn without_descriptors_opening_fails_and_changes_nothing() {
    if !in_child!() {
        return;
    }
    let disk = SimDisk::builder().build();
    let path = |name| disk.path().join(name);
    let mut create = options();
    create.write(true).create(true).truncate(true);
    let old = create.clone().aio_open_blocking(path("old"), false);
    old.unwrap().set_len_blocking(BLOCK).unwrap();
    let events = disk.events();

    set_limit(libc::RLIMIT_NOFILE, 64);
    let null = || fs::File::open("/dev/null");
    let mut open: Vec<_> = std::iter::repeat_with(null).map_while(Result::ok).collect();
    for _spare in [0, 1] {
        for name in ["old", "new"] {
            let refused = create.clone().aio_open_blocking(path(name), false);
            assert_eq!(io_errno(refused), libc::EMFILE);
        }
        drop(open.pop());
    }
    assert_eq!(disk.events(), events);
    assert_eq!(read_dir_blocking(disk.path()).unwrap(), ["old"]);

    // Two are enough.
    let mut read = options();
    read.read(true);
    let old = read.aio_open_blocking(path("old"), false).unwrap();
    drop(open);
    assert_eq!(old.metadata_blocking().unwrap().len(), BLOCK);
}
