//! [`Results`]: what came out. As JSON it is what `kaio bench --json` writes; the table and the HTML page
//! are made of it, too.

use std::env;
use std::path::PathBuf;

use kaio_bench::{Disk, EngineReport, Figures, Machine, Outcome, Settings, Spread, Summary};
use serde::Serialize;

use super::args::Args;
use super::target::{Kind, Target};
use crate::alignment::Aligned;
use crate::limits::{Memlock, sysctl};
use crate::output::lossy;

/// All of a measurement. Fields may be added within a schema; none changes its meaning or goes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Results {
    /// The schema's number: 1.
    pub(super) schema: u32,
    /// The command line, as a shell takes it.
    pub(super) command: String,
    pub(super) machine: Machine,
    pub(super) target: TargetFacts,
    pub(super) limits: Limits,
    pub(super) settings: SettingsFacts,
    /// An engine at a depth each: by depth, in the order of the first round.
    #[serde(rename = "results")]
    pub(super) rows: Vec<Row>,
}

/// What was measured on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TargetFacts {
    #[serde(serialize_with = "lossy")]
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Bytes that were used.
    pub(super) bytes: u64,
    /// `null`: it is a block device itself.
    pub(super) file_system: Option<String>,
    /// What is mounted there: a device, mostly.
    pub(super) source: Option<String>,
    /// The block device that it is, or is on. `null`: there is none.
    pub(super) device: Option<Disk>,
    /// What direct I/O wants. `null`: it was not direct.
    pub(super) alignment: Option<Aligned>,
}

/// Limits of the system and of the process.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Limits {
    /// `fs.aio-nr`: requests that all contexts of the machine may have in flight. `null`: not known.
    pub(super) aio_nr: Option<u64>,
    /// `fs.aio-max-nr`: the most that this may be.
    pub(super) aio_max_nr: Option<u64>,
    /// `RLIMIT_MEMLOCK`.
    pub(super) memlock: Memlock,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct SettingsFacts {
    /// `randread`, `randwrite`, `randrw`, `read`, `write`.
    pub(super) rw: String,
    /// Reads among a hundred transfers. `null`: all or none are.
    pub(super) mix: Option<u8>,
    /// Bytes of a transfer.
    pub(super) block: u64,
    /// Past the page cache.
    pub(super) direct: bool,
    /// Seconds that it was to take.
    pub(super) runtime: f64,
    /// Rounds, if there was time for all of them.
    pub(super) rounds: usize,
    /// Further rounds with latencies, if there was time.
    pub(super) latency_rounds: usize,
    /// Milliseconds of an engine's part of a round.
    pub(super) round_ms: u64,
    pub(super) seed: u64,
    /// The engine that ratios are to.
    pub(super) baseline: String,
}

/// An engine at a depth.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// Transfers in flight.
    pub(super) depth: u16,
    pub(super) engine: String,
    /// What was measured. `null`: nothing, see `skipped`.
    pub(super) figures: Option<RowFigures>,
    /// Why nothing was. `null`: something was.
    pub(super) skipped: Option<Skipped>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Skipped {
    pub(super) error: String,
    /// The machine lacks something, or forbids it: no fault of the engine's.
    pub(super) unavailable: bool,
}

/// What was measured of an engine at a depth. Each may be `null` where it could not be had.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RowFigures {
    /// Rounds that were made.
    pub(super) rounds: usize,
    /// Transfers a second.
    pub(super) iops: Option<Spread>,
    /// MiB a second, the median.
    pub(super) mib_per_second: Option<f64>,
    /// Microseconds.
    pub(super) latency: Option<Latency>,
    /// Microseconds of CPU, of all threads of the process, a transfer.
    pub(super) cpu: Option<Spread>,
    /// The share of that in user space, 0 to 1.
    pub(super) cpu_user_share: Option<f64>,
    /// System calls a transfer. `null`: not known, or there was no time to count.
    pub(super) system_calls: Option<f64>,
    /// Allocations a transfer.
    pub(super) allocations: Option<f64>,
    /// Transfers a second, to the baseline's in the same round.
    pub(super) iops_ratio: Option<Spread>,
    /// CPU a transfer, to the baseline's in the same round.
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

impl Results {
    pub(super) fn of(
        args: &Args,
        machine: Machine,
        target: &Target,
        settings: Settings,
        block: u64,
        rows: Vec<Row>,
    ) -> Results {
        Results {
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

    /// The depths, in the order in which they were measured, each with its rows.
    pub(super) fn depths(&self) -> impl Iterator<Item = (u16, &[Row])> {
        let by_depth = self.rows.chunk_by(|a, b| a.depth == b.depth);
        by_depth.map(|rows| (rows[0].depth, rows))
    }
}

/// The command line. The program is called `kaio`, wherever it lies.
fn command() -> String {
    let words = env::args_os().skip(1);
    let words = words.map(|word| quoted(&word.to_string_lossy()));
    let words: Vec<_> = std::iter::once("kaio".to_owned()).chain(words).collect();
    words.join(" ")
}

/// The word as a shell takes it: as it is, where it takes that.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), |word| word.into_owned())
}

impl TargetFacts {
    fn of(target: &Target) -> TargetFacts {
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

/// What is counted is the difference of two runs: below 0 it is nothing but their noise.
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
    fn words_are_quoted_where_a_shell_wants_it() {
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
