//! [`Report`]: what has been measured, where, and what follows from it.

use serde::{Deserialize, Serialize};

use crate::counting::Counts;
use crate::machine::{Machine, Place};
use crate::summary::Summary;
use crate::{Pattern, Shape};

/// All of one run: as JSON, what tables and plots are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was.
    pub machine: Machine,
    /// What was asked for.
    pub settings: Settings,
    /// The directories.
    pub places: Vec<Place>,
    /// What came out, a workload each.
    pub sets: Vec<Set>,
}

/// How to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds, in each of which every engine runs once.
    pub rounds: usize,
    /// Milliseconds that one engine's part of a round is to take.
    pub round_ms: u64,
    /// Further rounds with latencies.
    pub latency_rounds: usize,
    /// Length of the file in bytes.
    pub file_size: u64,
    /// The engine that ratios are to.
    pub baseline: String,
    /// What random offsets begin from: another seed, other offsets.
    #[serde(default)]
    pub seed: u64,
    /// Milliseconds after which a workload gets no further rounds than one of each kind, and nothing
    /// is counted. `None`: however long it takes.
    #[serde(default)]
    pub patience_ms: Option<u64>,
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
            patience_ms: None,
        }
    }
}

/// One workload in one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Set {
    /// Which of [`Report::places`], by its name.
    pub place: String,
    /// What was moved.
    pub pattern: Pattern,
    /// Who kept it in flight.
    pub shape: Shape,
    /// Most transfers in flight.
    pub depth: usize,
    /// The engines, in the order of the first round.
    pub engines: Vec<EngineReport>,
}

/// One engine with one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineReport {
    /// Its name.
    pub engine: String,
    /// What it has come to.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What follows from the figures. `None`: there are none.
    pub summary: Option<Summary>,
}

/// What an engine has come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was measured.
    Measured(Figures),
    /// It was not.
    Skipped {
        /// Why not.
        error: String,
        /// Whether that is the machine's doing: it lacks something, or forbids it.
        unavailable: bool,
    },
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Transfers asked for in a round.
    pub transfers: usize,
    /// The rounds. Those of the same number, of all engines, are pairs.
    pub rounds: Vec<Sample>,
    /// The rounds with latencies. Pairs as well.
    pub latency_rounds: Vec<Quantiles>,
    /// Latencies of all those rounds together.
    pub latency: Option<Quantiles>,
    /// System calls and allocations a transfer.
    pub counts: Counts,
}

/// One round of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Transfers made.
    pub transfers: u64,
    /// Nanoseconds from start to end.
    pub wall_ns: f64,
    /// CPU time of all threads in user space, in nanoseconds.
    pub user_ns: f64,
    /// CPU time of all threads in the kernel, in nanoseconds.
    pub system_ns: f64,
    /// Nanoseconds that the machine's CPUs were busy meanwhile, with whatever it was. In coarse
    /// steps: only sums over many rounds tell anything. `None`: the machine does not tell.
    pub busy_ns: Option<f64>,
    /// Times a thread went to sleep.
    pub voluntary: u64,
    /// Times a thread lost its CPU.
    pub involuntary: u64,
}

impl Sample {
    pub(crate) fn wall(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.wall_ns as u64)
    }

    pub(crate) fn cpu_ns(&self) -> f64 {
        self.each(self.user_ns + self.system_ns)
    }

    pub(crate) fn iops(&self) -> f64 {
        self.transfers as f64 / self.wall_ns * 1e9
    }

    pub(crate) fn each(&self, value: f64) -> f64 {
        value / self.transfers as f64
    }
}

/// Latencies in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half of them took no longer.
    pub p50_ns: f64,
    /// 99 % of them took no longer.
    pub p99_ns: f64,
    /// 99.9 % of them took no longer.
    pub p999_ns: f64,
    /// None took longer. `None`: measured before this was kept.
    #[serde(default)]
    pub max_ns: Option<f64>,
}

impl EngineReport {
    /// What was measured, if it was.
    pub fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Measured(figures) => Some(figures),
            Outcome::Skipped { .. } => None,
        }
    }

    /// What is wrong with it: it could have run and has not, or a figure is missing. Latencies may be,
    /// unless they were to be taken.
    pub(crate) fn flaw(&self, latencies: bool) -> Option<String> {
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
        Some(format!("without {missing}"))
    }
}

