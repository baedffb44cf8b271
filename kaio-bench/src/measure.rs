//! Measures engines against each other: the same workload, in rounds, by turns.

use std::time::{Duration, Instant};

use crate::busy::Watch;
use crate::calibrate::calibrate;
use crate::counting;
use crate::report::{EngineReport, Figures, Outcome, Quantiles, Sample, Settings};
use crate::usage::Usage;
use crate::{Engine, Latencies, Prepared, Result, Run, Unavailable, Workload};

/// Measures `engines` with `workload`. One that can't be prepared, or fails, is reported as skipped,
/// with its error; the others go on.
pub fn measure(
    workload: &Workload,
    engines: &[&dyn Engine],
    settings: &Settings,
) -> Vec<EngineReport> {
    measure_watched(workload, engines, settings, &mut |_| {})
}

/// As [`measure`], and tells `watcher` the name of each engine right before something is done with it.
/// That is [`steps`] times, or less often if an engine fails or patience ends.
pub fn measure_watched(
    workload: &Workload,
    engines: &[&dyn Engine],
    settings: &Settings,
    watcher: &mut dyn FnMut(&str),
) -> Vec<EngineReport> {
    let patience = settings.patience_ms.map(Duration::from_millis);
    let mut entrants: Vec<_> = engines
        .iter()
        .map(|engine| Entrant::new(*engine, workload))
        .collect();
    let start = Instant::now();
    let is_patient = || patience.is_none_or(|patience| start.elapsed() < patience);
    let round_time = Duration::from_millis(settings.round_ms);
    for entrant in &mut entrants {
        entrant.step(watcher, |prepared, state| {
            let run = |transfers| Ok(sample(prepared, transfers, settings.seed)?.wall());
            state.figures.transfers = calibrate(run, round_time, workload.depth)?;
            Ok(())
        });
    }
    // One round of each kind there is in any case.
    let seed = |round: usize| settings.seed.wrapping_add(round as u64 + 1);
    for round in (0..settings.rounds).take_while(|round| *round == 0 || is_patient()) {
        in_turn(&mut entrants, round, watcher, |prepared, state| {
            let sample = sample(prepared, state.figures.transfers, seed(round))?;
            state.figures.rounds.push(sample);
            Ok(())
        });
    }
    for round in (0..settings.latency_rounds).take_while(|round| *round == 0 || is_patient()) {
        in_turn(&mut entrants, round, watcher, |prepared, state| {
            state.take_latencies(prepared, seed(round))
        });
    }
    for entrant in &mut entrants {
        // Counting takes as long as a round, if that has so many transfers.
        let fits = entrant.state.figures.transfers >= LEAST_COUNTED * workload.depth;
        if fits || is_patient() {
            entrant.step(watcher, |prepared, state| {
                count(prepared, &mut state.figures, workload.depth)
            });
        }
    }
    entrants.into_iter().map(Entrant::report).collect()
}

/// How often [`measure_watched`] does something with one engine.
pub fn steps(settings: &Settings) -> usize {
    let (calibration, counting) = (1, 1);
    calibration + settings.rounds + settings.latency_rounds + counting
}

/// An engine that takes part.
struct Entrant {
    name: String,
    /// Or what it has failed with.
    prepared: Result<Box<dyn Prepared>>,
    state: State,
}

/// What has been measured so far.
struct State {
    figures: Figures,
    /// Of all rounds.
    latencies: Latencies,
}

impl Entrant {
    fn new(engine: &dyn Engine, workload: &Workload) -> Entrant {
        Entrant {
            name: engine.name().to_owned(),
            prepared: engine.prepare(workload),
            state: State {
                figures: Figures::default(),
                latencies: Latencies::new(true),
            },
        }
    }

    /// Does `step`, unless an earlier one has failed.
    fn step(
        &mut self,
        watcher: &mut dyn FnMut(&str),
        step: impl FnOnce(&mut dyn Prepared, &mut State) -> Result<()>,
    ) {
        if let Ok(prepared) = &mut self.prepared {
            watcher(&self.name);
            if let Err(error) = step(&mut **prepared, &mut self.state) {
                self.prepared = Err(error);
            }
        }
    }

