//! Errors of the system: the right error of `object_store`, and nothing left behind.
#![allow(unsafe_code)]

use std::env;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::KaioFileSystem;
use super::object_store::path::Path;
use super::object_store::{Error, ObjectStore, ObjectStoreExt};
use crate::fixture::{are_kept_since, data, disk_dir, files_below, in_child, write_uncached};

/// The time after which a test counts as hanging.
const HANG: Duration = Duration::from_secs(60);

fn set_limit(resource: Resource, value: u64) {
    let limit = rustix::process::getrlimit(resource);
    let limit = Rlimit {
        current: Some(value),
        maximum: limit.maximum,
    };
    setrlimit(resource, limit).unwrap();
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

#[test]
fn descriptors_that_are_used_up_are_an_error_that_says_so_and_kept_files_are_closed_first() {
    if !in_child(
        module_path!(),
        "descriptors_that_are_used_up_are_an_error_that_says_so_and_kept_files_are_closed_first",
    ) {
        return;
    }
    run(async {
        let dir = disk_dir();
        let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
        for index in 0..60_u64 {
            fs::write(dir.path().join(index.to_string()), data(20_000, index)).unwrap();
        }
        set_limit(Resource::Nofile, 64);
        let occupy = || {
            let open = || fs::File::open(dir.path().join("0")).ok();
            std::iter::from_fn(open).collect::<Vec<_>>()
        };
        // The store has no files open that it could close.
        let occupied = occupy();
        let text = store.get(&Path::from("1")).await.unwrap_err().to_string();
        assert!(text.contains("LimitNOFILE"), "{text}");
        let text = store
            .put(&Path::from("new"), "content".into())
            .await
            .unwrap_err()
            .to_string();
        assert!(text.contains("LimitNOFILE"), "{text}");
        drop(occupied);
        assert_eq!(files_below(dir.path()).len(), 60);
        store
            .put(&Path::from("new"), "content".into())
            .await
            .unwrap();
        let read = async |index: u64| {
            let object = store.get(&Path::from(index.to_string())).await.unwrap();
            assert!(object.bytes().await.unwrap() == data(20_000, index));
        };
        for index in (0..60_u64).chain(0..60) {
            read(index).await;
        }
        let mut occupied = occupy();
        let start = Instant::now();
        while store.metrics().descriptors_kept == 0 {
            assert!(start.elapsed() < HANG, "the store keeps no file");
            // The store has closed its files, because they were idle.
            drop(occupied);
            read(59).await;
            occupied = occupy();
        }
        // Every descriptor is in use, those of the store, too: they are closed, and one file can be opened.
        read(1).await;
    });
}

#[test]
fn a_file_that_becomes_too_large_is_an_error_and_leaves_nothing() {
    if !in_child(
        module_path!(),
        "a_file_that_becomes_too_large_is_an_error_and_leaves_nothing",
    ) {
        return;
    }
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    set_limit(Resource::Fsize, 1 << 20);
    run(async {
        for fsync in [false, true] {
            let dir = disk_dir();
            let store = KaioFileSystem::builder()
                .with_prefix(dir.path())
                .with_fsync(fsync);
            let store = store.with_direct_upload_size(1).build().unwrap();
            let location = Path::from("object");
            let put = store.put(&location, data(2 << 20, 1).into()).await;
            let text = put.unwrap_err().to_string();
            assert!(
                text.contains("object") && text.contains("ulimit -f"),
                "{text}"
            );
            let mut upload = store.put_multipart(&location).await.unwrap();
            upload.put_part(data(1 << 20, 1).into()).await.unwrap();
            upload.put_part(data(1 << 20, 2).into()).await.unwrap_err();
            let text = upload.complete().await.unwrap_err().to_string();
            assert!(text.contains("1048576 of its 2097152 bytes"), "{text}");
            while !files_below(dir.path()).is_empty() {
                tokio::task::yield_now().await;
            }
        }
    });
}

/// Runs `test` of this module again, in namespaces of its own, after the shell command `mount`. The environment
/// variable `dir_variable` then has the directory, which is `$1` of the command.
fn run_mounted(unshare: &[&str], mount: &str, test: &str, dir_variable: &str) {
    let test = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let dir = disk_dir();
    let script = format!("{mount} || exit 77; exec \"$2\" \"$3\" --exact --nocapture");
    let mut child = Command::new("unshare");
    child
        .args(unshare)
        .args(["sh", "-c", &script, "sh"])
        .arg(dir.path())
        .arg(env::current_exe().unwrap())
        .arg(test)
        .env(dir_variable, dir.path());
    match child.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
            panic!("{}", String::from_utf8_lossy(&output.stdout))
        }
        refused => eprintln!("skipped: no file system can be mounted here: {refused:?}"),
    }
}

