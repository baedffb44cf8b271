//! Which row groups are fetched ahead, and which are not.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};
use datafusion::physical_plan::collect;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures_util::StreamExt;
use kaio_datafusion::{KaioFiles, Prefetch, PrefetchMetrics};
use tempfile::TempDir;

use crate::fixture::{
    batch, disk_dir, row_groups_of, rows, text, without_prefetches, write_parquet,
};

const GROUPS: u64 = 10;

/// A file with ten row groups.
fn file() -> (TempDir, PathBuf) {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 10_000)], row_groups_of(1_000));
    (dir, path)
}

/// A session with a table `t`, which one partition reads.
async fn session(
    files: &KaioFiles,
    config: SessionConfig,
    location: &str,
) -> Result<SessionContext> {
    let session = SessionContext::new_with_config(config.with_target_partitions(1));
    files.register(&session);
    let create = format!("create external table t stored as parquet location '{location}'");
    session.sql(&create).await?.collect().await?;
    Ok(session)
}

async fn prefetches(files: &KaioFiles, location: &Path, query: &str) -> PrefetchMetrics {
    let session = session(files, SessionConfig::new(), text(location))
        .await
        .unwrap();
    rows(&session, query).await.unwrap();
    files.metrics().prefetch
}

/// The bytes of a column, or of all, in the row groups from the second one on.
fn bytes_of(path: &Path, column: Option<usize>) -> u64 {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let groups = reader.metadata().row_groups().iter().skip(1);
    let chunks = groups.flat_map(|group| group.columns().iter().enumerate());
    let wanted = chunks.filter(|(index, _)| column.is_none_or(|column| column == *index));
    wanted.map(|(_, chunk)| chunk.byte_range().1).sum()
}

