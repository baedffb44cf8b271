//! Measures engines in interleaved rounds of the same workload.

use std::time::{Duration, Instant};

use crate::bench_report::{EngineReport, Figures, Outcome, Quantiles, Sample, Settings};
use crate::calibrate::calibrate;
use crate::counting::{self, Counts};
use crate::machine_load::LoadTimer;
use crate::rusage::ResourceUsage;
use crate::{Engine, Latencies, Prepared, Result, Run, Unavailable, Workload};

/// Measures `engines` with `workload`. An engine that can't be prepared or fails is reported as skipped,
/// with its error; the others continue.
pub fn measure(
    workload: &Workload,
    engines: &[&dyn Engine],
    settings: &Settings,
) -> Vec<EngineReport> {
    measure_with_progress(workload, engines, settings, &mut |_| {})
}

/// As [`measure`]. Also calls `progress` with the name of the engine before each step: [`progress_steps`]
/// times for each engine, or fewer if an engine fails or the time limit is reached.
pub fn measure_with_progress(
    workload: &Workload,
    engines: &[&dyn Engine],
    settings: &Settings,
    progress: &mut dyn FnMut(&str),
) -> Vec<EngineReport> {
    let time_limit = settings.time_limit_ms.map(Duration::from_millis);
    let mut runners: Vec<_> = engines
        .iter()
        .map(|engine| Runner::new(*engine, workload))
        .collect();
    let start = Instant::now();
    let in_time = || time_limit.is_none_or(|limit| start.elapsed() < limit);
    let round_time = Duration::from_millis(settings.round_ms);
    for runner in &mut runners {
        runner.step(progress, |prepared, measurement| {
            let run = |transfers| Ok(sample(prepared, transfers, settings.seed)?.wall());
            measurement.figures.transfers = calibrate(run, round_time, workload.depth)?;
            Ok(())
        });
    }
    // Always at least one round of each kind.
    let seed = |round: usize| settings.seed.wrapping_add(round as u64 + 1);
    for round in (0..settings.rounds).take_while(|round| *round == 0 || in_time()) {
        run_step(&mut runners, round, progress, |prepared, measurement| {
            let sample = sample(prepared, measurement.figures.transfers, seed(round))?;
            measurement.figures.rounds.push(sample);
            Ok(())
        });
    }
    for round in (0..settings.latency_rounds).take_while(|round| *round == 0 || in_time()) {
        run_step(&mut runners, round, progress, |prepared, measurement| {
            measurement.record_latencies(prepared, seed(round))
        });
    }
    for runner in &mut runners {
        // With this many transfers, counting takes no longer than a round.
        let is_short = runner.measurement.figures.transfers >= MIN_COUNTED_WAVES * workload.depth;
        if is_short || in_time() {
            runner.step(progress, |prepared, measurement| {
                count(prepared, &mut measurement.figures, workload.depth)
            });
        }
    }
    runners.into_iter().map(Runner::report).collect()
}

/// Number of steps of [`measure_with_progress`] for one engine.
pub fn progress_steps(settings: &Settings) -> usize {
    let (calibration, counting) = (1, 1);
    calibration + settings.rounds + settings.latency_rounds + counting
}

/// An engine under measurement.
struct Runner {
    name: String,
    /// The prepared engine, or its first error.
    prepared: Result<Box<dyn Prepared>>,
    measurement: Measurement,
}

/// Results so far.
struct Measurement {
    figures: Figures,
    /// Latencies of all rounds.
    latencies: Latencies,
}

impl Runner {
    fn new(engine: &dyn Engine, workload: &Workload) -> Runner {
        Runner {
            name: engine.name().to_owned(),
            prepared: engine.prepare(workload),
            measurement: Measurement {
                figures: Figures::default(),
                latencies: Latencies::new(true),
            },
        }
    }

    /// Runs `step`, unless an earlier step has failed.
    fn step(
        &mut self,
        progress: &mut dyn FnMut(&str),
        step: impl FnOnce(&mut dyn Prepared, &mut Measurement) -> Result<()>,
    ) {
        if let Ok(prepared) = &mut self.prepared {
            progress(&self.name);
            if let Err(error) = step(&mut **prepared, &mut self.measurement) {
                self.prepared = Err(error);
            }
        }
    }

    fn report(mut self) -> EngineReport {
        self.measurement.figures.latency = quantiles(&self.measurement.latencies);
        let outcome = match self.prepared {
            Ok(_) => Outcome::Measured(self.measurement.figures),
            Err(error) => Outcome::Skipped {
                unavailable: error.is::<Unavailable>(),
                error: error.to_string(),
            },
        };
        EngineReport {
            engine: self.name,
            outcome,
            summary: None,
        }
    }
}

