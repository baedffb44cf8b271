//! The store outside the runtime that made it: in a `static`, on other executors, in a forked child.
#![allow(unsafe_code)]

use std::sync::LazyLock;

use futures::executor::block_on;
use tempfile::TempDir;
use tokio_kaio::{AioContextBuilder, Backend};

use super::KaioFileSystem;
use super::object_store::path::Path;
use super::object_store::{ObjectStore, ObjectStoreExt};
use crate::fixture::{data, disk_dir, files_below, in_child, write_uncached};

/// Used by several tests, each with a runtime of its own.
static STORE: LazyLock<KaioFileSystem> = LazyLock::new(|| {
    let store = KaioFileSystem::builder().with_small_object_size(0);
    let store = store.with_cached_reads(false).with_direct_upload_size(1);
    store.with_fsync(true).build().unwrap()
});

/// Writes and reads objects with the store of all tests.
async fn use_static(dir: &TempDir) {
    let dir = dir.path().canonicalize().unwrap();
    for seed in 0..20 {
        let location = Path::from_absolute_path(dir.join(format!("object-{seed}"))).unwrap();
        STORE
            .put(&location, data(50_000, seed).into())
            .await
            .unwrap();
        let read = STORE.get(&location).await.unwrap().bytes().await.unwrap();
        assert!(read == data(50_000, seed));
        let mut upload = STORE.put_multipart(&location).await.unwrap();
        upload.put_part(data(50_000, 1).into()).await.unwrap();
        upload.put_part(data(50_000, 2).into()).await.unwrap();
        upload.complete().await.unwrap();
        let read = STORE
            .get_ranges(&location, &[50_000..100_000, 0..50_000])
            .await
            .unwrap();
        assert!(read[0] == data(50_000, 2) && read[1] == data(50_000, 1));
    }
    let metrics = STORE.metrics();
    if metrics.direct.count == 0 {
        eprintln!("skipped: no direct I/O here: {metrics}");
    }
    assert_eq!(metrics.direct_failures, 0, "{metrics}");
}

#[tokio::test]
async fn a_store_in_a_static_is_used_by_a_runtime_of_one_thread() {
    use_static(&disk_dir()).await;
}

#[tokio::test]
async fn a_store_in_a_static_is_used_by_a_second_runtime() {
    use_static(&disk_dir()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_a_static_is_used_by_a_runtime_of_two_threads() {
    use_static(&disk_dir()).await;
}

#[test]
fn a_store_in_a_static_is_used_without_a_runtime() {
    block_on(use_static(&disk_dir()));
}

#[test]
fn an_upload_without_a_runtime_leaves_no_temporary_file() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    block_on(async {
        let mut upload = store.put_multipart(&Path::from("object")).await.unwrap();
        upload.put_part("content".into()).await.unwrap();
        drop(upload);
    });
    assert!(files_below(dir.path()).is_empty());
}

#[test]
fn a_store_outlives_the_runtime_that_has_used_it() {
    let dir = disk_dir();
    write_uncached(&dir.path().join("object"), &data(100_000, 1));
    let store = KaioFileSystem::builder().with_prefix(dir.path());
    let store = store.with_cached_reads(false).build().unwrap();
    for _ in 0..3 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stream = runtime.block_on(async {
            let object = store.get(&Path::from("object")).await.unwrap();
            object.bytes().await.unwrap();
            store.get(&Path::from("object")).await.unwrap()
        });
        drop(runtime);
        assert!(block_on(stream.bytes()).unwrap() == data(100_000, 1));
    }
    assert_eq!(store.metrics().direct_failures, 0);
}

#[tokio::test]
async fn a_context_of_the_caller_is_used_and_its_end_is_survived() {
    let dir = disk_dir();
    write_uncached(&dir.path().join("object"), &data(100_000, 1));
    let (context, handle) = AioContextBuilder::new(4)
        .backend(Backend::ThreadPool)
        .build()
        .unwrap();
    let store = KaioFileSystem::builder()
        .with_prefix(dir.path())
        .with_context(&handle);
    let store = store.with_cached_reads(false).build().unwrap();
    let read = async || {
        let object = store.get(&Path::from("object")).await.unwrap();
        assert!(object.bytes().await.unwrap() == data(100_000, 1));
        store.metrics()
    };
    let before = read().await;
    assert_eq!(before.direct.count + before.blocking.count, 1);
    assert_eq!(
        before.backend,
        (before.direct.count == 1).then_some(Backend::ThreadPool)
    );
    context.close().await;
    let after = read().await;
    assert_eq!(after.direct.count, before.direct.count);
    assert_eq!(after.direct_failures, before.direct.count);
    assert!(after.to_string().contains("failed: "), "{after}");
}

#[test]
fn a_forked_child_reads_and_writes_with_the_store_of_its_parent() {
    const TEST: &str = "a_forked_child_reads_and_writes_with_the_store_of_its_parent";
    if !in_child(module_path!(), TEST) {
        return;
    }
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path())
        .unwrap()
        .with_fsync(true);
    let use_store = || {
        block_on(async {
            let location = Path::from("object");
            store.put(&location, data(2 << 20, 1).into()).await.unwrap();
            for _ in 0..2 {
                let read = store.get(&location).await.unwrap().bytes().await.unwrap();
                assert!(read == data(2 << 20, 1));
            }
            let upload = store.put_multipart(&location).await.unwrap();
            drop(upload);
        });
    };
    use_store();
    let upload = block_on(store.put_multipart(&Path::from("of the parent"))).unwrap();
    // SAFETY: the child uses nothing that another thread may have locked at this moment: the test is about
    // that.
    match unsafe { libc::fork() } {
        0 => {
            let used = std::panic::catch_unwind(std::panic::AssertUnwindSafe(use_store));
            drop(upload); // leaves the file of the parent alone
            // SAFETY: ends the child, without the destructors and handlers of its parent.
            unsafe { libc::_exit(used.is_err().into()) };
        }
        child => {
            let child = rustix::process::Pid::from_raw(child).unwrap();
            let options = rustix::process::WaitOptions::empty();
            let ended = rustix::process::waitpid(Some(child), options)
                .unwrap()
                .unwrap();
            assert_eq!(ended.1.exit_status(), Some(0));
        }
    }
    assert!(files_below(dir.path()).contains(&"of the parent#1".into()));
    drop(upload);
    use_store();
    assert_eq!(files_below(dir.path()), [std::path::Path::new("object")]);
}
