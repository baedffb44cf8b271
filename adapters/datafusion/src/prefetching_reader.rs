//! [`PrefetchingReader`]: reads a Parquet file, and fetches row groups ahead.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::object_store::{self, ObjectMeta, ObjectStore, ObjectStoreExt};
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::{ParquetError, Result};
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::physical_plan::metrics::{
    Count, ExecutionPlanMetricsSet, Label, MetricBuilder, MetricCategory, MetricType,
    RatioMergeStrategy, RatioMetrics,
};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join};
use kaio_object_store::v0_13::KaioFileSystem;
use tokio::runtime::Handle;

use crate::aborting_task::AbortingTask;
use crate::chunk_fetch::len;
use crate::file_row_groups::FileRowGroups;
use crate::first_group_fetch::FirstGroupFetch;
use crate::group_ahead::GroupAhead;
use crate::kaio_files_metrics::count;
use crate::parquet_scan::ParquetScan;
use crate::read_order::{ReadOrder, Step};
use crate::row_group_pruning::row_groups_to_read;

/// Reads a Parquet file, or a range of it, for a partition of a scan.
///
/// It learns from the requests of the decoder: which columns, and in which order the row groups. After each
/// request, it starts to fetch the same columns of the next row groups, of this file and of the next one.
pub(crate) struct PrefetchingReader {
    scan: Arc<ParquetScan>,
    /// Reads the metadata, through DataFusion's cache.
    metadata_reader: Box<dyn AsyncFileReader + Send>,
    metadata_size_hint: Option<usize>,
    file: PartitionedFile,
    partition: usize,
    metrics: ExecutionPlanMetricsSet,
    bytes_scanned: Count,
    scan_efficiency_ratio: RatioMetrics,
    /// Known from the first read of data on.
    groups: Option<FileRowGroups>,
    index: Option<usize>,
    /// How many row groups will be read, if DataFusion has counted them.
    expected: Option<usize>,
    rows_read: u64,
    order: ReadOrder,
    columns: Columns,
    ahead: Vec<GroupAhead>,
}

/// The leaf columns that the decoder asks for as a whole.
#[derive(Debug, Default)]
struct Columns {
    /// Of the current row group, so far.
    current: Vec<usize>,
    /// Of the row group before.
    previous: Vec<usize>,
}

