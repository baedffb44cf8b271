//! [`Measuring`]: the rounds, within the time that there is.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use kaio_bench::{Engine, EngineReport, Machine, Settings, Shape, Workload};

use super::args::Args;
use super::contender::{Contender, Named};
use super::results::{Results, Row};
use super::target::{Kind, Target};
use crate::failure::Failure;
use crate::left::left;
use crate::output::tell;

/// Rounds without latencies, and with.
const ROUNDS: (usize, usize) = (7, 3);

/// All that is known before the first round.
pub(super) struct Measuring<'a> {
    args: &'a Args,
    target: Target,
    block: u64,
    contenders: Vec<Contender>,
    depths: Vec<u16>,
    settings: Settings,
}

impl Measuring<'_> {
    /// # Errors
    ///
    /// Where the options do not go together, or there is no file to be had.
    pub(super) fn of(args: &Args) -> Result<Measuring<'_>, Failure> {
        if args.mix.is_some() && !args.rw.is_mixed() {
            let rw = args.rw.name();
            return Err(Failure::Usage(format!(
                "--mix goes with --rw randrw, not {rw}"
            )));
        }
        let contenders = match args.engines.is_empty() {
            true => Contender::value_variants(),
            false => &args.engines,
        };
        let contenders = without_repeats(contenders);
        let depths = without_repeats(&args.depth);
        let block = args.bs.unwrap_or(args.rw.block());
        let target = Target::of(args, block)?;
        let millis = args.runtime.as_millis() as u64;
        let engines = (contenders.len() * depths.len()) as u64;
        let (rounds, latency_rounds) = ROUNDS;
        let mut settings = Settings {
            rounds,
            latency_rounds,
            file_size: target.len,
            baseline: contenders[0].name(),
            seed: args.seed,
            time_limit_ms: Some(millis / depths.len() as u64),
            ..Settings::default()
        };
        // Finding out how many transfers fill a round, and counting, take a round each, or so.
        let parts = engines * kaio_bench::progress_steps(&settings) as u64;
        settings.round_ms = (millis / parts).max(1);
        Ok(Measuring {
            args,
            target,
            block,
            contenders,
            depths,
            settings,
        })
    }

    /// Makes all rounds. A progress bar tells how far it is, if standard error is a terminal.
    pub(super) fn measure(self) -> Result<Results, Failure> {
        let machine = Machine::detect();
        let engines: Vec<_> = self.contenders.iter().map(|it| it.engine()).collect();
        self.announce();
        let bar = self.bar();
        let mut rows = Vec::new();
        for depth in &self.depths {
            for report in self.measure_depth(*depth, &engines, &bar) {
                rows.push(Row::of(*depth, self.block, report));
            }
        }
        bar.finish_and_clear();
        Ok(Results::of(
            self.args,
            machine,
            &self.target,
            self.settings,
            self.block,
            rows,
        ))
    }

    fn measure_depth(&self, depth: u16, engines: &[Named], bar: &ProgressBar) -> Vec<EngineReport> {
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
        let (engines, seconds) = (self.contenders.len(), self.args.runtime.as_secs_f64());
        let depths: Vec<_> = self.depths.iter().map(u16::to_string).collect();
        tell(format_args!(
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
            kaio_bench::progress_steps(&self.settings) * self.contenders.len() * self.depths.len();
        let style =
            ProgressStyle::with_template("{bar:24} {percent:>3} %  {left:>4} left  {wide_msg}")
                .expect("a valid template");
        let style = style.with_key("left", left).progress_chars("━╸─");
        ProgressBar::new(steps as u64).with_style(style)
    }
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
