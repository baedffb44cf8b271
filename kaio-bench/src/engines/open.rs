//! Opening a workload's file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use crate::{Result, Workload};

/// The workload's file, open for direct I/O unless the workload is buffered. `durable`: each of its
/// writes is to be durable when it is done, if the pattern wants that; for engines that can't say so
/// of a single write.
///
/// # Errors
///
/// Where it can't be opened; `EINVAL`: the file system has no direct I/O.
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
