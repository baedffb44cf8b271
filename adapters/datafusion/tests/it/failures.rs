//! Errors are those of `LocalFileSystem`, and name the file.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};

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
