//! [`PrefetchRule`]: makes scans of Parquet files fetch ahead.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::object_store::ObjectStore;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use kaio_object_store::v0_13::KaioFileSystem;

use crate::parquet_scan::ParquetScan;
use crate::prefetcher::Prefetcher;
use crate::prefetching_factory::PrefetchingFactory;

/// Gives scans of local Parquet files readers that fetch ahead.
#[derive(Debug)]
pub(crate) struct PrefetchRule {
    store: Arc<KaioFileSystem>,
    prefetcher: Arc<Prefetcher>,
}

impl PrefetchRule {
    pub(crate) fn new(store: &Arc<KaioFileSystem>, prefetcher: &Arc<Prefetcher>) -> PrefetchRule {
        PrefetchRule {
            store: Arc::clone(store),
            prefetcher: Arc::clone(prefetcher),
        }
    }

    /// Changes the scans in `plan`. `shares_files`: the partitions of a scan take its files by turns, if
    /// their order does not matter.
    pub(crate) fn rewrite(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        shares_files: bool,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.prefetcher.settings().is_off() {
            return Ok(plan);
        }
        let rewritten = plan.transform_up(|node| {
            Ok(match self.rewrite_scan(&node, shares_files) {
                Some(scan) => Transformed::yes(scan),
                None => Transformed::no(node),
            })
        })?;
        Ok(rewritten.data)
    }

    /// `None` if `node` does not scan local Parquet files, or has readers of the user's own.
    fn rewrite_scan(
        &self,
        node: &Arc<dyn ExecutionPlan>,
        shares_files: bool,
    ) -> Option<Arc<dyn ExecutionPlan>> {
        let exec = node.downcast_ref::<DataSourceExec>()?;
        let (config, source) = exec.downcast_to_file_source::<ParquetSource>()?;
        if !config.object_store_url.as_str().starts_with("file://") {
            return None;
        }
        let inner = match source.parquet_file_reader_factory() {
            Some(factory) if PrefetchingFactory::may_replace(factory.as_ref()) => {
                Arc::clone(factory)
            }
            Some(_) => return None,
            None => {
                let store = Arc::clone(&self.store) as Arc<dyn ObjectStore>;
                let cache = Arc::clone(self.prefetcher.metadata_cache());
                Arc::new(CachedParquetFileReaderFactory::new(store, cache))
            }
        };
        // As DataFusion decides it.
        let is_ordered = config.preserve_order || config.output_partitioning.is_some();
        let scan = ParquetScan::new(
            &self.store,
            &self.prefetcher,
            inner,
            config,
            source,
            shares_files && !is_ordered,
        );
        let factory = Arc::new(PrefetchingFactory::new(scan));
        let source = source.clone().with_parquet_file_reader_factory(factory);
        let mut config: FileScanConfig = config.clone();
        config.file_source = Arc::new(source);
        Some(Arc::new(exec.clone().with_data_source(Arc::new(config))))
    }
}

impl PhysicalOptimizerRule for PrefetchRule {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.rewrite(plan, config.execution.enable_file_stream_work_stealing)
    }

    fn name(&self) -> &str {
        "kaio_prefetch"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
