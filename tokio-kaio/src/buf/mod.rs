//! Buffers: memory that the kernel reads and writes.

mod aligned_buf;
mod buddy_allocator;
mod buffer_pool;
mod io_buf;
mod locked_buf_error;
mod part;
mod path_to_open;
mod pool_memory;
mod region;
mod registered_pool;
mod size_class_memory;
mod size_class_pool;
mod slice;

pub use aligned_buf::{AlignedBuf, LockedBuf};
pub use buffer_pool::{BufferPool, BufferPoolBuilder};
pub use io_buf::{IoBuf, IoBufMut};
pub use locked_buf_error::LockedBufError;
pub use part::{Part, PartMut};
pub(crate) use path_to_open::PathToOpen;
pub(crate) use region::{Exclusive, Region, Shape};
pub use registered_pool::RegisteredPool;
pub use size_class_pool::{SizeClassPool, SizeClassPoolBuilder, SizeClassPoolStats};
pub use slice::Slice;
