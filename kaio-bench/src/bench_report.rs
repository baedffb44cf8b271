//! [`Report`]: the results of a measurement, and their JSON form.

use serde::{Deserialize, Serialize};

use crate::counting::Counts;
use crate::engine_summary::Summary;
use crate::machine_info::{Machine, Place};
use crate::{Pattern, Shape};

/// Results of one measurement. Tables and plots are made from its JSON form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// The settings.
    pub settings: Settings,
    /// The measured directories.
    pub places: Vec<Place>,
    /// Results, one set for each workload and place.
    pub sets: Vec<ResultSet>,
}

/// Settings of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds. Every engine runs once in each.
    pub rounds: usize,
    /// Milliseconds that each engine runs in a round.
    pub round_ms: u64,
    /// Additional rounds that record latencies.
    pub latency_rounds: usize,
    /// Size of the file in bytes.
    pub file_size: u64,
    /// Name of the baseline engine: the denominator of all ratios.
    pub baseline: String,
    /// Seed of the random offsets.
    #[serde(default)]
    pub seed: u64,
    /// Milliseconds after which no further round of a workload starts. One round of each kind always runs;
    /// counting is skipped unless it is short. `None`: no limit.
    #[serde(default, alias = "patience_ms")]
    pub time_limit_ms: Option<u64>,
}

impl Settings {
    /// Settings of a command whose tables each have a baseline of their own, and that records no latencies.
    pub(crate) fn for_tables(rounds: u16, round_ms: u32, file_size: u64) -> Settings {
        Settings {
            rounds: rounds.into(),
            round_ms: round_ms.into(),
            latency_rounds: 0,
            file_size,
            baseline: "the first of each table".into(),
            ..Settings::default()
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            rounds: 15,
            round_ms: 100,
            latency_rounds: 5,
            file_size: 64 << 20,
            baseline: "bare".into(),
            seed: 0,
            time_limit_ms: None,
        }
    }
}

/// Results of one workload in one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultSet {
    /// Name of one of [`Report::places`].
    pub place: String,
    /// The access pattern.
    pub pattern: Pattern,
    /// How transfers were kept in flight.
    pub shape: Shape,
    /// Queue depth: maximum transfers in flight.
    pub depth: usize,
    /// Results of the engines, in the order of the first round.
    pub engines: Vec<EngineReport>,
}

/// Results of one engine with one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineReport {
    /// Name of the engine.
    pub engine: String,
    /// Whether the engine was measured, and its figures.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Medians and ratios. `None` if the engine was not measured.
    pub summary: Option<Summary>,
}

/// Whether an engine was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The engine was measured.
    Measured(Figures),
    /// The engine was not measured.
    Skipped {
        /// Reason.
        error: String,
        /// Whether this machine does not support the engine ([`Unavailable`](crate::Unavailable)).
        unavailable: bool,
    },
}

/// Figures of one engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Transfers requested for each round.
    pub transfers: usize,
    /// Rounds. Rounds with the same index, of different engines, are compared.
    pub rounds: Vec<Sample>,
    /// Latency rounds, compared in the same way.
    pub latency_rounds: Vec<Quantiles>,
    /// Latencies of all latency rounds together.
    pub latency: Option<Quantiles>,
    /// System calls and allocations per transfer.
    pub counts: Counts,
}

/// One round of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Transfers completed.
    pub transfers: u64,
    /// Wall time in nanoseconds.
    pub wall_ns: f64,
    /// CPU time of all threads in user space, in nanoseconds.
    pub user_ns: f64,
    /// CPU time of all threads in the kernel, in nanoseconds.
    pub system_ns: f64,
    /// Nanoseconds that the machine's CPUs were busy during the round, with any process. Its resolution is
    /// coarse: only sums over many rounds are meaningful. `None` if unknown.
    pub busy_ns: Option<f64>,
    /// Voluntary context switches.
    pub voluntary: u64,
    /// Involuntary context switches.
    pub involuntary: u64,
}

impl Sample {
    pub(crate) fn wall(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.wall_ns as u64)
    }

    pub(crate) fn cpu_ns(&self) -> f64 {
        self.per_transfer(self.user_ns + self.system_ns)
    }

    pub(crate) fn iops(&self) -> f64 {
        self.transfers as f64 / self.wall_ns * 1e9
    }

    pub(crate) fn per_transfer(&self, value: f64) -> f64 {
        value / self.transfers as f64
    }
}

