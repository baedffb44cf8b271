//! [`Class`]: what a request does, and the file that it wants.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use serde::Serialize;
use tokio_kaio::AlignedBuf;

use super::{Effort, Result};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A read of what was written.
    Read,
    /// A write over what was written.
    Overwrite,
    /// An overwrite after a pause, in which the kernel's clock ticks.
    Rare,
    /// A write to where a file has no blocks.
    Hole,
    /// A write to blocks that were allocated, and not written.
    Preallocated,
    /// A write at the end of the file.
    Extending,
    /// A write with `APPEND`.
    Append,
    /// An fdatasync after an overwrite, which is no part of it.
    #[serde(rename = "fdatasync")]
    Sync,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 8] = [
        Class::Read,
        Class::Overwrite,
        Class::Rare,
        Class::Hole,
        Class::Preallocated,
        Class::Extending,
        Class::Append,
        Class::Sync,
    ];

    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Class::Read => "read",
            Class::Overwrite => "overwrite",
            Class::Rare => "overwrite after a pause",
            Class::Hole => "into a hole",
            Class::Preallocated => "preallocated",
            Class::Extending => "extending",
            Class::Append => "append",
            Class::Sync => "fdatasync",
        }
    }

    /// How many requests of it there are.
    pub fn requests(self, effort: Effort) -> u64 {
        match self {
            Class::Sync | Class::Rare => effort.few.min(effort.requests),
            _ => effort.requests,
        }
    }

    /// Makes a file for it, in place of what is at `path`.
    pub(super) fn lay_out(self, path: &Path, effort: Effort) -> Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        // Past the page cache: pages that are there would be in the way of the requests.
        let direct = options.custom_flags(OFlags::DIRECT.bits() as i32);
        let file = direct.open(path)?;
        let len = effort.block * effort.requests;
        match self {
            Class::Read | Class::Overwrite | Class::Rare | Class::Sync => fill(&file, len, effort)?,
            Class::Hole => file.set_len(len)?,
            Class::Preallocated => fallocate(&file, FallocateFlags::empty(), 0, len)
                .map_err(|errno| of("fallocate", errno.into()))?,
            Class::Extending | Class::Append => {}
        }
        file.sync_all()?;
        Ok(())
    }
}

/// Writes `len` bytes, a MiB at a time.
fn fill(file: &File, len: u64, effort: Effort) -> Result<()> {
    let piece = (1_u64 << 20).next_multiple_of(effort.block).min(len);
    let bytes = block(piece, effort)?;
    let mut at = 0;
    while at < len {
        let part = (len - at).min(piece) as usize;
        file.write_all_at(&bytes[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

/// A buffer of `size` bytes to write from. It is not locked, so that no limit is in its way.
pub(super) fn block(size: u64, effort: Effort) -> Result<AlignedBuf> {
    let alignment = effort.block.next_power_of_two() as usize;
    let mut block = AlignedBuf::with_alignment(size as usize, alignment)?;
    block.as_mut().fill(b'k');
    Ok(block)
}

/// The failure of a step, with its errno still to be found.
fn of(step: &'static str, error: io::Error) -> StepFailed {
    StepFailed { step, error }
}

/// See [`of`].
#[derive(Debug)]
struct StepFailed {
    step: &'static str,
    error: io::Error,
}

impl std::fmt::Display for StepFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}

impl std::error::Error for StepFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
