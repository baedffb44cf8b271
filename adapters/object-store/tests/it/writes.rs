//! Uploads in one piece and in parts, copies and renames.

use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::task::Poll;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tempfile::TempDir;

use super::object_store::local::LocalFileSystem;
use super::object_store::path::Path;
use super::object_store::{
    Attribute, Attributes, Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, UpdateVersion,
};
use super::{KaioFileSystem, KaioFileSystemBuilder};
use crate::fixture::{data, disk_dir, files_below, test_dirs};

type Settings = fn(KaioFileSystemBuilder) -> KaioFileSystemBuilder;

/// Settings that write in each way.
const WAYS: [Settings; 3] = [
    |builder| builder,
    |builder| builder.with_fsync(true),
    |builder| {
        let builder = builder.with_fsync(true).with_direct_upload_size(1);
        builder.with_chunk_size(8192).with_depth(3)
    },
];

/// A store for each way of writing and each directory.
fn stores() -> impl Iterator<Item = (TempDir, KaioFileSystem)> {
    WAYS.into_iter().flat_map(|settings| {
        test_dirs().into_iter().map(move |dir| {
            let store = settings(KaioFileSystem::builder().with_prefix(dir.path()));
            let store = store.build().unwrap();
            (dir, store)
        })
    })
}

/// Calls `test` with each of the [`stores`].
async fn with_store(test: impl AsyncFn(&KaioFileSystem, &std::path::Path)) {
    for (dir, store) in stores() {
        test(&store, dir.path()).await;
    }
}

/// Calls `test` with each of the [`stores`]. Then everything has ended that `test` has started on the blocking pool,
/// and `check` is called with the directory.
fn with_store_to_the_end(test: impl AsyncFn(&KaioFileSystem), check: impl Fn(&std::path::Path)) {
    for (dir, store) in stores() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(&store));
        // Calls that run are waited for. Those that have not started are dropped.
        drop(runtime);
        check(dir.path());
    }
}

/// A payload of pieces of random lengths.
fn in_pieces(data: &[u8], random: &mut SmallRng) -> PutPayload {
    let mut rest = Bytes::copy_from_slice(data);
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let len = random.random_range(1..=20_000).min(rest.len());
        pieces.push(rest.split_to(len));
    }
    pieces.into_iter().collect()
}

#[tokio::test]
async fn an_object_is_written_whole_and_replaces_an_older_one() {
    with_store(async |store, dir| {
        let mut random = SmallRng::seed_from_u64(1);
        for (seed, len) in [0, 1, 4095, 4096, 4097, 100_000, 1_500_001, 10]
            .into_iter()
            .enumerate()
        {
            let content = data(len, seed as u64);
            let location = Path::from("table/part");
            let put = store
                .put(&location, in_pieces(&content, &mut random))
                .await
                .unwrap();
            assert!(fs::read(dir.join("table/part")).unwrap() == content);
            assert!(store.get(&location).await.unwrap().bytes().await.unwrap() == content);
            assert_eq!(put.e_tag, store.head(&location).await.unwrap().e_tag);
        }
        assert_eq!(files_below(dir), [std::path::Path::new("table/part")]);
    })
    .await;
}

#[tokio::test]
async fn tags_and_times_are_those_of_local_file_system() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let local = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    let location = Path::from("object");
    store.put(&location, data(20_000, 1).into()).await.unwrap();
    assert_eq!(
        store.head(&location).await.unwrap(),
        local.head(&location).await.unwrap()
    );
    assert_eq!(
        store.get(&location).await.unwrap().meta,
        local.get(&location).await.unwrap().meta
    );
    let old = fs::File::options()
        .write(true)
        .open(dir.path().join("object"))
        .unwrap();
    let before_1970 = std::time::SystemTime::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    old.set_modified(before_1970).unwrap();
    assert_eq!(
        store.head(&location).await.unwrap(),
        local.head(&location).await.unwrap()
    );
}

