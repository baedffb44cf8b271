//! [`StoreSettings`]: how a store reads and writes.

use tokio_kaio::{AioContextHandle, SizeClassPool};

/// How a store reads and writes. The builder documents each field.
#[derive(Clone, Debug)]
pub(crate) struct StoreSettings {
    pub(crate) context: Option<AioContextHandle>,
    pub(crate) buffers: Option<SizeClassPool>,
    pub(crate) runtime_contexts: bool,
    pub(crate) cached_reads: bool,
    pub(crate) small_object_size: u64,
    pub(crate) direct_upload_size: u64,
    pub(crate) coalesce_gap: u64,
    pub(crate) coalesce_size: u64,
    pub(crate) chunk_size: u64,
    pub(crate) depth: usize,
    pub(crate) descriptors: usize,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings {
            context: None,
            buffers: None,
            runtime_contexts: false,
            cached_reads: true,
            small_object_size: 16 << 10,
            direct_upload_size: 1 << 20,
            coalesce_gap: 64 << 10,
            coalesce_size: 4 << 20,
            chunk_size: 1 << 20,
            depth: 8,
            descriptors: 256,
        }
    }
}
