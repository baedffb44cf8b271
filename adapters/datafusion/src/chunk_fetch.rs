//! [`ChunkFetch`]: column chunks that are fetched ahead.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectStore, Result};
use kaio_object_store::v0_13::KaioFileSystem;
use tokio::runtime::Handle;

use crate::aborting_task::AbortingTask;
use crate::kaio_files_metrics::count;
use crate::prefetch_budget::Reservation;
use crate::scan_progress::ScanProgress;

/// Column chunks of one row group that are fetched together, ahead of the decoder. The read is abandoned when
/// it is dropped.
#[derive(Debug)]
pub(crate) struct ChunkFetch {
    chunks: Vec<Chunk>,
    state: FetchState,
    progress: Arc<ScanProgress>,
}

#[derive(Debug)]
struct Chunk {
    range: Range<u64>,
    /// Bytes that the decoder has taken.
    used: u64,
    /// `None` before it is fetched, and after all of it was taken.
    bytes: Option<Bytes>,
}

#[derive(Debug)]
enum FetchState {
    Running(AbortingTask<(Result<Vec<Bytes>>, Reservation)>),
    Done(Reservation),
    Failed,
}

impl ChunkFetch {
    /// Starts to read `ranges`, in the current tokio runtime. `None` if there is none, or it shuts down.
    ///
    /// The first reads are submitted before it returns, not when the runtime polls the task: that may be
    /// late, if all of its threads decode.
    pub(crate) async fn start(
        store: &Arc<KaioFileSystem>,
        location: &Path,
        ranges: Vec<Range<u64>>,
        reservation: Reservation,
        progress: &Arc<ScanProgress>,
    ) -> Option<ChunkFetch> {
        let runtime = Handle::try_current().ok()?;
        let chunk = |range: &Range<u64>| Chunk {
            range: range.clone(),
            used: 0,
            bytes: None,
        };
        let chunks: Vec<_> = ranges.iter().map(chunk).collect();
        count(&progress.counters().bytes, ranges.iter().map(len).sum());
        let (store, location) = (Arc::clone(store), location.clone());
        let read = async move {
            let read = store.get_ranges(&location, &ranges).await;
            (read, reservation) // given back when the memory is free, also if the task is aborted
        };
        let mut read: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(read);
        let first = poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
        let mut fetch = ChunkFetch {
            chunks,
            state: FetchState::Failed,
            progress: Arc::clone(progress),
        };
        match first {
            Poll::Ready((result, reservation)) => fetch.finish(result, reservation),
            Poll::Pending => fetch.state = FetchState::Running(AbortingTask::spawn(&runtime, read)),
        }
        Some(fetch)
    }

    /// The chunk that has all of `range`. None has an inverted one, which comes from a damaged page index.
    pub(crate) fn chunk_of(&self, range: &Range<u64>) -> Option<usize> {
        let within =
            |chunk: &Chunk| chunk.range.start <= range.start && range.end <= chunk.range.end;
        let is_inverted = range.start > range.end;
        self.chunks
            .iter()
            .position(|chunk| within(chunk) && !is_inverted)
    }

    /// Waits until the chunks are fetched, or can't be.
    ///
    /// # Cancel safety
    ///
    /// The fetch goes on, and can be waited for again.
    pub(crate) async fn wait(&mut self) {
        if let FetchState::Running(task) = &mut self.state {
            if !task.is_finished() {
                count(&self.progress.counters().waits, 1);
            }
            let done = task.join().await;
            match done {
                Some((result, reservation)) => self.finish(result, reservation),
                None => self.fail(),
            }
        }
    }

    fn finish(&mut self, result: Result<Vec<Bytes>>, reservation: Reservation) {
        match result {
            Ok(read) if read.len() == self.chunks.len() => {
                for (chunk, bytes) in self.chunks.iter_mut().zip(read) {
                    chunk.bytes = Some(bytes);
                }
                self.state = FetchState::Done(reservation);
            }
            _ => self.fail(),
        }
    }

    fn fail(&mut self) {
        count(&self.progress.counters().failed, 1);
        self.state = FetchState::Failed;
    }

    /// Takes `range` of a chunk. `None` if the fetch failed, or the chunk was taken already.
    pub(crate) fn take(&mut self, chunk: usize, range: &Range<u64>) -> Option<Bytes> {
        let FetchState::Done(reservation) = &mut self.state else {
            return None;
        };
        let chunk = &mut self.chunks[chunk];
        let all = chunk.bytes.as_ref()?;
        let start = usize::try_from(range.start - chunk.range.start).ok()?;
        let end = usize::try_from(range.end - chunk.range.start).ok()?;
        if end > all.len() {
            return None;
        }
        let bytes = all.slice(start..end);
        let used = (chunk.used + len(range)).min(len(&chunk.range)) - chunk.used;
        chunk.used += used;
        if range == &chunk.range {
            chunk.bytes = None;
            reservation.release(len(range)); // the memory is the decoder's now
        }
        self.progress.used(used);
        Some(bytes)
    }
}

impl Drop for ChunkFetch {
    fn drop(&mut self) {
        if !matches!(self.state, FetchState::Failed) {
            let unused = |chunk: &Chunk| len(&chunk.range) - chunk.used;
            self.progress.unused(self.chunks.iter().map(unused).sum());
        }
    }
}

pub(crate) fn len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "it comes from a damaged file")]
    fn an_inverted_range_is_in_no_chunk() {
        let chunk = Chunk {
            range: 60..120,
            used: 0,
            bytes: None,
        };
        let fetch = ChunkFetch {
            chunks: vec![chunk],
            state: FetchState::Failed,
            progress: Arc::new(ScanProgress::new(Arc::default())),
        };
        assert_eq!(fetch.chunk_of(&(100..120)), Some(0));
        assert_eq!(fetch.chunk_of(&(100..100)), Some(0));
        assert_eq!(fetch.chunk_of(&(100..50)), None);
        assert_eq!(fetch.chunk_of(&(100..70)), None);
    }
}
