//! [`KaioFileSystemBuilder`]: makes stores with any settings.

use std::path::PathBuf;

use tokio_kaio::{AioContextHandle, SizeClassPool};

use super::KaioFileSystem;
use super::version::object_store::Result;
use crate::store_settings::StoreSettings;

/// Makes a [`KaioFileSystem`] with any settings.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder makes no store until `build` is called"]
pub struct KaioFileSystemBuilder {
    prefix: Option<PathBuf>,
    fsync: bool,
    automatic_cleanup: bool,
    settings: StoreSettings,
}

impl KaioFileSystemBuilder {
    /// Starts with the defaults, which are those of [`KaioFileSystem::new`].
    pub fn new() -> KaioFileSystemBuilder {
        KaioFileSystemBuilder::default()
    }

    /// Sets the directory that all paths begin at. It has to exist. The default is the root directory.
    pub fn with_prefix(mut self, prefix: impl Into<PathBuf>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Sets whether objects are durable when they are written: see [`KaioFileSystem::with_fsync`].
    pub fn with_fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }

    /// Sets whether directories are removed with their last object: see
    /// [`KaioFileSystem::with_automatic_cleanup`].
    pub fn with_automatic_cleanup(mut self, automatic_cleanup: bool) -> Self {
        self.automatic_cleanup = automatic_cleanup;
        self
    }

    /// Sets the AIO context. By default all stores of the process share one of 256 slots, on the backend that
    /// is available, with a thread of its own.
    ///
    /// A context ends with the runtime that made it, and the store reads through the page cache from then on,
    /// unless the context has [a thread of its own](tokio_kaio::AioContextBuilder::own_thread).
    pub fn with_context(mut self, handle: &AioContextHandle) -> Self {
        self.settings.context = Some(handle.clone());
        self
    }

    /// Sets whether reads and writes on a tokio runtime of several threads use an AIO context of that runtime,
    /// which all stores share there. Off by default.
    ///
    /// The threads of the runtime then complete the requests that they make, and no other thread has to be
    /// woken: small reads take less CPU time, and return earlier. Elsewhere, requests use the context with a
    /// thread of its own. Has no effect with [`with_context`](Self::with_context).
    ///
    /// While all threads of the runtime compute without yielding, nothing is completed.
    ///
    /// # Panics
    ///
    /// Not this call, but a later read or write on a runtime in which I/O is not enabled
    /// ([`enable_io`](https://docs.rs/tokio/latest/tokio/runtime/struct.Builder.html#method.enable_io)).
    pub fn with_runtime_contexts(mut self, runtime_contexts: bool) -> Self {
        self.settings.runtime_contexts = runtime_contexts;
        self
    }

    /// Sets the pool that results take their memory from. By default the stores of the process share one of
    /// 256 MiB. While a pool is empty, memory is allocated for each result.
    ///
    /// A result keeps its memory until all of its `Bytes` are dropped, so a program that keeps many results
    /// needs a larger pool. One on huge pages, and populated when it is built, saves page faults:
    /// [`SizeClassPoolBuilder`](tokio_kaio::SizeClassPoolBuilder).
    pub fn with_buffers(mut self, pool: &SizeClassPool) -> Self {
        self.settings.buffers = Some(pool.clone());
        self
    }

    /// Sets whether data that is in the page cache is copied from there, on the calling thread. On by
    /// default. If off, it is read with direct I/O, too.
    ///
    /// To ask the kernel takes less than a microsecond a range. Before Linux 6.5, and for files of other
    /// users that are not writable, the kernel does not say, and the data is read with direct I/O.
    pub fn with_cached_reads(mut self, cached: bool) -> Self {
        self.settings.cached_reads = cached;
        self
    }

    /// Sets the size in bytes from which objects are read with direct I/O: 16 KiB by default. Smaller objects
    /// are read through the page cache, which reads them from the device once. `u64::MAX`: no direct reads.
    pub fn with_small_object_size(mut self, bytes: u64) -> Self {
        self.settings.small_object_size = bytes;
        self
    }

    /// Sets the size in bytes from which durable uploads and parts of them are written with direct I/O: 1 MiB
    /// by default. Uploads that need not be durable are always written to the page cache.
    pub fn with_direct_upload_size(mut self, bytes: u64) -> Self {
        self.settings.direct_upload_size = bytes.max(1);
        self
    }

    /// Sets how far ranges of one call may be apart to be read together: 64 KiB by default. `0`: only ranges
    /// that touch or overlap.
    pub fn with_coalesce_gap(mut self, bytes: u64) -> Self {
        self.settings.coalesce_gap = bytes;
        self
    }

    /// Sets how long a read of several ranges may become: 4 MiB by default. A range of its own is read at
    /// once, whatever its length. [`get`](super::version::object_store::ObjectStore::get_opts) gives a range
    /// of at most this length in one piece.
    pub fn with_coalesce_size(mut self, bytes: u64) -> Self {
        self.settings.coalesce_size = bytes;
        self
    }

    /// Sets the size of the chunks of a stream, and of the writes of an upload: 1 MiB by default, at least
    /// 4096 bytes.
    pub fn with_chunk_size(mut self, bytes: u64) -> Self {
        self.settings.chunk_size = bytes.max(4096);
        self
    }

    /// Sets how many chunks of a stream are read ahead, and of an upload written, at a time: 8 by default, at
    /// least 1.
    pub fn with_depth(mut self, chunks: usize) -> Self {
        self.settings.depth = chunks.max(1);
        self
    }

    /// Sets how many files stay open between reads: 256 by default. Each takes two descriptors. `0`: none.
    /// Not more than half of the descriptors that the process may have (`ulimit -n`).
    pub fn with_descriptors(mut self, files: usize) -> Self {
        self.settings.descriptors = files;
        self
    }

    /// Makes the store.
    ///
    /// # Errors
    ///
    /// The directory of [`with_prefix`](Self::with_prefix) does not exist, or can't be resolved.
    pub fn build(self) -> Result<KaioFileSystem> {
        let store = KaioFileSystem::with_settings(self.prefix.as_deref(), self.settings)?;
        Ok(store
            .with_fsync(self.fsync)
            .with_automatic_cleanup(self.automatic_cleanup))
    }
}
