//! Files that stay open between reads: never read as what is not at their path any more.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::KaioFileSystem;
use super::object_store::path::Path;
use super::object_store::{Error, ObjectStore, ObjectStoreExt};
use crate::fixture::{are_kept_since, data, disk_dir, test_dirs};

async fn read(store: &KaioFileSystem, location: &Path) -> Bytes {
    store.get(location).await.unwrap().bytes().await.unwrap()
}

/// Asserts that `expected` files are open, which were used since `start`. Fewer may be open when
/// [`are_kept_since`] returns false: the store closes files that are idle.
#[track_caller]
fn assert_kept(store: &KaioFileSystem, expected: usize, start: Instant) {
    let kept = store.metrics().descriptors_kept;
    let is_expected = kept == expected || kept < expected && !are_kept_since(start);
    assert!(is_expected, "{kept} files are open, not {expected}");
}

#[tokio::test]
async fn a_file_is_opened_once_and_again_after_a_change() {
    for dir in test_dirs() {
        let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
        let (path, location) = (dir.path().join("object"), Path::from("object"));
        fs::write(&path, data(100_000, 1)).unwrap();
        let start = Instant::now();
        for _ in 0..3 {
            assert!(read(&store, &location).await == data(100_000, 1));
        }
        let metrics = store.metrics();
        if are_kept_since(start) {
            assert_eq!(
                (metrics.descriptors_opened, metrics.descriptors_reused),
                (1, 2)
            );
        }
        assert_kept(&store, 1, start);

        // Replaced by a file of the same length and time.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(dir.path().join("new"), data(100_000, 2)).unwrap();
        let new = fs::File::options()
            .write(true)
            .open(dir.path().join("new"))
            .unwrap();
        new.set_modified(time).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(read(&store, &location).await == data(100_000, 2));

        // Truncated, extended and written in place.
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(50_000).unwrap();
        assert!(read(&store, &location).await == data(100_000, 2)[..50_000]);
        store
            .get_ranges(&location, &[60_000..60_001])
            .await
            .unwrap_err();
        file.set_len(70_000).unwrap();
        assert_eq!(read(&store, &location).await.len(), 70_000);
        assert_eq!(
            store
                .get_ranges(&location, &[60_000..60_001])
                .await
                .unwrap(),
            [[0].as_slice()]
        );

        // Removed, and there again.
        fs::remove_file(&path).unwrap();
        let missing = store.get(&location).await;
        assert!(
            matches!(missing, Err(Error::NotFound { .. })),
            "{missing:?}"
        );
        let missing = store.get_ranges(&location, &[0..1]).await;
        assert!(
            matches!(missing, Err(Error::NotFound { .. })),
            "{missing:?}"
        );
        fs::write(&path, data(30_000, 3)).unwrap();
        assert!(read(&store, &location).await == data(30_000, 3));
    }
}

#[tokio::test]
async fn a_file_behind_links_is_opened_once_and_again_when_a_link_leads_elsewhere() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let location = Path::from("link/object");
    let start = Instant::now();
    for seed in 0..3 {
        let target = dir.path().join(format!("dir-{seed}"));
        fs::create_dir(&target).unwrap();
        fs::write(target.join("object"), data(50_000, seed)).unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("link")).unwrap();
        for _ in 0..3 {
            assert!(read(&store, &location).await == data(50_000, seed));
        }
        let metrics = store.metrics();
        let opened = seed + 1;
        let counts = (metrics.descriptors_opened, metrics.descriptors_reused);
        if are_kept_since(start) {
            assert_eq!(counts, (opened, 2 * opened));
        }
    }
    // A directory above is replaced, and nothing else changes.
    fs::create_dir(dir.path().join("plain")).unwrap();
    fs::write(dir.path().join("plain/object"), data(50_000, 7)).unwrap();
    let plain = Path::from("plain/object");
    assert!(read(&store, &plain).await == data(50_000, 7));
    fs::rename(dir.path().join("plain"), dir.path().join("old")).unwrap();
    store.get(&plain).await.unwrap_err();
    fs::rename(dir.path().join("dir-0"), dir.path().join("plain")).unwrap();
    assert!(read(&store, &plain).await == data(50_000, 0));
}

#[tokio::test]
async fn no_more_files_stay_open_than_set() {
    let dir = disk_dir();
    for keep in [0, 1, 3] {
        let store = KaioFileSystem::builder()
            .with_prefix(dir.path())
            .with_descriptors(keep);
        let store = store.build().unwrap();
        let start = Instant::now();
        for index in 0..10_u64 {
            let location = Path::from(format!("object-{index}"));
            store
                .put(&location, data(20_000, index).into())
                .await
                .unwrap();
            assert!(read(&store, &location).await == data(20_000, index));
            assert!(store.metrics().descriptors_kept <= keep);
        }
        assert_kept(&store, keep, start);
    }
}

