//! Files for direct I/O.

mod alignment;
mod buffered;
mod bytes;
mod bytewise;
mod convert;
mod direct;
mod file;
mod open_options;
mod owned;
mod page_cached;
mod space;
mod transfer;

pub use file::File;
pub use open_options::AioOpenOptionsExt;
pub use space::{Advice, Allocate, SyncRange};
