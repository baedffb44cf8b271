//! The command line of every binary that measures engines.

mod bench_files;
mod engine_filter;
mod help_text;
mod measure_command;
mod once_command;
mod pairs_command;
mod render_command;
mod scale_command;
mod soft_limits;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{NonEmptyStringValueParser, PossibleValue};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::pairs::Pair;
use crate::scale::Axis;
use crate::{Engine, Pattern, Result, Shape, engines, temp_path};

/// Compare file I/O in Rust (tokio-kaio, spawn_blocking, tokio::fs) with bare system calls
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_long_help = help_text::FIGURES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make tables and plots from the JSON of an earlier measurement
    Render(RenderArgs),
    /// Run one engine, or one variant of a pair, for a number of transfers and print its system calls, for
    /// use with strace, perf or callgrind
    Once(OnceArgs),
    /// Compare variants of the same job with tokio-kaio, such as a batch and single reads; all times are
    /// ratios
    #[command(after_long_help = help_text::PAIRS)]
    Pairs(PairsArgs),
    /// Measure the cost of a read with more tasks, open files and contexts; ratios to the smallest scale
    #[command(after_long_help = help_text::SCALE)]
    Scale(ScaleArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Directory for the files; repeatable [default: `target` or else `.`, and /dev/shm if it has
    /// direct I/O]
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// Engines to measure, by name or part of a name; the baseline is always measured [default: all]
    #[arg(long, value_name = "PART", value_delimiter = ',',
          value_parser = NonEmptyStringValueParser::new())]
    engines: Vec<String>,
    /// Access patterns, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    patterns: Vec<Pattern>,
    /// How transfers are kept in flight [default: both]
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<Shape>,
    /// Queue depths (transfers in flight), separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128],
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    depths: Vec<u16>,
    /// Rounds; every engine runs once in each
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Milliseconds that each engine runs in a round
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    round_ms: u32,
    /// Additional rounds that record latencies
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    latency_rounds: u16,
    /// Size of the file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Engine to compare the others with
    #[arg(long, default_value = "bare")]
    baseline: String,
    /// Write all results to a JSON file, updated after each table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write plots (SVG) to a directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Fail if an engine that can run on this machine fails or lacks a figure
    #[arg(long)]
    strict: bool,
    /// List engines, patterns, shapes and pairs, then exit
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Args)]
struct RenderArgs {
    /// File that `--json` has written
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Engines to show, by name or part of a name; the baseline is always shown [default: all]
    #[arg(long, value_name = "PART", value_delimiter = ',',
          value_parser = NonEmptyStringValueParser::new())]
    engines: Vec<String>,
    /// Write plots (SVG) to a directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Engine to compare the others with [default: that of the measurement]
    #[arg(long)]
    baseline: Option<String>,
}

#[derive(Debug, Args)]
struct PairsArgs {
    /// Pairs to measure, by part of their names [default: all]
    #[arg(value_name = "PART", value_parser = NonEmptyStringValueParser::new())]
    pairs: Vec<String>,
    /// Directory for the files; repeatable [default: `target` or else `.`, and /dev/shm if it has
    /// direct I/O]
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// Rounds; every variant of a pair runs once in each
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Milliseconds that each variant runs in a round
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    round_ms: u32,
    /// Size of the file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Write all results to a JSON file, updated after each table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fail if a variant fails or lacks a figure
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
struct ScaleArgs {
    /// Engines to measure, by name or part of a name [default: all that can be scaled]
    #[arg(long, value_name = "PART", value_delimiter = ',',
          value_parser = NonEmptyStringValueParser::new())]
    engines: Vec<String>,
    /// What to vary, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    axes: Vec<Axis>,
    /// Numbers of tasks, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1000, 100_000],
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tasks: Vec<u32>,
    /// Numbers of open files, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000],
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    files: Vec<u32>,
    /// Numbers of contexts, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64],
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    contexts: Vec<u32>,
    /// Maximum requests in flight in the tables of tasks and of files. In the table of contexts it is 4
    /// for each context of the largest number
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    slots: u16,
    /// Directory for the file; repeatable [default: `target` or else `.`]
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// Rounds; every point of a table runs once in each
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Milliseconds that each point runs in a round, or longer: each task makes at least three reads
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    round_ms: u32,
    /// Size of the file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Write all results to a JSON file, updated after each table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write plots (SVG) to a directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Fail if an engine that can run on this machine fails or lacks a figure
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
struct OnceArgs {
    /// Name of an engine, or of a variant such as `batch/join-all`, which has its own workload
    engine: String,
    /// Minimum number of transfers
    transfers: usize,
    /// Access pattern [default: random-read]
    #[arg(long)]
    pattern: Option<Pattern>,
    /// How transfers are kept in flight [default: tasks]
    #[arg(long)]
    shape: Option<Shape>,
    /// Queue depth (transfers in flight), or number of tasks with --slots [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    depth: Option<u32>,
    /// Maximum requests in flight in all contexts together [default: the depth]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    slots: Option<u32>,
    /// How often the file is opened
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    files: u32,
    /// Number of contexts
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    contexts: u32,
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
        Some(PossibleValue::new(self.name()).help(help_text::pattern(*self)))
    }
}

impl ValueEnum for Shape {
    fn value_variants<'a>() -> &'a [Shape] {
        &Shape::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(help_text::shape(*self)))
    }
}

impl ValueEnum for Axis {
    fn value_variants<'a>() -> &'a [Axis] {
        &Axis::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(help_text::axis(*self)))
    }
}

/// Runs the command line with the engines of this crate and `extra` ones.
pub fn main(extra: Vec<Box<dyn Engine>>) -> ExitCode {
    let cli = Cli::parse();
    // Before any thread is started.
    let handler = temp_path::remove_on_signal(|_| {}).map_err(Into::into);
    let all: Vec<_> = engines::all().into_iter().chain(extra).collect();
    let result = handler.and_then(|()| match &cli.command {
        Some(Command::Render(args)) => render_command::run(args),
        Some(Command::Once(args)) => once_command::run(args, &all),
        Some(Command::Pairs(args)) => pairs_command::run(args),
        Some(Command::Scale(args)) => scale_command::run(args, &all),
        None if cli.run.list => list(&all),
        None => measure_command::run(&cli.run, &all),
    });
    match result {
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
    for Pair { name, variants, .. } in crate::pairs::all() {
        let variants: Vec<_> = variants.iter().map(|variant| variant.name()).collect();
        writeln!(out, "  {name}: {}", variants.join(", "))?;
    }
    Ok(())
}
