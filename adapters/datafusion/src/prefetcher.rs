//! [`Prefetcher`]: the state that all scans share.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use datafusion::execution::cache::cache_manager::{
    CacheManager, CacheManagerConfig, FileMetadataCache,
};

use crate::kaio_files_metrics::{PrefetchCounters, PrefetchMetrics, count};
use crate::parquet_scan::ParquetScan;
use crate::prefetch::Prefetch;
use crate::prefetch_budget::PrefetchBudget;

/// The settings, the memory and the counters of all scans of a `KaioFiles`.
#[derive(Debug)]
pub(crate) struct Prefetcher {
    settings: Prefetch,
    budget: Arc<PrefetchBudget>,
    counters: Arc<PrefetchCounters>,
    /// For plans that were made without a session, and so have no cache.
    metadata_cache: Arc<FileMetadataCache>,
    scans: Mutex<Vec<Weak<ParquetScan>>>,
}

impl Prefetcher {
    pub(crate) fn new(settings: Prefetch) -> Prefetcher {
        let caches = CacheManager::try_new(&CacheManagerConfig::default())
            .expect("the caches of DataFusion's default settings can be made");
        Prefetcher {
            settings,
            budget: Arc::new(PrefetchBudget::new(settings.memory)),
            counters: Arc::default(),
            metadata_cache: caches.get_file_metadata_cache(),
            scans: Mutex::default(),
        }
    }

    pub(crate) fn settings(&self) -> &Prefetch {
        &self.settings
    }

    pub(crate) fn budget(&self) -> &Arc<PrefetchBudget> {
        &self.budget
    }

    pub(crate) fn counters(&self) -> &Arc<PrefetchCounters> {
        &self.counters
    }

    pub(crate) fn metadata_cache(&self) -> &Arc<FileMetadataCache> {
        &self.metadata_cache
    }

    pub(crate) fn metrics(&self) -> PrefetchMetrics {
        self.counters.read(self.budget.used())
    }

    pub(crate) fn add(&self, scan: &Arc<ParquetScan>) {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        scans.retain(|scan| scan.strong_count() > 0);
        scans.push(Arc::downgrade(scan));
    }

    /// Notes that memory was not available, and drops what was fetched ahead for scans without readers: such
    /// a scan has ended early, and its plan was kept.
    pub(crate) fn refused(&self) {
        count(&self.counters.refused, 1);
        let scans: Vec<_> = {
            let scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
            scans.iter().filter_map(Weak::upgrade).collect()
        };
        for scan in scans.iter().filter(|scan| scan.is_idle()) {
            scan.files().clear();
        }
    }
}
