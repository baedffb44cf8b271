//! [`ContextLease`]: keeps a context open, until it is dropped.

use std::sync::Arc;

use lock_api::RawMutex;

use super::handle_resources::HandleResources;
use super::shards::Shards;
use crate::config::Types;

/// Stops admitting requests when it is dropped. The context ends when the last request is done.
pub(super) struct ContextLease<M: RawMutex> {
    pub(super) shards: Shards<Types<M>>,
    /// Those of the first handle.
    pub(super) resources: Arc<HandleResources>,
}

impl<M: RawMutex> Drop for ContextLease<M> {
    fn drop(&mut self) {
        self.shards.stop();
    }
}
