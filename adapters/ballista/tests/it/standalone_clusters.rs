//! `register_standalone`.

use std::path::Path;

use ballista::prelude::{SessionConfigExt, SessionContextExt};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use kaio_ballista::register_standalone;
use kaio_datafusion::KaioFiles;

use crate::files_on_disk::{disk_dir, write_tables};

async fn rows(session: &SessionContext, dir: &Path) -> String {
    kaio_tpch::register_tables(session, dir).await.unwrap();
    let query = "SELECT l_returnflag, l_linestatus, count(*), sum(l_quantity), max(l_comment)
                 FROM lineitem GROUP BY 1, 2 ORDER BY 1, 2";
    let batches = session.sql(query).await.unwrap().collect().await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_in_one_process_reads_through_the_store_and_fetches_row_groups_ahead() {
    let dir = disk_dir();
    write_tables(dir.path());
    let files = KaioFiles::new();
    let state = SessionStateBuilder::new()
        .with_config(SessionConfig::new_with_ballista().with_target_partitions(2))
        .with_default_features();
    let state = register_standalone(state, &files).build();
    let cluster = SessionContext::standalone_with_state(state).await.unwrap();
    let on_cluster = rows(&cluster, dir.path()).await;

    let metrics = files.metrics();
    let store = &metrics.store;
    let reads = store.direct.count + store.cached.count + store.blocking.count;
    assert!(reads > 0, "{metrics}");
    if store.direct.count > 0 {
        assert!(metrics.prefetch.row_groups_used > 0, "{metrics}");
    } else {
        eprintln!("skipped: prefetch: {:?} has no direct I/O", dir.path());
    }
    assert_eq!(on_cluster, rows(&SessionContext::new(), dir.path()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_a_configuration_gets_that_of_ballista() {
    let dir = disk_dir();
    write_tables(dir.path());
    let state = SessionStateBuilder::new().with_default_features();
    let state = register_standalone(state, &KaioFiles::new()).build();
    let cluster = SessionContext::standalone_with_state(state).await.unwrap();
    let on_cluster = rows(&cluster, dir.path()).await;
    assert_eq!(on_cluster, rows(&SessionContext::new(), dir.path()).await);
}
