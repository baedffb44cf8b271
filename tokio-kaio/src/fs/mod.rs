//! Files for direct I/O.

mod file;
mod open_options;
mod owned;
mod transfer;

pub use file::File;
pub use open_options::AioOpenOptionsExt;
