//! The command line, for every binary that has engines.

mod choice;
mod explained;
mod memlock;
mod once;
mod pairs;
mod render;
mod run;
mod sites;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{NonEmptyStringValueParser, PossibleValue};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::pairs::Pair;
use crate::{Engine, Pattern, Result, Shape, engines, leftovers};

/// Measures ways to read and write a disk against the bare system calls.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_long_help = explained::FIGURES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes tables and plots of an earlier measurement
    Render(RenderArgs),
    /// Makes a number of transfers with one engine, or one way of a pair, and says which system calls
    /// they took: something to hold strace, perf or callgrind against
    Once(OnceArgs),
    /// Measures ways to do the same thing with tokio-kaio, such as a batch and its operations one by
    /// one, by turns; all figures of time are ratios
    #[command(after_long_help = explained::PAIRS)]
    Pairs(PairsArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Directory for the files; repeatable [default: `target` or else `.`, and /dev/shm if it has
    /// direct I/O]
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// Engines, by part of their names; the baseline is measured in any case [default: all]
    #[arg(long, value_name = "PART", value_delimiter = ',',
          value_parser = NonEmptyStringValueParser::new())]
    engines: Vec<String>,
    /// Patterns [default: all]
    #[arg(long, value_delimiter = ',')]
    patterns: Vec<Pattern>,
    /// Shapes [default: both]
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<Shape>,
    /// Transfers in flight, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128],
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    depths: Vec<u16>,
    /// Rounds, in each of which every engine runs once
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Milliseconds of an engine's part of a round
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    round_ms: u32,
    /// Further rounds with latencies
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    latency_rounds: u16,
    /// Size of the file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Engine that ratios are to
    #[arg(long, default_value = "bare")]
    baseline: String,
    /// Write everything that was measured to a file, anew after each table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw plots (SVG) into a directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Fail unless every engine that can run here has run, and has all of its figures
    #[arg(long)]
    strict: bool,
    /// List the engines, patterns, shapes and pairs, and measure nothing
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Args)]
struct RenderArgs {
    /// What `--json` has written
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Engines, by part of their names; the baseline in any case [default: all]
    #[arg(long, value_name = "PART", value_delimiter = ',',
          value_parser = NonEmptyStringValueParser::new())]
    engines: Vec<String>,
    /// Draw plots (SVG) into a directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Engine that ratios are to [default: that of the measurement]
    #[arg(long)]
    baseline: Option<String>,
}

#[derive(Debug, Args)]
struct PairsArgs {
    /// Pairs, by part of their names [default: all]
    #[arg(value_name = "PART", value_parser = NonEmptyStringValueParser::new())]
    pairs: Vec<String>,
    /// Directory for the files; repeatable [default: `target` or else `.`, and /dev/shm if it has
    /// direct I/O]
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// Rounds, in each of which every way of a pair runs once
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Milliseconds of a way's part of a round
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    round_ms: u32,
    /// Size of the file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Write everything that was measured to a file, anew after each table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fail unless every way has run, and has all of its figures
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
struct OnceArgs {
    /// Name of the engine; or of a pair's way, as `batch/join-all`, which has a workload of its own
    engine: String,
    /// Least number of transfers
    transfers: usize,
    /// [default: random-read]
    #[arg(long)]
    pattern: Option<Pattern>,
    /// [default: tasks]
    #[arg(long)]
    shape: Option<Shape>,
    /// Transfers in flight [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    depth: Option<u16>,
    /// Directory for the file
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Size of the file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
}

impl ValueEnum for Pattern {
    fn value_variants<'a>() -> &'a [Pattern] {
        &Pattern::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(explained::pattern(*self)))
    }
}

impl ValueEnum for Shape {
    fn value_variants<'a>() -> &'a [Shape] {
        &Shape::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(explained::shape(*self)))
    }
}

/// The whole of a binary that measures this crate's engines, and `extra` ones.
pub fn main(extra: Vec<Box<dyn Engine>>) -> ExitCode {
    let cli = Cli::parse();
    // Before there are threads.
    let watched = leftovers::remove_on_signal(|_| {}).map_err(Into::into);
    let all: Vec<_> = engines::all().into_iter().chain(extra).collect();
    let done = watched.and_then(|()| match &cli.command {
        Some(Command::Render(args)) => render::render(args),
        Some(Command::Once(args)) => once::once(args, &all),
        Some(Command::Pairs(args)) => pairs::pairs(args),
        None if cli.run.list => list(&all),
        None => run::run(&cli.run, &all),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list(all: &[Box<dyn Engine>]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let engines = all.iter().map(|engine| engine.name().to_owned());
    let patterns = Pattern::ALL.map(|pattern| pattern.to_string());
    let shapes = Shape::ALL.map(|shape| shape.to_string());
    writeln!(out, "engines:")?;
    engines
        .into_iter()
        .try_for_each(|name| writeln!(out, "  {name}"))?;
    writeln!(out, "patterns: {}", patterns.join(", "))?;
    writeln!(out, "shapes: {}", shapes.join(", "))?;
    writeln!(out, "pairs:")?;
    for Pair { name, ways, .. } in crate::pairs::all() {
        let ways: Vec<_> = ways.iter().map(|way| way.name()).collect();
        writeln!(out, "  {name}: {}", ways.join(", "))?;
    }
    Ok(())
}
