//! [`FileRowGroups`]: where the row groups of a file are.

use std::ops::Range;
use std::sync::Arc;

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetAccessPlan;
use datafusion::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// The row groups of a file that a reader may read, in the order of the file.
#[derive(Debug)]
pub(crate) struct FileRowGroups {
    metadata: Arc<ParquetMetaData>,
    groups: Vec<Extent>,
}

#[derive(Debug)]
struct Extent {
    index: usize,
    bytes: Range<u64>,
}

impl FileRowGroups {
    /// The row groups of `file` whose beginning is in its range, and that its access plan does not skip.
    /// DataFusion selects them alike.
    pub(crate) fn of(file: &PartitionedFile, metadata: Arc<ParquetMetaData>) -> FileRowGroups {
        let range = file.range.as_ref();
        let plan = file.extensions.get::<ParquetAccessPlan>();
        let extent = |index: usize| {
            let group = metadata.row_group(index);
            let start = group.columns().first().map(first_page)?;
            let in_range = range.is_none_or(|range| range.contains(start));
            let planned = plan.is_none_or(|plan| {
                index >= plan.len() || plan.should_scan(index) // DataFusion reports a plan that is too short
            });
            if !in_range || !planned {
                return None;
            }
            let chunks = group.columns().iter().map(chunk_range);
            let bytes = chunks
                .filter(|chunk| !chunk.is_empty())
                .reduce(|all, chunk| all.start.min(chunk.start)..all.end.max(chunk.end))?;
            Some(Extent { index, bytes })
        };
        let mut groups: Vec<_> = (0..metadata.num_row_groups()).filter_map(extent).collect();
        groups.sort_by_key(|group| group.bytes.start);
        FileRowGroups { metadata, groups }
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn metadata(&self) -> &Arc<ParquetMetaData> {
        &self.metadata
    }

    /// Number of rows of the row group at `position`.
    pub(crate) fn rows(&self, position: usize) -> u64 {
        let rows = self
            .metadata
            .row_group(self.groups[position].index)
            .num_rows();
        u64::try_from(rows).unwrap_or(0)
    }

    /// The position of the row group with the data at `offset`. `None`: the data is of no row group, or of
    /// none that the reader reads.
    pub(crate) fn position_of(&self, offset: u64) -> Option<usize> {
        let after = self
            .groups
            .partition_point(|group| group.bytes.start <= offset);
        let position = after.checked_sub(1)?;
        (offset < self.groups[position].bytes.end).then_some(position)
    }

    /// The column chunk of each leaf column of the row group at `position`.
    pub(crate) fn chunks(&self, position: usize) -> Vec<Range<u64>> {
        let group = self.metadata.row_group(self.groups[position].index);
        group.columns().iter().map(chunk_range).collect()
    }
}

/// The offset by which DataFusion finds out whether a row group is in a range.
fn first_page(column: &ColumnChunkMetaData) -> i64 {
    column
        .dictionary_page_offset()
        .unwrap_or_else(|| column.data_page_offset())
}

/// The bytes of a column chunk. Empty if its metadata is wrong: then it is not fetched ahead, and the decoder
/// reports the error, should it read the chunk.
fn chunk_range(column: &ColumnChunkMetaData) -> Range<u64> {
    let start = u64::try_from(first_page(column));
    match (start, u64::try_from(column.compressed_size())) {
        (Ok(start), Ok(len)) if start.checked_add(len).is_some() => start..start + len,
        _ => 0..0,
    }
}
