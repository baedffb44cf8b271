//! [`Args`]: the command line of `kaio cp`.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::units;

/// Blocks are multiples of this: what direct I/O wants at most, nearly everywhere.
pub(super) const PAGE: u64 = 4096;

/// Copy files past the page cache, many blocks at a time
///
/// The data is read and written directly (O_DIRECT), so that the page cache stays with those who
/// need it. Each file is written under a temporary name beside its target, made durable, and
/// renamed: whatever happens, the target is the old file or the whole new one. (A block device that
/// was not copied to the end is half written.)
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Files, block devices, and with -r directories
    #[arg(required = true, value_name = "SRC")]
    pub(super) sources: Vec<PathBuf>,

    /// A file or its name to be, a directory, or with -f a block device
    #[arg(required = true, value_name = "DST")]
    pub(super) target: PathBuf,

    /// Copy directories with all that is in them
    #[arg(short, long, visible_short_alias = 'R')]
    pub(super) recursive: bool,

    /// Keep mode, owner, group, times and extended attributes, ACLs among them
    #[arg(short, long)]
    pub(super) preserve: bool,

    /// Write to a block device; replace a file that is write-protected
    #[arg(short, long)]
    pub(super) force: bool,

    /// Nothing but errors and warnings: no progress, no notes, no summary
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// Read back what was written, from the disk, and compare checksums
    #[arg(long)]
    pub(super) verify: bool,

    /// Which holes the target gets
    #[arg(long, value_enum, default_value_t = Sparse::Auto, value_name = "WHEN")]
    pub(super) sparse: Sparse,

    /// Make all durable before a target gets its name (the default)
    #[arg(long, overrides_with = "no_fsync")]
    pub(super) fsync: bool,

    /// Don't wait until it is durable: a crash can leave targets without their data
    #[arg(long, overrides_with = "fsync")]
    pub(super) no_fsync: bool,

    /// Blocks in flight, over all files
    #[arg(long, default_value_t = 8, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) depth: u16,

    /// Size of a block, a multiple of 4k
    #[arg(long, default_value = "1M", value_name = "SIZE", value_parser = block)]
    pub(super) bs: u64,

    /// Bytes a second, at most, over all files
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) limit: Option<u64>,

    /// The summary as JSON, on standard output
    #[arg(long)]
    pub(super) json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kaio cp --verify big.img /mnt/backup/      read back and compared before it has its name
  kaio cp -rp data /mnt/copy                 a tree, with owners, times and ACLs
  kaio cp --limit 100M big.img /mnt/backup/  leave the disk to others
  kaio cp -f debian.img /dev/sdX             over all that is on that disk
  kaio cp --sparse always vm.img thin.img    blocks of zeroes become holes

Exit codes: 0 all of it copied, 1 not all, 2 wrong usage, 130 interrupted.";

/// Which holes the target gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sparse {
    /// The source's
    Auto,
    /// The source's, and blocks of zeroes
    Always,
    /// None: they are written as zeroes
    Never,
}

impl Args {
    /// Whether a target is durable before it has its name.
    pub(super) fn durable(&self) -> bool {
        !self.no_fsync
    }
}

fn block(text: &str) -> Result<u64, String> {
    const MOST: u64 = 1 << 30;
    match units::size(text)? {
        bytes if bytes % PAGE != 0 => Err("has to be a multiple of 4k".into()),
        bytes if bytes > MOST => Err("is more than 1G".into()),
        bytes => Ok(bytes),
    }
}

fn rate(text: &str) -> Result<u64, String> {
    units::size(text.strip_suffix("/s").unwrap_or(text))
}

/// As the command line has it.
#[cfg(test)]
pub(super) fn of_test(words: &[&str]) -> Args {
    use clap::{Args as _, FromArgMatches};
    let command = Args::augment_args(clap::Command::new("cp").no_binary_name(true));
    Args::from_arg_matches(&command.get_matches_from(words)).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_of_whole_pages() {
        assert_eq!(block("4k"), Ok(4096));
        assert_eq!(block("1M"), Ok(1 << 20));
        for text in ["512", "5000", "2G", "0", "x"] {
            assert!(block(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_may_say_that_it_is_one() {
        assert_eq!(rate("100M"), rate("100M/s"));
    }
}
