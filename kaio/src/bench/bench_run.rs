//! [`BenchRun`]: runs the rounds within the given time.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use kaio_bench::{Engine, EngineReport, Machine, Settings, Shape, Workload};

use super::bench_args::BenchArgs;
use super::bench_results::{BenchResults, Row};
use super::bench_target::{BenchTarget, Kind};
use super::engine_choice::{EngineChoice, RenamedEngine};
use crate::command_error::CommandError;
use crate::eta::write_eta;
use crate::stdio::eprint_line;
use crate::thread_limit::require_threads;

/// The number of rounds without and with latencies.
const ROUNDS: (usize, usize) = (7, 3);

/// A run, before its first round.
pub(super) struct BenchRun<'a> {
    args: &'a BenchArgs,
    target: BenchTarget,
    block: u64,
    choices: Vec<EngineChoice>,
    depths: Vec<u16>,
    settings: Settings,
}

impl BenchRun<'_> {
    /// Prepares the run for a command line.
    ///
    /// # Errors
    ///
    /// The options conflict, the target can't be opened or created, or too few threads can be started.
    pub(super) fn of(args: &BenchArgs) -> Result<BenchRun<'_>, CommandError> {
        if args.mix.is_some() && !args.rw.is_mixed() {
            let rw = args.rw.name();
            return Err(CommandError::Usage(format!(
                "--mix requires --rw randrw, not {rw}"
            )));
        }
        let choices = match args.engines.is_empty() {
            true => EngineChoice::value_variants(),
            false => &args.engines,
        };
        let choices = without_repeats(choices);
        let depths = without_repeats(&args.depth);
        let block = args.bs.unwrap_or(args.rw.block());
        require_engine_threads(&choices, &depths)?;
        let target = BenchTarget::of(args, block)?;
        let millis = args.runtime.as_millis() as u64;
        let engines = (choices.len() * depths.len()) as u64;
        let (rounds, latency_rounds) = ROUNDS;
        let mut settings = Settings {
            rounds,
            latency_rounds,
            file_size: target.len,
            baseline: choices[0].name(),
            seed: args.seed,
            time_limit_ms: Some(millis / depths.len() as u64),
            ..Settings::default()
        };
        // Calibration and counting take about one round each.
        let parts = engines * kaio_bench::progress_steps(&settings) as u64;
        settings.round_ms = (millis / parts).max(1);
        Ok(BenchRun {
            args,
            target,
            block,
            choices,
            depths,
            settings,
        })
    }

    /// Runs all rounds. Shows a progress bar if standard error is a terminal.
    pub(super) fn measure(self) -> Result<BenchResults, CommandError> {
        let machine = Machine::detect();
        let engines: Vec<_> = self.choices.iter().map(|it| it.engine()).collect();
        self.announce();
        let bar = self.bar();
        let mut rows = Vec::new();
        for depth in &self.depths {
            for report in self.measure_depth(*depth, &engines, &bar) {
                rows.push(Row::of(*depth, self.block, report));
            }
        }
        bar.finish_and_clear();
        Ok(BenchResults::of(
            self.args,
            machine,
            &self.target,
            self.settings,
            self.block,
            rows,
        ))
    }

    fn measure_depth(
        &self,
        depth: u16,
        engines: &[RenamedEngine],
        bar: &ProgressBar,
    ) -> Vec<EngineReport> {
        let engines: Vec<_> = engines.iter().map(|engine| engine as &dyn Engine).collect();
        let mut watcher = |engine: &str| {
            bar.set_message(format!("depth {depth}: {engine}"));
            bar.inc(1);
        };
        let workload = Workload {
            block: self.block as usize,
            reads: self.args.mix.unwrap_or(70),
            direct: !self.args.buffered,
            scratch: self.target.kind == Kind::Scratch,
            ..Workload::new(
                self.args.rw.pattern(),
                Shape::Tasks,
                depth.into(),
                &self.target.path,
                self.target.len,
            )
        };
        let mut reports =
            kaio_bench::measure_with_progress(&workload, &engines, &self.settings, &mut watcher);
        kaio_bench::summarize(&mut reports, &self.settings.baseline);
        reports
    }

    fn announce(&self) {
        let (engines, seconds) = (self.choices.len(), self.args.runtime.as_secs_f64());
        let depths: Vec<_> = self.depths.iter().map(u16::to_string).collect();
        eprint_line(format_args!(
            "measuring {engines} engine{} at depth {} for about {seconds} s",
            if engines == 1 { "" } else { "s" },
            depths.join(", ")
        ));
    }

    fn bar(&self) -> ProgressBar {
        if !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let steps =
            kaio_bench::progress_steps(&self.settings) * self.choices.len() * self.depths.len();
        let style =
            ProgressStyle::with_template("{bar:24} {percent:>3} %  {left:>4} left  {wide_msg}")
                .expect("a valid template");
        let style = style.with_key("left", write_eta).progress_chars("━╸─");
        ProgressBar::new(steps as u64).with_style(style)
    }
}

/// Fails unless the threads of all engines can run at the same time, because the engines of a depth are
/// prepared together.
fn require_engine_threads(choices: &[EngineChoice], depths: &[u16]) -> Result<(), CommandError> {
    /// Threads on which contexts end.
    const TEARDOWN: usize = 2;
    let depth = depths.iter().copied().max().unwrap_or_default();
    let engines: usize = choices.iter().map(|choice| choice.threads(depth)).sum();
    require_threads(engines + TEARDOWN).map_err(|error| match error {
        CommandError::Failed(error) => {
            format!("{error}, or choose a smaller --depth or fewer --engines").into()
        }
        usage => usage,
    })
}

fn without_repeats<T: PartialEq + Copy>(all: &[T]) -> Vec<T> {
    let mut once = Vec::new();
    for one in all {
        if !once.contains(one) {
            once.push(*one);
        }
    }
    once
}
