//! [`ObjectFiles`]: reads of objects, for every version of `object_store`.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use tokio_kaio::{Coalesce, Process, SizeClassPool};

use crate::StoreMetrics;
use crate::blocking_call::run_blocking;
use crate::descriptor_cache::{DescriptorCache, Found};
use crate::disk_context::{DiskContext, RuntimeContexts};
use crate::open_object::{AtPath, OpenObject};
use crate::page_cache_read::{read_blocking, read_cached};
use crate::store_fault::StoreFault;
use crate::store_metrics::TransferCounter;
use crate::store_settings::StoreSettings;

/// Data that is copied from the page cache before other tasks get their turn.
const TURN: u64 = 1 << 20;

/// The longest range that is copied from the page cache at once. Longer ones would occupy the thread too long.
const LONGEST_COPY: u64 = 4 << 20;

/// Reads objects, and counts the reads.
#[derive(Debug)]
pub(crate) struct ObjectFiles {
    pub(crate) settings: StoreSettings,
    /// A forked child has no context, and uses the page cache.
    process: Process,
    descriptors: Arc<DescriptorCache>,
    /// Made by the first transfer that needs it. The error is a text, because it is reported more than once.
    context: OnceLock<Result<Arc<DiskContext>, String>>,
    runtime_contexts: RuntimeContexts,
    direct: TransferCounter,
    cached: TransferCounter,
    blocking: TransferCounter,
    direct_failures: AtomicU64,
    pub(crate) delegated: AtomicU64,
    pub(crate) direct_writes: TransferCounter,
    pub(crate) blocking_writes: TransferCounter,
}

impl ObjectFiles {
    pub(crate) fn new(settings: StoreSettings) -> ObjectFiles {
        let descriptors = DescriptorCache::new(settings.descriptors, settings.small_object_size);
        ObjectFiles {
            settings,
            process: Process::current(),
            descriptors: Arc::new(descriptors),
            context: OnceLock::new(),
            runtime_contexts: RuntimeContexts::default(),
            direct: TransferCounter::default(),
            cached: TransferCounter::default(),
            blocking: TransferCounter::default(),
            direct_failures: AtomicU64::new(0),
            delegated: AtomicU64::new(0),
            direct_writes: TransferCounter::default(),
            blocking_writes: TransferCounter::default(),
        }
    }

    pub(crate) fn metrics(&self) -> StoreMetrics {
        let context = self.context.get();
        let of_runtime = match self.process == Process::current() {
            true => self.runtime_contexts.any(),
            false => None, // a forked child must not lock it
        };
        let handle = match &of_runtime {
            Some(context) => Some(&context.handle),
            None => context.and_then(|context| Some(&context.as_ref().ok()?.handle)),
        };
        StoreMetrics {
            direct: self.direct.read(),
            cached: self.cached.read(),
            blocking: self.blocking.read(),
            direct_failures: self.direct_failures.load(Ordering::Relaxed),
            delegated: self.delegated.load(Ordering::Relaxed),
            direct_writes: self.direct_writes.read(),
            blocking_writes: self.blocking_writes.read(),
            descriptors_opened: self.descriptors.opened.load(Ordering::Relaxed),
            descriptors_reused: self.descriptors.reused.load(Ordering::Relaxed),
            descriptors_kept: self.descriptors.len(),
            backend: handle.map(|handle| handle.backend()),
            aio: handle.map(|handle| handle.metrics()),
            context_error: context.and_then(|context| context.as_ref().err().cloned()),
        }
    }

    /// Returns the file of the object `name`, open, whose path is `path`.
    pub(crate) async fn open<E: From<StoreFault>>(
        &self,
        name: &str,
        path: impl FnOnce() -> Result<PathBuf, E>,
    ) -> Result<AtPath<Arc<OpenObject>>, E> {
        match self.descriptors.find(name) {
            Found::Unchanged(object) => Ok(AtPath::Object(object)),
            Found::Other(other) => Ok(self.descriptors.open(name, path()?, other).await?),
        }
    }

