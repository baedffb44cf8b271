//! One `KaioFiles` serves sessions on several runtimes.

use std::sync::{Arc, LazyLock};
use std::thread;

use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use kaio_datafusion::KaioFiles;
use tokio::runtime::{Builder, Runtime};

use crate::fixture::{batch, disk_dir, row_groups_of, rows, text, write_parquet};

static FILES: LazyLock<KaioFiles> = LazyLock::new(KaioFiles::new);

fn runtimes() -> [Runtime; 3] {
    let multi_thread = |threads| {
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(threads)
            .enable_all()
            .build()
            .unwrap()
    };
    let current_thread = Builder::new_current_thread().enable_all().build().unwrap();
    [current_thread, multi_thread(1), multi_thread(3)]
}

#[test]
fn runtimes_one_after_another_share_the_store() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 5_000)], row_groups_of(500));
    for runtime in runtimes() {
        runtime.block_on(scan(text(&path)));
    }
    assert!(FILES.metrics().prefetch.row_groups_used > 0);
}

#[test]
fn runtimes_at_the_same_time_share_the_store() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 5_000)], row_groups_of(500));
    let path: Arc<str> = text(&path).into();
    let threads: Vec<_> = runtimes()
        .into_iter()
        .map(|runtime| {
            let path = Arc::clone(&path);
            thread::spawn(move || {
                for _ in 0..3 {
                    runtime.block_on(scan(&path));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_runtime_that_ends_in_the_middle_of_a_query_leaves_no_memory_taken() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 5_000)], row_groups_of(500));
    let files = KaioFiles::new();
    for runtime in runtimes() {
        let session = SessionContext::new();
        files.register(&session);
        let stream = runtime.block_on(async {
            let options = ParquetReadOptions::default();
            let table = session.read_parquet(text(&path), options).await.unwrap();
            let mut stream = table.execute_stream().await.unwrap();
            futures_util::StreamExt::next(&mut stream)
                .await
                .unwrap()
                .unwrap();
            stream
        });
        drop(runtime);
        drop(stream);
        assert_eq!(files.metrics().prefetch.memory, 0);
    }
}

async fn scan(path: &str) {
    let config = SessionConfig::new().with_target_partitions(2);
    let session = SessionContext::new_with_config(config);
    FILES.register(&session);
    let options = ParquetReadOptions::default();
    session.register_parquet("t", path, options).await.unwrap();
    let rows = rows(&session, "select * from t").await.unwrap();
    assert_eq!(rows.len(), 5_000 + 4);
}
