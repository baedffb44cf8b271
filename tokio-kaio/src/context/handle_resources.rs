//! [`HandleResources`]: what the operations of a handle may use, beside the context.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::SizeClassPool;

/// What a handle and its clones share. Not touched by operations on the caller's own buffers.
#[derive(Clone, Debug)]
pub(super) struct HandleResources {
    /// See [`buffers`](super::GenericAioContextHandle::buffers).
    pub(super) buffers: SizeClassPool,
    /// [`Metrics::unfinished_writers`](crate::Metrics::unfinished_writers), of all handles of the context.
    pub(super) unfinished_writers: Arc<AtomicU64>,
}

/// The limit of a context's own pool in bytes. A pool of this size serves several hundred small ranges at
/// once, or several streams with a few MiB in flight each; and a context that never uses so much only
/// reserves addresses.
const DEFAULT_BUFFER_LIMIT: u32 = 64 << 20;

impl HandleResources {
    /// The resources of a new context. `buffers`: `None` for a pool of the context's own.
    pub(super) fn new(buffers: Option<SizeClassPool>) -> HandleResources {
        HandleResources {
            buffers: buffers.unwrap_or_else(|| SizeClassPool::unmapped(DEFAULT_BUFFER_LIMIT)),
            unfinished_writers: Arc::default(),
        }
    }
}