/// Latencies in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50_ns: f64,
    /// 99th percentile.
    pub p99_ns: f64,
    /// 99.9th percentile.
    pub p999_ns: f64,
    /// Maximum. `None` in reports of older versions.
    #[serde(default)]
    pub max_ns: Option<f64>,
}

impl EngineReport {
    /// The figures, if the engine was measured.
    pub fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Measured(figures) => Some(figures),
            Outcome::Skipped { .. } => None,
        }
    }

    /// Describes why the result is incomplete: the engine failed, or a figure is missing. Missing latencies
    /// count if `latencies` is set.
    pub(crate) fn problem(&self, latencies: bool) -> Option<String> {
        let figures = match &self.outcome {
            Outcome::Measured(figures) => figures,
            Outcome::Skipped {
                unavailable: true, ..
            } => return None,
            Outcome::Skipped { error, .. } => return Some(error.clone()),
        };
        let counts = &figures.counts;
        let summary = self.summary.as_ref();
        let ratios = summary.map(|s| [s.cpu_ratio, s.iops_ratio, s.time_ratio]);
        let p99 = summary.and_then(|summary| summary.p99_ratio);
        let missing = if summary.is_none_or(|s| s.cpu_ns.is_none() || s.iops.is_none()) {
            "CPU or IOPS"
        } else if latencies && figures.latency.is_none() {
            "latencies"
        } else if counts.calls.is_none() {
            "system calls"
        } else if counts.allocations.is_none() {
            "allocations"
        } else if ratios.is_none_or(|ratios| ratios.iter().any(Option::is_none))
            || (latencies && p99.is_none())
        {
            "ratios to the baseline"
        } else {
            return None;
        };
        Some(format!("{missing} missing"))
    }
}

impl ResultSet {
    /// Computes the summaries, with ratios to engine `baseline`.
    pub fn summarize(&mut self, baseline: &str) {
        summarize(&mut self.engines, baseline);
    }

    /// Title in tables: `random-read, tasks, depth 32, disk`.
    pub fn title(&self) -> String {
        let (pattern, shape) = (self.pattern, self.shape);
        format!("{pattern}, {shape}, depth {}, {}", self.depth, self.place)
    }
}

/// Computes the summaries of engines that ran in the same rounds, with ratios to the engine named
/// `baseline`.
pub fn summarize(engines: &mut [EngineReport], baseline: &str) {
    let is_baseline = |report: &&EngineReport| report.engine == baseline;
    let baseline = engines.iter().find(is_baseline);
    let baseline = baseline.and_then(EngineReport::figures).cloned();
    for report in engines {
        let summary = report
            .figures()
            .map(|figures| Summary::of(figures, baseline.as_ref()));
        report.summary = summary;
    }
}

impl Report {
    /// Computes the summaries, with ratios to [`Settings::baseline`].
    pub fn summarize(&mut self) {
        for set in &mut self.sets {
            set.summarize(&self.settings.baseline);
        }
    }

