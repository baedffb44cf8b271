//! [`DiskTrace`]: the calls and requests of a disk, in order.

use std::fmt;

/// The calls and requests of a disk, in order, with their times and results. `Display` prints a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskTrace {}

impl fmt::Display for DiskTrace {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
