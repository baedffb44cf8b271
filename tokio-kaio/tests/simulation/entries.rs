//! Names: created, renamed, linked and removed, the same on a simulated disk and on a real directory.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use tokio_kaio::simulation::SimDisk;
use tokio_kaio::{
    File, create_dir, create_dir_all, create_dir_all_blocking, create_dir_blocking, hard_link,
    hard_link_blocking, read_dir, read_dir_blocking, remove_dir, remove_dir_blocking, remove_file,
    remove_file_blocking, rename, rename_blocking, sync_dir, sync_dir_blocking, try_exists,
    try_exists_blocking,
};

use crate::support::io_errno;

/// Runs `check` in a real directory and on a simulated disk.
async fn on_both(check: impl AsyncFn(&Path)) {
    let dir = tempfile::tempdir_in(".").unwrap();
    check(dir.path()).await;
    let disk = SimDisk::builder().build();
    check(disk.path()).await;
}

async fn create(dir: &Path, name: &str) {
    File::create(dir.join(name), false).await.unwrap();
}

async fn names(dir: &Path) -> Vec<OsString> {
    read_dir(dir).await.unwrap()
}

#[tokio::test]
async fn names_are_returned_sorted() {
    on_both(async |dir| {
        for name in ["b", "a", "ab", "Z"] {
            create(dir, name).await;
        }
        assert_eq!(names(dir).await, ["Z", "a", "ab", "b"]);
    })
    .await;
}

#[tokio::test]
async fn a_rename_replaces_a_file_and_moves_a_directory_with_its_files() {
    on_both(async |dir| {
        create(dir, "new").await;
        create(dir, "old").await;
        rename(dir.join("new"), dir.join("old")).await.unwrap();
        assert_eq!(names(dir).await, ["old"]);
        create_dir(dir.join("tables")).await.unwrap();
        create(dir, "tables/1").await;
        rename(dir.join("tables"), dir.join("moved")).await.unwrap();
        assert_eq!(names(&dir.join("moved")).await, ["1"]);
        let missing = rename(dir.join("none"), dir.join("old")).await;
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        let on_dir = rename(dir.join("old"), dir.join("moved")).await;
        assert_eq!(on_dir.unwrap_err().kind(), io::ErrorKind::IsADirectory);
    })
    .await;
}

#[tokio::test]
async fn a_linked_file_has_two_names_until_one_is_removed() {
    on_both(async |dir| {
        create(dir, "a").await;
        hard_link(dir.join("a"), dir.join("b")).await.unwrap();
        let taken = hard_link(dir.join("a"), dir.join("b")).await;
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        remove_file(dir.join("a")).await.unwrap();
        assert_eq!(names(dir).await, ["b"]);
        let gone = remove_file(dir.join("a")).await;
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
    })
    .await;
}

#[tokio::test]
async fn directories_are_created_and_removed() {
    on_both(async |dir| {
        create_dir_all(dir.join("a/b/c")).await.unwrap();
        create_dir_all(dir.join("a/b/c")).await.unwrap();
        assert!(try_exists(dir.join("a/b/../b/./c")).await.unwrap());
        let full = remove_dir(dir.join("a/b")).await;
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
        remove_dir(dir.join("a/b/c")).await.unwrap();
        assert_eq!(names(&dir.join("a/b")).await, [""; 0]);
        create(dir, "a/file").await;
        let taken = create_dir(dir.join("a/file")).await;
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let in_file = create_dir(dir.join("a/file/x")).await;
        assert_eq!(in_file.unwrap_err().kind(), io::ErrorKind::NotADirectory);
        let no_dir = remove_dir(dir.join("a/file")).await;
        assert_eq!(no_dir.unwrap_err().kind(), io::ErrorKind::NotADirectory);
        let no_parent = create_dir(dir.join("x/y")).await;
        assert_eq!(no_parent.unwrap_err().kind(), io::ErrorKind::NotFound);
        let no_dir = read_dir(dir.join("a/file")).await;
        assert_eq!(no_dir.unwrap_err().kind(), io::ErrorKind::NotADirectory);
        sync_dir(dir.join("a/b")).await.unwrap();
        assert!(!try_exists(dir.join("none")).await.unwrap());
    })
    .await;
}

#[test]
fn the_blocking_twins_need_no_runtime() {
    let real = tempfile::tempdir_in(".").unwrap();
    let disk = SimDisk::builder().build();
    for dir in [real.path(), disk.path()] {
        create_dir_blocking(dir.join("a")).unwrap();
        create_dir_all_blocking(dir.join("a/b/c")).unwrap();
        File::create_blocking(dir.join("a/file"), false).unwrap();
        hard_link_blocking(dir.join("a/file"), dir.join("a/link")).unwrap();
        rename_blocking(dir.join("a/file"), dir.join("a/new")).unwrap();
        remove_file_blocking(dir.join("a/link")).unwrap();
        remove_dir_blocking(dir.join("a/b/c")).unwrap();
        sync_dir_blocking(dir.join("a")).unwrap();
        assert_eq!(read_dir_blocking(dir.join("a")).unwrap(), ["b", "new"]);
        assert!(try_exists_blocking(dir.join("a/new")).unwrap());
    }
}

#[tokio::test]
async fn names_do_not_move_between_disks() {
    let (one, other) = (SimDisk::builder().build(), SimDisk::builder().build());
    let real = tempfile::tempdir_in(".").unwrap();
    create(one.path(), "a").await;
    for to in [other.path(), real.path()] {
        let moved = rename(one.path().join("a"), to.join("a")).await;
        assert_eq!(io_errno(moved), libc::EXDEV);
        let linked = hard_link(one.path().join("a"), to.join("a")).await;
        assert_eq!(io_errno(linked), libc::EXDEV);
    }
}

#[tokio::test]
async fn a_disk_that_is_gone_and_std_fs_have_no_such_files() {
    let disk = SimDisk::builder().build();
    let path = disk.path().join("file");
    create(disk.path(), "file").await;
    assert!(std::fs::read(&path).is_err() && !disk.path().exists());
    drop(disk);
    let opened = File::open(&path, false).await;
    assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn an_error_names_the_path_and_what_was_tried() {
    let disk = SimDisk::builder().build();
    let path = disk.path().join("none");
    let error = remove_file(&path).await.unwrap_err().to_string();
    let expected = format!("{}: can't remove the file: ", path.display());
    assert!(error.starts_with(&expected), "{error}");
    let to = disk.path().join("to");
    let error = rename(&path, &to).await.unwrap_err().to_string();
    let expected = format!("{}: can't rename it to {}: ", path.display(), to.display());
    assert!(error.starts_with(&expected), "{error}");
}
