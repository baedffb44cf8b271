//! [`BenchArgs`]: the command line of `kaio bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use kaio_bench::Pattern;

use super::engine_choice::EngineChoice;
use crate::units::{parse_number, parse_seconds, parse_size};

/// Compare kernel AIO with other ways to read and write the same file
///
/// Each engine keeps as many transfers in flight as the depth says. Engines run in rounds, in turn, so a
/// machine that slows down affects all of them alike. Results are medians over the rounds; ratios compare
/// engines within a round.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// File or block device to measure on, or a directory for a scratch file; an existing file or device
    /// is only read, unless --overwrite is given [default: a scratch file in the current directory]
    #[arg(value_name = "FILE")]
    pub(super) file: Option<PathBuf>,

    /// Access pattern
    #[arg(long, value_enum, default_value_t = Access::RandRead, value_name = "PATTERN")]
    pub(super) rw: Access,

    /// Percentage of reads, for randrw [default: 70]
    #[arg(long, alias = "rwmixread", value_name = "PERCENT", value_parser = percentage)]
    pub(super) mix: Option<u8>,

    /// Bytes per transfer [default: 4k; 128k for read and write]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) bs: Option<u64>,

    /// Transfers in flight; several depths, separated by commas, are measured one after another
    #[arg(long, alias = "iodepth", value_name = "DEPTHS", value_delimiter = ',')]
    #[arg(default_value = "1,8,32,128", value_parser = depth)]
    pub(super) depth: Vec<u16>,

    /// Size of the scratch file, or length of the part of FILE to use, from its start [default: 256M; all
    /// of FILE]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) size: Option<u64>,

    /// Approximate time to measure, for all depths and engines together, without the time to create the
    /// scratch file
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = parse_seconds)]
    pub(super) runtime: Duration,

    /// Engines, separated by commas; ratios are relative to the first [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ENGINES")]
    pub(super) engines: Vec<EngineChoice>,

    /// Use direct I/O, past the page cache (the default); tokio-fs can't
    #[arg(long, conflicts_with = "buffered")]
    pub(super) direct: bool,

    /// Use the page cache, with all engines
    #[arg(long)]
    pub(super) buffered: bool,

    /// Write all results to a file as JSON; `-` writes them to standard output instead of the table
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Write a report with plots to a file, as a single HTML page that works offline
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,

    /// Seed of the random offsets
    #[arg(long, default_value_t = 0, value_name = "NUMBER", value_parser = seed)]
    pub(super) seed: u64,

    /// Allow writes to FILE, which DESTROY ITS CONTENT
    #[arg(long)]
    pub(super) overwrite: bool,
}

const EXAMPLES: &str = "\
Examples:
  kaio bench                                    4 KiB reads, a scratch file here
  kaio bench /mnt/data --rw randrw --mix 90     a scratch file there
  kaio bench /dev/nvme0n1 --depth 1,32,256      only reads the device
  kaio bench --engines tokio-kaio,blocking-pool --html report.html
  kaio bench --json - | jq -c '.results[] | [.depth, .engine, .figures.iops.median]'

Columns:
  IOPS, MiB/s        transfers and mebibytes per second
  p50, p99, …, max   latencies, from the request of a task until the task continues
  CPU µs/op          user and system time of the process, per transfer
  calls/op           system calls per transfer
  IOPS ×, CPU ×      ratios to the first engine, within a round
See docs/kaio.md in the source for more, and for the fields of the JSON.

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.";

fn depth(text: &str) -> Result<u16, String> {
    let form = "one or more numbers, separated by commas (1,8,32), each";
    parse_number(text, &(1..=4096), form)
}

fn percentage(text: &str) -> Result<u8, String> {
    parse_number(text, &(0..=100), "a number")
}

fn seed(text: &str) -> Result<u64, String> {
    parse_number(text, &(0..=u64::MAX), "a number")
}

/// The access pattern, with fio's names.
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
    /// Sequential reads
    Read,
    /// Sequential overwrites
    Write,
}

impl Access {
    /// The pattern of `kaio-bench`.
    pub(super) fn pattern(self) -> Pattern {
        match self {
            Access::RandRead => Pattern::RandomRead,
            Access::RandWrite => Pattern::RandomWrite,
            Access::RandRw => Pattern::Mixed,
            Access::Read => Pattern::SequentialRead,
            Access::Write => Pattern::SequentialWrite,
        }
    }

    /// Whether the pattern has reads and writes.
    pub(super) fn is_mixed(self) -> bool {
        self == Access::RandRw
    }

    /// The name on the command line.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value().expect("no variant is skipped");
        value.get_name().to_owned()
    }

    /// The default number of bytes per transfer.
    pub(super) fn block(self) -> u64 {
        match self {
            Access::Read | Access::Write => 128 << 10,
            _ => 4 << 10,
        }
    }
}