#[tokio::test]
async fn create_refuses_to_replace_an_object() {
    with_store(async |store, dir| {
        let location = Path::from("object");
        let create = async |content: Vec<u8>| {
            let options = PutOptions::from(PutMode::Create);
            store.put_opts(&location, content.into(), options).await
        };
        create(data(50_000, 1)).await.unwrap();
        let again = create(data(50_000, 2)).await;
        assert!(
            matches!(again, Err(Error::AlreadyExists { .. })),
            "{again:?}"
        );
        assert!(fs::read(dir.join("object")).unwrap() == data(50_000, 1));
        assert_eq!(files_below(dir).len(), 1);
        assert_eq!(fs::metadata(dir.join("object")).unwrap().nlink(), 1);
    })
    .await;
}

#[tokio::test]
async fn updates_and_attributes_are_not_implemented() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let location = Path::from("object");
    let version = UpdateVersion {
        e_tag: None,
        version: None,
    };
    let update = store
        .put_opts(&location, "a".into(), PutMode::Update(version).into())
        .await;
    assert!(matches!(update, Err(Error::NotImplemented { .. })));
    let attributes = Attributes::from_iter([(Attribute::ContentType, "text/plain")]);
    let options = PutOptions {
        attributes: attributes.clone(),
        ..Default::default()
    };
    let put = store.put_opts(&location, "a".into(), options).await;
    assert!(matches!(put, Err(Error::NotImplemented { .. })));
    let options = PutMultipartOptions {
        attributes,
        ..Default::default()
    };
    let multipart = store.put_multipart_opts(&location, options).await;
    assert!(matches!(multipart, Err(Error::NotImplemented { .. })));
    assert!(files_below(dir.path()).is_empty());
}

