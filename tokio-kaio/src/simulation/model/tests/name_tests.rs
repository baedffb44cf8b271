//! Which names survive a power cut.

use std::collections::BTreeSet;

use super::disk_fixture::{CREATE, Disk, NOW, journal, small_sectors};
use crate::simulation::model::{DiskConfig, OpenMode, Rename};

/// The names and contents of the root after each of many cuts, as `name=content`.
fn outcomes(disk: &Disk) -> BTreeSet<String> {
    (0..1000)
        .map(|seed| {
            let mut disk = disk.cut(seed);
            let names = disk.0.read_dir(NOW, "").unwrap();
            let entries: Vec<String> = names
                .iter()
                .map(|name| {
                    if disk.0.stat(name).unwrap().is_dir {
                        let inside = disk.0.read_dir(NOW, name).unwrap();
                        return format!("{name}/{}", inside.join(","));
                    }
                    let data = disk.read(name).unwrap();
                    format!("{name}={}", String::from_utf8_lossy(&data))
                })
                .collect();
            entries.join(" ")
        })
        .collect()
}

fn set(outcomes: &[&str]) -> BTreeSet<String> {
    outcomes.iter().map(|&outcome| outcome.into()).collect()
}

/// Creates a file with this content, and syncs the file.
fn create_synced(disk: &mut Disk, name: &str, content: &[u8]) {
    let file = disk.create(name);
    disk.write(file, 0, content);
    disk.fsync(file);
    disk.0.close(NOW, file);
}

#[test]
fn a_name_needs_a_sync_of_its_directory() {
    let mut disk = Disk::new(small_sectors());
    create_synced(&mut disk, "a", b"1");
    assert_eq!(outcomes(&disk), set(&["", "a=1"]));
    disk.sync_dir("");
    assert_eq!(outcomes(&disk), set(&["a=1"]));
}

#[test]
fn a_removed_name_may_come_back_with_its_data() {
    let mut disk = Disk::new(small_sectors());
    create_synced(&mut disk, "a", b"1");
    disk.sync_dir("");
    disk.0.unlink(NOW, "a").unwrap();
    assert_eq!(disk.read("a"), None);
    assert_eq!(outcomes(&disk), set(&["", "a=1"]));
    disk.sync_dir("");
    assert_eq!(outcomes(&disk), set(&[""]));
}

#[test]
fn a_rename_is_atomic() {
    let mut disk = Disk::new(small_sectors());
    create_synced(&mut disk, "a", b"old");
    disk.sync_dir("");
    create_synced(&mut disk, "b", b"new");
    disk.rename("b", "a");
    assert_eq!(outcomes(&disk), set(&["a=old", "a=old b=new", "a=new"]));
    disk.sync_dir("");
    assert_eq!(outcomes(&disk), set(&["a=new"]));
}

#[test]
fn a_rename_between_directories_is_durable_with_either() {
    for synced in ["", "dir"] {
        let mut disk = Disk::new(small_sectors());
        disk.0.create_dir(NOW, "dir").unwrap();
        create_synced(&mut disk, "a", b"1");
        disk.sync_dir("");
        disk.rename("a", "dir/b");
        assert_eq!(outcomes(&disk), set(&["a=1 dir/", "dir/b"]));
        disk.sync_dir(synced);
        assert_eq!(outcomes(&disk), set(&["dir/b"]));
    }
}

#[test]
fn names_without_a_sync_survive_in_any_order() {
    let mut disk = Disk::new(small_sectors());
    create_synced(&mut disk, "a", b"1");
    create_synced(&mut disk, "b", b"2");
    assert_eq!(outcomes(&disk), set(&["", "a=1", "b=2", "a=1 b=2"]));
}

#[test]
fn with_a_journal_names_survive_in_order_and_with_the_sync_of_the_file() {
    let mut disk = Disk::new(journal());
    for name in ["a", "b"] {
        disk.create(name);
    }
    assert_eq!(outcomes(&disk), set(&["", "a=", "a= b="]));
    create_synced(&mut disk, "c", b"3");
    disk.create("d");
    assert_eq!(outcomes(&disk), set(&["a= b= c=3", "a= b= c=3 d="]));
}

#[test]
fn the_content_of_a_name_needs_a_sync_of_the_file() {
    let mut disk = Disk::new(DiskConfig::default());
    let file = disk.create("a");
    disk.sync_dir("");
    disk.write(file, 0, b"1");
    assert_eq!(outcomes(&disk), set(&["a=", "a=\0", "a=1"]));
}

