//! Staged files: they appear under their name when they are whole, or never.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use crate::common::*;
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    Allocate, File, PublishError, PublishMode, ReadFlags, StagedFile, StagedFileBuilder,
    WriteFlags, local_aio_context,
};

const MODES: [PublishMode; 2] = [PublishMode::Replace, PublishMode::CreateNew];

/// Without a name until it is published, and with a temporary name.
const NAMED: [bool; 2] = [false, true];

/// Names in `dir`.
fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn is_empty(dir: impl AsRef<Path>) -> bool {
    names(dir).is_empty()
}

fn staged(target: &Path, named: bool) -> StagedFile {
    let builder = StagedFileBuilder::new(target).named(named);
    builder.create_blocking().unwrap()
}

/// Writes at the start of the file, through the page cache or not.
fn fill(staged: &StagedFile, bytes: &[u8]) {
    let link = format!("/proc/self/fd/{}", staged.file().as_raw_fd());
    let file = OpenOptions::new().write(true).open(link).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// Whether the file system of `dir` has files without a name.
fn has_unnamed_files(dir: &Path) -> bool {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_TMPFILE);
    let opened = options.open(dir);
    if let Err(error) = &opened {
        eprintln!("skipped: no files without a name in {dir:?}: {error}");
    }
    opened.is_ok()
}

#[test]
fn a_staged_file_appears_whole_and_only_when_it_is_published() {
    Fixture::new(4)
        .everywhere()
        .every_runtime()
        .run(async |case| {
            let content = content(3 * BLOCK + 700);
            for (named, mode) in NAMED
                .iter()
                .flat_map(|&named| MODES.map(|mode| (named, mode)))
            {
                let target = case.dir.path().join("staged");
                let builder = StagedFileBuilder::new(&target)
                    .named(named)
                    .len(content.len() as u64)
                    .sync(true);
                let staged = builder.create().await.unwrap();
                assert_eq!(staged.target(), target);
                let file = staged.file();
                let whole = {
                    let mut whole = buffer(3 * BLOCK);
                    whole.copy_from_slice(&content[..3 * BLOCK]);
                    whole
                };
                file.write_all_at(&case.handle, 0, &whole, 3 * LEN, WriteFlags::empty())
                    .await
                    .unwrap();
                file.write_bytes_at(
                    &case.handle,
                    3 * LEN,
                    &content[3 * BLOCK..],
                    WriteFlags::empty(),
                )
                .await
                .unwrap();
                assert!(!target.exists());
                let hidden = names(case.dir.path());
                let temp_path = staged.temp_path();
                match named || !has_unnamed_files(case.dir.path()) {
                    true => {
                        assert!(hidden[0].starts_with(".staged.kaio-"), "{hidden:?}");
                        assert_eq!(hidden[1..], ["data"]);
                        assert_eq!(temp_path, Some(case.dir.path().join(&hidden[0])));
                    }
                    false => {
                        assert_eq!(hidden, ["data"]);
                        assert_eq!(temp_path, None);
                    }
                }
                let published = staged.publish(mode).await.unwrap();
                assert_eq!(names(case.dir.path()), ["data", "staged"]);
                assert!(fs::read(&target).unwrap() == content);
                // It stays usable.
                published
                    .write_bytes_at(&case.handle, 1, b"more", WriteFlags::empty())
                    .await
                    .unwrap();
                let mut bytes = [0; 6];
                published
                    .read_bytes_at(&case.handle, 0, &mut bytes, ReadFlags::empty())
                    .await
                    .unwrap();
                assert_eq!(bytes[1..5], *b"more");
                assert_eq!(fs::read(&target).unwrap()[..6], bytes);
                fs::remove_file(&target).unwrap();
            }
        });
}

#[test]
fn a_local_context_writes_a_staged_file() {
    let dir = disk_dir();
    let target = dir.path().join("staged");
    current_thread().block_on(with_hang_guard(LocalSet::new().run_until(async {
        let (context, handle, background) = local_aio_context(4, true).unwrap();
        spawn_local(background);
        let staged = StagedFile::create(&target).await.unwrap();
        staged
            .file()
            .write_bytes_at(&handle, 0, b"hello", WriteFlags::empty())
            .await
            .unwrap();
        staged.publish(PublishMode::CreateNew).await.unwrap();
        context.close().await;
    })));
    assert_eq!(fs::read(&target).unwrap(), b"hello");
}