#[tokio::test]
async fn a_full_scan_fetches_all_row_groups_but_the_first() {
    let (_dir, path) = file();
    let files = KaioFiles::new();
    let prefetch = prefetches(&files, &path, "select * from t").await;
    assert_eq!(
        (prefetch.row_groups, prefetch.row_groups_used),
        (GROUPS - 1, GROUPS - 1)
    );
    assert_eq!(
        (prefetch.bytes, prefetch.bytes_used),
        (bytes_of(&path, None), bytes_of(&path, None))
    );
    assert_eq!(
        (prefetch.bytes_unused, prefetch.failed, prefetch.memory),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_scan_of_one_column_fetches_only_this_column() {
    let (_dir, path) = file();
    let files = KaioFiles::new();
    let prefetch = prefetches(&files, &path, "select sum(price) from t").await;
    let bytes = bytes_of(&path, Some(4));
    assert_eq!(
        (prefetch.row_groups_used, prefetch.bytes_used),
        (GROUPS - 1, bytes)
    );
    assert_eq!(prefetch.bytes, bytes);
}

#[tokio::test]
async fn a_filter_that_prunes_no_row_group_does_not_hinder() {
    let (_dir, path) = file();
    let files = KaioFiles::new();
    let prefetch = prefetches(&files, &path, "select id from t where class = 3").await;
    assert_eq!(
        (prefetch.row_groups, prefetch.row_groups_used),
        (GROUPS - 1, GROUPS - 1)
    );
}

#[tokio::test]
async fn row_groups_that_are_pruned_are_not_fetched() {
    let (_dir, path) = file();
    let files = KaioFiles::new();
    let one = "select * from t where id between 4100 and 4200";
    assert_eq!(prefetches(&files, &path, one).await.row_groups, 0);
    let none = "select * from t where name = 'name 1'"; // by bloom filters
    assert_eq!(prefetches(&files, &path, none).await.row_groups, 0);
    let two = "select * from t where id in (3900, 4200)";
    let prefetch = prefetches(&files, &path, two).await;
    assert!(prefetch.row_groups <= 1, "{prefetch:?}");
}

#[tokio::test]
async fn a_limit_in_the_first_row_group_fetches_nothing() {
    let (_dir, path) = file();
    let files = KaioFiles::new();
    assert_eq!(
        prefetches(&files, &path, "select * from t limit 10")
            .await
            .row_groups,
        0
    );
}

#[tokio::test]
async fn the_first_row_groups_of_the_next_files_are_fetched() {
    let dir = disk_dir();
    for part in 0..6 {
        let path = dir.path().join(format!("{part}.parquet"));
        write_parquet(&path, &[batch(part * 100, 100)], row_groups_of(100));
    }
    let files = KaioFiles::new();
    let location = dir.path().join("");
    let prefetch = prefetches(&files, &location, "select * from t").await;
    assert_eq!(
        (
            prefetch.files,
            prefetch.row_groups,
            prefetch.row_groups_used
        ),
        (5, 5, 5)
    );
    assert_eq!((prefetch.bytes_unused, prefetch.memory), (0, 0));
}

#[tokio::test]
async fn filters_that_are_pushed_down_do_not_fetch_in_vain() {
    let (_dir, path) = file();
    let files = KaioFiles::new();
    let config =
        SessionConfig::new().set_bool("datafusion.execution.parquet.pushdown_filters", true);
    let session = session(&files, config, text(&path)).await.unwrap();
    rows(&session, "select name, price from t where class = 3")
        .await
        .unwrap();
    let prefetch = files.metrics().prefetch;
    assert!(prefetch.row_groups_used >= GROUPS / 2, "{prefetch:?}");
    assert!(prefetch.bytes_unused <= prefetch.bytes_used, "{prefetch:?}");
    assert_eq!(prefetch.memory, 0);
}

#[tokio::test]
async fn nothing_is_fetched_when_prefetching_is_off() {
    let (_dir, path) = file();
    for prefetch in [Prefetch::off(), Prefetch::default().with_row_groups(0)] {
        let files = KaioFiles::new().with_prefetch(prefetch);
        let prefetch = prefetches(&files, &path, "select * from t").await;
        assert_eq!(prefetch, PrefetchMetrics::default());
        let store = files.metrics().store;
        assert!(store.direct.count + store.cached.count > 0, "{store}");
    }
}

#[tokio::test]
async fn a_scan_without_memory_for_prefetches_reads_all_rows() {
    let (_dir, path) = file();
    let all = bytes_of(&path, None);
    for memory in [1, 1_000, all / 20] {
        let files = KaioFiles::new().with_prefetch(Prefetch::default().with_memory(memory));
        let session = session(&files, SessionConfig::new(), text(&path))
            .await
            .unwrap();
        assert_eq!(
            rows(&session, "select * from t").await.unwrap().len(),
            10_000 + 4
        );
        let prefetch = files.metrics().prefetch;
        assert!(prefetch.refused > 0 && prefetch.bytes < all, "{prefetch:?}");
        assert_eq!((prefetch.bytes_unused, prefetch.memory), (0, 0));
    }
}

#[tokio::test]
async fn the_number_of_row_groups_may_be_unlimited() {
    let dir = disk_dir();
    for part in 0..4 {
        let path = dir.path().join(format!("part-{part}.parquet"));
        write_parquet(&path, &[batch(part * 3_000, 3_000)], row_groups_of(500));
    }
    let prefetch = Prefetch::default()
        .with_row_groups(usize::MAX)
        .with_memory(u64::MAX);
    let files = KaioFiles::new().with_prefetch(prefetch);
    let config = SessionConfig::new().with_target_partitions(2);
    let session = SessionContext::new_with_config(config);
    files.register(&session);
    let options = ParquetReadOptions::default();
    session
        .register_parquet("t", text(dir.path()), options)
        .await
        .unwrap();
    let rows = rows(&session, "select * from t").await.unwrap();
    assert_eq!(rows.len(), 4 * 3_000 + 4);
    assert!(files.metrics().prefetch.files > 0);
    without_prefetches(&files).await;
}

#[tokio::test]
async fn results_that_are_dropped_leave_no_prefetch() {
    let (_dir, path) = file();
    let files = KaioFiles::new();
    let session = session(&files, SessionConfig::new(), text(&path))
        .await
        .unwrap();
    for batches in 0..5 {
        let query = session.sql("select * from t").await.unwrap();
        let mut stream = query.execute_stream().await.unwrap();
        for _ in 0..batches {
            stream.next().await.unwrap().unwrap();
        }
        drop(stream);
        without_prefetches(&files).await;
    }
    let prefetch = files.metrics().prefetch;
    assert!(
        prefetch.row_groups > prefetch.row_groups_used,
        "{prefetch:?}"
    );
    assert_eq!(prefetch.bytes, prefetch.bytes_used + prefetch.bytes_unused);
}

/// A directory with files of one row group.
fn directory() -> TempDir {
    let dir = disk_dir();
    for part in 0..6 {
        let path = dir.path().join(format!("{part}.parquet"));
        write_parquet(&path, &[batch(part * 1_000, 1_000)], row_groups_of(1_000));
    }
    dir
}

#[tokio::test]
async fn results_of_many_files_that_are_dropped_leave_no_prefetch() {
    let dir = directory();
    let files = KaioFiles::new();
    let location = dir.path().join("");
    let session = session(&files, SessionConfig::new(), text(&location))
        .await
        .unwrap();
    let query = session.sql("select * from t").await.unwrap();
    let mut stream = query.execute_stream().await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(files.metrics().prefetch.files, 1);
    drop(stream);
    without_prefetches(&files).await;
    let prefetch = files.metrics().prefetch;
    assert_eq!(prefetch.bytes, prefetch.bytes_used + prefetch.bytes_unused);
}

#[tokio::test]
async fn memory_of_a_plan_that_is_kept_is_given_to_others() {
    let (dir, (_dir, path)) = (directory(), file());
    let memory = bytes_of(&path, None) / (GROUPS - 1) * 3 / 2; // of one row group and a half
    let files = KaioFiles::new().with_prefetch(Prefetch::default().with_memory(memory));
    let location = dir.path().join("");
    let early = session(&files, SessionConfig::new(), text(&location))
        .await
        .unwrap();
    let query = early.sql("select * from t").await.unwrap();
    let plan = query.create_physical_plan().await.unwrap();
    let mut stream = plan.execute(0, early.task_ctx()).unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    while files.metrics().prefetch.memory == 0 {
        tokio::task::yield_now().await; // the next file is being fetched
    }
    let other = session(&files, SessionConfig::new(), text(&path))
        .await
        .unwrap();
    let rows = rows(&other, "select * from t").await.unwrap();
    assert_eq!(rows.len(), 10_000 + 4);
    assert!(files.metrics().prefetch.refused > 0);
    without_prefetches(&files).await;
    drop(plan);
}

#[tokio::test]
async fn a_plan_that_is_kept_and_executed_again_fetches_again() {
    let (_dir, path) = file();
    let files = KaioFiles::new();
    let session = session(&files, SessionConfig::new(), text(&path))
        .await
        .unwrap();
    let query = session.sql("select * from t").await.unwrap();
    let plan = query.create_physical_plan().await.unwrap();
    for round in 1..=3 {
        let plan = reset_plan_states(Arc::clone(&plan)).unwrap();
        let batches = collect(plan, session.task_ctx());
        let rows: usize = batches
            .await
            .unwrap()
            .iter()
            .map(|batch| batch.num_rows())
            .sum();
        assert_eq!(rows, 10_000);
        assert_eq!(
            files.metrics().prefetch.row_groups_used,
            round * (GROUPS - 1)
        );
    }
}

#[tokio::test]
async fn the_metrics_of_a_plan_are_those_of_datafusion() {
    let (_dir, path) = file();
    let files = KaioFiles::new();
    let kaio = session(&files, SessionConfig::new(), text(&path))
        .await
        .unwrap();
    let local = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let create = format!(
        "create external table t stored as parquet location '{}'",
        text(&path)
    );
    local.sql(&create).await.unwrap().collect().await.unwrap();
    let mut found = Vec::new();
    for session in [&local, &kaio] {
        let query = session
            .sql("select id, name from t where id > 2500")
            .await
            .unwrap();
        let plan = query.create_physical_plan().await.unwrap();
        collect(Arc::clone(&plan), session.task_ctx())
            .await
            .unwrap();
        let mut scan = plan;
        while let Some(child) = scan.children().first() {
            scan = Arc::clone(*child);
        }
        let metrics = scan.metrics().unwrap().aggregate_by_name();
        let value = |name: &str| {
            let mut metrics = metrics.iter().map(|metric| metric.value());
            let metric = metrics.find(|metric| metric.name() == name).unwrap();
            metric.to_string()
        };
        found.push(
            [
                "bytes_scanned",
                "scan_efficiency_ratio",
                "row_groups_pruned_statistics",
                "output_rows",
            ]
            .map(value),
        );
    }
    assert_eq!(found[1], found[0]);
}