/// Runs `step` for each engine, in the [`order`] of the round.
fn run_step(
    runners: &mut [Runner],
    round: usize,
    progress: &mut dyn FnMut(&str),
    mut step: impl FnMut(&mut dyn Prepared, &mut Measurement) -> Result<()>,
) {
    for index in order(round, runners.len()) {
        runners[index].step(progress, &mut step);
    }
}

/// The order in which `count` engines run in a round. Within `count` rounds (2 × `count` if odd), each
/// engine runs directly after each other one equally often, so that carry-over effects, such as a full
/// write cache, affect all engines alike.
///
/// The orders are rows of a [Williams design](https://doi.org/10.1071/CH9490149): 0, 1, -1, 2, -2, …
/// plus the round, modulo `count`. If `count` is odd, every second row is reversed.
fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    let backwards = count % 2 == 1 && round % 2 == 1;
    (0..count).map(move |position| {
        let position = if backwards {
            count - 1 - position
        } else {
            position
        };
        let step = position.div_ceil(2);
        let from_first = if position % 2 == 1 {
            step
        } else {
            count - step
        };
        (round + from_first) % count
    })
}

/// Runs an engine once and measures CPU and wall time.
fn sample(prepared: &mut dyn Prepared, transfers: usize, seed: u64) -> Result<Sample> {
    let run = Run {
        transfers,
        seed,
        latencies: false,
    };
    let load_timer = LoadTimer::start();
    let (before, start) = (ResourceUsage::now(), Instant::now());
    let stats = prepared.run(&run)?;
    let (wall, after) = (start.elapsed(), ResourceUsage::now());
    let busy_ns = load_timer.and_then(|timer| timer.busy_ns());
    if stats.transfers < transfers as u64 {
        let completed = stats.transfers;
        return Err(format!("the engine completed {completed} of {transfers} transfers").into());
    }
    if let Some(part) = prepared.steady_part() {
        return Ok(part.sample);
    }
    let nanos = |time: Duration| time.as_nanos() as f64;
    Ok(Sample {
        transfers: stats.transfers,
        wall_ns: nanos(wall),
        user_ns: nanos(after.user.saturating_sub(before.user)),
        system_ns: nanos(after.system.saturating_sub(before.system)),
        busy_ns,
        voluntary: after.voluntary_switches - before.voluntary_switches,
        involuntary: after.involuntary_switches - before.involuntary_switches,
    })
}

impl Measurement {
    fn record_latencies(&mut self, prepared: &mut dyn Prepared, seed: u64) -> Result<()> {
        let run = Run {
            transfers: self.figures.transfers,
            seed,
            latencies: true,
        };
        let stats = prepared.run(&run)?;
        let quantiles = quantiles(&stats.latencies).ok_or("the engine recorded no latencies")?;
        self.figures.latency_rounds.push(quantiles);
        self.latencies.merge(&stats.latencies);
        Ok(())
    }
}

fn quantiles(latencies: &Latencies) -> Option<Quantiles> {
    let nanos = |share| Some(latencies.quantile(share)?.as_nanos() as f64);
    Some(Quantiles {
        p50_ns: nanos(0.5)?,
        p99_ns: nanos(0.99)?,
        p999_ns: nanos(0.999)?,
        max_ns: nanos(1.0),
    })
}

/// Minimum waves of the shorter counted run.
const MIN_COUNTED_WAVES: usize = 8;