#[test]
fn replacing_keeps_the_old_file_for_those_who_have_it_open() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let target = dir.path().join("target");
        fs::write(&target, "old").unwrap();
        let old = fs::File::open(&target).unwrap();
        let staged = staged(&target, named);
        fill(&staged, b"new");
        assert_eq!(fs::read(&target).unwrap(), b"old");
        let new = staged.publish_blocking(PublishMode::Replace).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(names(dir), ["target"]);
        let mut bytes = [0; 3];
        old.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"old");
        let inode = new.metadata_blocking().unwrap().ino();
        assert_eq!(fs::metadata(&target).unwrap().ino(), inode);
    }
}

/// Asserts that the file was not published, and returns it.
fn not_published(result: Result<File, PublishError>, kind: ErrorKind) -> StagedFile {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.io_error().kind(), kind);
    assert!(!error.is_published());
    assert!(error.to_string().contains("not published"), "{error}");
    error.into_staged().unwrap()
}

#[test]
fn create_new_fails_if_there_is_a_file_and_gives_the_staged_file_back() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let target = dir.path().join("target");
        fs::write(&target, "old").unwrap();
        let one = staged(&target, named);
        fill(&one, b"new");
        let result = one.publish_blocking(PublishMode::CreateNew);
        let text = result.as_ref().unwrap_err().to_string();
        for part in [target.to_str().unwrap(), "PublishMode::Replace"] {
            assert!(text.contains(part), "{text}");
        }
        let one = not_published(result, ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        one.publish_blocking(PublishMode::Replace).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");

        // As an `io::Error`, it has no file any more.
        let other = staged(&target, named);
        let error: io::Error = other
            .publish_blocking(PublishMode::CreateNew)
            .unwrap_err()
            .into();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(target.to_str().unwrap()));
        assert_eq!(names(dir), ["target"]);
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn of_several_that_are_published_as_new_one_succeeds() {
    multi_thread().block_on(with_hang_guard(async {
        let dir = disk_dir();
        let target = dir.path().join("target");
        for named in NAMED {
            let mut tasks = JoinSet::new();
            for _ in 0..16 {
                let staged = staged(&target, named);
                tasks.spawn(async move {
                    let published = staged.publish(PublishMode::CreateNew).await;
                    match published {
                        Ok(_) => true,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
                            error.into_staged().unwrap().discard().await.unwrap();
                            false
                        }
                    }
                });
            }
            let published = tasks.join_all().await;
            assert_eq!(published.iter().filter(|&&published| published).count(), 1);
            assert_eq!(names(&dir), ["target"]);
            fs::remove_file(&target).unwrap();
        }
    }));
}

#[test]
fn a_rename_that_the_file_system_can_not_do_without_replacing_is_done_with_a_link() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let target = dir.path().join("target");
    let [first, second] = [(); 2].map(|()| staged(&target, true));
    if !forbid_syscall(libc::SYS_renameat2, libc::EINVAL) {
        return;
    }
    first.publish_blocking(PublishMode::CreateNew).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().nlink(), 1);
    let refused = second.publish_blocking(PublishMode::CreateNew);
    let second = not_published(refused, ErrorKind::AlreadyExists);
    second.discard_blocking().unwrap();
    assert_eq!(names(&dir), ["target"]);
}

#[test]
fn a_dropped_file_leaves_nothing_with_and_without_a_runtime() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let target = dir.path().join("target");
        drop(staged(&target, named));
        assert!(is_empty(dir));

        staged(&target, named).discard_blocking().unwrap();
        assert!(is_empty(dir));

        current_thread().block_on(with_hang_guard(async {
            staged(&target, named).discard().await.unwrap();
            assert!(is_empty(dir));
            drop(staged(&target, named));
            wait_until(|| is_empty(dir), || names(dir)).await;
        }));

        // The runtime ends before it comes to it.
        let runtime = one_blocking_thread();
        let kept = runtime.block_on(async {
            let occupied = occupy_blocking_thread().await;
            drop(staged(&target, named));
            drop(occupied);
            staged(&target, named)
        });
        drop(runtime);
        drop(kept);
        assert!(is_empty(dir));

        // It has ended, but is entered.
        let runtime = current_thread();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _entered = handle.enter();
        drop(staged(&target, named));
        assert!(is_empty(dir));
        let target = &target;
        let publish = async move { staged(target, named).publish(PublishMode::Replace).await };
        let error = futures::executor::block_on(publish).unwrap_err();
        assert!(
            error.to_string().contains("runtime has shut down"),
            "{error}"
        );
        assert!(error.into_staged().is_none());
        assert!(is_empty(dir));
    }
}

