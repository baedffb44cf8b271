//! Without a subcommand: measures.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::RunArgs;
use super::choice::Choice;
use super::memlock::raise_memlock;
use super::render::draw;
use super::sites;
use crate::text::Table;
use crate::{
    Engine, Machine, Pattern, Report, Result, Set, Settings, Shape, Site, Tables, Workload, measure,
};

pub(super) fn run(args: &RunArgs, all: &[Box<dyn Engine>]) -> Result<()> {
    let chosen = choose(args, all)?;
    let sites = sites::all(&args.dir, u64::from(args.size) << 20)?;
    raise_memlock();
    let mut report = Report {
        machine: Machine::here(),
        settings: Settings {
            rounds: args.rounds.into(),
            round_ms: args.round_ms.into(),
            latency_rounds: args.latency_rounds.into(),
            file_size: u64::from(args.size) << 20,
            baseline: args.baseline.clone(),
            ..Settings::default()
        },
        places: sites.iter().map(|site| site.place.clone()).collect(),
        sets: Vec::new(),
    };
    // Where results go is tried before anything is measured, for it may take long.
    keep(&report, args.json.as_deref())?;
    if let Some(dir) = &args.plots {
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    announce(args, &sites, chosen.len());
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
            keep(&report, args.json.as_deref())?;
        }
    }
    draw(&report, args.plots.as_deref())?;
    let engines = report.sets.iter().flat_map(|set| &set.engines);
    if engines.clone().all(|engine| engine.figures().is_none()) {
        return Err("nothing could be measured; the tables say why".into());
    }
    let flaws = report.flaws();
    if args.strict && !flaws.is_empty() {
        return Err(format!("not everything was measured:\n{}", flaws.join("\n")).into());
    }
    Ok(())
}

/// Says how long it takes.
fn announce(args: &RunArgs, sites: &[Site], engines: usize) {
    let workloads: usize = sites.iter().map(|site| workloads(args, site).count()).sum();
    let rounds = usize::from(args.rounds) + usize::from(args.latency_rounds);
    let time = time_of(workloads * engines * rounds, args.round_ms);
    eprintln!("tables: {workloads}, of {engines} engines each; takes {time} or more");
}

/// In words, what so many rounds take.
pub(super) fn time_of(rounds: usize, round_ms: u32) -> String {
    let seconds = rounds as f64 * f64::from(round_ms) / 1000.0;
    match seconds {
        ..90.0 => format!("{seconds:.0} s"),
        _ => format!("{:.0} minutes", seconds / 60.0),
    }
}

/// The engines that are asked for, and the baseline in any case.
fn choose<'a>(args: &RunArgs, all: &'a [Box<dyn Engine>]) -> Result<Vec<&'a dyn Engine>> {
    let choice = Choice {
        parts: &args.engines,
        baseline: &args.baseline,
    };
    let names: Vec<_> = all.iter().map(|engine| engine.name()).collect();
    choice
        .check(&names)
        .map_err(|error| format!("{error}; try --list"))?;
    let engines = all.iter().map(|engine| &**engine);
    Ok(engines.filter(|engine| choice.has(engine.name())).collect())
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
            args.depths.iter().map(move |depth| {
                let (depth, len) = ((*depth).into(), u64::from(args.size) << 20);
                Workload::new(*pattern, *shape, depth, &site.file, len)
            })
        })
    })
}

/// Writes what there is so far, if that is asked for.
pub(super) fn keep(report: &impl Serialize, path: Option<&Path>) -> Result<()> {
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
