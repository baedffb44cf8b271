//! Errors are those of `LocalFileSystem`, and name the file.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use datafusion::physical_plan::collect;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures_util::StreamExt;
use kaio_datafusion::{KaioFiles, Prefetch};

use crate::fixture::{
    Sessions, batch, disk_dir, row_groups_of, rows, text, without_prefetches, write_parquet,
};

fn truncate(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

/// The errors of both sessions, in this order: local, kaio.
async fn errors(sessions: &Sessions, sql: &str) -> [String; 2] {
    let local = rows(&sessions.local, sql).await.expect_err(sql);
    let kaio = rows(&sessions.kaio, sql).await.expect_err(sql);
    [local.to_string(), kaio.to_string()]
}

/// The errors of both sessions, if `change` happens to the table after the query is planned.
async fn errors_after(sessions: &Sessions, sql: &str, change: impl FnOnce()) -> [String; 2] {
    let (local, kaio) = (&sessions.local, &sessions.kaio);
    let plan = |session| SessionContext::sql(session, sql);
    let local_plan = plan(local).await.unwrap().create_physical_plan().await;
    let kaio_plan = plan(kaio).await.unwrap().create_physical_plan().await;
    change();
    let local = collect(local_plan.unwrap(), local.task_ctx()).await;
    let kaio = collect(kaio_plan.unwrap(), kaio.task_ctx()).await;
    [
        local.unwrap_err().to_string(),
        kaio.unwrap_err().to_string(),
    ]
}

async fn sessions_with_table(path: &Path) -> Sessions {
    let sessions = Sessions::new(SessionConfig::new().with_target_partitions(1));
    let create = format!(
        "create external table t stored as parquet location '{}'",
        text(path)
    );
    sessions.run(&create).await;
    sessions
}

#[tokio::test]
async fn a_file_that_does_not_exist_is_named() {
    let dir = disk_dir();
    let path = dir.path().join("missing.parquet");
    let sessions = Sessions::new(SessionConfig::new());
    let query = format!("select * from '{}'", text(&path));
    let [local, kaio] = errors(&sessions, &query).await;
    assert_eq!(kaio, local);
    assert!(kaio.contains("missing.parquet"), "{kaio}");
}

#[tokio::test]
async fn a_file_that_disappears_is_named() {
    let dir = disk_dir();
    let path = dir.path().join("gone.parquet");
    write_parquet(&path, &[batch(0, 1_000)], row_groups_of(100));
    let sessions = sessions_with_table(&path).await;
    sessions.same("select * from t").await;
    let remove = || fs::remove_file(&path).unwrap();
    let [local, kaio] = errors_after(&sessions, "select * from t", remove).await;
    assert!(
        local.contains("gone.parquet") && kaio.contains("gone.parquet"),
        "{local}\n{kaio}"
    );
}

#[tokio::test]
async fn a_file_that_is_cut_is_named() {
    let dir = disk_dir();
    let path = dir.path().join("cut.parquet");
    write_parquet(&path, &[batch(0, 100_000)], row_groups_of(10_000));
    let len = fs::metadata(&path).unwrap().len();
    let sessions = sessions_with_table(&path).await;
    sessions.same("select count(name) from t").await;
    let cut = || truncate(&path, len / 2); // the metadata is in the cache
    let [local, kaio] = errors_after(&sessions, "select * from t", cut).await;
    assert!(kaio.contains("cut.parquet"), "{local}\n{kaio}");
    without_prefetches(&sessions.files).await;
}

#[tokio::test]
async fn a_file_that_is_no_parquet_is_the_same_error() {
    let dir = disk_dir();
    let path = dir.path().join("text.parquet");
    fs::write(&path, "not a Parquet file, but long enough for a footer").unwrap();
    let sessions = Sessions::new(SessionConfig::new());
    let query = format!("select * from '{}'", text(&path));
    let [local, kaio] = errors(&sessions, &query).await;
    assert_eq!(kaio, local);
}

#[tokio::test]
async fn a_missing_permission_names_the_file() {
    let dir = disk_dir();
    let path = dir.path().join("secret.parquet");
    write_parquet(&path, &[batch(0, 1_000)], row_groups_of(100));
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        eprintln!("skipped: this user may open files without permission");
        return;
    }
    let sessions = Sessions::new(SessionConfig::new());
    let query = format!("select * from '{}'", text(&path));
    let [local, kaio] = errors(&sessions, &query).await;
    assert!(
        local.contains("secret.parquet") && kaio.contains("secret.parquet"),
        "{local}\n{kaio}"
    );
}

