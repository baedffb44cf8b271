//! Errors of the system: the right error of `object_store`, and nothing left behind.
#![allow(unsafe_code)]

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::KaioFileSystem;
use super::object_store::path::Path;
use super::object_store::{Error, ObjectStoreExt};
use crate::fixture::{data, disk_dir, files_below, in_child};

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
        for index in (0..60_u64).chain(0..60) {
            let object = store.get(&Path::from(index.to_string())).await.unwrap();
            assert!(object.bytes().await.unwrap() == data(20_000, index));
        }
        let mut occupied = Vec::new();
        while let Ok(file) = fs::File::open(dir.path().join("0")) {
            occupied.push(file);
        }
        let last = store.metrics().descriptors_kept as u64;
        assert!(last > 0);
        // Every descriptor is in use, those of the store, too: they are closed, and one file can be opened.
        let object = store.get(&Path::from("1")).await.unwrap();
        assert!(object.bytes().await.unwrap() == data(20_000, 1));
        drop(store);
        while let Ok(file) = fs::File::open(dir.path().join("0")) {
            occupied.push(file);
        }
        let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
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

#[test]
fn a_full_file_system_is_an_error_and_leaves_nothing() {
    const TEST: &str = "a_full_file_system_is_an_error_and_leaves_nothing";
    // A tmpfs of two mebibytes, in a user and mount namespace of this test's own.
    const DIR: &str = "KAIO_OBJECT_STORE_TEST_FULL_DIR";
    let Some(dir) = env::var_os(DIR) else {
        let test = format!("{}::{TEST}", module_path!().split_once("::").unwrap().1);
        let dir = disk_dir();
        let script = "mount -t tmpfs -o size=2m tmpfs \"$1\" || exit 77; exec \"$2\" \"$3\" --exact --nocapture";
        let mut child = Command::new("unshare");
        child.args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
        ]);
        child
            .arg(dir.path())
            .arg(env::current_exe().unwrap())
            .arg(test)
            .env(DIR, dir.path());
        return match child.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
                panic!("{}", String::from_utf8_lossy(&output.stdout))
            }
            refused => eprintln!("skipped: no file system can be mounted here: {refused:?}"),
        };
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
