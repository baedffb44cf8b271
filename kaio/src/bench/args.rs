//! What `kaio bench` can be asked for.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use kaio_bench::Pattern;

use super::contender::Contender;
use crate::units::{seconds, size};

/// Measure what kernel AIO gives here, against other ways to read and write the same file
///
/// Each engine keeps as many transfers in flight as the depth says. Engines run by turns, in rounds, so
/// that a machine that becomes slower does so for all; figures are medians of the rounds, ratios those
/// of the rounds that belong together.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// File or block device to measure on, or a directory to make a scratch file in; what is there is
    /// only read, unless --overwrite is given [default: a scratch file in the current directory]
    #[arg(value_name = "FILE")]
    pub(super) file: Option<PathBuf>,

    /// What is done
    #[arg(long, value_enum, default_value_t = Access::RandRead)]
    pub(super) rw: Access,

    /// How many of a hundred transfers of randrw are reads [default: 70]
    #[arg(long, alias = "rwmixread", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) mix: Option<u8>,

    /// Bytes of a transfer [default: 4k; 128k for read and write]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) bs: Option<u64>,

    /// Transfers in flight, separated by commas; each is measured by itself
    #[arg(long, alias = "iodepth", value_delimiter = ',', default_value = "1,8,32,128",
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(super) depth: Vec<u16>,

    /// Size of the scratch file; of FILE, the part from its start that is used [default: 256M; all of
    /// FILE]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) size: Option<u64>,

    /// Seconds that the measuring takes, all depths and engines together, roughly; making the scratch
    /// file comes on top
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub(super) runtime: Duration,

    /// Engines, separated by commas; ratios are to the first [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) engines: Vec<Contender>,

    /// Direct I/O, past the page cache; tokio-fs alone can't. The default
    #[arg(long, overrides_with = "buffered")]
    pub(super) direct: bool,

    /// Through the page cache, all of them
    #[arg(long, overrides_with = "direct")]
    pub(super) buffered: bool,

    /// Write all figures to a file, as JSON; `-` is standard output, in place of the table
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Write a report with plots to a file, as one page of HTML that needs no network
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,

    /// Seed of random offsets
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,

    /// Allow writes to FILE. ITS CONTENT IS LOST
    #[arg(long)]
    pub(super) overwrite: bool,
}

const EXAMPLES: &str = "\
Examples:
  kaio bench                                    reads of 4 KiB, a scratch file here
  kaio bench /mnt/data --rw randrw --mix 90     a scratch file there
  kaio bench /dev/nvme0n1 --depth 1,32,256      only reads the device
  kaio bench --engines tokio-kaio,blocking-pool --html report.html
  kaio bench --json - | jq -c '.results[] | [.depth, .engine, .figures.iops.median]'

Columns:
  IOPS, MiB/s        transfers and mebibytes a second
  p50, p99, …, max   latencies, from when a task asks to when it goes on
  CPU µs/op          user and system time of the process, a transfer
  calls/op           system calls a transfer
  IOPS ×, CPU ×      ratios to the first engine, of rounds that belong together
docs/kaio.md of the source tells more, and the fields of the JSON.

Exit codes: 0 measured, 1 failed, 2 wrong usage, 130 interrupted.";

/// What is done, by fio's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Access {
    /// Reads at random offsets
    #[value(name = "randread")]
    RandRead,
    /// Overwrites at random offsets
    #[value(name = "randwrite")]
    RandWrite,
    /// Reads and overwrites at random offsets, see --mix
    #[value(name = "randrw")]
    RandRw,
    /// Reads, one after another through the file
    Read,
    /// Overwrites, one after another through the file
    Write,
}

impl Access {
    /// As `kaio-bench` calls it.
    pub(super) fn pattern(self) -> Pattern {
        match self {
            Access::RandRead => Pattern::RandomRead,
            Access::RandWrite => Pattern::RandomWrite,
            Access::RandRw => Pattern::Mixed,
            Access::Read => Pattern::SequentialRead,
            Access::Write => Pattern::SequentialWrite,
        }
    }

    /// Whether it both reads and writes.
    pub(super) fn is_mixed(self) -> bool {
        self == Access::RandRw
    }

    /// Its name on the command line.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value().expect("none is skipped");
        value.get_name().to_owned()
    }

    /// Bytes of a transfer, unless asked otherwise.
    pub(super) fn block(self) -> u64 {
        match self {
            Access::Read | Access::Write => 128 << 10,
            _ => 4 << 10,
        }
    }
}
