//! [`PrefetchingFactory`]: makes the readers of a scan.

use std::fmt::{self, Write};
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetFileReaderFactory;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;

use crate::parquet_scan::ParquetScan;
use crate::prefetching_reader::PrefetchingReader;

/// Makes the readers of the files of a scan.
pub(crate) struct PrefetchingFactory(Arc<ParquetScan>);

impl PrefetchingFactory {
    pub(crate) fn new(scan: Arc<ParquetScan>) -> PrefetchingFactory {
        PrefetchingFactory(scan)
    }

    /// Whether `factory` is DataFusion's own, so that it may be replaced. A factory says its type only by
    /// its `Debug` output.
    pub(crate) fn may_replace(factory: &dyn ParquetFileReaderFactory) -> bool {
        let own = [
            "CachedParquetFileReaderFactory",
            "DefaultParquetFileReaderFactory",
        ];
        own.contains(&type_in_debug_output(factory).as_str())
    }
}

/// Short, since a plan that is printed has it. The scan has a cache of metadata.
impl fmt::Debug for PrefetchingFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefetchingFactory").finish_non_exhaustive()
    }
}

impl ParquetFileReaderFactory for PrefetchingFactory {
    fn create_reader(
        &self,
        partition_index: usize,
        partitioned_file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let metadata_reader = self.0.metadata_readers().create_reader(
            partition_index,
            partitioned_file.clone(),
            metadata_size_hint,
            metrics,
        )?;
        Ok(Box::new(PrefetchingReader::new(
            Arc::clone(&self.0),
            metadata_reader,
            partitioned_file,
            partition_index,
            metadata_size_hint,
            metrics,
        )))
    }
}

/// The first word of the `Debug` output. The rest is not even formatted: it may be a large cache.
fn type_in_debug_output(factory: &dyn ParquetFileReaderFactory) -> String {
    struct FirstWord(String);

    impl Write for FirstWord {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
            self.0.push_str(&text[..end.unwrap_or(text.len())]);
            match end {
                Some(_) => Err(fmt::Error), // enough
                None => Ok(()),
            }
        }
    }

    let mut word = FirstWord(String::new());
    let _ = write!(word, "{factory:?}");
    word.0
}