#[test]
fn without_a_thread_nothing_is_published_and_a_dropped_file_is_removed_all_the_same() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let target = dir.path().join("target");
    let mut files = NAMED.map(|named| Some(staged(&target, named)));
    if !forbid_threads() {
        return;
    }
    current_thread().block_on(with_hang_guard(async {
        let created = StagedFile::create(&target).await.unwrap_err();
        assert_eq!(created.kind(), ErrorKind::WouldBlock);
        for file in &mut files {
            let file = file.take().unwrap();
            let refused = file.publish(PublishMode::Replace).await;
            let file = not_published(refused, ErrorKind::WouldBlock);
            assert!(!target.exists());
            drop(file);
        }
        assert!(is_empty(&dir));
        allow_threads();
    }));
}

#[test]
fn publishing_dropped_at_any_point_is_done_or_undone() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let target = dir.path().join("target");
        let mut done = [0; 2];
        for polls in 0..8 {
            one_blocking_thread().block_on(with_hang_guard(async {
                let staged = staged(&target, named);
                fill(&staged, b"whole");
                let mut publishing = Box::pin(staged.publish(PublishMode::CreateNew));
                for _ in 0..polls {
                    if let Poll::Ready(published) = futures::poll!(publishing.as_mut()) {
                        published.unwrap();
                        break;
                    }
                    yield_now().await;
                }
                drop(publishing);
                // The only thread has finished the dropped job before it runs this one.
                tokio::task::spawn_blocking(|| ()).await.unwrap();
            }));
            match fs::read(&target) {
                Ok(content) => {
                    assert_eq!(content, b"whole");
                    assert_eq!(names(dir), ["target"]);
                    fs::remove_file(&target).unwrap();
                    done[1] += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NotFound);
                    assert!(is_empty(dir));
                    done[0] += 1;
                }
            }
        }
        assert_eq!(done, [1, 7], "polled once, it is published");
    }
}

#[test]
fn creating_dropped_at_any_point_leaves_nothing() {
    let dir = disk_dir();
    for (polls, named) in (0..6).flat_map(|polls| NAMED.map(|named| (polls, named))) {
        one_blocking_thread().block_on(with_hang_guard(async {
            let builder = StagedFileBuilder::new(dir.path().join("target")).named(named);
            let mut creating = Box::pin(builder.create());
            for _ in 0..polls {
                if futures::poll!(creating.as_mut()).is_ready() {
                    break;
                }
                yield_now().await;
            }
            drop(creating);
            wait_until(|| is_empty(&dir), || names(&dir)).await;
        }));
        assert!(is_empty(&dir));
    }
}

#[test]
fn clones_of_the_file_stay_usable() {
    let dir = disk_dir();
    for named in NAMED {
        let file = staged(&dir.path().join("dropped"), named);
        let clone = file.file().try_clone().unwrap();
        file.discard_blocking().unwrap();
        clone.set_len_blocking(LEN).unwrap();
        let metadata = clone.metadata_blocking().unwrap();
        assert_eq!((metadata.len(), metadata.nlink()), (LEN, 0));
        assert!(is_empty(&dir));
    }
}

#[test]
fn a_forked_child_neither_removes_nor_publishes_the_file() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let target = dir.path().join("target");
    current_thread().block_on(async {
        for named in NAMED {
            for publishes in [false, true] {
                let mut inherited = Some(staged(&target, named));
                let before = names(&dir);
                // The child takes no lock of the threads of the blocking pool, which this tests.
                let code = forked(|| {
                    let inherited = inherited.take().unwrap();
                    let refused = match publishes {
                        true => inherited.publish_blocking(PublishMode::Replace).err(),
                        false => {
                            drop(inherited);
                            None
                        }
                    };
                    let as_expected = refused.is_some() == publishes
                        && refused.is_none_or(|error| error.kind() == ErrorKind::InvalidInput);
                    i32::from(!as_expected)
                });
                assert_eq!(code, 0);
                assert_eq!(names(&dir), before);
                let staged = inherited.take().unwrap();
                staged.publish(PublishMode::CreateNew).await.unwrap();
                assert_eq!(names(&dir), ["target"]);
                fs::remove_file(&target).unwrap();
            }
        }
    });
}

