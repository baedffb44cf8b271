//! The order of the system calls that publish a staged file, and their errors.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use crate::common::*;
use tokio_kaio::{PublishMode, StagedFileBuilder, sync_dir_blocking};

/// A call that was made while this thread records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    SyncFile,
    SyncDir,
    /// To the name of the target.
    Link,
    /// To a temporary name.
    LinkTemp,
    /// To the name of the target.
    Rename,
}
use Call::*;

#[derive(Default)]
struct Recording {
    calls: Vec<Call>,
    /// A call, and the error with which it fails.
    failing: Option<(Call, c_int)>,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Runs `run`, in which `failing` fails with its error; the result, and the calls of this thread.
fn recorded<T>(failing: Option<(Call, c_int)>, run: impl FnOnce() -> T) -> (T, Vec<Call>) {
    let calls = Vec::new();
    RECORDING.set(Some(Recording { calls, failing }));
    let result = run();
    (result, RECORDING.take().unwrap().calls)
}

/// Records `call`. Returns whether it has to fail, after setting `errno`.
fn fails(call: Call) -> bool {
    let errno = RECORDING.with_borrow_mut(|recording| {
        let recording = recording.as_mut()?;
        recording.calls.push(call);
        let (failing, errno) = recording.failing?;
        (failing == call).then_some(errno)
    });
    if let Some(errno) = errno {
        // SAFETY: this thread's own.
        let place = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        unsafe { place.write(errno) };
    }
    errno.is_some()
}

fn is_recording() -> bool {
    RECORDING.with_borrow(Option::is_some)
}

/// Whether the name, a string of the caller's, is a temporary one.
fn is_temporary(name: *const c_char) -> bool {
    // SAFETY: the caller's string, which ends with 0.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_bytes().starts_with(b".target.kaio-")
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    type Fsync = unsafe extern "C" fn(c_int) -> c_int;
    if is_recording() {
        // SAFETY: the caller's descriptor, which is open during the call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let file = fs::File::from(fd.try_clone_to_owned().unwrap());
        let is_dir = file.metadata().unwrap().is_dir();
        if fails(if is_dir { SyncDir } else { SyncFile }) {
            return -1;
        }
    }
    // SAFETY: the type of the C library's function.
    let real = unsafe { real_function::<Fsync>(c"fsync") };
    // SAFETY: the caller's arguments, passed on.
    unsafe { real(fd) }
}

type Names = unsafe extern "C" fn(c_int, *const c_char, c_int, *const c_char) -> c_int;
type NamesAndFlags =
    unsafe extern "C" fn(c_int, *const c_char, c_int, *const c_char, c_int) -> c_int;

#[unsafe(no_mangle)]
unsafe extern "C" fn linkat(
    from_dir: c_int,
    from: *const c_char,
    dir: c_int,
    name: *const c_char,
    flags: c_int,
) -> c_int {
    if is_recording() && fails(if is_temporary(name) { LinkTemp } else { Link }) {
        return -1;
    }
    // SAFETY: the type of the C library's function.
    let real = unsafe { real_function::<NamesAndFlags>(c"linkat") };
    // SAFETY: the caller's arguments, passed on.
    unsafe { real(from_dir, from, dir, name, flags) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn renameat(
    from_dir: c_int,
    from: *const c_char,
    dir: c_int,
    name: *const c_char,
) -> c_int {
    if is_recording() && fails(Rename) {
        return -1;
    }
    // SAFETY: the type of the C library's function.
    let real = unsafe { real_function::<Names>(c"renameat") };
    // SAFETY: the caller's arguments, passed on.
    unsafe { real(from_dir, from, dir, name) }
}

fn builder(target: &Path, named: bool, sync: bool) -> StagedFileBuilder {
    StagedFileBuilder::new(target).named(named).sync(sync)
}

fn names(dir: impl AsRef<Path>) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// Whether staged files have no name in `dir` before they are published.
fn are_unnamed(dir: &Path) -> bool {
    let staged = builder(&dir.join("target"), false, false);
    let staged = staged.create_blocking().unwrap();
    let unnamed = names(dir) == 0;
    staged.discard_blocking().unwrap();
    if !unnamed {
        eprintln!("skipped: there are no files without a name in {dir:?}");
    }
    unnamed
}

#[test]
fn the_file_is_synced_before_it_is_published_and_the_directory_afterwards() {
    for dir in test_dirs() {
        let target = dir.path().join("target");
        let mut cases = vec![
            (true, PublishMode::Replace, false, vec![Rename]),
            (true, PublishMode::Replace, true, vec![Rename]),
        ];
        if are_unnamed(dir.path()) {
            let replaced = vec![Link, LinkTemp, Rename];
            cases.push((false, PublishMode::CreateNew, false, vec![Link]));
            cases.push((false, PublishMode::Replace, false, vec![Link]));
            cases.push((false, PublishMode::Replace, true, replaced));
        }
        for (named, mode, exists, naming) in cases {
            for sync in [false, true] {
                let _ = fs::remove_file(&target);
                if exists {
                    fs::write(&target, "old").unwrap();
                }
                let staged = builder(&target, named, sync).create_blocking().unwrap();
                let (published, calls) = recorded(None, || staged.publish_blocking(mode));
                published.unwrap();
                let renamed: &[Call] = match mode {
                    PublishMode::Replace => &[Rename],
                    _ => &[], // by renameat2, which is not recorded
                };
                // Without a name, a sync has no effect on btrfs in older kernels.
                let expected = match (sync, named) {
                    (false, _) => naming.clone(),
                    (true, true) => [&[SyncFile], renamed, &[SyncDir]].concat(),
                    (true, false) => [&[LinkTemp, SyncFile], renamed, &[SyncDir]].concat(),
                };
                assert_eq!(calls, expected, "{named} {mode:?} {exists}");
                assert_eq!(names(&dir), 1);
            }
        }
    }
}

#[test]
fn a_file_that_can_not_be_synced_or_named_is_not_published() {
    for dir in test_dirs() {
        let target = dir.path().join("target");
        let unnamed = are_unnamed(dir.path());
        for (named, call) in [
            (true, SyncFile),
            (true, Rename),
            (false, SyncFile),
            (false, LinkTemp),
            (false, Rename),
        ] {
            if !named && !unnamed {
                continue;
            }
            fs::write(&target, "old").unwrap();
            let staged = builder(&target, named, true).create_blocking().unwrap();
            let publish = || staged.publish_blocking(PublishMode::Replace);
            let (refused, _) = recorded(Some((call, libc::EIO)), publish);
            let error = refused.unwrap_err();
            assert_eq!(error.io_error().raw_os_error(), Some(libc::EIO));
            assert!(!error.is_published());
            let text = error.to_string();
            for part in [target.to_str().unwrap(), "not published", "unchanged"] {
                assert!(text.contains(part), "{text}");
            }
            assert_eq!(fs::read(&target).unwrap(), b"old");
            drop(error);
            assert_eq!(names(&dir), 1);
        }
    }
}

#[test]
fn a_directory_that_can_not_be_synced_is_an_error_of_a_published_file() {
    for dir in test_dirs() {
        let target = dir.path().join("target");
        fs::write(&target, "old").unwrap();
        let staged = || {
            let staged = builder(&target, true, true).create_blocking().unwrap();
            staged.file().set_len_blocking(5).unwrap();
            staged
        };
        let fault = Some((SyncDir, libc::EIO));
        let publish = || staged().publish_blocking(PublishMode::Replace);
        let error = recorded(fault, publish).0.unwrap_err();
        assert!(error.is_published());
        assert_eq!(error.io_error().raw_os_error(), Some(libc::EIO));
        let text = error.to_string();
        for part in [target.to_str().unwrap(), "is published", "sync_dir"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(fs::read(&target).unwrap(), [0; 5]);
        let file = error.into_file().unwrap();
        assert!(file.as_raw_fd() >= 0);
        assert_eq!(file.metadata_blocking().unwrap().len(), 5);

        let error = recorded(fault, publish).0.unwrap_err();
        assert!(error.into_staged().is_none());
        let error = recorded(fault, publish).0.unwrap_err();
        let error = io::Error::from(error);
        assert!(error.to_string().contains("is published"), "{error}");
        assert_eq!(names(&dir), 1);

        // A file system that can't sync directories.
        let fault = Some((SyncDir, libc::EINVAL));
        recorded(fault, publish).0.unwrap();
        recorded(fault, || sync_dir_blocking(&dir)).0.unwrap();
        let fault = Some((SyncDir, libc::ENOSPC));
        let error = recorded(fault, || sync_dir_blocking(&dir)).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