#[test]
fn a_full_file_system_is_an_error_and_leaves_nothing() {
    const TEST: &str = "a_full_file_system_is_an_error_and_leaves_nothing";
    // A tmpfs of two mebibytes, in a user and mount namespace of this test's own.
    const DIR: &str = "KAIO_OBJECT_STORE_TEST_FULL_DIR";
    let Some(dir) = env::var_os(DIR) else {
        let unshare = ["--user", "--map-root-user", "--mount"];
        let mount = "mount -t tmpfs -o size=2m tmpfs \"$1\"";
        return run_mounted(&unshare, mount, TEST, DIR);
    };
    let dir = std::path::PathBuf::from(dir);
    run(async {
        for fsync in [false, true] {
            let store = KaioFileSystem::builder()
                .with_prefix(&dir)
                .with_fsync(fsync);
            let store = store.with_direct_upload_size(1).build().unwrap();
            let location = Path::from("object");
            let put = store.put(&location, data(4 << 20, 1).into()).await;
            let text = put.unwrap_err().to_string();
            assert!(
                text.contains("object") && text.contains("free space"),
                "{text}"
            );
            let mut upload = store.put_multipart(&location).await.unwrap();
            upload.put_part(data(1 << 20, 1).into()).await.unwrap();
            upload.put_part(data(2 << 20, 2).into()).await.unwrap_err();
            upload.complete().await.unwrap_err();
            while !files_below(&dir).is_empty() {
                tokio::task::yield_now().await;
            }
            store.put(&location, data(1 << 20, 1).into()).await.unwrap();
            store.delete(&location).await.unwrap();
        }
    });
}

#[test]
fn a_device_that_fails_is_an_error_that_says_so() {
    const TEST: &str = "a_device_that_fails_is_an_error_that_says_so";
    // An ext4 on a loop device, whose file loses its second half.
    const DIR: &str = "KAIO_OBJECT_STORE_TEST_FAILING_DIR";
    let Some(dir) = env::var_os(DIR) else {
        if !rustix::process::getuid().is_root() {
            return eprintln!("skipped: only root can mount a loop device");
        }
        // In a mount namespace of its own, the mount and the loop device end with the process.
        let mount = "truncate -s 64M \"$1/image\" && mkfs.ext4 -q -F \"$1/image\" \
            && mkdir \"$1/mounted\" && mount -o loop \"$1/image\" \"$1/mounted\"";
        return run_mounted(&["--mount"], mount, TEST, DIR);
    };
    let dir = std::path::PathBuf::from(dir);
    let mounted = dir.join("mounted");
    run(async {
        write_uncached(&mounted.join("object"), &data(40 << 20, 1));
        let image = fs::File::options().write(true).open(dir.join("image"));
        let image = image.unwrap();
        image.sync_all().unwrap();
        let store = KaioFileSystem::new_with_prefix(&mounted).unwrap();
        let location = Path::from("object");
        // Opened before the device fails: what follows needs its data only.
        store.get_range(&location, 0..5).await.unwrap();
        image.set_len(20 << 20).unwrap();
        let is_failure = |error: Error| {
            let text = error.to_string();
            let says_so = text.contains("the device reports an error") && text.contains("object");
            assert!(matches!(error, Error::Generic { .. }) && says_so, "{text}");
        };
        let end = (40 << 20) - 20_000..(40 << 20) - 10_000;
        is_failure(store.get_range(&location, end.clone()).await.unwrap_err());
        let ranges = store.get_ranges(&location, &[0..5, end]).await;
        is_failure(ranges.unwrap_err());
        let stream = store.get(&location).await.unwrap().into_stream();
        let chunks: Result<Vec<_>, _> = stream.try_collect().await;
        is_failure(chunks.unwrap_err());
        if store.metrics().direct.count > 0 {
            assert!(store.metrics().direct_failures > 0);
        }
    });
}