    fn report(mut self) -> EngineReport {
        self.state.figures.latency = quantiles(&self.state.latencies);
        let outcome = match self.prepared {
            Ok(_) => Outcome::Measured(self.state.figures),
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

/// Does `step` for each entrant, in the [`order`] of the round.
fn in_turn(
    entrants: &mut [Entrant],
    round: usize,
    watcher: &mut dyn FnMut(&str),
    mut step: impl FnMut(&mut dyn Prepared, &mut State) -> Result<()>,
) {
    for index in order(round, entrants.len()) {
        entrants[index].step(watcher, &mut step);
    }
}

/// Who runs after whom, of `count`: in as many rounds (twice as many, if that is odd) everybody
/// comes after everybody else equally often, so that what one leaves behind, a warm drive or a
/// full write cache, is not always the same one's to bear.
///
/// Rows of a [Williams design](https://doi.org/10.1071/CH9490149): 0, 1, -1, 2, -2, … moved on by
/// one from round to round, modulo `count`. Where that is odd, each second row is read backwards.
fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    let backwards = count % 2 == 1 && round % 2 == 1;
    (0..count).map(move |place| {
        let place = if backwards { count - 1 - place } else { place };
        let step = place.div_ceil(2);
        let from_first = if place % 2 == 1 { step } else { count - step };
        (round + from_first) % count
    })
}

/// One run with an eye on the clocks.
fn sample(prepared: &mut dyn Prepared, transfers: usize, seed: u64) -> Result<Sample> {
    let run = Run {
        transfers,
        seed,
        latencies: false,
    };
    let machine = Watch::start();
    let (before, start) = (Usage::now(), Instant::now());
    let tally = prepared.run(&run)?;
    let (wall, after) = (start.elapsed(), Usage::now());
    let busy_ns = machine.and_then(|watch| watch.busy_ns());
    if tally.transfers < transfers as u64 {
        let made = tally.transfers;
        return Err(format!("made {made} transfers where {transfers} were asked for").into());
    }
    let nanos = |time: Duration| time.as_nanos() as f64;
    Ok(Sample {
        transfers: tally.transfers,
        wall_ns: nanos(wall),
        user_ns: nanos(after.user.saturating_sub(before.user)),
        system_ns: nanos(after.system.saturating_sub(before.system)),
        busy_ns,
        voluntary: after.voluntary - before.voluntary,
        involuntary: after.involuntary - before.involuntary,
    })
}

impl State {
    fn take_latencies(&mut self, prepared: &mut dyn Prepared, seed: u64) -> Result<()> {
        let run = Run {
            transfers: self.figures.transfers,
            seed,
            latencies: true,
        };
        let tally = prepared.run(&run)?;
        let quantiles = quantiles(&tally.latencies).ok_or("took no latencies")?;
        self.figures.latency_rounds.push(quantiles);
        self.latencies.merge(&tally.latencies);
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

/// Waves of the shorter of the runs that are counted, at least.
const LEAST_COUNTED: usize = 8;

/// What a *further* transfer takes: the difference between a short run and one of three times its
/// length, so that what a run needs to get going is in neither figure.
fn count(prepared: &mut dyn Prepared, figures: &mut Figures, depth: usize) -> Result<()> {
    let short = (figures.transfers / 4)
        .next_multiple_of(depth)
        .max(LEAST_COUNTED * depth);
    let mut counted = |transfers| {
        let run = Run {
            transfers,
            seed: 1,
            latencies: false,
        };
        let counting = counting::start();
        let tally = prepared.run(&run)?;
        Result::Ok((tally.transfers as f64, counting.counts()))
    };
    let (few, less) = counted(short)?;
    let (many, more) = counted(3 * short)?;
    figures.counts = more.per_operation(&less, many - few);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::{Pattern, Shape, Tally};

    /// Writes down who runs; fails once it has made so many runs.
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
        fn run(&mut self, run: &Run) -> Result<Tally> {
            self.runs_left = self.runs_left.checked_sub(1).ok_or("worn out")?;
            self.log.borrow_mut().push(self.name);
            let mut tally = Tally::new(run);
            let start = tally.latencies.start();
            std::thread::sleep(Duration::from_micros(100));
            tally.latencies.stop(start);
            tally.transfers = run.transfers as u64;
            Ok(tally)
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
    fn everybody_comes_first_and_after_everybody_else_equally_often() {
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
    fn engines_take_turns_and_each_round_begins_with_another() {
        let log = Rc::default();
        let fake = |name| Fake {
            name,
            fails_at: usize::MAX,
            log: Rc::clone(&log),
        };
        let (a, b) = (fake("a"), fake("b"));
        let reports = measure(&workload(), &[&a, &b], &settings());
        assert!(reports.iter().all(|report| report.figures().is_some()));
        // One run calibrates where no time is to be filled, three rounds, two of latencies, and
        // two runs are counted.
        let expected = "ab ab ba ab ab ba aabb".replace(' ', "");
        assert_eq!(log.borrow().concat(), expected);
    }

    #[test]
    fn each_step_is_told_and_out_of_patience_there_is_one_round_of_each_kind() {
        let fake = |log: &Rc<_>| Fake {
            name: "a",
            fails_at: usize::MAX,
            log: Rc::clone(log),
        };
        let watched = |patience_ms| {
            let (log, mut told) = (Rc::default(), 0);
            let settings = Settings {
                patience_ms,
                ..settings()
            };
            let mut watcher = |name: &str| {
                assert_eq!(name, "a");
                told += 1;
            };
            let reports = measure_watched(&workload(), &[&fake(&log)], &settings, &mut watcher);
            let figures = reports[0].figures().unwrap();
            let runs = log.borrow().len();
            (
                told,
                runs,
                figures.rounds.len(),
                figures.latency_rounds.len(),
            )
        };
        let all = steps(&settings());
        assert_eq!(watched(None), (all, all + 1, 3, 2));
        assert_eq!(watched(Some(0)), (3, 3, 1, 1));
    }

    #[test]
    fn an_engine_that_fails_is_skipped_and_the_others_go_on() {
        let log = Rc::default();
        let fake = |name, fails_at| Fake {
            name,
            fails_at,
            log: Rc::clone(&log),
        };
        let (gone, worn, fit) = (fake("gone", 0), fake("worn", 3), fake("fit", usize::MAX));
        let reports = measure(&workload(), &[&gone, &worn, &fit], &settings());
        let skipped = |error: &str, unavailable| Outcome::Skipped {
            error: error.into(),
            unavailable,
        };
        assert_eq!(reports[0].outcome, skipped("not on this machine", true));
        assert_eq!(reports[1].outcome, skipped("worn out", false));
        assert_eq!(reports[2].figures().unwrap().rounds.len(), 3);
    }
}
