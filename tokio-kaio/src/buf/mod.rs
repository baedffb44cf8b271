//! Memory that the kernel may touch.

mod locked_buf;
mod region;

pub use locked_buf::{LockedBuf, LockedBufError};
pub(crate) use region::{Exclusive, Region, Shape};