    /// Lists the results that are incomplete.
    pub fn problems(&self) -> Vec<String> {
        let reports = self
            .sets
            .iter()
            .flat_map(|set| set.engines.iter().map(move |report| (set, report)));
        reports
            .filter_map(|(set, report)| {
                let problem = report.problem(true)?;
                Some(format!("{}: {}: {problem}", set.title(), report.engine))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Machine;

    /// Rounds with the given CPU per transfer, and other figures derived from it.
    fn figures(cpu: [f64; 3]) -> Figures {
        let round = |cpu: f64| Sample {
            transfers: 10,
            wall_ns: cpu * 20.0,
            user_ns: cpu * 2.5,
            system_ns: cpu * 7.5,
            busy_ns: Some(cpu * 12.0 - 1500.0),
            voluntary: 3,
            involuntary: 1,
        };
        let latency = |cpu: f64| Quantiles {
            p50_ns: cpu,
            p99_ns: cpu * 2.0,
            p999_ns: cpu * 3.0,
            max_ns: Some(cpu * 4.0),
        };
        Figures {
            transfers: 10,
            rounds: cpu.map(round).into(),
            latency_rounds: cpu.map(latency).into(),
            latency: Some(latency(cpu[0])),
            counts: Counts {
                calls: Some([("io_submit".to_owned(), 1.0)].into()),
                allocations: Some(0.0),
            },
        }
    }

    fn report(engines: Vec<(&str, Outcome)>) -> Report {
        let engines = engines.into_iter().map(|(name, outcome)| EngineReport {
            engine: name.into(),
            outcome,
            summary: None,
        });
        let mut report = Report {
            machine: Machine::detect(),
            settings: Settings::default(),
            places: Vec::new(),
            sets: vec![ResultSet {
                place: "disk".into(),
                pattern: Pattern::LogAppend,
                shape: Shape::Waves,
                depth: 8,
                engines: engines.collect(),
            }],
        };
        report.summarize();
        report
    }

    fn measured(cpu: [f64; 3]) -> Outcome {
        Outcome::Measured(figures(cpu))
    }

    fn skipped(unavailable: bool) -> Outcome {
        Outcome::Skipped {
            error: "not today".into(),
            unavailable,
        }
    }

    #[test]
    fn ratios_compare_the_same_round_of_the_baseline() {
        let report = report(vec![
            ("bare", measured([100.0, 200.0, 400.0])),
            ("other", measured([150.0, 400.0, 800.0])),
        ]);
        let summary = report.sets[0].engines[1].summary.unwrap();
        assert_eq!(summary.cpu_ns.unwrap().median, 400.0);
        assert_eq!(summary.user_share, Some(0.25));
        assert_eq!(summary.switches.unwrap().median, 0.4);
        assert_eq!(summary.cpu_ratio.unwrap().median, 2.0);
        assert_eq!(summary.cpu_ratio.unwrap().q1, 1.75);
        assert_eq!(summary.iops_ratio.unwrap().median, 0.5);
        assert_eq!(summary.p99_ratio.unwrap().median, 2.0);
    }

    #[test]
    fn a_report_without_machine_load_can_still_be_read() {
        let newer = report(vec![("bare", measured([1e3; 3]))]);
        let json = serde_json::to_string_pretty(&newer).unwrap();
        let added = ["others", "busy_ns", "machine_ns", "machine_ratio"];
        let added = added.map(|name| format!("\"{name}\": "));
        let is_old = |line: &&str| !added.iter().any(|name| line.contains(name));
        let older: Vec<_> = json.lines().filter(is_old).collect();
        assert_eq!(json.lines().count() - older.len(), 1 + 3 + 2);
        // Removing the last field of an object leaves a comma.
        let older: String = older.iter().flat_map(|line| line.split(' ')).collect();
        let older = older.replace(",}", "}");

        let mut older: Report = serde_json::from_str(&older).unwrap();
        older.summarize();
        assert_eq!(older.machine.others, None);
        let [old, new] = [&older, &newer].map(|report| report.sets[0].engines[0].summary.unwrap());
        assert_eq!(old.cpu_ratio, new.cpu_ratio);
        assert_eq!((old.machine_ns, old.machine_ratio), (None, None));
        assert_eq!(
            (new.machine_ns, new.machine_ratio),
            (Some(1050.0), Some(1.0))
        );
    }

    #[test]
    fn a_report_survives_a_round_trip_through_json() {
        let mut report = report(vec![
            ("bare", measured([100.1, 200.0, 1.0 / 3.0])),
            ("none", skipped(true)),
        ]);
        // A fast parser without `float_roundtrip` reads a neighbouring number.
        report.machine.others = Some(0.0009117146844704021);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn incomplete_results_are_problems_unless_the_engine_is_unavailable() {
        let bare = || ("bare", measured([1.0; 3]));
        assert!(
            report(vec![bare(), ("unavailable", skipped(true))])
                .problems()
                .is_empty()
        );

        let problems = report(vec![bare(), ("broken", skipped(false))]).problems();
        assert_eq!(
            problems,
            ["log-append, waves, depth 8, disk: broken: not today"]
        );

        let spoil = |spoil: fn(&mut Figures)| {
            let mut figures = figures([1.0; 3]);
            spoil(&mut figures);
            let spoiled = ("spoiled", Outcome::Measured(figures));
            report(vec![bare(), spoiled]).problems().concat()
        };
        assert!(spoil(|_| {}).is_empty());
        assert!(spoil(|f| f.rounds.clear()).contains("CPU or IOPS"));
        assert!(spoil(|f| f.rounds[0].wall_ns = 0.0).contains("CPU or IOPS"));
        assert!(spoil(|f| f.latency = None).contains("latencies"));
        assert!(spoil(|f| f.latency_rounds.clear()).contains("ratios"));
        assert!(spoil(|f| f.counts.calls = None).contains("system calls"));
        assert!(spoil(|f| f.counts.allocations = None).contains("allocations"));
        assert!(report(vec![("kaio", measured([1.0; 3]))]).problems()[0].contains("ratios"));
    }
}
