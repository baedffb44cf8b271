//! Files for direct I/O.

mod alignment;
mod buffered;
mod convert;
mod file;
mod open_options;
mod owned;
mod space;
mod transfer;

pub use file::File;
pub use open_options::AioOpenOptionsExt;
pub use space::{Advice, Allocate, SyncRange};
