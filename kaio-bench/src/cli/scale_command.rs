//! `scale`: measures the cost of a transfer at several scales.

use std::io::Write;
use std::path::Path;

use super::ScaleArgs;
use super::bench_files;
use super::engine_filter::EngineFilter;
use super::measure_command::{check_results, create_plot_dir, duration_of, save_if_requested};
use super::render_command::draw_scale;
use super::soft_limits::raise_soft_limits;
use crate::scale::{Axis, ScaleReport, ScaleSet, ScaleTable, ScaleTables, ScaleValues};
use crate::{BenchFile, Engine, Machine, Result, Settings};

pub(super) fn run(args: &ScaleArgs, all: &[Box<dyn Engine>]) -> Result<()> {
    let chosen = choose(args, all)?;
    let values = values(args)?;
    let len = u64::from(args.size) << 20;
    let files = create_files(args, len)?;
    raise_soft_limits();
    let mut report = ScaleReport {
        machine: Machine::detect(),
        settings: Settings::for_tables(args.rounds, args.round_ms, len),
        places: files.iter().map(|file| file.place.clone()).collect(),
        sets: Vec::new(),
    };
    save_if_requested(&report, args.json.as_deref())?;
    create_plot_dir(args.plots.as_deref())?;
    let axes = axes(args);
    announce(args, &values, &axes, files.len(), chosen.len());
    let mut out = std::io::stdout().lock();
    write!(out, "{}", ScaleTables(&report))?;
    for file in &files {
        for axis in &axes {
            for engine in &chosen {
                let points = values.points(*axis);
                let (place, path) = (&file.place, &file.path);
                let set = ScaleSet::measure(*engine, *axis, &points, place, path, &report.settings);
                write!(out, "\n{}", ScaleTable(&set))?;
                report.sets.push(set);
                save_if_requested(&report, args.json.as_deref())?;
            }
        }
    }
    draw_scale(&report, args.plots.as_deref())?;
    let mut points = report.sets.iter().flat_map(|set| &set.reports);
    let measured = points.any(|point| point.figures().is_some());
    check_results(measured, &report.problems(), args.strict)
}

/// Selects engines by part of their names, of those that can be scaled.
fn choose<'a>(args: &ScaleArgs, all: &'a [Box<dyn Engine>]) -> Result<Vec<&'a dyn Engine>> {
    let engines = all.iter().map(|engine| &**engine);
    let scalable: Vec<_> = engines.filter(|engine| engine.max_contexts() > 0).collect();
    let names: Vec<_> = scalable.iter().map(|engine| engine.name()).collect();
    let filter = EngineFilter {
        parts: &args.engines,
        baseline: None,
        names: &names,
    };
    if let Some(part) = filter.unmatched() {
        let all = names.join(", ");
        return Err(
            format!("no engine with {part} in its name has a scale: choose of {all}").into(),
        );
    }
    let chosen = scalable.iter().copied();
    Ok(chosen.filter(|engine| filter.has(engine.name())).collect())
}

fn values(args: &ScaleArgs) -> Result<ScaleValues> {
    let slots = usize::from(args.slots);
    let wide = |values: &[u32]| values.iter().map(|value| *value as usize).collect();
    let values = ScaleValues {
        tasks: wide(&args.tasks),
        files: wide(&args.files),
        contexts: wide(&args.contexts),
        slots,
    };
    match values.tasks.iter().find(|tasks| **tasks < slots) {
        Some(tasks) => Err(format!(
            "{tasks} tasks can't fill {slots} slots: raise --tasks, or use fewer --slots"
        )
        .into()),
        None => Ok(values),
    }
}

fn axes(args: &ScaleArgs) -> Vec<Axis> {
    match args.axes.is_empty() {
        true => Axis::ALL.into(),
        false => args.axes.clone(),
    }
}

/// Creates the files; by default on a disk only.
fn create_files(args: &ScaleArgs, len: u64) -> Result<Vec<BenchFile>> {
    let target = Path::new("target");
    let default = if target.is_dir() {
        target
    } else {
        Path::new(".")
    };
    match args.dir.is_empty() {
        true => bench_files::create_all(&[default.to_owned()], len),
        false => bench_files::create_all(&args.dir, len),
    }
}

/// Prints how long the measurement takes.
fn announce(args: &ScaleArgs, values: &ScaleValues, axes: &[Axis], files: usize, engines: usize) {
    let points: usize = axes.iter().map(|axis| values.points(*axis).len()).sum();
    let tables = files * axes.len() * engines;
    let rounds = files * points * engines * usize::from(args.rounds);
    let time = duration_of(rounds, args.round_ms);
    eprintln!("measuring {tables} tables, which takes at least {time}");
}