#[test]
fn a_killed_process_leaves_nothing_where_files_need_no_name() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    if !has_unnamed_files(dir.path()) {
        return;
    }
    // SAFETY: the only other thread is the test harness's, which waits.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let staged = staged(&dir.path().join("target"), false);
        staged.file().set_len_blocking(LEN).unwrap();
        // SAFETY: ends this process, at once.
        unsafe { libc::raise(libc::SIGKILL) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFSIGNALED(status), "it did not come that far");
    assert!(is_empty(&dir));
}

#[test]
fn readers_find_a_whole_file_while_it_is_replaced() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let target = dir.path().join("target");
        fs::write(&target, [0; BLOCK]).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let bytes = fs::read(&target).unwrap();
                    assert_eq!(bytes.len(), BLOCK);
                    assert!(bytes.iter().all(|&byte| byte == bytes[0]));
                }
            });
            for version in 1..50 {
                let staged = staged(&target, named);
                fill(&staged, &[version; BLOCK]);
                staged.publish_blocking(PublishMode::Replace).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read(&target).unwrap(), [49; BLOCK]);
        assert_eq!(names(dir), ["target"]);
    }
}

#[test]
fn the_file_appears_in_its_directory_even_if_that_is_renamed() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir(&old).unwrap();
        let first = staged(&old.join("target"), named);
        let dropped = staged(&old.join("target"), named);
        fs::rename(&old, &new).unwrap();
        fs::create_dir(&old).unwrap(); // another directory under that path
        first.publish_blocking(PublishMode::CreateNew).unwrap();
        drop(dropped);
        assert_eq!(names(&new), ["target"]);
        assert!(is_empty(&old));
        fs::remove_dir_all(&new).unwrap();
        fs::remove_dir(&old).unwrap();
    }
}

#[test]
fn a_removed_directory_is_not_found() {
    for (dir, named, mode) in test_dirs()
        .iter()
        .flat_map(|dir| NAMED.map(|named| (dir, named)))
        .flat_map(|(dir, named)| MODES.map(|mode| (dir, named, mode)))
    {
        let gone = dir.path().join("gone");
        fs::create_dir(&gone).unwrap();
        let staged = staged(&gone.join("target"), named);
        fs::remove_dir_all(&gone).unwrap();
        let refused = staged.publish_blocking(mode);
        let text = refused.as_ref().unwrap_err().to_string();
        assert!(text.contains("stage the file again"), "{text}");
        let staged = not_published(refused, ErrorKind::NotFound);
        staged.discard_blocking().unwrap();
        let missing = StagedFile::create_blocking(gone.join("target")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("create its directory first"));
    }
}

#[test]
fn a_symbolic_link_is_replaced_and_not_followed() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let (link, other) = (dir.path().join("link"), dir.path().join("other"));
        for exists in [false, true] {
            symlink(&other, &link).unwrap();
            if exists {
                fs::write(&other, "other").unwrap();
            }
            let refused = staged(&link, named).publish_blocking(PublishMode::CreateNew);
            let staged = not_published(refused, ErrorKind::AlreadyExists);
            staged.publish_blocking(PublishMode::Replace).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_file());
            assert_eq!(other.exists(), exists);
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read(&other).unwrap(), b"other");
        fs::remove_file(&other).unwrap();
    }
}

#[test]
fn a_directory_is_not_replaced() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        let staged = staged(&target, named);
        let refused = staged.publish_blocking(PublishMode::Replace);
        let text = refused.as_ref().unwrap_err().to_string();
        assert!(text.contains("remove the directory of that name"), "{text}");
        let staged = not_published(refused, ErrorKind::IsADirectory);
        let refused = staged.publish_blocking(PublishMode::CreateNew);
        let staged = not_published(refused, ErrorKind::AlreadyExists);
        fs::remove_dir(&target).unwrap();
        // The failed attempts have not used it up.
        fill(&staged, b"new");
        staged.publish_blocking(PublishMode::CreateNew).unwrap();
        assert_eq!(names(dir), ["target"]);
        assert_eq!(fs::read(&target).unwrap(), b"new");
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn a_path_without_a_file_name_is_refused() {
    let dir = disk_dir();
    let mut paths: Vec<PathBuf> = ["", "/", "..", "."].map(PathBuf::from).into();
    for end in ["", ".", "..", "name/", "name/.", "a\0b"] {
        paths.push(format!("{}/{end}", dir.path().display()).into());
    }
    for path in paths {
        let refused = StagedFile::create_blocking(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{path:?}");
        let text = refused.to_string();
        assert!(text.contains(&*path.to_string_lossy()), "{text}");
    }
    assert!(is_empty(&dir));
}

#[test]
fn a_relative_path_without_a_directory_means_the_current_one() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    std::env::set_current_dir(&dir).unwrap();
    for named in NAMED {
        let staged = staged(Path::new("target"), named);
        std::env::set_current_dir("/").unwrap(); // it was opened already
        staged.publish_blocking(PublishMode::Replace).unwrap();
        assert_eq!(names(&dir), ["target"]);
        std::env::set_current_dir(&dir).unwrap();
    }
    std::env::set_current_dir("/").unwrap();
}

