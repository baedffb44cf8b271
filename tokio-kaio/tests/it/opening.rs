//! How a file becomes a `File`, and what is refused: by opening it, and from what is open already.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::*;
use tempfile::TempDir;
use tokio_kaio::{
    Advice, AioCommandError, AioOpenOptionsExt, AlignmentSource, Allocate, File, ReadFlags,
    SyncRange, WriteFlags, aio_context, sync_dir, sync_dir_blocking,
};

fn is_no_thread(error: &io::Error) {
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error:?}");
    let text = error.to_string();
    for part in ["no thread", "os error 11", "ulimit -u", "pids.max"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn where_no_thread_can_be_started_a_call_on_the_pool_is_an_error_and_does_nothing() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let path = dir.path().join("data");
    fs::write(&path, [7; 3 * BLOCK]).unwrap();
    let open = OpenOptions::new().read(true).write(true).open(&path);
    let file = File::from_std(open.unwrap()).unwrap();
    // Its alignment has to be assumed, so each call queries it.
    let Some(empty) = empty_file_without_statx() else {
        return;
    };
    if !forbid_threads() {
        return;
    }
    current_thread().block_on(with_hang_guard(async {
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
        is_no_thread(&empty.alignment().await.unwrap_err());
        is_no_thread(&file.atomic_writes().await.unwrap_err());
        let permissions = fs::Permissions::from_mode(0o600);
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
        let written = empty.write_bytes_at(&handle, 3, b"hello", flags).await;
        let read = empty
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
        assert_eq!(empty.metadata().await.unwrap().len(), 0);
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

/// An empty file on a file system that does not report the alignment. `None`, with a line that says so, if
/// there is none.
fn empty_file_without_statx() -> Option<File> {
    let file = tempfile::tempfile_in(tmpfs_dir()?).unwrap();
    if statx_alignment(&file).is_some() {
        eprintln!("skipped: the tmpfs reports its alignment");
        return None;
    }
    Some(File::from_std(file).unwrap())
}

#[test]
fn a_call_on_the_pool_fails_after_its_runtime_has_shut_down() {
    let home = current_thread();
    let dir = disk_dir();
    let file = home.block_on(open_rw(&dir, "data"));
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
    let (mut reader, writer) = pipe();
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
    let (reader, _writer) = pipe();
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

/// A new ext4, which no other process sees. Goes when it is dropped.
struct Ext4(TempDir);

impl Ext4 {
    /// `None`, and a line that says so, where none can be made. Takes this thread, and those that it
    /// starts, to a mount namespace of their own.
    fn with(features: &str, options: &str) -> Option<Ext4> {
        if !is_root() {
            eprintln!("skipped: only root can mount a file system");
            return None;
        }
        // SAFETY: takes numbers.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
        let dir = disk_dir();
        let (image, root) = (dir.path().join("image"), dir.path().join("root"));
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(&root).unwrap();
        let steps = [
            "mount --make-rprivate /".into(),
            format!("mkfs.ext4 -q -F -O {features} {}", image.display()),
            format!(
                "mount -t ext4 -o loop,{options} {} {}",
                image.display(),
                root.display()
            ),
        ];
        for step in steps {
            let mut words = step.split(' ');
            let made = Command::new(words.next().unwrap()).args(words).output();
            let made = made.map_err(|error| error.to_string()).and_then(|made| {
                let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
                made.status.success().then_some(()).ok_or(said)
            });
            if let (false, _) | (_, Err(_)) = (unshared, &made) {
                eprintln!("skipped: no ext4 can be made here: {step}: {made:?}");
                return None;
            }
        }
        Some(Ext4(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("root").join(name)
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let root = CString::new(self.path("").into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: reads a string that ends with 0.
        unsafe { libc::umount2(root.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Asserts that the file at `path` is refused by all that gives direct I/O, and by nothing else.
async fn is_not_direct(path: &Path) {
    let name = path.to_str().unwrap();
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    let standard = options.open(path).unwrap();
    let flags = status_flags(&standard);
    for refused in [
        options.aio_open(path.into(), false).await,
        options.aio_open(path.into(), true).await,
        File::open(path, false).await,
        File::from_std(standard.try_clone().unwrap()),
        File::try_from(standard.try_clone().unwrap()),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let source = refused.get_ref().unwrap().source().unwrap();
        let errno = source.downcast_ref::<io::Error>().unwrap();
        assert_eq!(errno.raw_os_error(), Some(libc::EINVAL));
        let text = refused.to_string();
        for part in [
            name,
            "can't do direct I/O",
            "on this file",
            "aio_open_or_buffered",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
    assert_eq!(status_flags(&standard), flags, "nothing was changed");

    let (context, handle) = aio_context(2, true).unwrap();
    let file = options
        .aio_open_or_buffered(path.into(), false)
        .await
        .unwrap();
    assert!(!file.is_direct());
    assert_eq!(
        file.alignment().await.unwrap().source,
        AlignmentSource::Buffered
    );
    let before = fs::read(path).unwrap();
    file.write_bytes_at(&handle, before.len() as u64, b"more", WriteFlags::empty())
        .await
        .unwrap();
    let mut bytes = vec![0; before.len() + 4];
    file.read_bytes_at(&handle, 0, &mut bytes, ReadFlags::empty())
        .await
        .unwrap();
    assert!(bytes == [&before[..], b"more"].concat());
    assert!(bytes == fs::read(path).unwrap());
    context.close().await;
}

/// Whether `statx` says of the file at `path` that it does no direct I/O; or a line that it is silent.
fn reports_no_direct_io(path: &Path) -> bool {
    match statx_alignment(&fs::File::open(path).unwrap()) {
        Some(0) => true,
        None => {
            eprintln!("skipped: statx does not say it here (Linux before 6.1)");
            false
        }
        Some(alignment) => panic!("{}: direct I/O of {alignment} bytes", path.display()),
    }
}

#[test]
fn a_file_with_data_journaling_is_not_direct() {
    if !in_child!() {
        return;
    }
    let Some(ext4) = Ext4::with("has_journal", "data=journal") else {
        return;
    };
    let path = ext4.path("data");
    fs::write(&path, [7; 3 * BLOCK]).unwrap();
    if !reports_no_direct_io(&path) {
        return;
    }
    current_thread().block_on(with_hang_guard(async {
        is_not_direct(&path).await;
        let text = File::create(&path, false).await.unwrap_err().to_string();
        assert!(text.contains("aio_open_or_buffered"), "{text}");
    }));
}

#[test]
fn a_file_with_its_data_in_the_inode_is_not_direct_and_not_lost() {
    if !in_child!() {
        return;
    }
    let Some(ext4) = Ext4::with("inline_data", "defaults") else {
        return;
    };
    let path = ext4.path("data");
    current_thread().block_on(with_hang_guard(async {
        let (context, handle) = aio_context(2, true).unwrap();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        // As long as it is empty, it does direct I/O.
        let file = options.clone().aio_open(path.clone(), false);
        let file = file.await.unwrap();
        let other = options.aio_open(path.clone(), false).await.unwrap();
        file.write_bytes_at(&handle, 0, b"small", WriteFlags::DSYNC)
            .await
            .unwrap();
        drop(file);
        context.close().await;
        assert_eq!(fs::read(&path).unwrap(), b"small");
        if reports_no_direct_io(&path) {
            is_not_direct(&path).await;
            // Opened when the file was empty, it keeps the alignment that it had then.
            let alignment = other.alignment().await.unwrap();
            assert_eq!(alignment.source, AlignmentSource::Statx);
        }
    }));
}

fn read_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

/// Opens in both ways.
async fn open_both(options: &OpenOptions, path: &Path, is_sync: bool) -> [io::Result<File>; 2] {
    [
        options.clone().aio_open(path.into(), is_sync).await,
        options
            .clone()
            .aio_open_or_buffered(path.into(), is_sync)
            .await,
    ]
}

#[tokio::test]
async fn is_sync_adds_to_the_flags_of_ones_own() {
    let dir = disk_dir();
    let path = dir.path().join("data");
    let mut options = read_write();
    options.create(true).custom_flags(libc::O_NOATIME);
    for is_sync in [false, true] {
        for file in open_both(&options, &path, is_sync).await {
            let flags = status_flags(&file.unwrap());
            assert_eq!(flags & libc::O_NOATIME, libc::O_NOATIME);
            assert_eq!(flags & libc::O_SYNC == libc::O_SYNC, is_sync);
            assert_eq!(flags & libc::O_DIRECT, libc::O_DIRECT);
        }
    }
    options.custom_flags(libc::O_SYNC);
    for file in open_both(&options, &path, true).await {
        assert_eq!(status_flags(&file.unwrap()) & libc::O_SYNC, libc::O_SYNC);
    }
}

#[tokio::test]
async fn a_link_that_is_not_to_be_followed_is_not_followed_with_is_sync_either() {
    let dir = disk_dir();
    let (path, link) = (dir.path().join("data"), dir.path().join("link"));
    fs::write(&path, "").unwrap();
    symlink(&path, &link).unwrap();
    let mut options = read_write();
    options.custom_flags(libc::O_NOFOLLOW);
    for is_sync in [false, true] {
        for refused in open_both(&options, &link, is_sync).await {
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        }
    }
}

#[tokio::test]
async fn a_file_without_a_name_can_be_synchronous() {
    let dir = disk_dir();
    let mut options = read_write();
    options.custom_flags(libc::O_TMPFILE);
    for is_sync in [false, true] {
        for file in open_both(&options, dir.path(), is_sync).await {
            if let Err(error) = &file {
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    eprintln!("skipped: the file system has no O_TMPFILE");
                    return;
                }
            }
            let file = file.unwrap();
            assert_eq!(status_flags(&file) & libc::O_SYNC == libc::O_SYNC, is_sync);
            assert_eq!(file.metadata().await.unwrap().nlink(), 0);
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Every way to open the file at `path`, which exists.
async fn opened_in_every_way(path: &Path) -> Vec<File> {
    let options = read_write();
    let std = || options.open(path).unwrap();
    let blocking = {
        let path = path.to_path_buf();
        tokio::task::spawn_blocking(move || {
            [
                File::open_blocking(&path, false).unwrap(),
                read_write().aio_open_blocking(&path, false).unwrap(),
                (&mut read_write())
                    .aio_open_or_buffered_blocking(&path, false)
                    .unwrap(),
            ]
        })
    };
    let mut files = vec![
        File::open(path, false).await.unwrap(),
        options.clone().aio_open(path.into(), false).await.unwrap(),
        options
            .clone()
            .aio_open_or_buffered(path.into(), false)
            .await
            .unwrap(),
        File::from_std(std()).unwrap(),
        File::try_from(OwnedFd::from(std())).unwrap(),
    ];
    files.extend(blocking.await.unwrap());
    files
}

#[test]
fn metadata_and_alignment_are_known_from_the_job_that_opens_the_file() {
    for dir in test_dirs() {
        let path = dir.path().join("data");
        write_patterned(&path, 3);
        let expected = fs::metadata(&path).unwrap();
        one_blocking_thread().block_on(with_hang_guard(async {
            let files = opened_in_every_way(&path).await;
            let occupied = occupy_blocking_thread().await;
            for file in &files {
                let metadata = file.metadata_at_open();
                let identity = |of: &fs::Metadata| (of.dev(), of.ino(), of.len(), of.mtime_nsec());
                assert_eq!(identity(metadata), identity(&expected));
                let alignment = file.alignment().await.unwrap();
                assert_eq!(alignment, file.alignment_blocking().unwrap());
                assert_eq!(3 * LEN % alignment.offset, 0);
            }
            drop(occupied);
        }));
    }
}

#[test]
fn an_unaligned_read_needs_no_thread_after_the_file_is_open() {
    for dir in test_dirs() {
        let path = dir.path().join("data");
        write_patterned(&path, 3);
        let expected = fs::read(&path).unwrap();
        one_blocking_thread().block_on(with_hang_guard(async {
            let (context, handle) = inline_context(4);
            let files = opened_in_every_way(&path).await;
            let occupied = occupy_blocking_thread().await;
            if handle.backend() == tokio_kaio::Backend::KernelAio {
                for file in &files {
                    let mut bytes = [0; 1000];
                    file.read_bytes_at(&handle, 4000, &mut bytes, ReadFlags::empty())
                        .await
                        .unwrap();
                    assert_eq!(bytes, expected[4000..5000]);
                }
            }
            drop(occupied);
            context.close().await;
        }));
    }
}

#[test]
fn metadata_at_open_stays_when_the_file_changes() {
    let dir = disk_dir();
    let path = dir.path().join("data");
    fs::write(&path, [7; BLOCK]).unwrap();
    let file = File::open_blocking(&path, false).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(file.metadata_at_open().len(), LEN);
    assert_eq!(file.metadata_blocking().unwrap().len(), 0);
    let created = File::create_blocking(dir.path().join("new"), false).unwrap();
    assert_eq!(created.metadata_at_open().len(), 0);
}

#[test]
fn blocking_calls_need_no_runtime_and_do_what_their_twins_do() {
    for dir in test_dirs() {
        let path = dir.path().join("data");
        let missing = File::open_blocking(&path, false).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let file = File::create_blocking(&path, true).unwrap();
        assert_eq!(status_flags(&file) & libc::O_SYNC, libc::O_SYNC);
        assert_eq!(status_flags(&file) & libc::O_ACCMODE, libc::O_WRONLY);
        file.allocate_blocking(Allocate::Extend, 0, 3 * LEN)
            .unwrap();
        assert_eq!(file.metadata_blocking().unwrap().len(), 3 * LEN);
        file.set_len_blocking(LEN).unwrap();
        assert_eq!(file.metadata_blocking().unwrap().len(), LEN);
        let too_long = file.set_len_blocking(u64::MAX).unwrap_err();
        assert_eq!(too_long.kind(), io::ErrorKind::InvalidInput);
        file.set_permissions_blocking(fs::Permissions::from_mode(0o640))
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        file.sync_range_blocking(0, 0, SyncRange::all()).unwrap();
        let too_far = file.sync_range_blocking(u64::MAX, 0, SyncRange::all());
        assert_eq!(too_far.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        file.advise_blocking(0, 0, Advice::DontNeed).unwrap();
        file.sync_data_blocking().unwrap();
        file.sync_all_blocking().unwrap();
        let twins = current_thread().block_on(async {
            let alignment = file.alignment().await.unwrap();
            (alignment, file.atomic_writes().await.unwrap())
        });
        assert_eq!(file.alignment_blocking().unwrap(), twins.0);
        assert_eq!(file.atomic_writes_blocking().unwrap(), twins.1);
    }
    let (reader, _writer) = pipe();
    let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
    is_no_file(&File::open_blocking(&path, false).unwrap_err(), "/proc");
    let buffered = OpenOptions::new()
        .read(true)
        .aio_open_or_buffered_blocking("/proc/version", false)
        .unwrap();
    assert!(!buffered.is_direct());
    assert_eq!(
        buffered.alignment_blocking().unwrap().source,
        AlignmentSource::Buffered
    );
    assert_eq!(buffered.atomic_writes_blocking().unwrap(), None);
}

#[tokio::test]
async fn sync_dir_syncs_directories_and_nothing_else() {
    for dir in test_dirs() {
        fs::write(dir.path().join("new"), "").unwrap();
        sync_dir(dir.path()).await.unwrap();
        sync_dir_blocking(dir.path()).unwrap();
        let file = sync_dir(dir.path().join("new")).await.unwrap_err();
        assert_eq!(file.kind(), io::ErrorKind::NotADirectory);
        let missing = sync_dir_blocking(dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        for error in [file, missing] {
            let text = error.to_string();
            assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
        }
    }
    // A file system that can't: fsync(2) returns EINVAL there.
    let proc = fs::File::open("/proc").unwrap();
    assert_eq!(
        proc.sync_all().unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    sync_dir("/proc").await.unwrap();
}