    /// Closes the file of the object `name`, which the store has replaced or removed.
    pub(crate) fn forget(&self, name: &str) {
        self.descriptors.forget(name);
    }

    /// The AIO context, or `None` if there is none.
    pub(crate) fn context(&self) -> Option<Arc<DiskContext>> {
        if self.process != Process::current() {
            return None;
        }
        let settings = &self.settings;
        if settings.runtime_contexts && settings.context.is_none() {
            let context = self.runtime_contexts.current(settings.buffers.as_ref());
            if context.is_some() {
                return context;
            }
        }
        let context = self.context.get_or_init(|| {
            let context = match &settings.context {
                Some(handle) => Ok(DiskContext::of(handle.clone())),
                None => DiskContext::shared().map_err(|error| error.to_string()),
            };
            context.map(|context| match &settings.buffers {
                Some(buffers) => context.with_buffers(buffers),
                None => context,
            })
        });
        context.as_ref().ok().cloned()
    }

    /// Memory for data that is copied from the page cache.
    fn buffers(&self) -> Option<SizeClassPool> {
        if self.process != Process::current() {
            return None;
        }
        if let Some(buffers) = &self.settings.buffers {
            return Some(buffers.clone());
        }
        if let Some(Ok(context)) = self.context.get() {
            return Some(context.handle.buffers().clone());
        }
        let context = self.runtime_contexts.any();
        context.map(|context| context.handle.buffers().clone())
    }

    /// Reads `range` of the object, which is within its size. [`StoreFault::Shrunk`] if it is not any more.
    pub(crate) async fn read_range(
        &self,
        object: &Arc<OpenObject>,
        range: Range<u64>,
    ) -> Result<Bytes, StoreFault> {
        let len = range.end - range.start;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let pool = self.buffers();
        if let Some(bytes) = self.read_cached(object, &range, pool.as_ref()) {
            match len >= TURN {
                true => tokio::task::yield_now().await,
                false => tokio::task::consume_budget().await,
            }
            return Ok(bytes);
        }
        let mut read = match self.read_direct(object, slice::from_ref(&range)).await {
            Some(read) => read,
            None => {
                let ranges = vec![range.clone()];
                self.read_on_threads(object, ranges, pool).await?
            }
        };
        let bytes = read.pop().unwrap_or_default();
        check_len(object, &range, &bytes)?;
        Ok(bytes)
    }

    /// Copies a range from the page cache, if it is there.
    fn read_cached(
        &self,
        object: &OpenObject,
        range: &Range<u64>,
        pool: Option<&SizeClassPool>,
    ) -> Option<Bytes> {
        if !self.settings.cached_reads || range.end - range.start > LONGEST_COPY {
            return None;
        }
        let bytes = read_cached(object, range, pool)?;
        self.cached.add(bytes.len() as u64);
        Some(bytes)
    }

