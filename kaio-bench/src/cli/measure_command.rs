//! The default command: measures engines.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::RunArgs;
use super::bench_files;
use super::engine_filter::EngineFilter;
use super::render_command::draw;
use super::soft_limits::raise_soft_limits;
use crate::tables::Table;
use crate::{
    BenchFile, Engine, Machine, Pattern, Report, Result, ResultSet, Settings, Shape, Tables,
    Workload, measure,
};

pub(super) fn run(args: &RunArgs, all: &[Box<dyn Engine>]) -> Result<()> {
    let chosen = choose(args, all)?;
    let files = bench_files::create_all(&args.dir, u64::from(args.size) << 20)?;
    raise_soft_limits();
    let mut report = Report {
        machine: Machine::detect(),
        settings: Settings {
            rounds: args.rounds.into(),
            round_ms: args.round_ms.into(),
            latency_rounds: args.latency_rounds.into(),
            file_size: u64::from(args.size) << 20,
            baseline: args.baseline.clone(),
            ..Settings::default()
        },
        places: files.iter().map(|file| file.place.clone()).collect(),
        sets: Vec::new(),
    };
    // Check the destinations of the results first, because measuring takes long.
    save_if_requested(&report, args.json.as_deref())?;
    create_plot_dir(args.plots.as_deref())?;
    announce(args, &files, chosen.len());
    let mut out = std::io::stdout().lock();
    write!(out, "{}", Tables(&report))?;
    for file in &files {
        for workload in workloads(args, file) {
            let mut set = ResultSet {
                place: file.place.name.clone(),
                pattern: workload.pattern,
                shape: workload.shape,
                depth: workload.depth,
                engines: measure(&workload, &chosen, &report.settings),
            };
            set.summarize(&report.settings.baseline);
            write!(out, "\n{}", Table(&set))?;
            report.sets.push(set);
            save_if_requested(&report, args.json.as_deref())?;
        }
    }
    draw(&report, args.plots.as_deref())?;
    let mut engines = report.sets.iter().flat_map(|set| &set.engines);
    let measured = engines.any(|engine| engine.figures().is_some());
    check_results(measured, &report.problems(), args.strict)
}

/// Fails if nothing was measured. If `strict`, fails also if there are `problems`: results that are missing.
pub(super) fn check_results(measured: bool, problems: &[String], strict: bool) -> Result<()> {
    if !measured {
        return Err("nothing was measured; see the tables for the errors".into());
    }
    if strict && !problems.is_empty() {
        return Err(format!("some results are incomplete:\n{}", problems.join("\n")).into());
    }
    Ok(())
}

/// Creates the directory of plots, if plots are requested.
pub(super) fn create_plot_dir(plots: Option<&Path>) -> Result<()> {
    if let Some(dir) = plots {
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    Ok(())
}

/// Prints how long the measurement takes.
fn announce(args: &RunArgs, files: &[BenchFile], engines: usize) {
    let workloads: usize = files.iter().map(|file| workloads(args, file).count()).sum();
    let rounds = usize::from(args.rounds) + usize::from(args.latency_rounds);
    let time = duration_of(workloads * engines * rounds, args.round_ms);
    eprintln!(
        "measuring {workloads} tables with {engines} engines each, which takes at least {time}"
    );
}

/// Formats the duration of `rounds` rounds.
pub(super) fn duration_of(rounds: usize, round_ms: u32) -> String {
    let seconds = rounds as f64 * f64::from(round_ms) / 1000.0;
    match seconds {
        ..90.0 => format!("{seconds:.0} s"),
        _ => format!("{:.0} minutes", seconds / 60.0),
    }
}

/// Selects the engines, always with the baseline.
fn choose<'a>(args: &RunArgs, all: &'a [Box<dyn Engine>]) -> Result<Vec<&'a dyn Engine>> {
    let names: Vec<_> = all.iter().map(|engine| engine.name()).collect();
    let filter = EngineFilter {
        parts: &args.engines,
        baseline: Some(&args.baseline),
        names: &names,
    };
    filter
        .check()
        .map_err(|error| format!("{error}; run with --list to list all"))?;
    let engines = all.iter().map(|engine| &**engine);
    Ok(engines.filter(|engine| filter.has(engine.name())).collect())
}

fn workloads<'a>(args: &'a RunArgs, file: &'a BenchFile) -> impl Iterator<Item = Workload> + 'a {
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
            args.depths.iter().map(move |depth| {
                let (depth, len) = ((*depth).into(), u64::from(args.size) << 20);
                Workload::new(*pattern, *shape, depth, &file.path, len)
            })
        })
    })
}

/// Writes the report to `path`, if any.
pub(super) fn save_if_requested(report: &impl Serialize, path: Option<&Path>) -> Result<()> {
    if let Some(path) = path {
        save(report, path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn save(report: &impl Serialize, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer_pretty(&mut file, report)?;
    writeln!(file)?;
    Ok(file.flush()?)
}
