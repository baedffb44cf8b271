//! [`Target`]: the file that requests go to.

use std::path::PathBuf;

/// What requests read and write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file that is made in this directory, as each class wants it. The directory is to go with it.
    Scratch(PathBuf),

    /// A file, or a block device, that is there and is only read.
    Existing {
        /// Its path.
        path: PathBuf,
        /// Its length in bytes, at least one block.
        len: u64,
    },
}
