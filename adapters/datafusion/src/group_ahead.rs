//! [`GroupAhead`]: a row group that is fetched ahead.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::object_store::path::Path;

use crate::chunk_fetch::{ChunkFetch, len};
use crate::file_row_groups::FileRowGroups;
use crate::kaio_files_metrics::count;
use crate::parquet_scan::ParquetScan;
use crate::prefetch_budget::{PrefetchBudget, Reservation};
use crate::scan_progress::ScanProgress;

/// Bytes that are fetched by one call of the store.
const FETCH: u64 = 32 << 20;

/// Column chunks of a row group that are fetched ahead.
#[derive(Debug)]
pub(crate) struct GroupAhead {
    progress: Arc<ScanProgress>,
    position: usize,
    columns: Vec<usize>,
    fetches: Vec<ChunkFetch>,
    is_used: bool,
}

impl GroupAhead {
    /// The row group at `position` of its file, of which nothing is fetched yet.
    pub(crate) fn new(scan: &ParquetScan, position: usize) -> GroupAhead {
        GroupAhead {
            progress: Arc::clone(scan.progress()),
            position,
            columns: Vec::new(),
            fetches: Vec::new(),
            is_used: false,
        }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Starts to fetch those of `columns` that are not fetched yet. Returns whether the memory sufficed.
    pub(crate) async fn fetch(
        &mut self,
        scan: &ParquetScan,
        location: &Path,
        groups: &FileRowGroups,
        columns: &[usize],
    ) -> bool {
        let chunks = groups.chunks(self.position);
        let mut wanted: Vec<_> = columns.to_vec();
        wanted.retain(|column| {
            let has_data = chunks.get(*column).is_some_and(|chunk| !chunk.is_empty());
            has_data && !self.columns.contains(column)
        });
        wanted.sort_by_key(|&column| chunks[column].start);
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let (ranges, reserved) = self.reserve(scan.budget(), &mut rest, &chunks);
            let Some(reserved) = reserved else {
                scan.prefetcher().refused();
                return false;
            };
            let (store, progress) = (scan.store(), &self.progress);
            let fetch = ChunkFetch::start(store, location, ranges, reserved, progress).await;
            let Some(fetch) = fetch else { return false };
            if self.fetches.is_empty() {
                count(&progress.counters().row_groups, 1);
            }
            self.fetches.push(fetch);
        }
        true
    }

    /// Takes memory for as many column chunks as one fetch may have, off the front of `wanted`. Without
    /// memory, there are none.
    fn reserve(
        &mut self,
        budget: &Arc<PrefetchBudget>,
        wanted: &mut &[usize],
        chunks: &[Range<u64>],
    ) -> (Vec<Range<u64>>, Option<Reservation>) {
        let (mut ranges, mut total) = (Vec::new(), 0);
        let mut reserved: Option<Reservation> = None;
        while let Some((&column, others)) = wanted.split_first() {
            let bytes = len(&chunks[column]);
            if !ranges.is_empty() && total + bytes > FETCH {
                break;
            }
            let Some(more) = budget.reserve(bytes) else {
                break;
            };
            match &mut reserved {
                Some(reserved) => reserved.absorb(more),
                None => reserved = Some(more),
            }
            total += bytes;
            ranges.push(chunks[column].clone());
            self.columns.push(column);
            *wanted = others;
        }
        (ranges, reserved)
    }

    /// The fetch that has `range`, and the chunk in it.
    pub(crate) fn source_of(&self, range: &Range<u64>) -> Option<(usize, usize)> {
        let mut fetches = self.fetches.iter().enumerate();
        fetches.find_map(|(index, fetch)| Some((index, fetch.chunk_of(range)?)))
    }

    /// Waits for the fetches of `sources`.
    pub(crate) async fn wait(&mut self, sources: &[Option<(usize, usize)>]) {
        for (index, fetch) in self.fetches.iter_mut().enumerate() {
            if sources.iter().flatten().any(|source| source.0 == index) {
                fetch.wait().await;
            }
        }
    }

    /// Takes `range` from its source. `None` if the fetch failed.
    pub(crate) fn take(&mut self, source: (usize, usize), range: &Range<u64>) -> Option<Bytes> {
        let bytes = self.fetches[source.0].take(source.1, range)?;
        if !self.is_used {
            self.is_used = true;
            count(&self.progress.counters().row_groups_used, 1);
        }
        Some(bytes)
    }
}