/// Counts system calls and allocations of a transfer: the difference between a short run and one of
/// three times its length, which cancels out the cost of starting a run.
fn count(prepared: &mut dyn Prepared, figures: &mut Figures, depth: usize) -> Result<()> {
    let short = (figures.transfers / 4)
        .next_multiple_of(depth)
        .max(MIN_COUNTED_WAVES * depth);
    let counted = |prepared: &mut dyn Prepared, transfers| {
        let run = Run {
            transfers,
            seed: 1,
            latencies: false,
        };
        let counting = counting::start();
        let stats = prepared.run(&run)?;
        Result::Ok((stats.transfers as f64, counting.counts()))
    };
    let (short_transfers, short_counts) = counted(prepared, short)?;
    if let Some(part) = prepared.steady_part() {
        let steady = part.counts.unwrap_or_default();
        figures.counts = Counts {
            calls: short_counts.calls.and(steady.calls),
            allocations: short_counts.allocations.and(steady.allocations),
        };
        return Ok(());
    }
    let (long_transfers, long_counts) = counted(prepared, 3 * short)?;
    figures.counts = long_counts.per_operation(&short_counts, long_transfers - short_transfers);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::{Pattern, RunStats, Shape};

    /// Logs its runs, and fails after `fails_at` of them.
    struct Fake {
        name: &'static str,
        fails_at: usize,
        log: Rc<RefCell<Vec<&'static str>>>,
    }

    struct PreparedFake {
        name: &'static str,
        runs_left: usize,
        log: Rc<RefCell<Vec<&'static str>>>,
    }

    impl Engine for Fake {
        fn name(&self) -> &str {
            self.name
        }

        fn prepare(&self, _: &Workload) -> Result<Box<dyn Prepared>> {
            if self.fails_at == 0 {
                return Err(Unavailable("not on this machine".into()).into());
            }
            Ok(Box::new(PreparedFake {
                name: self.name,
                runs_left: self.fails_at,
                log: Rc::clone(&self.log),
            }))
        }
    }

    impl Prepared for PreparedFake {
        fn run(&mut self, run: &Run) -> Result<RunStats> {
            self.runs_left = self.runs_left.checked_sub(1).ok_or("failed")?;
            self.log.borrow_mut().push(self.name);
            let mut stats = RunStats::new(run);
            let start = stats.latencies.start();
            std::thread::sleep(Duration::from_micros(100));
            stats.latencies.stop(start);
            stats.transfers = run.transfers as u64;
            Ok(stats)
        }
    }

    fn settings() -> Settings {
        Settings {
            rounds: 3,
            round_ms: 0,
            latency_rounds: 2,
            ..Settings::default()
        }
    }

    fn workload() -> Workload {
        Workload::new(Pattern::RandomRead, Shape::Waves, 4, "unused", 1 << 20)
    }

    #[test]
    fn each_engine_runs_first_and_after_each_other_one_equally_often() {
        for count in 1..=9 {
            let rounds = if count % 2 == 0 { count } else { 2 * count };
            let mut first = vec![0; count];
            let mut after = vec![vec![0; count]; count];
            for round in 0..rounds {
                let order: Vec<_> = order(round, count).collect();
                first[order[0]] += 1;
                for pair in order.windows(2) {
                    after[pair[0]][pair[1]] += 1;
                }
            }
            let share = rounds / count;
            assert_eq!(first, vec![share; count]);
            for (one, after) in after.iter().enumerate() {
                let expected = (0..count).map(|other| if other == one { 0 } else { share });
                assert_eq!(*after, expected.collect::<Vec<_>>(), "{one} of {count}");
            }
        }
    }

    #[test]
    fn engines_are_interleaved_and_each_round_begins_with_another() {
        let log = Rc::default();
        let fake = |name| Fake {
            name,
            fails_at: usize::MAX,
            log: Rc::clone(&log),
        };
        let (a, b) = (fake("a"), fake("b"));
        let reports = measure(&workload(), &[&a, &b], &settings());
        assert!(reports.iter().all(|report| report.figures().is_some()));
        // One run to calibrate (the round time is 0), three rounds, two latency rounds and two
        // counted runs.
        let expected = "ab ab ba ab ab ba aabb".replace(' ', "");
        assert_eq!(log.borrow().concat(), expected);
    }

    #[test]
    fn each_step_is_reported_and_past_the_time_limit_there_is_one_round_of_each_kind() {
        let fake = |log: &Rc<_>| Fake {
            name: "a",
            fails_at: usize::MAX,
            log: Rc::clone(log),
        };
        let watched = |time_limit_ms| {
            let (log, mut reported) = (Rc::default(), 0);
            let settings = Settings {
                time_limit_ms,
                ..settings()
            };
            let mut progress = |name: &str| {
                assert_eq!(name, "a");
                reported += 1;
            };
            let reports =
                measure_with_progress(&workload(), &[&fake(&log)], &settings, &mut progress);
            let figures = reports[0].figures().unwrap();
            let runs = log.borrow().len();
            (
                reported,
                runs,
                figures.rounds.len(),
                figures.latency_rounds.len(),
            )
        };
        let all = progress_steps(&settings());
        assert_eq!(watched(None), (all, all + 1, 3, 2));
        assert_eq!(watched(Some(0)), (3, 3, 1, 1));
    }

    #[test]
    fn an_engine_that_fails_is_skipped_and_the_others_continue() {
        let log = Rc::default();
        let fake = |name, fails_at| Fake {
            name,
            fails_at,
            log: Rc::clone(&log),
        };
        let (unavailable, failing, working) = (
            fake("unavailable", 0),
            fake("failing", 3),
            fake("working", usize::MAX),
        );
        let reports = measure(
            &workload(),
            &[&unavailable, &failing, &working],
            &settings(),
        );
        let skipped = |error: &str, unavailable| Outcome::Skipped {
            error: error.into(),
            unavailable,
        };
        assert_eq!(reports[0].outcome, skipped("not on this machine", true));
        assert_eq!(reports[1].outcome, skipped("failed", false));
        assert_eq!(reports[2].figures().unwrap().rounds.len(), 3);
    }
}
