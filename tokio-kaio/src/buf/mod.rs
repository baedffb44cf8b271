//! Memory that the kernel may touch.

mod aligned_buf;
mod io_buf;
mod locked_buf;
mod part;
mod pool;
mod region;
mod slice;

pub use aligned_buf::AlignedBuf;
pub use io_buf::{IoBuf, IoBufMut};
pub use locked_buf::{LockedBuf, LockedBufError};
pub use part::{Part, PartMut};
pub use pool::{BufferPool, BufferPoolBuilder};
pub(crate) use region::{Exclusive, Region, Shape};
pub use slice::Slice;
