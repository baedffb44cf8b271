//! Sessions, runtimes and plans that read through the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    DefaultParquetFileReaderFactory, ParquetFileReaderFactory,
};
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::object_store::{ObjectStore, local::LocalFileSystem};
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use kaio_datafusion::{KaioFiles, Prefetch};
use kaio_object_store::v0_13::KaioFileSystem;

use crate::fixture::{batch, disk_dir, row_groups_of, rows, text, write_parquet};

fn reads(files: &KaioFiles) -> u64 {
    let store = files.metrics().store;
    store.direct.count + store.cached.count + store.blocking.count
}

fn prefetch_rules(session: &SessionContext) -> usize {
    let state = session.state();
    let rules = state.physical_optimizers().iter();
    rules.filter(|rule| rule.name() == "kaio_prefetch").count()
}

#[tokio::test]
async fn tables_that_were_registered_before_are_read_through_the_store() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 3_000)], row_groups_of(500));
    let session = SessionContext::new();
    session
        .register_parquet("t", text(&path), ParquetReadOptions::default())
        .await
        .unwrap();
    rows(&session, "select count(name) from t").await.unwrap();
    let id = session.session_id();
    let files = KaioFiles::new();
    files.register(&session);
    assert_eq!(session.session_id(), id);
    let counted = rows(&session, "select count(id) from t").await.unwrap();
    assert!(counted.iter().any(|row| row.contains("3000")));
    rows(&session, "select * from t").await.unwrap();
    assert!(reads(&files) > 0);
    assert!(files.metrics().prefetch.row_groups_used > 0);
}

#[tokio::test]
async fn settings_functions_and_tables_of_a_session_stay() {
    let config = SessionConfig::new()
        .with_target_partitions(3)
        .with_batch_size(77)
        .with_information_schema(true);
    let session = SessionContext::new_with_config(config);
    rows(&session, "create table numbers as values (1), (2)")
        .await
        .unwrap();
    rows(&session, "create view v as select * from numbers")
        .await
        .unwrap();
    let statements = [
        "select * from information_schema.df_settings order by name",
        "show tables",
        "select count(*) from information_schema.routines",
        "select * from v",
    ];
    let mut before = Vec::new();
    for statement in statements {
        before.push(rows(&session, statement).await.unwrap());
    }
    KaioFiles::new().register(&session);
    for (statement, before) in statements.iter().zip(before) {
        assert_eq!(
            rows(&session, statement).await.unwrap(),
            before,
            "{statement}"
        );
    }
}

#[tokio::test]
async fn a_second_registration_replaces_the_first() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 3_000)], row_groups_of(500));
    let session = SessionContext::new();
    let (first, second) = (KaioFiles::new(), KaioFiles::new());
    first.register(&session);
    first.register(&session);
    assert_eq!(prefetch_rules(&session), 1);
    second.register(&session);
    assert_eq!(prefetch_rules(&session), 1);
    session
        .register_parquet("t", text(&path), ParquetReadOptions::default())
        .await
        .unwrap();
    rows(&session, "select * from t").await.unwrap();
    assert_eq!((reads(&first), first.metrics().prefetch.row_groups), (0, 0));
    assert!(reads(&second) > 0 && second.metrics().prefetch.row_groups > 0);
    second
        .clone()
        .with_prefetch(Prefetch::off())
        .register(&session);
    assert_eq!(prefetch_rules(&session), 0);
}

#[tokio::test]
async fn a_session_that_is_built_reads_through_the_store() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 3_000)], row_groups_of(500));
    let files = KaioFiles::with_store(Arc::new(KaioFileSystem::new()));
    let builder = SessionStateBuilder::new_with_default_features();
    let state = files.session_state(files.session_state(builder)).build();
    let session = SessionContext::new_with_state(state).enable_url_table();
    assert_eq!(prefetch_rules(&session), 1);
    rows(&session, &format!("select * from '{}'", text(&path)))
        .await
        .unwrap();
    assert!(files.metrics().prefetch.row_groups_used > 0);
    assert_eq!(files.store().metrics().direct, files.metrics().store.direct);
}

