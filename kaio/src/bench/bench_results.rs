//! [`BenchResults`]: the results, and the schema of `--json`. The table and the HTML page are made from
//! them, too.

use std::env;
use std::path::PathBuf;

use kaio_bench::{Disk, EngineReport, Figures, Machine, Outcome, Settings, Spread, Summary};
use serde::Serialize;

use super::bench_args::BenchArgs;
use super::bench_target::{BenchTarget, Kind};
use crate::direct_io_probe::DirectIoAlignment;
use crate::stdio::lossy;
use crate::system_limits::{Memlock, sysctl};

/// The results of a run. Within a schema version fields may be added, but none is removed or changes its
/// meaning.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BenchResults {
    /// The version of the schema: 1.
    pub(super) schema: u32,
    /// The command line, quoted for a shell.
    pub(super) command: String,
    pub(super) machine: Machine,
    pub(super) target: TargetFacts,
    pub(super) limits: Limits,
    pub(super) settings: SettingsFacts,
    /// One row per depth and engine, in the order of the measurements.
    #[serde(rename = "results")]
    pub(super) rows: Vec<Row>,
}

/// The file or device that was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TargetFacts {
    #[serde(serialize_with = "lossy")]
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Bytes that were used.
    pub(super) bytes: u64,
    /// The type of the file system. `null`: the target is a block device.
    pub(super) file_system: Option<String>,
    /// The mount source, usually a device.
    pub(super) source: Option<String>,
    /// The block device that the target is or is on. `null`: there is none.
    pub(super) device: Option<Disk>,
    /// The alignment that direct I/O requires. `null`: the run was buffered.
    pub(super) alignment: Option<DirectIoAlignment>,
}

/// Limits of the system and of the process.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Limits {
    /// `fs.aio-nr`: slots of all contexts on the machine. `null`: unknown.
    pub(super) aio_nr: Option<u64>,
    /// `fs.aio-max-nr`: the limit on `aio_nr`.
    pub(super) aio_max_nr: Option<u64>,
    /// `RLIMIT_MEMLOCK`.
    pub(super) memlock: Memlock,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct SettingsFacts {
    /// `randread`, `randwrite`, `randrw`, `read`, `write`.
    pub(super) rw: String,
    /// Percentage of reads. `null`: the pattern is not mixed.
    pub(super) mix: Option<u8>,
    /// Bytes per transfer.
    pub(super) block: u64,
    /// Whether direct I/O was used.
    pub(super) direct: bool,
    /// The requested duration in seconds.
    pub(super) runtime: f64,
    /// Planned rounds without latencies.
    pub(super) rounds: usize,
    /// Planned rounds with latencies.
    pub(super) latency_rounds: usize,
    /// Milliseconds per engine and round.
    pub(super) round_ms: u64,
    pub(super) seed: u64,
    /// The engine that ratios are relative to.
    pub(super) baseline: String,
}

/// An engine at a depth.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// Transfers in flight.
    pub(super) depth: u16,
    pub(super) engine: String,
    /// The figures. `null`: nothing was measured, see `skipped`.
    pub(super) figures: Option<RowFigures>,
    /// Why nothing was measured. `null`: something was.
    pub(super) skipped: Option<Skipped>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Skipped {
    pub(super) error: String,
    /// The machine lacks or forbids something, so this is not a failure.
    pub(super) unavailable: bool,
}

/// The figures of an engine at a depth. A figure is `null` if it is not available.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RowFigures {
    /// Completed rounds.
    pub(super) rounds: usize,
    /// Transfers per second.
    pub(super) iops: Option<Spread>,
    /// Median of MiB per second.
    pub(super) mib_per_second: Option<f64>,
    /// Microseconds.
    pub(super) latency: Option<Latency>,
    /// CPU time of all threads per transfer, in microseconds.
    pub(super) cpu: Option<Spread>,
    /// The share of the CPU time in user space, 0 to 1.
    pub(super) cpu_user_share: Option<f64>,
    /// System calls per transfer. `null`: unknown, or there was no time to count.
    pub(super) system_calls: Option<f64>,
    /// Allocations per transfer.
    pub(super) allocations: Option<f64>,
    /// Ratio of transfers per second to the baseline in the same round.
    pub(super) iops_ratio: Option<Spread>,
    /// Ratio of CPU time per transfer to the baseline in the same round.
    pub(super) cpu_ratio: Option<Spread>,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: Option<f64>,
}

