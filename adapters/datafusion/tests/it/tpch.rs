//! The queries of TPC-H have the same answers over both stores.

use datafusion::prelude::SessionConfig;
use kaio_tpch::ParquetOptions;

use crate::fixture::{Sessions, disk_dir, without_prefetches};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_queries_have_the_same_answers() {
    let dir = disk_dir();
    let options = ParquetOptions::default()
        .with_row_group_rows(10_000)
        .with_files(2);
    kaio_tpch::write_parquet(dir.path(), 0.02, options).unwrap();
    for partitions in [1, 4] {
        let config = SessionConfig::new().with_target_partitions(partitions);
        let sessions = Sessions::new(config);
        for session in [&sessions.local, &sessions.kaio] {
            kaio_tpch::register_tables(session, dir.path())
                .await
                .unwrap();
        }
        for (number, text) in kaio_tpch::queries() {
            let rows = sessions.same(text).await;
            assert!(!rows.is_empty(), "query {number}");
        }
        let metrics = sessions.files.metrics();
        assert!(metrics.prefetch.row_groups_used > 0, "{metrics}");
        without_prefetches(&sessions.files).await;
    }
}
