//! Errors of the device: functions of the C library are replaced, so that they fail on demand.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::raw::{c_int, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kaio_object_store::v0_14::KaioFileSystem;
use object_store_0_14::path::Path;
use object_store_0_14::{Error, ObjectStore, ObjectStoreExt, PutMode};
use tempfile::TempDir;

/// Which calls fail with `EIO`.
const READS: u32 = 1;
const WRITES: u32 = 2;
const SYNCS: u32 = 4;
static FAILING: AtomicU32 = AtomicU32::new(0);

/// Makes calls fail while it lives. Tests that use it run one after another.
struct Failing {
    _alone: MutexGuard<'static, ()>,
}

impl Failing {
    fn new() -> Failing {
        static ALONE: Mutex<()> = Mutex::new(());
        Failing {
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn set(&self, calls: u32) {
        FAILING.store(calls, Ordering::SeqCst);
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Whether `calls` fail; sets errno then.
fn fails(calls: u32) -> bool {
    let fails = FAILING.load(Ordering::SeqCst) & calls != 0;
    if fails {
        // SAFETY: the location of errno of this thread.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: valid as long as the thread runs.
        unsafe { *errno = libc::EIO };
    }
    fails
}

/// The function of the C library that is replaced.
fn original(name: &CStr) -> *mut c_void {
    // SAFETY: a string that ends with 0.
    let function = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!function.is_null(), "{name:?}");
    function
}

type Pread = unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize;
type Pwrite = unsafe extern "C" fn(c_int, *const c_void, usize, i64) -> isize;
type Fsync = unsafe extern "C" fn(c_int) -> c_int;

/// Replaces `pread64(3)`.
///
/// # Safety
///
/// That of the original.
// SAFETY: the signature is that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(fd: c_int, memory: *mut c_void, len: usize, offset: i64) -> isize {
    if fails(READS) {
        return -1;
    }
    // SAFETY: the function has this type.
    let original: Pread = unsafe { std::mem::transmute(original(c"pread64")) };
    // SAFETY: the caller keeps the contract of the original.
    unsafe { original(fd, memory, len, offset) }
}

/// Replaces `pwrite64(3)`.
///
/// # Safety
///
/// That of the original.
// SAFETY: the signature is that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    fd: c_int,
    memory: *const c_void,
    len: usize,
    offset: i64,
) -> isize {
    if fails(WRITES) {
        return -1;
    }
    // SAFETY: the function has this type.
    let original: Pwrite = unsafe { std::mem::transmute(original(c"pwrite64")) };
    // SAFETY: the caller keeps the contract of the original.
    unsafe { original(fd, memory, len, offset) }
}

/// Replaces `fsync(2)`.
///
/// # Safety
///
/// That of the original.
// SAFETY: the signature is that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    if fails(SYNCS) {
        return -1;
    }
    // SAFETY: the function has this type.
    let original: Fsync = unsafe { std::mem::transmute(original(c"fsync")) };
    // SAFETY: the caller keeps the contract of the original.
    unsafe { original(fd) }
}

fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn files_in(dir: &TempDir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.path()).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Asserts that `error` is of the device, and names the object.
fn assert_eio(error: &Error) {
    let text = error.to_string();
    assert!(
        matches!(
            error,
            Error::Generic {
                store: "KaioFileSystem",
                ..
            }
        ),
        "{text}"
    );
    assert!(
        text.contains("object") && text.contains("os error 5"),
        "{text}"
    );
}

#[tokio::test]
async fn a_read_that_fails_is_an_error_and_the_next_one_may_succeed() {
    let (failing, dir) = (Failing::new(), disk_dir());
    std::fs::write(dir.path().join("object"), [7; 100_000]).unwrap();
    let store = KaioFileSystem::builder().with_prefix(dir.path());
    let store = store
        .with_cached_reads(false)
        .with_small_object_size(u64::MAX)
        .build()
        .unwrap();
    let location = Path::from("object");
    failing.set(READS);
    assert_eio(
        &store
            .get_ranges(&location, &[0..10, 50_000..60_000])
            .await
            .unwrap_err(),
    );
    let object = store.get(&location).await.unwrap();
    assert_eio(&object.bytes().await.unwrap_err());
    failing.set(0);
    assert_eq!(
        store.get(&location).await.unwrap().bytes().await.unwrap(),
        [7; 100_000].as_slice()
    );
}

#[tokio::test]
async fn an_upload_that_can_not_be_written_or_synced_is_an_error_and_leaves_nothing() {
    let (failing, dir) = (Failing::new(), disk_dir());
    let store = KaioFileSystem::builder()
        .with_prefix(dir.path())
        .with_fsync(true);
    let store = store.build().unwrap();
    let location = Path::from("object");
    for calls in [WRITES, SYNCS] {
        // The second one has direct writes, and edges that have not.
        for len in [100, (2 << 20) + 1] {
            for mode in [PutMode::Overwrite, PutMode::Create] {
                failing.set(calls);
                let put = store
                    .put_opts(&location, vec![7; len].into(), mode.into())
                    .await;
                assert_eio(&put.unwrap_err());
                assert!(files_in(&dir).is_empty());
                failing.set(0);
            }
            let mut upload = store.put_multipart(&location).await.unwrap();
            let part = upload.put_part(vec![7; 100_000].into());
            failing.set(calls);
            let (part, complete) = (part.await, upload.complete().await);
            assert!(part.is_err() == (calls == WRITES) && complete.is_err());
            failing.set(0);
            assert!(files_in(&dir).is_empty());
        }
    }
}

#[tokio::test]
async fn a_directory_that_can_not_be_synced_is_an_error_of_copies_and_renames() {
    let (failing, dir) = (Failing::new(), disk_dir());
    let store = KaioFileSystem::new_with_prefix(dir.path())
        .unwrap()
        .with_fsync(true);
    let (object, copy, moved) = (
        Path::from("object"),
        Path::from("copy"),
        Path::from("moved"),
    );
    store.put(&object, "content".into()).await.unwrap();
    failing.set(SYNCS);
    store.copy(&object, &copy).await.unwrap_err();
    store.rename(&object, &moved).await.unwrap_err();
    failing.set(0);
    let mut files = files_in(&dir); // both took effect, perhaps not durably
    files.sort();
    assert_eq!(files, ["copy", "moved"].map(|name| dir.path().join(name)));
}
