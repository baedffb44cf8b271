//! `pairs`: compares variants of the same job.

use std::io::Write;

use super::PairsArgs;
use super::bench_files;
use super::measure_command::{check_results, duration_of, save_if_requested};
use super::soft_limits::raise_soft_limits;
use crate::pairs::{self, Pair, PairReport, PairSet, PairTable, PairTables};
use crate::{Machine, Result, Settings};

pub(super) fn run(args: &PairsArgs) -> Result<()> {
    let chosen = choose(args)?;
    let len = u64::from(args.size) << 20;
    let files = bench_files::create_all(&args.dir, len)?;
    raise_soft_limits();
    let mut report = PairReport {
        machine: Machine::detect(),
        settings: Settings::for_tables(args.rounds, args.round_ms, len),
        places: files.iter().map(|file| file.place.clone()).collect(),
        sets: Vec::new(),
    };
    save_if_requested(&report, args.json.as_deref())?;
    announce(args, files.len(), &chosen);
    let mut out = std::io::stdout().lock();
    write!(out, "{}", PairTables(&report))?;
    for file in &files {
        for pair in &chosen {
            let set = PairSet::measure(pair, &file.place, &file.path, &report.settings);
            write!(out, "\n{}", PairTable(&set))?;
            report.sets.push(set);
            save_if_requested(&report, args.json.as_deref())?;
        }
    }
    let mut variants = report.sets.iter().flat_map(|set| &set.variants);
    let measured = variants.any(|variant| variant.figures().is_some());
    check_results(measured, &report.problems(), args.strict)
}

/// Selects the pairs by part of their names.
fn choose(args: &PairsArgs) -> Result<Vec<Pair>> {
    let mut all = pairs::all();
    for part in &args.pairs {
        if !all.iter().any(|pair| pair.name.contains(part.as_str())) {
            return Err(
                format!("no pair has {part} in its name; run with --list to list all").into(),
            );
        }
    }
    let is_chosen = |pair: &Pair| args.pairs.iter().any(|part| pair.name.contains(part));
    all.retain(|pair| args.pairs.is_empty() || is_chosen(pair));
    Ok(all)
}

/// Prints how long the measurement takes.
fn announce(args: &PairsArgs, files: usize, chosen: &[Pair]) {
    let variants: usize = chosen.iter().map(|pair| pair.variants.len()).sum();
    let tables = files * chosen.len();
    let time = duration_of(files * variants * usize::from(args.rounds), args.round_ms);
    eprintln!("measuring {tables} tables, which takes at least {time}");
}
