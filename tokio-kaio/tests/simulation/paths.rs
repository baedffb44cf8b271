//! The paths of disks: numbers, names, and the same path in every run of an explorer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use tokio_kaio::simulation::{Explorer, SimDisk, SimDiskBuilder, explore};
use tokio_kaio::{AioContextBuilder, File, WriteFlags, create_dir, read_dir, sync_dir, try_exists};

use crate::support::open;

type AnyError = Box<dyn std::error::Error>;

#[test]
fn disks_without_names_never_have_the_same_path() {
    let mut paths = BTreeSet::new();
    for _ in 0..3 {
        let disk = SimDisk::builder().build();
        assert!(paths.insert(disk.path().to_owned()));
        let disk = disk.power_cut().boot();
        assert!(paths.insert(disk.path().to_owned()));
    }
}

#[tokio::test]
async fn a_disk_that_boots_has_the_path_of_its_name() {
    let path = PathBuf::from("/simulated-disk/paths-boot");
    let before = SimDisk::builder().name("paths-boot").build();
    assert_eq!(before.path(), path);
    create_dir(path.join("durable")).await.unwrap();
    sync_dir(&path).await.unwrap();

    // The first owner still exists, without power: its path leads to the new disk.
    let booted = before.power_cut().boot();
    assert_eq!(booted.path(), path);
    assert_eq!(read_dir(&path).await.unwrap(), ["durable"]);
    create_dir(path.join("more")).await.unwrap();
    assert!(booted.events() > 0);

    // Also with other properties.
    let image = booted.power_cut();
    let small = SimDisk::builder().sector(512).boot(&image);
    assert_eq!(small.path(), path);
    drop(small);
    let named = SimDisk::builder().name("paths-boot").boot(&image);
    assert_eq!(named.path(), path);
    drop(named);
    let renamed = SimDisk::builder().name("paths-renamed").boot(&image);
    assert_eq!(
        renamed.path(),
        PathBuf::from("/simulated-disk/paths-renamed")
    );
    assert!(try_exists(renamed.path().join("durable")).await.unwrap());
}

#[tokio::test]
async fn two_disks_with_power_never_have_the_same_path() {
    let image = SimDisk::builder().name("paths-twice").build().power_cut();
    let (first, second) = (image.boot(), image.boot());
    assert_eq!(first.path(), PathBuf::from("/simulated-disk/paths-twice"));
    assert_ne!(second.path(), first.path());
    create_dir(first.path().join("first")).await.unwrap();
    create_dir(second.path().join("second")).await.unwrap();
    assert_eq!(read_dir(first.path()).await.unwrap(), ["first"]);
    assert_eq!(read_dir(second.path()).await.unwrap(), ["second"]);
}

#[test]
#[should_panic(expected = "\"paths-taken\" exists already")]
fn a_name_is_taken_while_an_image_of_its_disk_exists() {
    let builder = SimDisk::builder().name("paths-taken");
    drop(builder.clone().build()); // free again
    let _image = builder.clone().build().power_cut();
    builder.build();
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    let long = "n".repeat(256);
    for name in ["", ".", "..", "a/b", "7", &long] {
        let built = std::panic::catch_unwind(|| SimDisk::builder().name(name));
        assert!(built.is_err(), "{name:?}");
    }
    let longest = "n".repeat(255);
    assert!(
        SimDisk::builder()
            .name(&*longest)
            .build()
            .path()
            .ends_with(longest)
    );
}

/// Writes its own path to a file, as a program does that stores absolute paths, and follows it later.
async fn store_path(disk: SimDisk, stored: &Cell<bool>) -> Result<(), AnyError> {
    if stored.get() {
        return Ok(());
    }
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
    let path = disk.path().join("data");
    File::create(&path, false).await?;
    let pointer = File::create(disk.path().join("pointer"), false).await?;
    let text = format!("{:<100}", path.display());
    pointer
        .write_bytes_at(&handle, 0, text.as_bytes(), WriteFlags::empty())
        .await?;
    pointer.sync_all(&handle).await?;
    sync_dir(disk.path()).await?;
    stored.set(true);
    Ok(())
}

async fn follow_path(disk: SimDisk, stored: &Cell<bool>) -> Result<(), AnyError> {
    if !stored.get() {
        return Ok(());
    }
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
    let pointer = open(&disk, "pointer").await?;
    let mut text = [0; 100];
    pointer
        .read_bytes_at(&handle, 0, &mut text, Default::default())
        .await?;
    let path = PathBuf::from(std::str::from_utf8(&text)?.trim_end());
    match try_exists(&path).await? {
        true => Ok(()),
        false => Err(format!("{} is lost", path.display()).into()),
    }
}

#[test]
fn a_program_that_stores_its_absolute_path_can_be_explored() {
    explore(0..10, store_path, follow_path).unwrap();
    let explorer = Explorer::new().seeds(0..10);
    explorer
        .cuts_per_run(2)
        .run(store_path, follow_path)
        .unwrap();
}

#[test]
fn two_runs_of_a_failure_have_the_same_text_also_with_a_stored_path() {
    let fails = |disks: SimDiskBuilder| {
        let explorer = Explorer::new().disk(disks).seeds(0..3);
        let verify = async |disk: SimDisk, stored: &Cell<bool>| match stored.get() {
            true => Err(format!(
                "found {:?}",
                read_dir(disk.path().join("none")).await
            )),
            false => Ok(()),
        };
        explorer.run(store_path, verify).unwrap_err().to_string()
    };
    let first = fails(SimDisk::builder().name("paths-text"));
    assert!(first.contains("/simulated-disk/paths-text/none"), "{first}");
    assert_eq!(fails(SimDisk::builder().name("paths-text")), first);
    let other = fails(SimDisk::builder().name("paths-else"));
    assert_ne!(other, first, "the path is in the data, and so in the trace");
}

#[test]
fn all_disks_of_an_explorer_have_one_path_and_explorers_at_the_same_time_have_others() {
    let (to_first, of_second) = mpsc::channel();
    let (to_second, of_first) = mpsc::channel();
    let explored = |to_other: mpsc::Sender<()>, of_other: mpsc::Receiver<()>| {
        // Fails if the other thread has panicked.
        let meet = || {
            to_other.send(()).unwrap();
            of_other.recv().unwrap();
        };
        let (seen, is_first) = (RefCell::new(BTreeSet::new()), Cell::new(true));
        let note = async |disk: SimDisk, _: &()| {
            if is_first.take() {
                meet();
            }
            seen.borrow_mut().insert(disk.path().to_owned());
            create_dir(disk.path().join("dir")).await
        };
        let check = async |disk: SimDisk, _: &()| -> std::io::Result<()> {
            seen.borrow_mut().insert(disk.path().to_owned());
            Ok(())
        };
        explore(0..3, note, check).unwrap();
        meet(); // until both have their paths
        seen.into_inner()
    };
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| explored(to_second, of_second));
        let second = scope.spawn(|| explored(to_first, of_first));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!((first.len(), second.len()), (1, 1), "{first:?} {second:?}");
    assert!(first.is_disjoint(&second), "{first:?}");
    for path in first.union(&second) {
        assert!(
            path.display()
                .to_string()
                .starts_with("/simulated-disk/explored")
        );
    }
}