impl Set {
    /// Makes the summaries, with ratios to engine `baseline`.
    pub fn summarize(&mut self, baseline: &str) {
        summarize(&mut self.engines, baseline);
    }

    /// In words: `random-read, tasks, depth 32, disk`.
    pub fn title(&self) -> String {
        let (pattern, shape) = (self.pattern, self.shape);
        format!("{pattern}, {shape}, depth {}, {}", self.depth, self.place)
    }
}

/// Makes the summaries of engines that have run by turns, with ratios to the one called `baseline`.
pub fn summarize(engines: &mut [EngineReport], baseline: &str) {
    let of = |report: &&EngineReport| report.engine == baseline;
    let baseline = engines.iter().find(of);
    let baseline = baseline.and_then(EngineReport::figures).cloned();
    for report in engines {
        let summary = report
            .figures()
            .map(|figures| Summary::of(figures, baseline.as_ref()));
        report.summary = summary;
    }
}

impl Report {
    /// Makes the summaries, with ratios to [`Settings::baseline`].
    pub fn summarize(&mut self) {
        for set in &mut self.sets {
            set.summarize(&self.settings.baseline);
        }
    }

    /// What should have been measured and was not.
    pub fn flaws(&self) -> Vec<String> {
        let reports = self
            .sets
            .iter()
            .flat_map(|set| set.engines.iter().map(move |report| (set, report)));
        reports
            .filter_map(|(set, report)| {
                let flaw = report.flaw(true)?;
                Some(format!("{}: {}: {flaw}", set.title(), report.engine))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Machine;

    /// Rounds with so much CPU a transfer, and so on.
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
            machine: Machine::here(),
            settings: Settings::default(),
            places: Vec::new(),
            sets: vec![Set {
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
    fn ratios_are_to_the_same_round_of_the_baseline() {
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
    fn a_report_of_before_the_machine_was_watched_can_still_be_read() {
        let newer = report(vec![("bare", measured([1e3; 3]))]);
        let json = serde_json::to_string_pretty(&newer).unwrap();
        let added = ["others", "busy_ns", "machine_ns", "machine_ratio"];
        let added = added.map(|name| format!("\"{name}\": "));
        let is_old = |line: &&str| !added.iter().any(|name| line.contains(name));
        let older: Vec<_> = json.lines().filter(is_old).collect();
        assert_eq!(json.lines().count() - older.len(), 1 + 3 + 2);
        // Where the last field of an object is gone, a comma is left.
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
    fn a_report_comes_back_from_json_as_it_was() {
        let mut report = report(vec![
            ("bare", measured([100.1, 200.0, 1.0 / 3.0])),
            ("none", skipped(true)),
        ]);
        // Of those that a quick parser takes for their neighbour.
        report.machine.others = Some(0.0009117146844704021);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn what_is_missing_is_a_flaw_unless_the_machine_is_to_blame() {
        let bare = || ("bare", measured([1.0; 3]));
        assert!(
            report(vec![bare(), ("gone", skipped(true))])
                .flaws()
                .is_empty()
        );

        let flaws = report(vec![bare(), ("broken", skipped(false))]).flaws();
        assert_eq!(
            flaws,
            ["log-append, waves, depth 8, disk: broken: not today"]
        );

        let spoil = |spoil: fn(&mut Figures)| {
            let mut figures = figures([1.0; 3]);
            spoil(&mut figures);
            let spoiled = ("spoiled", Outcome::Measured(figures));
            report(vec![bare(), spoiled]).flaws().concat()
        };
        assert!(spoil(|_| {}).is_empty());
        assert!(spoil(|f| f.rounds.clear()).contains("CPU or IOPS"));
        assert!(spoil(|f| f.rounds[0].wall_ns = 0.0).contains("CPU or IOPS"));
        assert!(spoil(|f| f.latency = None).contains("latencies"));
        assert!(spoil(|f| f.latency_rounds.clear()).contains("ratios"));
        assert!(spoil(|f| f.counts.calls = None).contains("system calls"));
        assert!(spoil(|f| f.counts.allocations = None).contains("allocations"));
        assert!(report(vec![("kaio", measured([1.0; 3]))]).flaws()[0].contains("ratios"));
    }
}
