//! [`open_file`]: opens a workload's file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use crate::{Result, Workload};

/// Opens the workload's file, for direct I/O unless the workload is buffered. With `durable`, adds `O_DSYNC`
/// if the pattern is durable: for engines that can't set `RWF_DSYNC` for a single write.
///
/// # Errors
///
/// Errors of opening; `EINVAL` if the file system has no direct I/O.
pub fn open_file(workload: &Workload, durable: bool) -> Result<File> {
    let durable = durable && workload.pattern.durable();
    let direct = if workload.direct { libc::O_DIRECT } else { 0 };
    let durable = if durable { libc::O_DSYNC } else { 0 };
    OpenOptions::new()
        .read(true)
        .write(workload.pattern.writes())
        .custom_flags(direct | durable)
        .open(&workload.path)
        .map_err(|error| {
            let how = if workload.direct {
                " for direct I/O"
            } else {
                ""
            };
            format!("open {}{how}: {error}", workload.path.display()).into()
        })
}
