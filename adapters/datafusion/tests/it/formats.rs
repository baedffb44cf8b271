//! Files of all formats are read and written as over `LocalFileSystem`.

use datafusion::prelude::{SessionConfig, SessionContext};

use crate::fixture::{
    Sessions, batch, configs, disk_dir, row_groups_of, rows, text, write_parquet,
};

/// The formats of `COPY TO` for flat tables: name, options, and the compression of the table that reads it.
const FORMATS: [(&str, &str, &str); 8] = [
    ("parquet", "", ""),
    (
        "parquet",
        "options ('format.compression' 'zstd(3)', 'format.max_row_group_size' '600')",
        "",
    ),
    (
        "csv",
        "options ('format.has_header' 'true')",
        "options ('format.has_header' 'true')",
    ),
    (
        "csv",
        "options ('format.has_header' 'true', 'format.compression' 'gzip')",
        "options ('format.has_header' 'true', 'format.compression' 'gzip')",
    ),
    (
        "csv",
        "options ('format.has_header' 'true', 'format.compression' 'zstd')",
        "options ('format.has_header' 'true', 'format.compression' 'zstd')",
    ),
    ("json", "", ""),
    (
        "json",
        "options ('format.compression' 'gzip')",
        "options ('format.compression' 'gzip')",
    ),
    ("arrow", "", ""),
];

/// Sessions whose table `source` has flat columns.
async fn sessions_with_source(config: SessionConfig) -> Sessions {
    let sessions = Sessions::new(config);
    let batch = batch(0, 3_000).project(&[0, 1, 2, 3, 4]).unwrap();
    for session in [&sessions.local, &sessions.kaio] {
        session.register_batch("source", batch.clone()).unwrap();
    }
    sessions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_store_writes_the_other_reads() {
    for config in configs() {
        let sessions = sessions_with_source(config).await;
        for (number, (format, options, table_options)) in FORMATS.into_iter().enumerate() {
            let dir = disk_dir();
            let writers: [(&str, &SessionContext); 2] =
                [("local", &sessions.local), ("kaio", &sessions.kaio)];
            for (writer, session) in writers {
                let path = dir.path().join(writer);
                let copy = format!(
                    "copy (select * from source) to '{}/' stored as {format} {options}",
                    text(&path)
                );
                let copied = rows(session, &copy).await.unwrap();
                assert!(
                    copied.iter().any(|row| row.contains("3000")),
                    "{copy}: {copied:?}"
                );
                let create = format!(
                    "create external table {writer}_{number} stored as {format} location '{}/' \
                     {table_options}",
                    text(&path)
                );
                sessions.run(&create).await;
                for query in ["*", "count(*), sum(id), min(name)", "class, price"] {
                    let query = format!("select {query} from {writer}_{number}");
                    sessions.same(&query).await;
                }
            }
            let written = format!("select * from local_{number}");
            let written = rows(&sessions.kaio, &written).await.unwrap();
            let also = format!("select * from kaio_{number}");
            assert_eq!(
                written,
                rows(&sessions.local, &also).await.unwrap(),
                "{format} {options}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_to_one_file_is_read_by_both() {
    let sessions = sessions_with_source(SessionConfig::new().with_target_partitions(2)).await;
    for format in ["parquet", "csv", "json", "arrow"] {
        let dir = disk_dir();
        let path = dir.path().join(format!("one.{format}"));
        let copy = format!("copy source to '{}'", text(&path));
        rows(&sessions.kaio, &copy).await.unwrap();
        assert!(path.is_file());
        let query = format!("select * from '{}'", text(&path));
        assert_eq!(sessions.same(&query).await.len(), 3_000 + 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitioned_tables_have_the_same_answers() {
    for config in configs() {
        let sessions = sessions_with_source(config).await;
        for format in ["parquet", "csv", "json"] {
            let dir = disk_dir();
            let copy = format!(
                "copy (select id, name, price, class from source) to '{}/' stored as {format} \
                 partitioned by (class)",
                text(dir.path())
            );
            rows(&sessions.kaio, &copy).await.unwrap();
            assert!(dir.path().join("class=3").is_dir());
            let create = format!(
                "create external table {format}_by_class (id bigint, name varchar, price decimal(15, 2), \
                 class int) stored as {format} partitioned by (class) location '{}/' {}",
                text(dir.path()),
                if format == "csv" {
                    "options ('format.has_header' 'true')"
                } else {
                    ""
                }
            );
            sessions.run(&create).await;
            for query in [
                "select *",
                "select count(*), sum(price)",
                "select id, class",
            ] {
                for filter in ["", "where class = 3", "where class > 4 and id < 100"] {
                    let query = format!("{query} from {format}_by_class {filter}");
                    sessions.same(&query).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserted_rows_are_read_by_both() {
    let sessions = sessions_with_source(SessionConfig::new().with_target_partitions(3)).await;
    for format in ["parquet", "csv", "json", "arrow"] {
        let dir = disk_dir();
        let create = format!(
            "create external table {format}_table (id bigint, name varchar) stored as {format} \
             location '{}/' {}",
            text(dir.path()),
            if format == "csv" {
                "options ('format.has_header' 'true')"
            } else {
                ""
            }
        );
        sessions.run(&create).await;
        let insert = format!("insert into {format}_table select id, name from source");
        rows(&sessions.kaio, &insert).await.unwrap();
        rows(&sessions.local, &insert).await.unwrap();
        let count = format!("select count(*) as rows, count(distinct id) from {format}_table");
        let count = sessions.same(&count).await;
        assert!(
            count
                .iter()
                .any(|row| row.contains("6000") && row.contains("3000")),
            "{count:?}"
        );
        sessions
            .same(&format!("select * from {format}_table"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptions_and_plans_are_the_same() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 2_000)], row_groups_of(300));
    for config in configs() {
        let sessions = Sessions::new(config);
        let create = format!(
            "create external table t stored as parquet location '{}'",
            text(&path)
        );
        sessions.run(&create).await;
        for statement in [
            "describe t",
            "show columns from t",
            "select * from information_schema.df_settings",
            "explain select class, count(*) from t where id > 500 group by class",
            "explain select a.id from t a join t b on a.id = b.id where a.class = 1",
            "explain select id from t order by id desc limit 3",
        ] {
            sessions.same(statement).await;
        }
    }
}
