//! [`CopyCounters`] and [`CopySummary`]: the numbers of a run.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration};
use serde::Serialize;

/// Counts what is copied.
#[derive(Debug, Default)]
pub(super) struct CopyCounters {
    pub(super) files: Cell<u64>,
    pub(super) directories: Cell<u64>,
    pub(super) symlinks: Cell<u64>,
    pub(super) hard_links: Cell<u64>,
    pub(super) bytes: Cell<u64>,
    pub(super) written: Cell<u64>,
    pub(super) shared: Cell<u64>,
    pub(super) verified: Cell<u64>,
    /// A file was read or written through the page cache.
    pub(super) buffered: Cell<bool>,
    pub(super) failed: RefCell<Vec<FailedEntry>>,
}

/// An entry that was not copied.
#[derive(Debug, Serialize)]
pub(super) struct FailedEntry {
    /// The path of the source.
    path: String,
    error: String,
}

impl FailedEntry {
    pub(super) fn new(path: &std::path::Path, error: impl fmt::Display) -> FailedEntry {
        FailedEntry {
            path: path.display().to_string(),
            error: error.to_string(),
        }
    }
}

/// The numbers of a run, and the schema of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct CopySummary {
    /// The version of the schema: 1.
    schema: u32,
    /// Regular files and devices that were copied.
    files: u64,
    /// Directories that were created or merged into.
    directories: u64,
    symlinks: u64,
    /// Further names of these files.
    hard_links: u64,
    /// The total length of these files.
    bytes: u64,
    /// Bytes that were written; the rest are holes or reflinks.
    written_bytes: u64,
    hole_bytes: u64,
    /// Bytes of reflinks, which share their blocks with the source.
    reflink_bytes: u64,
    /// Bytes that were read back and compared.
    verified_bytes: u64,
    seconds: f64,
    /// `written_bytes` divided by `seconds`.
    bytes_per_second: f64,
    durable: bool,
    /// Nothing went through the page cache.
    direct: bool,
    block_size: u64,
    depth: u16,
    warnings: u64,
    failed: Vec<FailedEntry>,
}

impl CopySummary {
    /// `is_file`: the target is not a pipe.
    pub(super) fn new(
        counters: CopyCounters,
        args: &super::CpArgs,
        is_file: bool,
        time: Duration,
        warnings: u64,
    ) -> CopySummary {
        let (bytes, written) = (counters.bytes.get(), counters.written.get());
        let shared = counters.shared.get();
        let seconds = time.as_secs_f64();
        CopySummary {
            schema: 1,
            files: counters.files.get(),
            directories: counters.directories.get(),
            symlinks: counters.symlinks.get(),
            hard_links: counters.hard_links.get(),
            bytes,
            written_bytes: written,
            hole_bytes: bytes - written - shared,
            reflink_bytes: shared,
            verified_bytes: counters.verified.get(),
            seconds,
            bytes_per_second: written as f64 / seconds.max(1e-9),
            durable: args.durable() && is_file,
            direct: !counters.buffered.get(),
            block_size: args.bs,
            depth: args.depth,
            warnings,
            failed: counters.failed.into_inner(),
        }
    }

    /// Whether every entry was copied.
    pub(super) fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }
}

/// Formats the summary as one line.
impl fmt::Display for CopySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {}",
            BinaryBytes(self.bytes),
            counted(self.files, "file")
        )?;
        for (count, what) in [
            (self.directories, "directory"),
            (self.symlinks, "symlink"),
            (self.hard_links, "hard link"),
        ] {
            if count > 0 {
                write!(f, ", {}", counted(count, what))?;
            }
        }
        if self.hole_bytes > 0 {
            write!(f, ", {} in holes", BinaryBytes(self.hole_bytes))?;
        }
        if self.reflink_bytes > 0 {
            write!(f, ", {} in reflinks", BinaryBytes(self.reflink_bytes))?;
        }
        match self.seconds {
            seconds if seconds < 100.0 => write!(f, ", {seconds:.2} s")?,
            seconds => write!(f, ", {}", HumanDuration(Duration::from_secs_f64(seconds)))?,
        }
        if self.written_bytes > 0 {
            write!(f, ", {}/s", BinaryBytes(self.bytes_per_second as u64))?;
        }
        if self.verified_bytes > 0 {
            write!(f, ", verified")?;
        }
        if !self.durable {
            write!(f, ", not made durable")?;
        }
        if !self.failed.is_empty() {
            write!(f, "; {} not copied", self.failed.len())?;
        }
        Ok(())
    }
}

fn counted(count: u64, what: &str) -> String {
    match (count, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_singular_or_plural() {
        assert_eq!(counted(1, "directory"), "1 directory");
        assert_eq!(counted(2, "directory"), "2 directories");
        assert_eq!(counted(0, "file"), "0 files");
    }
}