#[tokio::test]
async fn what_the_store_removes_or_replaces_is_closed() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let (object, other) = (Path::from("object"), Path::from("other"));
    let fill = async || {
        let start = Instant::now();
        store.put(&object, data(20_000, 1).into()).await.unwrap();
        store.put(&other, data(20_000, 2).into()).await.unwrap();
        read(&store, &object).await;
        read(&store, &other).await;
        assert_kept(&store, 2, start);
        start
    };
    let start = fill().await;
    store.put(&object, data(20_000, 3).into()).await.unwrap();
    assert_kept(&store, 1, start);
    let start = fill().await;
    store.delete(&object).await.unwrap();
    assert_kept(&store, 1, start);
    let start = fill().await;
    store.copy(&other, &object).await.unwrap();
    assert_kept(&store, 1, start);
    let start = fill().await;
    store.rename(&object, &other).await.unwrap();
    assert_kept(&store, 0, start);
    let start = fill().await;
    let mut upload = store.put_multipart(&object).await.unwrap();
    upload.complete().await.unwrap();
    assert_kept(&store, 1, start);
}

#[tokio::test]
async fn what_others_remove_and_what_is_idle_is_closed_after_a_while() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    for name in ["removed", "idle"] {
        fs::write(dir.path().join(name), data(20_000, 1)).unwrap();
        read(&store, &Path::from(name)).await;
    }
    fs::remove_file(dir.path().join("removed")).unwrap();
    while store.metrics().descriptors_kept > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let start = Instant::now();
    read(&store, &Path::from("idle")).await;
    assert_kept(&store, 1, start); // the thread that closes files has started again
}

/// Files whose every 8 bytes are the number of their version, so that a mixture is seen.
fn version_data(version: u64, len: usize) -> Vec<u8> {
    version.to_le_bytes().repeat(len / 8)
}

/// The version that all of `bytes` is of.
fn version_of(bytes: &[u8]) -> u64 {
    let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(
        bytes == version_data(version, bytes.len()),
        "bytes of several versions"
    );
    version
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_replaced_under_load_are_read_in_order_and_never_mixed() {
    const LEN: usize = 400_000;
    for dir in test_dirs() {
        let store = KaioFileSystem::builder()
            .with_prefix(dir.path())
            .with_chunk_size(65_536);
        let store = store.with_coalesce_size(65_536).build().unwrap();
        let path = dir.path().join("object");
        fs::write(&path, version_data(0, LEN)).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let replaced = {
            let (path, done) = (path.clone(), Arc::clone(&done));
            thread::spawn(move || {
                for version in 1..300_u64 {
                    let new = path.with_extension("new");
                    fs::write(&new, version_data(version, LEN)).unwrap();
                    if version % 3 == 0 {
                        fs::remove_file(&path).unwrap();
                    }
                    fs::rename(&new, &path).unwrap();
                }
                done.store(true, Ordering::Release);
            })
        };
        let readers: Vec<_> = (0..4_u64)
            .map(|reader| {
                let (store, done) = (store.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    let location = Path::from("object");
                    let mut last = 0;
                    while !done.load(Ordering::Acquire) {
                        let bytes = match reader % 2 {
                            0 => match store.get(&location).await {
                                Ok(result) => result.bytes().await,
                                Err(error) => Err(error),
                            },
                            _ => {
                                let ranges = [200_000..200_800, 0..80_000, 399_992..400_000];
                                let read = store.get_ranges(&location, &ranges).await;
                                read.map(|read| read.concat().into())
                            }
                        };
                        match bytes {
                            Ok(bytes) => {
                                let version = version_of(&bytes);
                                assert!(version >= last, "version {version} after {last}");
                                last = version;
                            }
                            Err(Error::NotFound { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.await.unwrap();
        }
        replaced.join().unwrap();
        let last = read(&store, &Path::from("object")).await;
        assert_eq!(version_of(&last), 299);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_truncated_under_load_are_read_whole_or_with_an_error() {
    for dir in test_dirs() {
        let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
        let path = dir.path().join("object");
        fs::write(&path, version_data(1, 400_000)).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let truncating = {
            let (path, done) = (path.clone(), Arc::clone(&done));
            thread::spawn(move || {
                let file = fs::File::options().write(true).open(&path).unwrap();
                for round in 0..300_u64 {
                    file.set_len(8 * (1 + round * 7919 % 50_000)).unwrap();
                }
                done.store(true, Ordering::Release);
            })
        };
        let location = Path::from("object");
        while !done.load(Ordering::Acquire) {
            let result = store.get(&location).await.unwrap();
            let size = result.meta.size;
            match result.bytes().await {
                Ok(bytes) => assert_eq!(bytes.len() as u64, size),
                Err(error) => assert!(error.to_string().contains("shorter"), "{error}"),
            }
        }
        truncating.join().unwrap();
        let size = fs::metadata(&path).unwrap().size();
        assert_eq!(read(&store, &location).await.len() as u64, size);
    }
}