/// A scan of `path` as a plan that was made by hand, or decoded.
async fn plan(
    path: &std::path::Path,
    factory: Option<Arc<dyn ParquetFileReaderFactory>>,
) -> Arc<dyn ExecutionPlan> {
    let mut source = ParquetSource::new(batch(0, 0).schema());
    if let Some(factory) = factory {
        source = source.with_parquet_file_reader_factory(factory);
    }
    let size = std::fs::metadata(path).unwrap().len();
    let url = ObjectStoreUrl::local_filesystem();
    let config = FileScanConfigBuilder::new(url, Arc::new(source))
        .with_file(PartitionedFile::new(text(path), size))
        .build();
    DataSourceExec::from_data_source(config)
}

async fn count_rows(plan: Arc<dyn ExecutionPlan>, session: &SessionContext) -> usize {
    let batches = collect(plan, session.task_ctx()).await.unwrap();
    batches.iter().map(|batch| batch.num_rows()).sum()
}

#[tokio::test]
async fn a_plan_without_a_session_fetches_ahead_after_with_prefetch_in() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 3_000)], row_groups_of(500));
    let files = KaioFiles::new();
    let session = SessionContext::new();
    files.register_runtime(&session.runtime_env());
    assert_eq!(prefetch_rules(&session), 0);

    assert_eq!(count_rows(plan(&path, None).await, &session).await, 3_000);
    assert!(reads(&files) > 0);
    assert_eq!(files.metrics().prefetch.row_groups, 0);

    let plan = files.with_prefetch_in(plan(&path, None).await).unwrap();
    assert_eq!(count_rows(plan.clone(), &session).await, 3_000);
    assert_eq!(files.metrics().prefetch.row_groups_used, 5);
    // It is not changed twice.
    let again = files.with_prefetch_in(plan.clone()).unwrap();
    assert!(Arc::ptr_eq(&again, &plan));
}

/// Counts its readers.
#[derive(Debug)]
struct CountingFactory {
    inner: DefaultParquetFileReaderFactory,
    readers: AtomicUsize,
}

impl ParquetFileReaderFactory for CountingFactory {
    fn create_reader(
        &self,
        partition_index: usize,
        partitioned_file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        self.readers.fetch_add(1, Ordering::Relaxed);
        let inner = &self.inner;
        inner.create_reader(
            partition_index,
            partitioned_file,
            metadata_size_hint,
            metrics,
        )
    }
}

#[tokio::test]
async fn a_reader_factory_of_the_user_stays_in_place() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 3_000)], row_groups_of(500));
    let files = KaioFiles::new();
    let session = SessionContext::new();
    files.register(&session);
    let factory = Arc::new(CountingFactory {
        inner: DefaultParquetFileReaderFactory::new(Arc::new(LocalFileSystem::new())),
        readers: AtomicUsize::new(0),
    });
    let plan = plan(&path, Some(factory.clone())).await;
    let changed = files.with_prefetch_in(plan.clone()).unwrap();
    assert!(Arc::ptr_eq(&changed, &plan));
    assert_eq!(count_rows(changed, &session).await, 3_000);
    assert!(factory.readers.load(Ordering::Relaxed) > 0);
    assert_eq!((reads(&files), files.metrics().prefetch.row_groups), (0, 0));
}

#[tokio::test]
async fn other_stores_are_left_alone() {
    let dir = disk_dir();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[batch(0, 3_000)], row_groups_of(500));
    let session = SessionContext::new();
    let store: Arc<dyn ObjectStore> =
        Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    let url = ObjectStoreUrl::parse("other://bucket").unwrap();
    session.register_object_store(url.as_ref(), store);
    let files = KaioFiles::new();
    files.register(&session);
    session
        .register_parquet(
            "t",
            "other://bucket/t.parquet",
            ParquetReadOptions::default(),
        )
        .await
        .unwrap();
    assert_eq!(
        rows(&session, "select * from t").await.unwrap().len(),
        3_000 + 4
    );
    assert_eq!((reads(&files), files.metrics().prefetch.row_groups), (0, 0));
}