#[test]
fn a_removed_directory_was_empty() {
    let mut disk = Disk::new(small_sectors());
    disk.0.create_dir(NOW, "dir").unwrap();
    create_synced(&mut disk, "dir/a", b"1");
    disk.sync_dir("dir");
    disk.sync_dir("");
    assert_eq!(disk.0.remove_dir(NOW, "dir"), Err(libc::ENOTEMPTY));
    disk.rename("dir/a", "a");
    disk.0.remove_dir(NOW, "dir").unwrap();
    assert_eq!(outcomes(&disk), set(&["dir/a", "a=1 dir/", "a=1"]));
}

#[test]
fn no_directory_ends_up_inside_itself() {
    let mut disk = Disk::new(small_sectors());
    for path in ["a", "b"] {
        disk.0.create_dir(NOW, path).unwrap();
    }
    disk.sync_dir("");
    assert_eq!(
        disk.0.rename(NOW, "a", "a/c", Rename::Replace),
        Err(libc::EINVAL)
    );
    disk.rename("a", "b/a");
    disk.rename("b/a", "c");
    disk.rename("b", "c/b");
    let outcomes = outcomes(&disk);
    assert_eq!(outcomes, set(&["a/ b/", "b/a", "b/ c/", "c/b"]));
}

#[test]
fn an_unlinked_file_is_readable_until_it_is_closed() {
    let mut disk = Disk::new(small_sectors());
    let file = disk.create("a");
    disk.write(file, 0, b"1");
    disk.sync_dir("");
    disk.0.unlink(NOW, "a").unwrap();
    assert_eq!(disk.read_inode(file), b"1");
    assert_eq!(disk.0.stat_inode(file).unwrap().links, 0);
    disk.sync_dir("");
    disk.0.close(NOW, file);
    assert_eq!(disk.0.stat_inode(file), Err(libc::EBADF), "it is gone");
}

#[test]
fn an_unnamed_file_gets_a_name_by_a_link() {
    let mut disk = Disk::new(small_sectors());
    let file = disk.0.open_unnamed(NOW, "").unwrap();
    disk.write(file, 0, b"1");
    disk.fsync(file);
    disk.sync_dir("");
    assert_eq!(outcomes(&disk), set(&[""]));
    disk.0.link(NOW, file, "a").unwrap();
    assert_eq!(disk.0.link(NOW, file, "a"), Err(libc::EEXIST));
    assert_eq!(outcomes(&disk), set(&["", "a=1"]));
    disk.0.hard_link(NOW, "a", "b").unwrap();
    disk.sync_dir("");
    assert_eq!(outcomes(&disk), set(&["a=1 b=1"]));
    assert_eq!(disk.0.stat("b").unwrap().links, 2);
}

#[test]
fn calls_fail_as_on_linux() {
    let mut disk = Disk::new(small_sectors());
    disk.create("file");
    disk.0.create_dir(NOW, "dir").unwrap();
    let state = &mut disk.0;
    let open = |state: &mut crate::simulation::model::DiskState, path, mode| {
        state.open(NOW, path, mode).unwrap_err()
    };
    let new = OpenMode {
        create_new: true,
        ..CREATE
    };
    let directory = OpenMode {
        directory: true,
        read: true,
        ..OpenMode::default()
    };
    assert_eq!(open(state, "none", OpenMode::default()), libc::ENOENT);
    assert_eq!(open(state, "none/file", CREATE), libc::ENOENT);
    assert_eq!(open(state, "file/file", CREATE), libc::ENOTDIR);
    assert_eq!(open(state, "file", new), libc::EEXIST);
    assert_eq!(open(state, "file", directory), libc::ENOTDIR);
    assert_eq!(open(state, "dir", CREATE), libc::EISDIR);
    assert_eq!(open(state, &"n".repeat(256), CREATE), libc::ENAMETOOLONG);
    assert_eq!(state.unlink(NOW, "dir"), Err(libc::EISDIR));
    assert_eq!(state.unlink(NOW, "none"), Err(libc::ENOENT));
    assert_eq!(state.remove_dir(NOW, "file"), Err(libc::ENOTDIR));
    assert_eq!(state.remove_dir(NOW, ""), Err(libc::EBUSY));
    assert_eq!(state.create_dir(NOW, "dir"), Err(libc::EEXIST));
    assert_eq!(state.hard_link(NOW, "dir", "b"), Err(libc::EPERM));
    let rename = |state: &mut crate::simulation::model::DiskState, from, to, how| {
        state.rename(NOW, from, to, how).unwrap_err()
    };
    assert_eq!(rename(state, "none", "b", Rename::Replace), libc::ENOENT);
    assert_eq!(rename(state, "file", "dir", Rename::Replace), libc::EISDIR);
    assert_eq!(rename(state, "dir", "file", Rename::Replace), libc::ENOTDIR);
    assert_eq!(
        rename(state, "file", "dir", Rename::NoReplace),
        libc::EEXIST
    );
}