impl PrefetchingReader {
    pub(crate) fn new(
        scan: Arc<ParquetScan>,
        metadata_reader: Box<dyn AsyncFileReader + Send>,
        file: PartitionedFile,
        partition: usize,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> PrefetchingReader {
        scan.add_reader();
        // Named as those of DataFusion's own readers.
        let name = Label::new("filename", file.object_meta.location.to_string());
        let metric = MetricBuilder::new(metrics)
            .with_label(name)
            .with_type(MetricType::Summary);
        let bytes_scanned = metric
            .clone()
            .with_category(MetricCategory::Bytes)
            .counter("bytes_scanned", partition);
        let scan_efficiency_ratio = metric.ratio_metrics_with_strategy(
            "scan_efficiency_ratio",
            partition,
            RatioMergeStrategy::AddPartSetTotal,
        );
        PrefetchingReader {
            scan,
            metadata_reader,
            metadata_size_hint,
            file,
            partition,
            metrics: metrics.clone(),
            bytes_scanned,
            scan_efficiency_ratio,
            groups: None,
            index: None,
            expected: None,
            rows_read: 0,
            order: ReadOrder::default(),
            columns: Columns::default(),
            ahead: Vec::new(),
        }
    }

    async fn read(&mut self, ranges: Vec<Range<u64>>) -> object_store::Result<Vec<Bytes>> {
        let scanned: u64 = ranges.iter().map(len).sum();
        let scanned = usize::try_from(scanned).unwrap_or(usize::MAX);
        self.bytes_scanned.add(scanned);
        let Some(position) = self.position_of(&ranges).await else {
            let location = &self.file.object_meta.location;
            return self.scan.store().get_ranges(location, &ranges).await;
        };
        self.move_to(position);
        let results = self.take_or_read(position, &ranges).await?;
        self.learn(position, &ranges);
        self.fetch_ahead().await;
        Ok(results)
    }

    /// The position of the row group of `ranges`. `None` if they are not data of a row group, or if the
    /// metadata is not known.
    async fn position_of(&mut self, ranges: &[Range<u64>]) -> Option<usize> {
        let first = ranges.iter().find(|range| !range.is_empty())?;
        if self.groups.is_none() {
            let location = &self.file.object_meta.location;
            let opened = self.scan.opened(self.partition, location)?;
            self.groups = Some(FileRowGroups::of(&self.file, opened.metadata));
            self.index = opened.index;
        }
        // Not all reads are of row groups: there are bloom filters and indexes, too.
        let position = self.groups.as_ref()?.position_of(first.start)?;
        if self.order.read() == 0
            && let Some(index) = self.index
            && let Some(mut ahead) = self.scan.files().take(index)
        {
            self.ahead.extend(ahead.join().await.flatten());
        }
        Some(position)
    }

    /// Notes that the row group at `position` is read now, and drops the prefetches that are of no use.
    fn move_to(&mut self, position: usize) {
        let Some(groups) = &self.groups else { return };
        let step = self.order.step(position, groups.len());
        if step == Step::Same {
            return;
        }
        self.scan.progress().stepped(step);
        if step == Step::First && self.scan.has_predicate() {
            let location = self.file.object_meta.location.as_ref();
            self.expected = row_groups_to_read(&self.metrics, self.partition, location);
        }
        self.rows_read = self.rows_read.saturating_add(groups.rows(position));
        self.columns.previous = std::mem::take(&mut self.columns.current);
        self.ahead
            .retain(|group| self.order.is_to_come(group.position()));
    }

    /// Takes the ranges from what was fetched ahead, and reads the others.
    ///
    /// Each read opens the file anew. If the file was replaced between two of them, columns of the old file
    /// would meet columns of the new one. So if the ranges are from several reads, and the file is not the
    /// one of the plan any more, all are read by one request, as without prefetch.
    async fn take_or_read(
        &mut self,
        position: usize,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        let location = &self.file.object_meta.location;
        let store = self.scan.store();
        let Some(group) = self
            .ahead
            .iter_mut()
            .find(|group| group.position() == position)
        else {
            return store.get_ranges(location, ranges).await;
        };
        let sources: Vec<_> = ranges.iter().map(|range| group.source_of(range)).collect();
        let missing: Vec<_> = (0..ranges.len())
            .filter(|&index| sources[index].is_none())
            .collect();
        let read = async {
            let ranges: Vec<_> = missing.iter().map(|&index| ranges[index].clone()).collect();
            match ranges.is_empty() {
                true => Ok(Vec::new()),
                false => store.get_ranges(location, &ranges).await,
            }
        };
        let fetched = group.wait(&sources);
        let (read, ()) = join(read, fetched).await;
        let mut reads = usize::from(!missing.is_empty());
        let mut results = vec![None; ranges.len()];
        for (index, bytes) in missing.into_iter().zip(read?) {
            results[index] = Some(bytes);
        }
        let mut last_fetch = None;
        for (index, source) in sources.iter().enumerate() {
            let Some(source) = *source else { continue };
            results[index] = group.take(source, &ranges[index]);
            if results[index].is_some() && last_fetch.replace(source.0) != Some(source.0) {
                reads += 1;
            }
        }
        let failed: Vec<_> = (0..ranges.len())
            .filter(|&index| results[index].is_none())
            .collect();
        if !failed.is_empty() {
            let again: Vec<_> = failed.iter().map(|&index| ranges[index].clone()).collect();
            let read = store.get_ranges(location, &again).await?;
            reads += 1;
            for (index, bytes) in failed.into_iter().zip(read) {
                results[index] = Some(bytes);
            }
        }
        if reads > 1 && !is_as_planned(store, &self.file.object_meta).await {
            return store.get_ranges(location, ranges).await;
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Notes which columns were asked for.
    fn learn(&mut self, position: usize, ranges: &[Range<u64>]) {
        let Some(groups) = &self.groups else { return };
        let chunks = groups.chunks(position);
        let mut by_start: Vec<_> = (0..chunks.len()).collect();
        by_start.sort_by_key(|&column| chunks[column].start);
        for range in ranges {
            let found = by_start.binary_search_by_key(&range.start, |&column| chunks[column].start);
            if let Ok(found) = found
                && chunks[by_start[found]] == *range
            {
                self.columns.current.push(by_start[found]);
            }
        }
        self.columns.current.sort_unstable();
        self.columns.current.dedup();
    }

    /// Whether fetching the next row groups ahead is worthwhile.
    fn is_predictable(&self, groups: &FileRowGroups) -> bool {
        let progress = self.scan.progress();
        if !self.order.is_predictable() || !progress.is_worthwhile() {
            return false;
        }
        if self
            .scan
            .limit()
            .is_some_and(|limit| self.rows_read >= limit)
        {
            return false;
        }
        match self.expected {
            _ if !self.scan.has_predicate() => true,
            // Few row groups are left, perhaps far apart.
            Some(expected) => expected * 2 >= groups.len() || progress.is_sequential(),
            None => progress.is_sequential(),
        }
    }

    /// Starts to fetch the next row groups.
    async fn fetch_ahead(&mut self) {
        let Some(groups) = &self.groups else { return };
        if !self.is_predictable(groups) {
            return;
        }
        let columns = self.columns.wanted();
        let expected = self.expected.unwrap_or(groups.len());
        let left = expected.saturating_sub(self.order.read());
        let depth = self.scan.settings().row_groups;
        let location = &self.file.object_meta.location;
        for distance in 1..=depth.min(left) {
            let Some(position) = self.order.ahead(distance, groups.len()) else {
                break;
            };
            if distance > 1 && !self.scan.budget().is_ample() {
                return; // another reader may need the memory for its next row group
            }
            let ahead = self.ahead.iter();
            let known = ahead
                .map(GroupAhead::position)
                .position(|ahead| ahead == position);
            let index = known.unwrap_or_else(|| {
                self.ahead.push(GroupAhead::new(&self.scan, position));
                self.ahead.len() - 1
            });
            let ahead = &mut self.ahead[index];
            if !ahead.fetch(&self.scan, location, groups, &columns).await {
                return;
            }
        }
        // A file of which row groups were pruned says that those of the next one may be, too.
        let is_whole = !self.scan.has_predicate() || self.expected == Some(groups.len());
        if left < depth && is_whole && self.scan.limit().is_none() {
            self.fetch_next_file(groups, columns, depth);
        }
    }

    /// Starts to fetch the first row group of the next file.
    fn fetch_next_file(&self, groups: &FileRowGroups, columns: Vec<usize>, depth: usize) {
        let (Some(index), Ok(runtime)) = (self.index, Handle::try_current()) else {
            return;
        };
        if !self.scan.budget().is_ample() {
            return;
        }
        let most = depth.saturating_mul(self.scan.partitions());
        let is_started = self.scan.files().fetch_after(index, most, |file| {
            let fetch = FirstGroupFetch {
                scan: Arc::clone(&self.scan),
                file: file.clone(),
                metadata_size_hint: self.metadata_size_hint,
                columns,
                like: Arc::clone(groups.metadata()),
                is_last: self.order.is_backward(),
            };
            AbortingTask::spawn(&runtime, fetch.run())
        });
        if is_started {
            count(&self.scan.progress().counters().files, 1);
        }
    }
}

impl Columns {
    /// The columns that the next row group is expected to need.
    fn wanted(&self) -> Vec<usize> {
        let mut wanted = self.previous.clone();
        wanted.extend(&self.current);
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }
}

impl AsyncFileReader for PrefetchingReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            let read = self.read(vec![range]).await.map_err(external)?;
            Ok(read.into_iter().next().unwrap_or_default())
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move { self.read(ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let index = self.scan.files().opened(&self.file);
            let metadata = self.metadata_reader.get_metadata(options).await?;
            self.scan
                .set_opened(self.partition, &self.file, index, &metadata);
            Ok(metadata)
        }
        .boxed()
    }
}

/// Whether the file is still the one that a plan was made for.
async fn is_as_planned(store: &KaioFileSystem, planned: &ObjectMeta) -> bool {
    let Ok(now) = store.head(&planned.location).await else {
        return false;
    };
    // Plans that were sent to another process have no ETag.
    let is_same_tag = planned.e_tag.is_none() || planned.e_tag == now.e_tag;
    is_same_tag && (planned.size, planned.last_modified) == (now.size, now.last_modified)
}

/// DataFusion's own readers wrap the errors of the store alike.
fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl Drop for PrefetchingReader {
    fn drop(&mut self) {
        let expected = self.groups.as_ref().map_or(0, FileRowGroups::len);
        let is_done = self.order.read() >= self.expected.unwrap_or(expected);
        if self.scan.remove_reader() && !is_done {
            self.scan.files().clear(); // the scan ends early
        }
        let ratio = &self.scan_efficiency_ratio;
        ratio.add_part(self.bytes_scanned.value());
        ratio.set_total(usize::try_from(self.file.object_meta.size).unwrap_or(usize::MAX));
    }
}