    /// Reads `ranges` of the object, which are within its size or empty.
    ///
    /// # Cancel safety
    ///
    /// What is in flight is abandoned, and its memory freed when the kernel is done.
    pub(crate) async fn read_ranges(
        &self,
        object: &Arc<OpenObject>,
        ranges: Vec<Range<u64>>,
    ) -> Result<Vec<Bytes>, StoreFault> {
        let mut results = vec![Bytes::new(); ranges.len()];
        let mut missing = Vec::new();
        let pool = self.buffers();
        let mut turn = 0;
        for (index, range) in ranges
            .iter()
            .enumerate()
            .filter(|(_, range)| !range.is_empty())
        {
            match self.read_cached(object, range, pool.as_ref()) {
                Some(bytes) => {
                    turn += bytes.len() as u64;
                    results[index] = bytes;
                }
                None => missing.push(index),
            }
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        if missing.is_empty() {
            return Ok(results);
        }
        let wanted: Vec<_> = missing.iter().map(|&index| ranges[index].clone()).collect();
        let read = match self.read_direct(object, &wanted).await {
            Some(read) => read,
            None => self.read_on_threads(object, wanted.clone(), pool).await?,
        };
        for ((index, range), bytes) in missing.into_iter().zip(wanted).zip(read) {
            check_len(object, &range, &bytes)?;
            results[index] = bytes;
        }
        Ok(results)
    }

    /// Reads with direct I/O. `None` if that is not possible, or fails.
    async fn read_direct(&self, object: &OpenObject, ranges: &[Range<u64>]) -> Option<Vec<Bytes>> {
        let file = object.direct()?;
        let context = self.context()?;
        let handle = &context.handle;
        let read = match ranges {
            [range] => file
                .read_range(handle, range.clone())
                .await
                .map(|bytes| vec![bytes]),
            _ => {
                let coalesce = Coalesce::new()
                    .max_gap(self.settings.coalesce_gap)
                    .max_read(self.settings.coalesce_size);
                file.read_ranges_with(handle, ranges, coalesce).await
            }
        };
        match read {
            Ok(read) => {
                for bytes in &read {
                    self.direct.add(bytes.len() as u64);
                }
                Some(read)
            }
            Err(error) => {
                self.direct_failures.fetch_add(1, Ordering::Relaxed);
                if error.kind() == io::ErrorKind::InvalidInput {
                    object.refuse_direct();
                }
                None
            }
        }
    }

    /// Reads through the page cache, on the blocking pool.
    async fn read_on_threads(
        &self,
        object: &Arc<OpenObject>,
        ranges: Vec<Range<u64>>,
        pool: Option<SizeClassPool>,
    ) -> Result<Vec<Bytes>, StoreFault> {
        let object = Arc::clone(object);
        let read = run_blocking(move || {
            let read = |range| {
                let read = read_blocking(&object.buffered, range, pool.as_ref());
                read.map_err(|error| StoreFault::of("read", &object.path, error))
            };
            ranges.iter().map(read).collect::<Result<Vec<_>, _>>()
        });
        let read = read.await?;
        for bytes in &read {
            self.blocking.add(bytes.len() as u64);
        }
        Ok(read)
    }

    /// The chunks of `range`, which is within the size of the object. Reads ahead, once it is polled.
    pub(crate) fn chunks(
        self: &Arc<Self>,
        object: Arc<OpenObject>,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, StoreFault>> + Send + 'static {
        let files = Arc::clone(self);
        if range.end - range.start <= self.settings.coalesce_size {
            // In one piece: a caller that wants all of it gets it without a copy.
            return stream::iter((!range.is_empty()).then_some(range))
                .then(move |range| {
                    let (files, object) = (Arc::clone(&files), Arc::clone(&object));
                    async move { files.read_range(&object, range).await }
                })
                .left_stream();
        }
        let depth = self.settings.depth;
        let chunks = split(range, self.settings.chunk_size);
        stream::iter(chunks)
            .map(move |chunk| {
                let (files, object) = (Arc::clone(&files), Arc::clone(&object));
                async move { files.read_range(&object, chunk).await }
            })
            .buffered(depth)
            .right_stream()
    }
}

/// Returns an error, if fewer bytes were read than `range` has.
fn check_len(object: &OpenObject, range: &Range<u64>, bytes: &Bytes) -> Result<(), StoreFault> {
    match (bytes.len() as u64) < range.end - range.start {
        true => Err(StoreFault::Shrunk {
            path: object.path.clone(),
            end: range.end,
        }),
        false => Ok(()),
    }
}

/// Splits `range` at multiples of `chunk`.
fn split(range: Range<u64>, chunk: u64) -> impl Iterator<Item = Range<u64>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let boundary = (start / chunk + 1).saturating_mul(chunk);
        let end = boundary.min(range.end);
        Some(std::mem::replace(&mut start, end)..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_split_at_multiples_of_the_chunk() {
        let chunks: Vec<_> = split(5..25, 10).collect();
        assert_eq!(chunks, [5..10, 10..20, 20..25]);
        assert_eq!(split(7..7, 10).count(), 0);
        let last = u64::MAX - 5..u64::MAX;
        assert_eq!(split(last.clone(), 10).last(), Some(last));
    }
}