#[tokio::test]
async fn parts_have_their_place_when_they_are_made_and_are_written_in_any_order() {
    with_store(async |store, dir| {
        let mut random = SmallRng::seed_from_u64(2);
        for round in 0..4 {
            let content = data(1_200_000, round);
            let location = Path::from("nested/object");
            let mut upload = store.put_multipart(&location).await.unwrap();
            let mut parts = Vec::new();
            let mut rest = content.as_slice();
            while !rest.is_empty() {
                let len = random.random_range(0..=150_000).min(rest.len());
                let part = upload.put_part(in_pieces(&rest[..len], &mut random));
                parts.push(part);
                rest = &rest[len..];
            }
            parts.shuffle(&mut random);
            try_join_all(parts).await.unwrap();
            let put = upload.complete().await.unwrap();
            assert!(fs::read(dir.join("nested/object")).unwrap() == content);
            assert_eq!(put.e_tag, store.head(&location).await.unwrap().e_tag);
            upload.complete().await.unwrap_err();
            upload.put_part("late".into()).await.unwrap_err();
            upload.abort().await.unwrap_err();
        }
        assert_eq!(files_below(dir).len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_upload_without_parts_is_an_empty_object() {
    with_store(async |store, dir| {
        let mut upload = store.put_multipart(&Path::from("empty")).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(fs::metadata(dir.join("empty")).unwrap().len(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_upload_whose_part_was_not_written_can_not_be_completed() {
    with_store(async |store, dir| {
        let mut upload = store.put_multipart(&Path::from("object")).await.unwrap();
        upload.put_part(data(10_000, 1).into()).await.unwrap();
        drop(upload.put_part(data(10_000, 2).into()));
        let error = upload.complete().await.unwrap_err().to_string();
        assert!(error.contains("10000 of its 20000 bytes"), "{error}");
        assert!(files_below(dir).is_empty());
    })
    .await;
}

#[tokio::test]
async fn unfinished_uploads_are_hidden_and_removed_when_they_end() {
    with_store(async |store, dir| {
        let location = Path::from("object");
        let mut aborted = store.put_multipart(&location).await.unwrap();
        let mut dropped = store.put_multipart(&location).await.unwrap();
        aborted.put_part(data(10_000, 1).into()).await.unwrap();
        dropped.put_part(data(10_000, 2).into()).await.unwrap();
        assert_eq!(files_below(dir).len(), 2);
        let list = store.list_with_delimiter(None).await.unwrap();
        assert!(list.objects.is_empty());
        aborted.abort().await.unwrap();
        assert_eq!(files_below(dir).len(), 1);
        drop(dropped);
        while !files_below(dir).is_empty() {
            tokio::task::yield_now().await; // the blocking pool removes it
        }
    })
    .await;
}

/// Polls a future `times` times, and drops it.
async fn poll_and_drop(future: impl Future, times: usize) {
    let mut future = Box::pin(future);
    for _ in 0..times {
        if futures::poll!(&mut future).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_write_that_is_dropped_at_any_point_leaves_no_temporary_file() {
    let test = async |store: &KaioFileSystem| {
        let location = Path::from("object");
        for times in (0..40).chain([100, 1000]) {
            poll_and_drop(store.put(&location, data(200_000, 1).into()), times).await;
            let upload = async {
                let mut upload = store.put_multipart(&location).await.unwrap();
                upload.put_part(data(100_000, 1).into()).await.unwrap();
                upload
                    .put_part(data(100_000, 1)[..100_000].to_vec().into())
                    .await
                    .unwrap();
                upload.complete().await.unwrap();
            };
            poll_and_drop(upload, times).await;
        }
    };
    with_store_to_the_end(test, |dir| {
        let mut files = files_below(dir);
        files.retain(|path| path != std::path::Path::new("object"));
        assert!(files.is_empty(), "{files:?}");
    });
}

/// Runs a future until it was polled `polls` times, or is complete, and drops it. Returns whether it was complete.
async fn run_for(future: impl Future<Output = ()>, polls: usize) -> bool {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Pending if left == 0 => Poll::Ready(false),
            polled => polled.map(|()| true),
        }
    })
    .await
}

#[test]
fn a_write_that_is_dropped_after_any_number_of_steps_is_whole_or_leaves_nothing() {
    let content = data(100_000, 1);
    let test = async |store: &KaioFileSystem| {
        let location = Path::from("nested/object");
        let put = async || {
            store.put(&location, content.clone().into()).await.unwrap();
        };
        let upload = async || {
            let mut upload = store.put_multipart(&location).await.unwrap();
            for part in content.chunks(30_000) {
                upload.put_part(part.to_vec().into()).await.unwrap();
            }
            upload.complete().await.unwrap();
        };
        let create = async || {
            let options = PutOptions::from(PutMode::Create);
            let put = store.put_opts(&location, content.clone().into(), options);
            let _ = put.await; // a call that was dropped before may have created it
        };
        let copy = async || {
            let _ = store.copy(&location, &Path::from("copied/object")).await;
        };
        let mut polls = 0;
        loop {
            let ended = [
                run_for(put(), polls).await,
                run_for(upload(), polls).await,
                run_for(create(), polls).await,
                run_for(copy(), polls).await,
            ];
            if ended == [true; 4] {
                break;
            }
            polls += 1;
        }
        assert!(polls > 0);
    };
    with_store_to_the_end(test, |dir| {
        for path in files_below(dir) {
            assert!(path.ends_with("object"), "{path:?}");
            assert!(fs::read(dir.join(&path)).unwrap() == content, "{path:?}");
        }
    });
}

#[tokio::test]
async fn a_runtime_that_ends_leaves_no_temporary_file() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path())
        .unwrap()
        .with_fsync(true);
    let of = store.clone();
    let upload = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let upload = runtime.block_on(async {
            let mut upload = of.put_multipart(&Path::from("object")).await.unwrap();
            upload.put_part(data(2 << 20, 1).into()).await.unwrap();
            upload
        });
        drop(runtime);
        upload
    });
    let upload = upload.join().unwrap();
    assert_eq!(files_below(dir.path()).len(), 1);
    std::thread::spawn(move || drop(upload)).join().unwrap(); // there is no runtime: removed at once
    assert!(files_below(dir.path()).is_empty());
}

#[tokio::test]
async fn durable_uploads_are_written_with_direct_io_from_one_mebibyte_on() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let put = async |store: &KaioFileSystem, len| {
        store
            .put(&Path::from("object"), data(len, 1).into())
            .await
            .unwrap();
    };
    put(&store, 2 << 20).await;
    assert_eq!(store.metrics().direct_writes.count, 0);
    let durable = store.clone().with_fsync(true);
    put(&durable, 100_000).await;
    assert_eq!(store.metrics().direct_writes.count, 0);
    put(&durable, (2 << 20) + 5).await;
    let metrics = store.metrics();
    if metrics.direct_writes.count == 0 {
        return eprintln!("skipped: no direct I/O here: {metrics}");
    }
    assert_eq!(
        (metrics.direct_writes.count, metrics.direct_writes.bytes),
        (1, 2 << 20)
    );
}

#[tokio::test]
async fn copies_and_renames_create_directories() {
    with_store(async |store, dir| {
        let (from, to) = (Path::from("a/b/from"), Path::from("c/d/e/to"));
        store.put(&from, data(50_000, 1).into()).await.unwrap();
        store.copy(&from, &to).await.unwrap();
        assert!(store.get(&to).await.unwrap().bytes().await.unwrap() == data(50_000, 1));
        let exists = store.copy_if_not_exists(&from, &to).await;
        assert!(matches!(exists, Err(Error::AlreadyExists { .. })));
        let exists = store.rename_if_not_exists(&from, &to).await;
        assert!(matches!(exists, Err(Error::AlreadyExists { .. })));
        store.rename(&from, &Path::from("f/g")).await.unwrap();
        assert!(matches!(
            store.get(&from).await,
            Err(Error::NotFound { .. })
        ));
        assert!(fs::read(dir.join("f/g")).unwrap() == data(50_000, 1));
        store
            .rename_if_not_exists(&to, &Path::from("h/i"))
            .await
            .unwrap();
        assert_eq!(files_below(dir).len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_copy_that_is_repeated_leaves_no_temporary_name() {
    with_store(async |store, dir| {
        let (from, to) = (Path::from("from"), Path::from("below/to"));
        store.put(&from, data(50_000, 1).into()).await.unwrap();
        for _ in 0..3 {
            store.copy(&from, &to).await.unwrap(); // the second time, both are the same file
            store.copy(&to, &to).await.unwrap();
        }
        assert_eq!(files_below(dir).len(), 2);
        assert!(fs::read(dir.join("below/to")).unwrap() == data(50_000, 1));
        let missing = store.copy(&Path::from("missing"), &to).await;
        assert!(
            matches!(missing, Err(Error::NotFound { .. })),
            "{missing:?}"
        );
        fs::create_dir(dir.join("dir")).unwrap();
        store.copy(&from, &Path::from("dir")).await.unwrap_err();
        assert_eq!(files_below(dir).len(), 2);
    })
    .await;
}

#[tokio::test]
async fn empty_directories_are_removed_with_automatic_cleanup() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let location = Path::from("nested/dir/object");
    store.put(&location, "content".into()).await.unwrap();
    store.delete(&location).await.unwrap();
    assert!(dir.path().join("nested/dir").exists());
    let store = store.with_automatic_cleanup(true);
    store.put(&location, "content".into()).await.unwrap();
    store.delete(&location).await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_upload_is_aborted_while_nobody_polls_its_parts() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let store = store.with_fsync(true); // writes directly
    let location = Path::from("object");
    let mut upload = store.put_multipart(&location).await.unwrap();
    let mut parts = FuturesUnordered::new();
    for seed in 0..3 {
        parts.push(upload.put_part(data(8 << 20, seed).into()));
    }
    parts.next().await.unwrap().unwrap();
    upload.abort().await.unwrap();
    assert!(files_below(dir.path()).is_empty());
    // The temporary name is that of another upload now, and the parts leave it alone.
    let mut other = store.put_multipart(&location).await.unwrap();
    upload.abort().await.unwrap_err();
    upload.put_part("more".into()).await.unwrap_err();
    upload.complete().await.unwrap_err();
    drop((parts, upload));
    other.put_part("other".into()).await.unwrap();
    other.complete().await.unwrap();
    assert_eq!(files_below(dir.path()), [std::path::Path::new("object")]);
}