#[tokio::test]
async fn a_damaged_row_group_is_the_same_error() {
    let dir = disk_dir();
    let path = dir.path().join("damaged.parquet");
    write_parquet(&path, &[batch(0, 10_000)], row_groups_of(1_000));
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2_000].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let sessions = sessions_with_table(&path).await;
    let [local, kaio] = errors(&sessions, "select * from t").await;
    assert_eq!(kaio, local);
    without_prefetches(&sessions.files).await;
}

const GROUP: usize = 10_000;

/// Bytes of the values in a column chunk.
const CHUNK: u64 = (GROUP * size_of::<i64>()) as u64;

/// A file of two row groups, whose columns `a` and `b` have `value` in all rows. It has no statistics, from
/// which DataFusion would take the value.
fn write_versions(path: &Path, value: i64) {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![value; 2 * GROUP]));
    let columns = [("a", Arc::clone(&column)), ("b", column)];
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(Some(GROUP))
        .build();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    write_parquet(path, &[batch], properties);
}

/// Memory for one of two columns.
const LITTLE_MEMORY: Prefetch = Prefetch::off()
    .with_row_groups(1)
    .with_memory(CHUNK * 3 / 2);

fn session_with(prefetch: Prefetch) -> (KaioFiles, SessionContext) {
    let files = KaioFiles::new().with_prefetch(prefetch);
    let config = SessionConfig::new().with_target_partitions(1);
    let session = SessionContext::new_with_config(config);
    files.register(&session);
    (files, session)
}

/// Bytes that were read so far.
fn bytes_read(files: &KaioFiles) -> u64 {
    let store = files.metrics().store;
    store.direct.bytes + store.cached.bytes + store.blocking.bytes
}

/// Without prefetch, a file that is replaced during a query mixes its row groups with those of the new one, but
/// not the columns of a row group.
#[tokio::test]
async fn a_file_that_is_replaced_does_not_mix_the_columns_of_a_row_group() {
    let dir = disk_dir();
    let (path, new) = (dir.path().join("t.parquet"), dir.path().join("new"));
    write_versions(&path, 1);
    write_versions(&new, 2);
    let (files, session) = session_with(LITTLE_MEMORY);
    let options = ParquetReadOptions::default();
    let table = session.read_parquet(text(&path), options).await.unwrap();
    let mut batches = table.execute_stream().await.unwrap();
    let (mut values, mut is_replaced) = (Vec::<i64>::new(), false);
    while let Some(batch) = batches.next().await {
        let batch = batch.unwrap();
        assert_eq!(batch.column(0), batch.column(1));
        let column = batch.column(0).as_any().downcast_ref::<Int64Array>();
        values.extend(column.unwrap().values());
        if !is_replaced {
            is_replaced = true;
            // Until both columns of the first row group and one of the second are read.
            while bytes_read(&files) < 3 * CHUNK {
                tokio::task::yield_now().await;
            }
            fs::rename(&new, &path).unwrap();
        }
    }
    assert!(files.metrics().prefetch.refused > 0);
    assert_eq!(values, [vec![1; GROUP], vec![2; GROUP]].concat());
    drop(batches);
    without_prefetches(&files).await;
}

#[tokio::test]
async fn a_file_that_stays_is_read_once_though_memory_is_short() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_versions(&path, 1);
    let query = format!("select * from '{}'", text(&path));
    let mut read = Vec::new();
    for prefetch in [Prefetch::off(), LITTLE_MEMORY] {
        let (files, session) = session_with(prefetch);
        let session = session.enable_url_table();
        assert_eq!(rows(&session, &query).await.unwrap().len(), 2 * GROUP + 4);
        read.push(bytes_read(&files));
        assert_eq!(
            files.metrics().prefetch.refused,
            u64::from(prefetch == LITTLE_MEMORY)
        );
    }
    assert_eq!(read[0], read[1]);
}
