//! The command line, for every binary that has engines.
#![allow(unsafe_code)] // raises a limit

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tempfile::TempDir;

use crate::text::Table;
use crate::{
    Buffer, Engine, Machine, Pattern, Place, Report, Result, Set, Settings, Shape, Tables,
    Workload, engines, measure, plot,
};

/// Measures ways to read and write a disk against the bare system calls.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
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
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Directory for the files; repeatable [default: `target` or else `.`, and /dev/shm if it has
    /// direct I/O]
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// Engines, by part of their names
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    engines: Vec<String>,
    /// Patterns [default: all]
    #[arg(long, value_delimiter = ',')]
    patterns: Vec<Pattern>,
    /// Shapes [default: both]
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<Shape>,
    /// Transfers in flight
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128],
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    depths: Vec<u16>,
    /// Rounds, in each of which every engine runs once
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Milliseconds of an engine's part of a round
    #[arg(long, default_value_t = 100)]
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
    /// Write everything that was measured to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw plots (SVG) into a directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Fail unless every engine that can run here has run, and has all of its figures
    #[arg(long)]
    strict: bool,
    /// List the engines, patterns and shapes, and measure nothing
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Args)]
struct RenderArgs {
    /// What `--json` has written
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Draw plots (SVG) into a directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Engine that ratios are to [default: that of the measurement]
    #[arg(long)]
    baseline: Option<String>,
}

impl ValueEnum for Pattern {
    fn value_variants<'a>() -> &'a [Pattern] {
        &Pattern::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.name().into())
    }
}

impl ValueEnum for Shape {
    fn value_variants<'a>() -> &'a [Shape] {
        &Shape::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.name().into())
    }
}

/// The whole of a binary that measures this crate's engines, and `extra` ones.
pub fn main(extra: Vec<Box<dyn Engine>>) -> ExitCode {
    let cli = Cli::parse();
    let all: Vec<_> = engines::all().into_iter().chain(extra).collect();
    let done = match &cli.command {
        Some(Command::Render(args)) => render(args),
        None if cli.run.list => list(&all),
        None => run(&cli.run, &all),
    };
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
    Ok(())
}

fn render(args: &RenderArgs) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", args.from.display());
    let text = fs::read_to_string(&args.from).map_err(|error| failed(&error))?;
    let mut report: Report = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    if let Some(baseline) = &args.baseline {
        report.settings.baseline.clone_from(baseline);
        let known = |set: &Set| set.engines.iter().any(|report| report.engine == *baseline);
        if !report.sets.iter().any(known) {
            return Err(failed(&format!("no engine {baseline} in it")).into());
        }
    }
    report.summarize();
    write!(std::io::stdout().lock(), "{}", Tables(&report))?;
    draw(&report, args.plots.as_deref())
}

fn draw(report: &Report, plots: Option<&Path>) -> Result<()> {
    if let Some(dir) = plots {
        let paths = plot(report, dir)?;
        eprintln!("{} plots in {}", paths.len(), dir.display());
    }
    Ok(())
}

fn run(args: &RunArgs, all: &[Box<dyn Engine>]) -> Result<()> {
    let chosen = choose(args, all)?;
    let sites = sites(args)?;
    raise_memlock();
    let mut report = Report {
        machine: Machine::here(),
        settings: Settings {
            rounds: args.rounds.into(),
            round_ms: args.round_ms.into(),
            latency_rounds: args.latency_rounds.into(),
            file_size: u64::from(args.size) << 20,
            baseline: args.baseline.clone(),
        },
        places: sites.iter().map(|site| site.place.clone()).collect(),
        sets: Vec::new(),
    };
    let mut out = std::io::stdout().lock();
    write!(out, "{}", Tables(&report))?;
    for site in &sites {
        for workload in workloads(args, site) {
            let mut set = Set {
                place: site.place.name.clone(),
                pattern: workload.pattern,
                shape: workload.shape,
                depth: workload.depth,
                engines: measure(&workload, &chosen, &report.settings),
            };
            set.summarize(&report.settings.baseline);
            write!(out, "\n{}", Table(&set))?;
            report.sets.push(set);
        }
    }
    if let Some(path) = &args.json {
        save(&report, path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    draw(&report, args.plots.as_deref())?;
    let flaws = report.flaws();
    if args.strict && !flaws.is_empty() {
        return Err(format!("not everything was measured:\n{}", flaws.join("\n")).into());
    }
    Ok(())
}

/// The engines that are asked for, and the baseline in any case.
fn choose<'a>(args: &RunArgs, all: &'a [Box<dyn Engine>]) -> Result<Vec<&'a dyn Engine>> {
    let engines = || all.iter().map(|engine| &**engine);
    if !engines().any(|engine| engine.name() == args.baseline) {
        return Err(format!("no engine {}, to take ratios to; try --list", args.baseline).into());
    }
    for part in &args.engines {
        if !engines().any(|engine| engine.name().contains(part.as_str())) {
            return Err(format!("no engine with {part} in its name; try --list").into());
        }
    }
    let asked_for = |engine: &&dyn Engine| {
        let name = engine.name();
        args.engines.is_empty()
            || name == args.baseline
            || args.engines.iter().any(|part| name.contains(part.as_str()))
    };
    Ok(engines().filter(asked_for).collect())
}