#[test]
fn the_longest_paths_and_names_work() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let mut path = dir.path().to_path_buf();
        // The longest path that the kernel takes has 4095 bytes.
        while path.as_os_str().len() + 101 < 4095 - 20 {
            path.push("d".repeat(100));
        }
        fs::create_dir_all(&path).unwrap();
        let rest = 4095 - path.as_os_str().len() - 1;
        let target = path.join("n".repeat(rest.min(255)));
        assert!(rest > 255 || target.as_os_str().len() == 4095);
        for mode in MODES.into_iter().rev() {
            staged(&target, named).publish_blocking(mode).unwrap();
            assert_eq!(names(&path).len(), 1);
        }
        drop(staged(&target, named));
        fs::remove_file(&target).unwrap();
        assert!(is_empty(&path));

        let target = dir.path().join("ä".repeat(127));
        staged(&target, named)
            .publish_blocking(PublishMode::Replace)
            .unwrap();
        staged(&target, named)
            .publish_blocking(PublishMode::Replace)
            .unwrap();
        fs::remove_file(&target).unwrap();
        let long = StagedFile::create_blocking(dir.path().join("n".repeat(256)));
        let text = long.unwrap_err().to_string();
        assert!(text.contains("os error 36"), "{text}");
        fs::remove_dir_all(dir.path().join("d".repeat(100))).unwrap();
    }
}

#[test]
fn the_file_gets_its_permissions() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let target = dir.path().join("target");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let create = |mode| {
            let builder = StagedFileBuilder::new(&target).named(named).mode(mode);
            builder.create_blocking().unwrap()
        };
        // A file of the standard library shows the umask.
        let ordinary = dir.path().join("ordinary");
        fs::File::create(&ordinary).unwrap();
        staged(&target, named)
            .publish_blocking(PublishMode::Replace)
            .unwrap();
        assert_eq!(mode(&target), mode(&ordinary));
        fs::remove_file(&ordinary).unwrap();

        for wanted in [0o600, 0o400, 0o000, 0o200] {
            let staged = create(wanted);
            let metadata = staged.file().metadata_blocking().unwrap();
            assert_eq!(metadata.mode() & 0o777, 0o600, "while it is written");
            fill(&staged, b"new");
            staged.publish_blocking(PublishMode::Replace).unwrap();
            assert_eq!(mode(&target), wanted);
        }

        // What the caller has set stays.
        let staged = create(0o400);
        let permissions = fs::Permissions::from_mode(0o640);
        staged.file().set_permissions_blocking(permissions).unwrap();
        staged.publish_blocking(PublishMode::Replace).unwrap();
        assert_eq!(mode(&target), 0o640);
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn attributes_set_before_publishing_are_there_when_it_appears() {
    let dir = disk_dir();
    let target = dir.path().join("target");
    for named in NAMED {
        let staged = staged(&target, named);
        let file = fs::File::from(staged.file().as_fd().try_clone_to_owned().unwrap());
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        file.set_times(fs::FileTimes::new().set_modified(time))
            .unwrap();
        if is_root() {
            std::os::unix::fs::fchown(&file, Some(65534), Some(65534)).unwrap();
        }
        staged.publish_blocking(PublishMode::Replace).unwrap();
        let metadata = fs::metadata(&target).unwrap();
        assert_eq!(metadata.modified().unwrap(), time);
        assert!(!is_root() || (metadata.uid(), metadata.gid()) == (65534, 65534));
    }
}

