//! The store outside the runtime that made it: in a `static`, on other executors, in a forked child.
#![allow(unsafe_code)]

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use futures::StreamExt;
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

/// The number of threads of this process that serve completions for others.
fn driver_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim() == "kaio-driver").count()
}

#[test]
fn a_runtime_of_several_threads_completes_its_own_requests_if_that_is_set() {
    let test = "a_runtime_of_several_threads_completes_its_own_requests_if_that_is_set";
    if !in_child(module_path!(), test) {
        return;
    }
    let dir = disk_dir();
    let content = data(5 << 20, 1);
    write_uncached(&dir.path().join("object"), &content);
    let store = KaioFileSystem::builder().with_prefix(dir.path());
    let store = store.with_cached_reads(false).with_runtime_contexts(true);
    let store = store.with_fsync(true).build().unwrap();
    let location = Path::from("object");
    let use_store = async || {
        let object = store.get(&location).await.unwrap();
        assert!(object.bytes().await.unwrap() == content);
        let ranges = [5..10, 1_000_000..1_200_000];
        let read = store.get_ranges(&location, &ranges).await.unwrap();
        assert!(read[1] == content[1_000_000..1_200_000]);
        let new = Path::from("new");
        store.put(&new, data(2 << 20, 1).into()).await.unwrap();
        let chunks = store.get(&location).await.unwrap().into_stream();
        chunks.skip(1) // with reads in flight, once it was polled
    };
    let multi_thread = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    };
    for _ in 0..3 {
        let runtime = multi_thread();
        let mut chunks = runtime.block_on(async {
            let mut chunks = use_store().await;
            chunks.next().await.unwrap().unwrap();
            chunks
        });
        // The requests in flight end with the runtime, and are repeated. On another runtime of several threads:
        // some reads perhaps start only now.
        drop(runtime);
        let rest = multi_thread().block_on(chunks.by_ref().collect::<Vec<_>>());
        let rest: Vec<_> = rest.into_iter().map(Result::unwrap).collect();
        assert!(content.ends_with(&rest.concat()));
    }
    assert_eq!(driver_threads(), 0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    drop(runtime.block_on(use_store()));
    drop(block_on(use_store()));
    let metrics = store.metrics();
    if metrics.direct.count == 0 {
        return eprintln!("skipped: no direct I/O here: {metrics}");
    }
    let start = Instant::now();
    while driver_threads() == 0 && start.elapsed() < Duration::from_secs(60) {
        thread::yield_now(); // it has its name once it runs
    }
    assert_eq!(driver_threads(), 1);
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
