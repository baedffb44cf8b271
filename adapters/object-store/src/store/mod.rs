//! The store: compiled once for each version of `object_store`, which is `super::version::object_store`.

mod file_system_builder;
mod kaio_file_system;
mod object_error;
mod part_upload;

pub use file_system_builder::KaioFileSystemBuilder;
pub use kaio_file_system::KaioFileSystem;

use super::version;
