//! [`ParquetScan`]: the state that the readers of a scan share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileScanConfig, FileSource, ParquetSource};
use datafusion::object_store::path::Path;
use datafusion::parquet::file::metadata::ParquetMetaData;
use kaio_object_store::v0_13::KaioFileSystem;

use crate::files_ahead::FilesAhead;
use crate::prefetch::Prefetch;
use crate::prefetch_budget::PrefetchBudget;
use crate::prefetcher::Prefetcher;
use crate::scan_progress::ScanProgress;

/// The state that the readers of a scan share, of all partitions and files.
#[derive(Debug)]
pub(crate) struct ParquetScan {
    store: Arc<KaioFileSystem>,
    prefetcher: Arc<Prefetcher>,
    /// DataFusion's own factory. Its readers read the metadata, since they know DataFusion's cache.
    metadata_readers: Arc<dyn ParquetFileReaderFactory>,
    limit: Option<u64>,
    has_predicate: bool,
    progress: Arc<ScanProgress>,
    files: FilesAhead,
    /// The file that each partition has opened last. DataFusion reads the metadata by another reader than
    /// the data, if it looks at bloom filters.
    opened: Mutex<HashMap<usize, OpenedFile>>,
    readers: AtomicUsize,
}

/// A file whose metadata is known.
#[derive(Clone, Debug)]
pub(crate) struct OpenedFile {
    pub(crate) location: Path,
    pub(crate) metadata: Arc<ParquetMetaData>,
    /// In [`FilesAhead`].
    pub(crate) index: Option<usize>,
}

impl ParquetScan {
    pub(crate) fn new(
        store: &Arc<KaioFileSystem>,
        prefetcher: &Arc<Prefetcher>,
        metadata_readers: Arc<dyn ParquetFileReaderFactory>,
        config: &FileScanConfig,
        source: &ParquetSource,
        shares_files: bool,
    ) -> Arc<ParquetScan> {
        let scan = Arc::new(ParquetScan {
            store: Arc::clone(store),
            prefetcher: Arc::clone(prefetcher),
            metadata_readers,
            limit: config.limit.map(|limit| limit as u64),
            has_predicate: source.filter().is_some(),
            progress: Arc::new(ScanProgress::new(Arc::clone(prefetcher.counters()))),
            files: FilesAhead::new(config, shares_files),
            opened: Mutex::default(),
            readers: AtomicUsize::new(0),
        });
        prefetcher.add(&scan);
        scan
    }

    pub(crate) fn store(&self) -> &Arc<KaioFileSystem> {
        &self.store
    }

    pub(crate) fn settings(&self) -> &Prefetch {
        self.prefetcher.settings()
    }

    pub(crate) fn prefetcher(&self) -> &Prefetcher {
        &self.prefetcher
    }

    pub(crate) fn budget(&self) -> &Arc<PrefetchBudget> {
        self.prefetcher.budget()
    }

    pub(crate) fn metadata_readers(&self) -> &Arc<dyn ParquetFileReaderFactory> {
        &self.metadata_readers
    }

    pub(crate) fn progress(&self) -> &Arc<ScanProgress> {
        &self.progress
    }

    pub(crate) fn files(&self) -> &FilesAhead {
        &self.files
    }

    /// Rows after which the scan may end.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Whether row groups may be pruned.
    pub(crate) fn has_predicate(&self) -> bool {
        self.has_predicate
    }

    fn opened_files(&self) -> MutexGuard<'_, HashMap<usize, OpenedFile>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a partition has opened `file`, with the index that [`FilesAhead`] has given it.
    pub(crate) fn set_opened(
        &self,
        partition: usize,
        file: &PartitionedFile,
        index: Option<usize>,
        metadata: &Arc<ParquetMetaData>,
    ) {
        let opened = OpenedFile {
            location: file.object_meta.location.clone(),
            metadata: Arc::clone(metadata),
            index,
        };
        self.opened_files().insert(partition, opened);
    }

    /// The file that the partition has opened last, if that is at `location`.
    pub(crate) fn opened(&self, partition: usize, location: &Path) -> Option<OpenedFile> {
        let files = self.opened_files();
        let opened = files.get(&partition)?;
        (opened.location == *location).then(|| opened.clone())
    }

    /// Number of partitions that have opened files.
    pub(crate) fn partitions(&self) -> usize {
        self.opened_files().len()
    }

    pub(crate) fn add_reader(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a reader is dropped, and returns whether there is none any more.
    pub(crate) fn remove_reader(&self) -> bool {
        self.readers.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Whether it has no readers now: it is done, or between two files.
    pub(crate) fn is_idle(&self) -> bool {
        self.readers.load(Ordering::Relaxed) == 0
    }
}