#[test]
fn the_blocks_of_the_length_are_allocated() {
    for (dir, named) in test_dirs().iter().flat_map(|dir| NAMED.map(|n| (dir, n))) {
        let target = dir.path().join("target");
        let builder = StagedFileBuilder::new(&target)
            .named(named)
            .len(10 * LEN + 1);
        let staged = builder.create_blocking().unwrap();
        let metadata = staged.file().metadata_blocking().unwrap();
        assert_eq!(metadata.len(), 10 * LEN + 1);
        assert!(metadata.blocks() * 512 >= 10 * LEN);
        staged.file().set_len_blocking(7).unwrap();
        staged.publish_blocking(PublishMode::CreateNew).unwrap();
        assert_eq!(fs::read(&target).unwrap(), [0; 7]);
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn a_length_beyond_a_limit_is_an_error_and_leaves_nothing() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    // SAFETY: ignores a signal, which would end the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    set_limit(libc::RLIMIT_FSIZE, 1 << 20);
    for named in NAMED {
        let builder = StagedFileBuilder::new(dir.path().join("target"))
            .named(named)
            .len(2 << 20);
        let refused = builder.create_blocking().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::FileTooLarge);
        let text = refused.to_string();
        for part in [dir.path().to_str().unwrap(), "ulimit -f"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(is_empty(&dir));
    }
}

/// Mounts a tmpfs of 1 MiB on `dir`, for this process and its children alone. `false`, with a line that says
/// so, if that is not possible.
fn mount_small_tmpfs(dir: &Path) -> bool {
    let path = CString::new(dir.as_os_str().as_bytes()).unwrap();
    // SAFETY: takes numbers.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
    let none = std::ptr::null();
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: strings that end with 0, or null where the kernel needs none.
    let private = unsafe { libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) } == 0;
    let (kind, options) = (c"tmpfs".as_ptr(), c"size=1m".as_ptr().cast());
    let mounted = unshared
        && private
        // SAFETY: strings that end with 0.
        && unsafe { libc::mount(kind, path.as_ptr(), kind, 0, options) } == 0;
    if !mounted {
        let error = io::Error::last_os_error();
        eprintln!("skipped: no tmpfs can be mounted: {error}");
    }
    mounted
}

/// Undoes [`mount_small_tmpfs`], so that the directory can be removed.
fn unmount(dir: &Path) {
    let path = CString::new(dir.as_os_str().as_bytes()).unwrap();
    // SAFETY: a string that ends with 0.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
}

#[test]
fn a_full_disk_is_an_error_at_the_start_and_leaves_nothing() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    if !mount_small_tmpfs(dir.path()) {
        return;
    }
    for named in NAMED {
        let builder = StagedFileBuilder::new(dir.path().join("target")).named(named);
        let refused = builder.clone().len(2 << 20).create_blocking();
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert!(refused.to_string().contains("target"), "{refused}");
        assert!(is_empty(&dir));
        // Its space is free again.
        let staged = builder.len(512 << 10).create_blocking().unwrap();
        staged.publish_blocking(PublishMode::Replace).unwrap();
        fs::remove_file(dir.path().join("target")).unwrap();
    }
    unmount(dir.path());
}

#[test]
fn without_proc_the_file_has_a_temporary_name() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let proc = Path::new("/proc");
    if !mount_small_tmpfs(proc) {
        return;
    }
    let target = dir.path().join("target");
    for mode in MODES.into_iter().rev() {
        let staged = staged(&target, false);
        assert!(names(&dir)[0].starts_with(".target.kaio-"));
        staged.publish_blocking(mode).unwrap();
        assert_eq!(names(&dir), ["target"]);
    }
    unmount(proc);
}

#[test]
fn a_mount_point_is_not_replaced() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let target = dir.path().join("target");
    fs::write(&target, "old").unwrap();
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    if !mount_small_tmpfs(&other) {
        return;
    }
    let source = other.join("mounted");
    fs::write(&source, "mounted").unwrap();
    let paths = [&source, &target].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
    let none = std::ptr::null();
    let [source, target_path] = paths.each_ref().map(|path| path.as_ptr());
    // SAFETY: strings that end with 0, or null where the kernel needs none.
    let bound = unsafe { libc::mount(source, target_path, none, libc::MS_BIND, none.cast()) };
    assert_eq!(bound, 0, "{}", io::Error::last_os_error());
    for named in NAMED {
        let refused = staged(&target, named).publish_blocking(PublishMode::Replace);
        drop(not_published(refused, ErrorKind::ResourceBusy));
        assert_eq!(names(&dir), ["other", "target"]);
    }
    // SAFETY: a string that ends with 0.
    unsafe { libc::umount2(target_path, libc::MNT_DETACH) };
    unmount(&other);
}

