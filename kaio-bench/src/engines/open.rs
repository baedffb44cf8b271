//! Opening a workload's file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use crate::{Result, Workload};

/// The workload's file, open for direct I/O. `durable`: each of its writes is to be durable when it
/// is done, if the pattern wants that; for engines that can't say so of a single write.
///
/// # Errors
///
/// Where it can't be opened; `EINVAL`: the file system has no direct I/O.
pub fn open_direct(workload: &Workload, durable: bool) -> Result<File> {
    let durable = durable && workload.pattern.durable();
    let flags = if durable { libc::O_DSYNC } else { 0 };
    OpenOptions::new()
        .read(true)
        .write(workload.pattern.writes())
        .custom_flags(libc::O_DIRECT | flags)
        .open(&workload.path)
        .map_err(|error| format!("open {} for direct I/O: {error}", workload.path.display()).into())
}