#[tokio::test]
async fn a_directory_that_disappears_during_an_upload_is_an_error() {
    let dir = disk_dir();
    for fsync in [false, true] {
        let store = KaioFileSystem::new_with_prefix(dir.path())
            .unwrap()
            .with_fsync(fsync);
        let mut upload = store
            .put_multipart(&Path::from("gone/object"))
            .await
            .unwrap();
        upload.put_part(data(100_000, 1).into()).await.unwrap();
        fs::remove_dir_all(dir.path().join("gone")).unwrap();
        upload.put_part(data(100_000, 2).into()).await.unwrap();
        let error = upload.complete().await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        assert!(!dir.path().join("gone").exists());
        // The directory of the store itself is created again by the next upload.
        store
            .put(&Path::from("gone/object"), "content".into())
            .await
            .unwrap();
        fs::remove_dir_all(dir.path().join("gone")).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_missing_permission_is_reported_as_that() {
    if !in_child(module_path!(), "a_missing_permission_is_reported_as_that") {
        return;
    }
    let dir = disk_dir();
    fs::write(dir.path().join("object"), data(20_000, 1)).unwrap();
    fs::set_permissions(dir.path().join("object"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::create_dir(dir.path().join("closed")).unwrap();
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    if rustix::process::getuid().is_root() {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        // SAFETY: no memory is involved. This process has no other use for its user.
        let code = unsafe { libc::setuid(65_534) };
        assert_eq!(code, 0);
    }
    run(async {
        let store = KaioFileSystem::new_with_prefix(dir.path());
        let Ok(store) = store else {
            return eprintln!("skipped: another user can't reach the directory of the build");
        };
        let is_denied = |error: &Error| matches!(error, Error::PermissionDenied { .. });
        let get = store.get(&Path::from("object")).await.unwrap_err();
        if matches!(get, Error::NotFound { .. }) {
            return eprintln!("skipped: another user can't reach the directory of the build");
        }
        assert!(is_denied(&get), "{get}");
        let put = store
            .put(&Path::from("closed/object"), "content".into())
            .await
            .unwrap_err();
        assert!(is_denied(&put), "{put}");
        store.head(&Path::from("object")).await.unwrap();
    });
}

#[test]
fn kept_files_leave_half_of_the_descriptors_to_the_program() {
    const TEST: &str = "kept_files_leave_half_of_the_descriptors_to_the_program";
    if !in_child(module_path!(), TEST) {
        return;
    }
    run(async {
        let dir = disk_dir();
        let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
        set_limit(Resource::Nofile, 64);
        let mut starts = Vec::new();
        for index in 0..60_u64 {
            starts.push(Instant::now());
            let location = Path::from(index.to_string());
            store
                .put(&location, data(20_000, index).into())
                .await
                .unwrap();
            let object = store.get(&location).await.unwrap();
            assert!(object.bytes().await.unwrap() == data(20_000, index));
            store.list_with_delimiter(None).await.unwrap();
        }
        let kept = store.metrics().descriptors_kept; // with two descriptors each
        assert!(kept <= 16, "{kept}");
        assert!(kept == 16 || !are_kept_since(starts[60 - 16]), "{kept}");
    });
}

#[test]
fn a_file_is_read_when_another_program_has_returned_its_lease() {
    const TEST: &str = "a_file_is_read_when_another_program_has_returned_its_lease";
    if !in_child(module_path!(), TEST) {
        return;
    }
    let dir = disk_dir();
    let path = dir.path().join("object");
    fs::write(&path, data(20_000, 1)).unwrap();
    let lease = move |file: &fs::File, kind: libc::c_int| {
        // SAFETY: `file` keeps the descriptor open, and the call takes no memory.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }
    };
    // SAFETY: no handler is installed: the signal that asks for the lease is ignored.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let file = fs::File::open(&path).unwrap();
    if lease(&file, libc::F_WRLCK) != 0 {
        return eprintln!("skipped: the file system knows no leases");
    }
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        lease(&file, libc::F_UNLCK);
    });
    run(async {
        let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
        let object = store.get(&Path::from("object")).await.unwrap();
        assert!(object.bytes().await.unwrap() == data(20_000, 1));
    });
}