impl BenchResults {
    pub(super) fn of(
        args: &BenchArgs,
        machine: Machine,
        target: &BenchTarget,
        settings: Settings,
        block: u64,
        rows: Vec<Row>,
    ) -> BenchResults {
        BenchResults {
            schema: 1,
            command: command(),
            machine,
            target: TargetFacts::of(target),
            limits: Limits::now(),
            settings: SettingsFacts {
                rw: args.rw.name(),
                mix: args.rw.is_mixed().then(|| args.mix.unwrap_or(70)),
                block,
                direct: !args.buffered,
                runtime: args.runtime.as_secs_f64(),
                rounds: settings.rounds,
                latency_rounds: settings.latency_rounds,
                round_ms: settings.round_ms,
                seed: settings.seed,
                baseline: settings.baseline,
            },
            rows,
        }
    }

    /// The depths, in the order of the measurements, each with its rows.
    pub(super) fn depths(&self) -> impl Iterator<Item = (u16, &[Row])> {
        let by_depth = self.rows.chunk_by(|a, b| a.depth == b.depth);
        by_depth.map(|rows| (rows[0].depth, rows))
    }
}

/// The command line. The name of the program is always `kaio`, without its path.
fn command() -> String {
    let words = env::args_os().skip(1);
    let words = words.map(|word| quoted(&word.to_string_lossy()));
    let words: Vec<_> = std::iter::once("kaio".to_owned()).chain(words).collect();
    words.join(" ")
}

/// Quotes a word for a shell, if necessary.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), |word| word.into_owned())
}

impl TargetFacts {
    fn of(target: &BenchTarget) -> TargetFacts {
        TargetFacts {
            path: target.path.clone(),
            kind: target.kind,
            bytes: target.len,
            file_system: target.place.as_ref().map(|place| place.file_system.clone()),
            source: target.place.as_ref().map(|place| place.source.clone()),
            device: Disk::under(&target.path),
            alignment: target.alignment,
        }
    }
}

impl Limits {
    fn now() -> Limits {
        Limits {
            aio_nr: sysctl("fs/aio-nr"),
            aio_max_nr: sysctl("fs/aio-max-nr"),
            memlock: Memlock::now(),
        }
    }
}

impl Row {
    pub(super) fn of(depth: u16, block: u64, report: EngineReport) -> Row {
        let summary = report.summary;
        let (figures, skipped) = match report.outcome {
            Outcome::Measured(figures) => (RowFigures::of(&figures, summary, block), None),
            Outcome::Skipped { error, unavailable } => (None, Some(Skipped { error, unavailable })),
        };
        Row {
            depth,
            engine: report.engine,
            figures,
            skipped,
        }
    }
}

/// Whether a count is valid. Counts are differences of two runs; a negative one is noise.
fn is_count(count: &f64) -> bool {
    *count >= 0.0
}

impl RowFigures {
    fn of(figures: &Figures, summary: Option<Summary>, block: u64) -> Option<RowFigures> {
        let summary = summary?;
        let micros = |nanos: f64| nanos / 1e3;
        Some(RowFigures {
            rounds: figures.rounds.len(),
            iops: summary.iops,
            mib_per_second: summary
                .iops
                .map(|iops| iops.median * block as f64 / f64::from(1 << 20)),
            latency: figures.latency.map(|latency| Latency {
                p50: micros(latency.p50_ns),
                p99: micros(latency.p99_ns),
                p99_9: micros(latency.p999_ns),
                max: latency.max_ns.map(micros),
            }),
            cpu: summary.cpu_ns.map(|spread| Spread {
                q1: micros(spread.q1),
                median: micros(spread.median),
                q3: micros(spread.q3),
            }),
            cpu_user_share: summary.user_share,
            system_calls: figures.counts.all_calls().filter(is_count),
            allocations: figures.counts.allocations.filter(is_count),
            iops_ratio: summary.iops_ratio,
            cpu_ratio: summary.cpu_ratio,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_if_a_shell_requires_it() {
        let quoted = ["1,8", "/mnt/data", "two words", "", "it's", "$HOME"].map(quoted);
        let expected = [
            "1,8",
            "/mnt/data",
            "'two words'",
            "''",
            "\"it's\"",
            "'$HOME'",
        ];
        assert_eq!(quoted, expected);
    }
}