/// A place with a file to measure with.
struct Site {
    place: Place,
    file: PathBuf,
    /// Removed at the end.
    _dir: TempDir,
}

fn sites(args: &RunArgs) -> Result<Vec<Site>> {
    let mut sites: Vec<Site> = Vec::new();
    let mut add = |parent: &Path| {
        let mut site = Site::new(parent, u64::from(args.size) << 20)?;
        let same = |other: &&Site| other.place.file_system == site.place.file_system;
        let named = |other: &&Site| other.place.name.starts_with(&site.place.name) && same(other);
        match sites.iter().filter(named).count() {
            0 => {}
            n => site.place.name = format!("{}-{}", site.place.name, n + 1),
        }
        sites.push(site);
        Result::Ok(())
    };
    if args.dir.is_empty() {
        let target = Path::new("target");
        add(if target.is_dir() {
            target
        } else {
            Path::new(".")
        })?;
        if let Err(error) = add(Path::new("/dev/shm")) {
            eprintln!("without tmpfs: {error}");
        }
    }
    args.dir.iter().try_for_each(|dir| add(dir))?;
    Ok(sites)
}

impl Site {
    fn new(parent: &Path, len: u64) -> Result<Site> {
        let dir = tempfile::Builder::new()
            .prefix("kaio-bench-")
            .tempdir_in(parent);
        let dir = dir.map_err(|error| format!("can't write to {}: {error}", parent.display()))?;
        let site = Site {
            place: Place::of(parent)?,
            file: dir.path().join("blocks"),
            _dir: dir,
        };
        fill(&site.file, len).map_err(|error| {
            let place = parent.display();
            format!("can't make a file of {len} bytes for direct I/O in {place}: {error}")
        })?;
        Ok(site)
    }
}

/// Makes a file with all of its bytes on disk, and none in the page cache.
fn fill(path: &Path, len: u64) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut file = options.custom_flags(libc::O_DIRECT).open(path)?;
    let chunk = Buffer::new(1 << 20);
    for _ in 0..len >> 20 {
        file.write_all(&chunk)?;
    }
    file.sync_all()
}

fn workloads<'a>(args: &'a RunArgs, site: &'a Site) -> impl Iterator<Item = Workload> + 'a {
    let or_all = |asked: &'a [Pattern]| {
        if asked.is_empty() {
            &Pattern::ALL
        } else {
            asked
        }
    };
    let or_both = |asked: &'a [Shape]| if asked.is_empty() { &Shape::ALL } else { asked };
    or_all(&args.patterns).iter().flat_map(move |pattern| {
        or_both(&args.shapes).iter().flat_map(move |shape| {
            args.depths.iter().map(move |depth| Workload {
                pattern: *pattern,
                shape: *shape,
                depth: (*depth).into(),
                path: site.file.clone(),
                len: u64::from(args.size) << 20,
            })
        })
    })
}

fn save(report: &Report, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer_pretty(&mut file, report)?;
    writeln!(file)?;
    Ok(file.flush()?)
}

/// Lets the process lock as much memory as it may: all engines' buffers are there at once.
fn raise_memlock() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a structure of ours to write to.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if code == 0 {
        limit.rlim_cur = limit.rlim_max;
        // If it can't be raised, an engine that needs more says so.
        // SAFETY: a structure of ours to read from.
        unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    }
}
