//! [`DiskImage`]: the content of a disk after a power cut.

/// The content of a disk after a power cut.
#[derive(Clone, Debug, Default)]
pub struct DiskImage {}
