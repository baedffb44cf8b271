//! [`RequestClass`]: the operation of a request, and the file that it needs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use serde::Serialize;
use tokio_kaio::AlignedBuf;

use super::{MeasureSettings, Result};

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestClass {
    /// A read of written blocks.
    Read,
    /// A write to written blocks.
    Overwrite,
    /// An overwrite after a pause that is longer than a tick of the kernel's clock.
    Rare,
    /// A write to a hole.
    Hole,
    /// A write to blocks that are allocated but unwritten.
    Preallocated,
    /// A write at the end of the file.
    Extending,
    /// A write with `APPEND`.
    Append,
    /// An fdatasync after an overwrite. Only the fdatasync is measured.
    #[serde(rename = "fdatasync")]
    Sync,
}

impl RequestClass {
    /// All classes.
    pub const ALL: [RequestClass; 8] = [
        RequestClass::Read,
        RequestClass::Overwrite,
        RequestClass::Rare,
        RequestClass::Hole,
        RequestClass::Preallocated,
        RequestClass::Extending,
        RequestClass::Append,
        RequestClass::Sync,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            RequestClass::Read => "read",
            RequestClass::Overwrite => "overwrite",
            RequestClass::Rare => "overwrite after a pause",
            RequestClass::Hole => "into a hole",
            RequestClass::Preallocated => "preallocated",
            RequestClass::Extending => "extending",
            RequestClass::Append => "append",
            RequestClass::Sync => "fdatasync",
        }
    }

    /// The number of requests of this class.
    pub fn requests(self, settings: MeasureSettings) -> u64 {
        match self {
            RequestClass::Sync | RequestClass::Rare => settings.few.min(settings.requests),
            _ => settings.requests,
        }
    }

    /// Creates the file that the class needs, and replaces an existing one.
    pub(super) fn create_file(self, path: &Path, settings: MeasureSettings) -> Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        // Past the page cache: cached pages would slow down the requests.
        let direct = options.custom_flags(OFlags::DIRECT.bits() as i32);
        let file = direct.open(path)?;
        let len = settings.block * settings.requests;
        match self {
            RequestClass::Read
            | RequestClass::Overwrite
            | RequestClass::Rare
            | RequestClass::Sync => fill(&file, len, settings)?,
            RequestClass::Hole => file.set_len(len)?,
            RequestClass::Preallocated => fallocate(&file, FallocateFlags::empty(), 0, len)
                .map_err(|errno| step_error("fallocate", errno.into()))?,
            RequestClass::Extending | RequestClass::Append => {}
        }
        file.sync_all()?;
        Ok(())
    }
}

/// Writes `len` bytes in chunks of 1 MiB.
fn fill(file: &File, len: u64, settings: MeasureSettings) -> Result<()> {
    let piece = (1_u64 << 20).next_multiple_of(settings.block).min(len);
    let bytes = block(piece, settings)?;
    let mut at = 0;
    while at < len {
        let part = (len - at).min(piece) as usize;
        file.write_all_at(&bytes[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

/// A buffer of `size` bytes to write. It is not locked, so `RLIMIT_MEMLOCK` does not apply.
pub(super) fn block(size: u64, settings: MeasureSettings) -> Result<AlignedBuf> {
    let alignment = settings.block.next_power_of_two() as usize;
    let mut block = AlignedBuf::with_alignment(size as usize, alignment)?;
    block.as_mut().fill(b'k');
    Ok(block)
}

/// Adds the name of a step to an error. The errno stays available as the source.
fn step_error(step: &'static str, error: io::Error) -> StepError {
    StepError { step, error }
}

/// See [`step_error`].
#[derive(Debug)]
struct StepError {
    step: &'static str,
    error: io::Error,
}

impl std::fmt::Display for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}

impl std::error::Error for StepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