#[test]
fn without_descriptors_creating_fails_and_leaves_nothing() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let target = dir.path().join("target");
    set_limit(libc::RLIMIT_NOFILE, 64);
    let null = || fs::File::open("/dev/null");
    let mut open: Vec<_> = std::iter::repeat_with(null).map_while(Result::ok).collect();
    for _spare in [0, 1] {
        for named in NAMED {
            let builder = StagedFileBuilder::new(&target).named(named);
            let refused = builder.create_blocking().unwrap_err();
            let text = refused.to_string();
            for part in [target.to_str().unwrap(), "os error 24", "ulimit -n"] {
                assert!(text.contains(part), "{text}");
            }
        }
        drop(open.pop());
        assert!(is_empty(&dir));
    }
    // Two are enough, and publishing takes none.
    let staged = staged(&target, false);
    assert!(null().is_err());
    staged.publish_blocking(PublishMode::CreateNew).unwrap();
    drop(open);
    assert_eq!(names(&dir), ["target"]);
}

#[test]
fn a_directory_that_is_not_readable_can_have_staged_files_unless_it_has_to_be_synced() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let secret = dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o333)).unwrap();
    if !drop_root() {
        return;
    }
    for named in NAMED {
        let builder = StagedFileBuilder::new(secret.join("target")).named(named);
        let refused = builder.clone().sync(true).create_blocking().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("readable"), "{refused}");
        let staged = builder.create_blocking().unwrap();
        fill(&staged, b"new");
        staged.publish_blocking(PublishMode::Replace).unwrap();
        assert_eq!(fs::read(secret.join("target")).unwrap(), b"new");
    }
}

#[test]
fn a_published_file_that_others_write_at_the_same_time_is_complete() {
    multi_thread().block_on(with_hang_guard(async {
        let dir = disk_dir();
        let target = dir.path().join("multipart");
        let (context, handle) = inline_context(8);
        const PART: usize = 5 * BLOCK + 77; // parts meet within blocks
        let expected = content(6 * PART);
        let builder = StagedFileBuilder::new(&target).len(expected.len() as u64);
        let staged = Arc::new(builder.create().await.unwrap());
        let mut parts = JoinSet::new();
        for (part, bytes) in expected.chunks(PART).enumerate() {
            let (staged, handle, bytes) = (Arc::clone(&staged), handle.clone(), bytes.to_vec());
            parts.spawn(async move {
                let file = staged.file().try_clone().unwrap();
                let offset = (part * PART) as u64;
                file.write_bytes_at(&handle, offset, &bytes, WriteFlags::empty())
                    .await
                    .unwrap();
            });
        }
        parts.join_all().await;
        let staged = Arc::into_inner(staged).unwrap();
        staged.publish(PublishMode::CreateNew).await.unwrap();
        assert!(fs::read(&target).unwrap() == expected);
        context.close().await;
    }));
}

#[test]
fn futures_of_staged_files_are_send_and_do_not_panic_before_they_are_polled() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let dir = disk_dir();
    let target = dir.path().join("target");
    for named in NAMED {
        let builder = StagedFileBuilder::new(&target).named(named);
        drop(assert_send(builder.create()));
        drop(assert_send(
            staged(&target, named).publish(PublishMode::Replace),
        ));
        drop(assert_send(staged(&target, named).discard()));
        assert!(is_empty(&dir));
        // Outside a runtime, publishing panics, and the file is removed.
        let publish = pin!(staged(&target, named).publish(PublishMode::Replace));
        let mut publish = publish;
        let poll = std::panic::AssertUnwindSafe(|| {
            let waker = Waker::noop();
            publish
                .as_mut()
                .poll(&mut Context::from_waker(waker))
                .is_ready()
        });
        assert!(std::panic::catch_unwind(poll).is_err());
        assert!(is_empty(&dir));
    }
}

#[test]
fn a_staged_file_can_be_allocated_and_written_like_any_other() {
    Fixture::new(4).every_dir().run(async |case| {
        let target = case.dir.path().join("staged");
        let staged = StagedFile::create(&target).await.unwrap();
        let file = staged.file();
        assert_eq!(file.metadata_at_open().len(), 0);
        file.allocate(Allocate::Extend, 0, 2 * LEN).await.unwrap();
        let bytes = patterned_buffer(3, BLOCK);
        file.write_at(&case.handle, LEN, &bytes, LEN, WriteFlags::DSYNC)
            .await
            .unwrap();
        let mut read = buffer(BLOCK);
        let len = file
            .read_at(&case.handle, LEN, &mut read, LEN, ReadFlags::empty())
            .await
            .unwrap();
        assert_eq!(len, LEN);
        assert!(is_pattern(3, &read));
        staged.discard().await.unwrap();
        assert!(!target.exists());
    });
}

