//! [`CpArgs`]: the command line of `kaio cp`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::pipes::PipeStep;
use crate::command_error::CommandError;
use crate::units::{self, parse_number};

/// Blocks are multiples of this size, the largest alignment that direct I/O requires nearly everywhere.
pub(super) const PAGE: u64 = 4096;

/// Copy files past the page cache, with many blocks in flight
///
/// Reads and writes use direct I/O (O_DIRECT), so the page cache is left untouched; only small files, of up
/// to 64 KiB, go through it. Each file is written under a temporary name next to its target, flushed, and
/// renamed: at any time the target is either the old file or the complete new one. A copy to a block device
/// has no such protection: if it is interrupted, the device is partly overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CpArgs {
    /// Files or block devices to copy; with -r also directories; `-` is standard input
    #[arg(required = true, value_name = "SRC")]
    pub(super) sources: Vec<PathBuf>,

    /// Target: a file name, a directory, or with -f a block device; `-` is standard output
    #[arg(required = true, value_name = "DST")]
    pub(super) target: PathBuf,

    /// Copy directories recursively
    #[arg(short, long, visible_short_alias = 'R')]
    pub(super) recursive: bool,

    /// Preserve mode, owner, group, times, hard links and extended attributes, including ACLs
    #[arg(short, long)]
    pub(super) preserve: bool,

    /// Write to a block device, or replace a write-protected file
    #[arg(short, long)]
    pub(super) force: bool,

    /// Print only errors and warnings: no progress, notes or summary
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// Read the copy back from disk and compare checksums
    #[arg(long)]
    pub(super) verify: bool,

    /// Which parts of the target become holes
    #[arg(long, value_enum, default_value_t = Sparse::Auto, value_name = "WHEN")]
    pub(super) sparse: Sparse,

    /// Whether copies share their blocks with the source, on file systems that can do that (btrfs, XFS)
    #[arg(long, value_enum, default_value_t = ReflinkMode::Auto, value_name = "WHEN")]
    reflink: ReflinkMode,

    /// Make each file durable before it is renamed into place (the default); undoes an earlier --no-fsync
    #[arg(long, overrides_with = "no_fsync")]
    pub(super) fsync: bool,

    /// Don't wait until files are durable; after a crash, targets may be incomplete; undoes an earlier
    /// --fsync
    #[arg(long, overrides_with = "fsync")]
    pub(super) no_fsync: bool,

    /// Blocks in flight, for all files together
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = depth)]
    pub(super) depth: u16,

    /// Block size, a multiple of 4k
    #[arg(long, default_value = "1M", value_name = "SIZE", value_parser = block)]
    pub(super) bs: u64,

    /// Maximum bytes per second, for all files together
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) limit: Option<u64>,

    /// Print the summary as JSON to standard output
    #[arg(long)]
    pub(super) json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kaio cp --verify big.img /mnt/backup/      verified before it is renamed into place
  kaio cp -rp data /mnt/copy                 a tree, with owners, times and ACLs
  kaio cp --limit 100M big.img /mnt/backup/  leaves bandwidth to other programs
  kaio cp -f debian.img /dev/sdX             overwrites that disk
  kaio cp --sparse always vm.img thin.img    turns blocks of zeroes into holes
  zcat disk.img.gz | kaio cp -f - /dev/sdX   from a pipe to that disk
  kaio cp big.img - | ssh host 'cat > img'   to a pipe

Exit codes: 0 everything was copied, 1 something was not, 2 wrong usage, 130 interrupted.";

/// Which parts of the target become holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sparse {
    /// Holes of the source
    Auto,
    /// Holes of the source and blocks of zeroes
    Always,
    /// Nothing: holes are written as zeroes
    Never,
}

/// Whether copies are reflinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ReflinkMode {
    /// Where the file system has them; the data is copied otherwise, and with --verify or --sparse
    Auto,
    /// Every file; fails if the file system can't
    Always,
    /// No file: the data is copied
    Never,
}

impl CpArgs {
    /// Whether copies are reflinks. A reflink has no data of its own that could be read back, and its holes
    /// are those of the source.
    pub(super) fn reflink_mode(&self) -> ReflinkMode {
        match self.reflink {
            ReflinkMode::Auto if self.verify || self.sparse != Sparse::Auto => ReflinkMode::Never,
            mode => mode,
        }
    }

    /// Refuses options that contradict each other.
    pub(super) fn check_usage(&self) -> Result<(), CommandError> {
        let refused = |option, why| {
            let text =
                format!("--reflink always can't be used with {option}: {why}; omit one of them");
            Err(CommandError::Usage(text))
        };
        match self.reflink {
            ReflinkMode::Always if self.verify => {
                refused("--verify", "a reflink has no data of its own to read back")
            }
            ReflinkMode::Always if self.sparse != Sparse::Auto => {
                refused("--sparse", "a reflink has the holes of the source")
            }
            _ => PipeStep::check_usage(self),
        }
    }

    /// Whether each file is made durable before it is renamed into place.
    pub(super) fn durable(&self) -> bool {
        !self.no_fsync
    }
}

fn depth(text: &str) -> Result<u16, String> {
    parse_number(text, &(1..=1024), "a number")
}

fn block(text: &str) -> Result<u64, String> {
    const MOST: u64 = 1 << 30;
    match units::parse_size(text)? {
        bytes if bytes % PAGE != 0 => Err("the block size must be a multiple of 4k".into()),
        bytes if bytes > MOST => Err("the block size must be at most 1G".into()),
        bytes => Ok(bytes),
    }
}

fn rate(text: &str) -> Result<u64, String> {
    units::parse_size(text.strip_suffix("/s").unwrap_or(text))
}

/// Parses `words` as the command line does.
#[cfg(test)]
pub(super) fn parse_for_test(words: &[&str]) -> CpArgs {
    use clap::{Args as _, FromArgMatches};
    let command = CpArgs::augment_args(clap::Command::new("cp").no_binary_name(true));
    CpArgs::from_arg_matches(&command.get_matches_from(words)).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_size_is_a_multiple_of_the_page_size() {
        assert_eq!(block("4k"), Ok(4096));
        assert_eq!(block("1M"), Ok(1 << 20));
        for text in ["512", "5000", "2G", "0", "x"] {
            assert!(block(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_may_end_in_per_second() {
        assert_eq!(rate("100M"), rate("100M/s"));
    }
}
