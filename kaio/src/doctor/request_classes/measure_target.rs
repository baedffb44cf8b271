//! [`MeasureTarget`]: the file to measure on.

use std::path::PathBuf;

/// The file that requests read and write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeasureTarget {
    /// A file in this directory, which is created anew for each class. The caller removes the directory.
    Scratch(PathBuf),

    /// An existing file or block device, which is only read.
    Existing {
        /// Its path.
        path: PathBuf,
        /// Its length in bytes, at least one block.
        len: u64,
    },
}
