//! The floor: the same reads by the library alone, without a store.

use std::ops::Range;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_kaio::{AioCommandError, AioContextHandle, Coalesce, File};

/// A file, and a context of the runtime that reads it.
#[derive(Clone)]
pub(crate) struct LibraryFile {
    pub(crate) file: File,
    pub(crate) handle: AioContextHandle,
}

impl LibraryFile {
    /// Reads each range by itself, 32 at a time.
    pub(crate) async fn read_each(self, ranges: Vec<Range<u64>>) -> Result<(), AioCommandError> {
        let LibraryFile { file, handle } = &self;
        stream::iter(ranges)
            .map(async |range| {
                let len = range.end - range.start;
                let bytes = file.read_range(handle, range).await?;
                assert_eq!(bytes.len() as u64, len);
                Ok(())
            })
            .buffer_unordered(32)
            .try_collect()
            .await
    }

    /// Reads 100 ranges at a time, one call after another.
    pub(crate) async fn read_hundreds(
        self,
        ranges: Vec<Range<u64>>,
    ) -> Result<(), AioCommandError> {
        for ranges in ranges.chunks(100) {
            let coalesce = Coalesce::new();
            let read = self
                .file
                .read_ranges_with(&self.handle, ranges, coalesce)
                .await?;
            assert_eq!(read.len(), ranges.len());
        }
        Ok(())
    }
}