#[test]
fn nothing_is_left_in_an_append_only_directory() {
    let dir = disk_dir();
    let only = dir.path().join("only");
    fs::create_dir(&only).unwrap();
    let chattr = |flag: &str| {
        let mut chattr = Command::new("chattr");
        let output = chattr.arg(flag).arg(&only).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !chattr("+a") {
        return eprintln!("skipped: no directory can be made append-only here");
    }
    let target = only.join("target");
    let builder = || StagedFileBuilder::new(&target);
    let named = builder().named(true).create_blocking();
    let unnamed = has_unnamed_files(&only).then(|| {
        let new = builder().create_blocking().unwrap();
        new.publish_blocking(PublishMode::Replace).unwrap();
        let other = builder().create_blocking().unwrap();
        other.publish_blocking(PublishMode::Replace)
    });
    let left = names(&only);
    assert!(chattr("-a"));
    let named = named.unwrap_err();
    assert_eq!(named.kind(), ErrorKind::PermissionDenied);
    assert!(named.to_string().contains("append-only"), "{named}");
    if let Some(refused) = unnamed {
        drop(not_published(refused, ErrorKind::PermissionDenied));
        assert_eq!(left, ["target"]);
    }
}

/// Runs `command`, a program and its arguments. `false`, with a line that says so, if it fails.
fn succeeds(command: &[&str]) -> bool {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let is_ok = output.as_ref().is_ok_and(|output| output.status.success());
    if !is_ok {
        eprintln!("skipped: {command:?}: {output:?}");
    }
    is_ok
}

#[test]
fn a_published_file_that_was_to_be_synced_survives_a_crash() {
    if !in_child!() {
        return;
    }
    if !is_root() {
        return eprintln!("skipped: only root can mount a file system");
    }
    // SAFETY: takes numbers.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return eprintln!("skipped: no mount namespace can be made");
    }
    succeeds(&["mount", "--make-rprivate", "/"]);
    let dir = disk_dir();
    let path = |name: &str| {
        dir.path()
            .join(name)
            .into_os_string()
            .into_string()
            .unwrap()
    };
    let (image, copy, root) = (path("image"), path("copy"), path("root"));
    fs::create_dir(&root).unwrap();
    for (mkfs, options) in [
        (&["mkfs.ext4", "-q", "-F"][..], "loop"),
        (&["mkfs.xfs", "-q", "-f"], "loop"),
        (&["mkfs.btrfs", "-q", "-f"], "loop"),
    ] {
        let file = fs::File::create(&image).unwrap();
        file.set_len(320 << 20).unwrap();
        if !succeeds(&[mkfs, &[&image]].concat())
            || !succeeds(&["mount", "-o", options, &image, &root])
        {
            continue;
        }
        let target = |name: &str| Path::new(&root).join(name);
        let cases = NAMED.into_iter().flat_map(|named| {
            let replaced = format!("replaced-{named}");
            let new = format!("new-{named}");
            [
                (named, replaced, PublishMode::Replace),
                (named, new, PublishMode::CreateNew),
            ]
        });
        let cases: Vec<_> = cases.collect();
        for (_, name, mode) in &cases {
            if *mode == PublishMode::Replace {
                fs::write(target(name), "old").unwrap();
            }
        }
        assert!(succeeds(&["sync", "-f", &root]));
        for (named, name, mode) in &cases {
            let builder = StagedFileBuilder::new(target(name))
                .named(*named)
                .sync(true);
            let staged = builder.create_blocking().unwrap();
            fill(&staged, &content(5 * BLOCK + 7));
            staged.publish_blocking(*mode).unwrap();
        }
        // What the disk has now is what a crash leaves.
        assert!(succeeds(&["cp", "--sparse=always", &image, &copy]));
        assert!(succeeds(&["umount", &root]));
        assert!(succeeds(&["mount", "-o", options, &copy, &root]));
        let found: Vec<_> = cases
            .iter()
            .map(|(_, name, _)| fs::read(target(name)))
            .collect();
        let left = names(&root);
        assert!(succeeds(&["umount", &root]));
        for ((_, name, _), found) in cases.iter().zip(found) {
            let found = found.unwrap_or_default();
            assert!(
                found == content(5 * BLOCK + 7),
                "{mkfs:?}: {name}: {} bytes",
                found.len()
            );
        }
        let hidden = left.iter().filter(|name| name.starts_with('.'));
        assert_eq!(hidden.count(), 0, "{mkfs:?}: {left:?}");
    }
}
