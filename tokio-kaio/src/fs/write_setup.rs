//! Prepares a file for a `FileWriter`, and frees the space that the writer did not use.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use super::dispatch::run_on_file;
use super::unaligned_state::BlockGeometry;
use super::{Allocate, File};
use crate::AioCommandError;

/// Prepares a file to be written, on tokio's blocking pool. `allocation`: the range to allocate ahead.
pub(super) async fn set_up(
    file: File,
    allocation: Range<u64>,
) -> Result<BlockGeometry, AioCommandError> {
    if file.appends {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        let error = io::Error::new(error.kind(), AppendsOnly { error });
        return Err(AioCommandError::BadResult(error));
    }
    let geometry = file.geometry().await.map_err(AioCommandError::IoSubmit)?;
    if !geometry.writable {
        let error = io::Error::from_raw_os_error(libc::EBADF);
        return Err(AioCommandError::IoSubmit(error));
    }
    if !allocation.is_empty() {
        let len = allocation.end - allocation.start;
        let allocated = file.allocate(Allocate::KeepSize, allocation.start, len);
        match allocated.await {
            Err(error)
                if !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) =>
            {
                return Err(AioCommandError::BadResult(error));
            }
            _ => {}
        }
    }
    Ok(geometry)
}

/// Frees the space behind the end of a file, unless the file is longer than `end`. In one job, as what others
/// append between its two steps is lost.
pub(super) async fn free_rest(file: File, end: u64) -> io::Result<()> {
    let inner = Arc::clone(&file.inner);
    run_on_file(inner, move |_| {
        let len = file.metadata_blocking()?.len();
        match len <= end {
            true => file.set_len_blocking(len),
            false => Ok(()), // another writer has extended the file
        }
    })
    .await
}

#[derive(Debug, Error)]
#[error(
    "{error}: the file was opened with O_APPEND, so the kernel ignores the offset of every write; open it \
     without `append`, and begin at its end (`with_offset`)"
)]
struct AppendsOnly {
    #[source]
    error: io::Error,
}
