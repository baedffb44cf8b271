//! Queries of Parquet files have the same answers as over `LocalFileSystem`.

use std::path::Path;

use datafusion::prelude::SessionConfig;

use crate::fixture::{Sessions, batch, configs, disk_dir, row_groups_of, text, write_parquet};

const QUERIES: [&str; 16] = [
    "select * from t",
    "select id from t",
    "select name, class from t where id >= 0",
    "select * from t where id between 4500 and 4700",
    "select id, price from t where name = 'name 2654435761'",
    "select id from t where name = 'no such name'",
    "select id, words from t where class = 3 and day > date '1970-12-01'",
    "select id from t where class = 3 and point['y'] = 'y4'",
    "select point['x'], words[1] from t where id % 1000 = 1",
    "select count(*) from t",
    "select class, count(*), sum(price), min(name), max(day) from t group by class",
    "select * from t order by id limit 10",
    "select id, name from t order by id desc limit 10",
    "select id, price from t order by price desc, id limit 25",
    "select count(*) from (select id from t limit 1500)",
    "select a.id, b.name from t a join t b on a.id = b.id + 1 where a.class = 2 and b.price > 500",
];

/// Runs the queries over the table of the Parquet files in `dir`, with each configuration.
async fn compare_queries(dir: &Path) {
    for config in configs() {
        let sessions = Sessions::new(config);
        let create = format!(
            "create external table t stored as parquet location '{}/'",
            text(dir)
        );
        sessions.run(&create).await;
        for query in QUERIES {
            sessions.same(query).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_many_row_groups_has_the_same_answers() {
    let dir = disk_dir();
    let path = dir.path().join("many.parquet");
    let batches: Vec<_> = (0..10).map(|part| batch(part * 1_000, 1_000)).collect();
    write_parquet(&path, &batches, row_groups_of(700));
    for config in configs() {
        let sessions = Sessions::new(config);
        let create = format!(
            "create external table t stored as parquet location '{}'",
            text(&path)
        );
        sessions.run(&create).await;
        for query in QUERIES {
            sessions.same(query).await;
        }
        assert!(sessions.files.metrics().prefetch.row_groups_used > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_files_has_the_same_answers() {
    let dir = disk_dir();
    for part in 0..7 {
        let path = dir.path().join(format!("part-{part}.parquet"));
        let rows = 300 * (part as usize + 1);
        write_parquet(&path, &[batch(part * 5_000, rows)], row_groups_of(250));
    }
    for config in configs() {
        let sessions = Sessions::new(config);
        let create = format!(
            "create external table t stored as parquet location '{}/'",
            text(dir.path())
        );
        sessions.run(&create).await;
        for query in QUERIES {
            sessions.same(query).await;
        }
        assert!(sessions.files.metrics().prefetch.files > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_without_rows_and_row_groups_of_one_row_have_the_same_answers() {
    let dir = disk_dir();
    write_parquet(
        &dir.path().join("empty.parquet"),
        &[batch(0, 0)],
        row_groups_of(10),
    );
    write_parquet(
        &dir.path().join("tiny.parquet"),
        &[batch(0, 60)],
        row_groups_of(1),
    );
    write_parquet(
        &dir.path().join("one.parquet"),
        &[batch(100, 1)],
        row_groups_of(10),
    );
    compare_queries(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_with_different_columns_have_the_same_answers() {
    let dir = disk_dir();
    let whole = batch(0, 900);
    let less = batch(900, 900).project(&[4, 0, 2]).unwrap(); // in another order
    write_parquet(&dir.path().join("a.parquet"), &[whole], row_groups_of(100));
    write_parquet(&dir.path().join("b.parquet"), &[less], row_groups_of(100));
    write_parquet(
        &dir.path().join("c.parquet"),
        &[batch(1_800, 900)],
        row_groups_of(100),
    );
    compare_queries(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_sorted_have_the_same_answers_in_both_directions() {
    let dir = disk_dir();
    for part in 0..3 {
        let path = dir.path().join(format!("part-{part}.parquet"));
        write_parquet(&path, &[batch(part * 2_000, 2_000)], row_groups_of(300));
    }
    for config in configs() {
        let sessions = Sessions::new(config);
        let create = format!(
            "create external table t stored as parquet with order (id) location '{}/'",
            text(dir.path())
        );
        sessions.run(&create).await;
        for query in [
            "select id, name from t order by id",
            "select id, name from t order by id desc",
            "select id from t order by id desc limit 1200",
            "select id, class from t where class > 2 order by id desc limit 700",
        ] {
            sessions.same(query).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_queried_by_their_path() {
    let dir = disk_dir();
    let path = dir.path().join("by path.parquet");
    write_parquet(&path, &[batch(0, 5_000)], row_groups_of(500));
    let sessions = Sessions::new(SessionConfig::new().with_target_partitions(2));
    let query = format!(
        "select class, sum(price) from '{}' group by class",
        text(&path)
    );
    assert_eq!(sessions.same(&query).await.len(), 7 + 4);
    sessions.same(&format!("describe '{}'", text(&path))).await;
    assert!(sessions.files.metrics().prefetch.row_groups > 0);
}
