//! [`FirstGroupFetch`]: fetches the first row group of a file.

use std::sync::Arc;

use datafusion::datasource::listing::PartitionedFile;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;

use crate::file_row_groups::FileRowGroups;
use crate::group_ahead::GroupAhead;
use crate::parquet_scan::ParquetScan;

/// Fetches the first row group of a file that is not opened yet.
pub(crate) struct FirstGroupFetch {
    pub(crate) scan: Arc<ParquetScan>,
    pub(crate) file: PartitionedFile,
    pub(crate) metadata_size_hint: Option<usize>,
    /// The leaf columns that are read of the file with the metadata `like`.
    pub(crate) columns: Vec<usize>,
    pub(crate) like: Arc<ParquetMetaData>,
    /// Fetch the last row group, since the scan goes backward.
    pub(crate) is_last: bool,
}

impl FirstGroupFetch {
    /// Returns when the fetch is started, not when it is done. `None`: there is nothing to be fetched, or it
    /// fails.
    pub(crate) async fn run(self) -> Option<GroupAhead> {
        let metadata = self.metadata().await?;
        if !self.has_same_columns(&metadata) {
            return None;
        }
        let groups = FileRowGroups::of(&self.file, metadata);
        let last = groups.len().checked_sub(1)?;
        let mut group = GroupAhead::new(&self.scan, if self.is_last { last } else { 0 });
        let location = &self.file.object_meta.location;
        group
            .fetch(&self.scan, location, &groups, &self.columns)
            .await;
        Some(group)
    }

    /// The metadata, which is in DataFusion's cache then, for the reader that opens the file.
    async fn metadata(&self) -> Option<Arc<ParquetMetaData>> {
        // Not those of the scan: the reader that opens the file has metrics there.
        let metrics = ExecutionPlanMetricsSet::new();
        let mut reader = self
            .scan
            .metadata_readers()
            .create_reader(0, self.file.clone(), self.metadata_size_hint, &metrics)
            .ok()?;
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
        reader.get_metadata(Some(&options)).await.ok()
    }

    /// Whether the columns that are read are the same in the other file.
    fn has_same_columns(&self, metadata: &ParquetMetaData) -> bool {
        let columns = metadata.file_metadata().schema_descr().columns();
        let like = self.like.file_metadata().schema_descr().columns();
        let mut read = self.columns.iter();
        read.all(|&column| match (columns.get(column), like.get(column)) {
            (Some(one), Some(other)) => one.path() == other.path(),
            _ => false,
        })
    }
}
