//! Files for direct I/O.

mod file;
mod open_options;

pub use file::File;
pub use open_options::AioOpenOptionsExt;
