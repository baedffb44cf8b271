//! [`Tally`], [`Summary`]: what has been done.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration};
use serde::Serialize;

/// What is counted on the way.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) files: Cell<u64>,
    pub(super) directories: Cell<u64>,
    pub(super) symlinks: Cell<u64>,
    pub(super) bytes: Cell<u64>,
    pub(super) written: Cell<u64>,
    pub(super) verified: Cell<u64>,
    /// Some file was read or written through the page cache.
    pub(super) buffered: Cell<bool>,
    pub(super) failed: RefCell<Vec<Failed>>,
}

/// What was not copied.
#[derive(Debug, Serialize)]
pub(super) struct Failed {
    /// Of the source.
    path: String,
    error: String,
}

impl Failed {
    pub(super) fn new(path: &std::path::Path, error: impl fmt::Display) -> Failed {
        Failed {
            path: path.display().to_string(),
            error: error.to_string(),
        }
    }
}

/// The numbers of one run, and its JSON.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// The version of this.
    schema: u32,
    /// Regular files and devices that were copied.
    files: u64,
    /// Directories that were made or merged into.
    directories: u64,
    symlinks: u64,
    /// The length of all these files.
    bytes: u64,
    /// Of these, what was written; the others are holes.
    written_bytes: u64,
    hole_bytes: u64,
    /// What was read back and compared.
    verified_bytes: u64,
    seconds: f64,
    /// `bytes` by `seconds`.
    bytes_per_second: f64,
    durable: bool,
    /// Nothing went through the page cache.
    direct: bool,
    block_size: u64,
    depth: u16,
    warnings: u64,
    failed: Vec<Failed>,
}

impl Summary {
    pub(super) fn new(tally: Tally, args: &super::Args, time: Duration, warnings: u64) -> Summary {
        let (bytes, written) = (tally.bytes.get(), tally.written.get());
        let seconds = time.as_secs_f64();
        Summary {
            schema: 1,
            files: tally.files.get(),
            directories: tally.directories.get(),
            symlinks: tally.symlinks.get(),
            bytes,
            written_bytes: written,
            hole_bytes: bytes - written,
            verified_bytes: tally.verified.get(),
            seconds,
            bytes_per_second: bytes as f64 / seconds.max(1e-9),
            durable: args.durable(),
            direct: !tally.buffered.get(),
            block_size: args.bs,
            depth: args.depth,
            warnings,
            failed: tally.failed.into_inner(),
        }
    }

    /// Whether all is copied.
    pub(super) fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }
}

/// One line.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {}",
            BinaryBytes(self.bytes),
            counted(self.files, "file")
        )?;
        for (count, what) in [(self.directories, "directory"), (self.symlinks, "symlink")] {
            if count > 0 {
                write!(f, ", {}", counted(count, what))?;
            }
        }
        if self.hole_bytes > 0 {
            write!(f, ", {} of it holes", BinaryBytes(self.hole_bytes))?;
        }
        match self.seconds {
            seconds if seconds < 100.0 => write!(f, ", {seconds:.2} s")?,
            seconds => write!(f, ", {}", HumanDuration(Duration::from_secs_f64(seconds)))?,
        }
        write!(f, ", {}/s", BinaryBytes(self.bytes_per_second as u64))?;
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
    fn one_is_one_and_many_are_many() {
        assert_eq!(counted(1, "directory"), "1 directory");
        assert_eq!(counted(2, "directory"), "2 directories");
        assert_eq!(counted(0, "file"), "0 files");
    }
}
