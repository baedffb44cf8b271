//! [`RegisteredPool`]: the memory of a pool, to be registered with the kernel.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The memory of a pool, for
/// [`AioContextBuilder::register_buffers`](crate::AioContextBuilder::register_buffers), which has an example. Made
/// from a reference to a [`BufferPool`](crate::BufferPool) or a [`SizeClassPool`](crate::SizeClassPool), whose
/// memory it keeps mapped.
#[derive(Clone)]
pub struct RegisteredPool {
    /// Empty: the memory can't be mapped, or was mapped by the parent of this forked process.
    addresses: Range<usize>,
    /// Keeps the memory mapped.
    _memory: Arc<dyn Any + Send + Sync>,
}

impl RegisteredPool {
    /// `addresses` are mapped as long as `memory` exists.
    pub(super) fn new(
        addresses: Range<usize>,
        memory: Arc<dyn Any + Send + Sync>,
    ) -> RegisteredPool {
        RegisteredPool {
            addresses,
            _memory: memory,
        }
    }

    /// The addresses of the memory, which stays mapped as long as this exists. Empty if there is none.
    #[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
    pub(crate) fn addresses(&self) -> Range<usize> {
        self.addresses.clone()
    }
}

impl fmt::Debug for RegisteredPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredPool")
            .field("bytes", &self.addresses.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{BufferPool, SizeClassPool};

    #[test]
    fn every_buffer_of_a_pool_is_within_its_registered_memory() {
        let pool = BufferPool::new(3, 5000).unwrap();
        let addresses = RegisteredPool::from(&pool).addresses();
        while let Some(buffer) = pool.try_get() {
            let start = buffer.as_ptr().addr();
            assert!(addresses.contains(&start) && start + 5000 <= addresses.end);
            std::mem::forget(buffer);
        }
        let pool = SizeClassPool::unmapped(64 << 10); // mapped now
        let addresses = RegisteredPool::from(&pool).addresses();
        assert_eq!(addresses.len(), 64 << 10);
        let buffer = pool.try_get(64 << 10).unwrap();
        assert_eq!(buffer.as_ptr().addr(), addresses.start);
    }

    #[test]
    fn a_registered_pool_keeps_its_memory() {
        let pool = BufferPool::new(1, 4096).unwrap();
        let registered = RegisteredPool::from(&pool);
        let memory = Arc::downgrade(&registered._memory);
        drop(pool);
        assert!(memory.upgrade().is_some());
        drop(registered);
        assert!(memory.upgrade().is_none());
    }
}
