//! `pairs`: ways to do the same thing, by turns.

use std::io::Write;

use super::PairsArgs;
use super::memlock::raise_memlock;
use super::run::{keep, time_of};
use super::sites;
use crate::pairs::{self, Pair, PairReport, PairSet, PairTable, PairTables};
use crate::{Machine, Result, Settings};

pub(super) fn pairs(args: &PairsArgs) -> Result<()> {
    let chosen = choose(args)?;
    let len = u64::from(args.size) << 20;
    let sites = sites::all(&args.dir, len)?;
    raise_memlock();
    let mut report = PairReport {
        machine: Machine::here(),
        settings: Settings {
            rounds: args.rounds.into(),
            round_ms: args.round_ms.into(),
            latency_rounds: 0,
            file_size: len,
            baseline: "the first of each table".into(),
            ..Settings::default()
        },
        places: sites.iter().map(|site| site.place.clone()).collect(),
        sets: Vec::new(),
    };
    keep(&report, args.json.as_deref())?;
    announce(args, sites.len(), &chosen);
    let mut out = std::io::stdout().lock();
    write!(out, "{}", PairTables(&report))?;
    for site in &sites {
        for pair in &chosen {
            let set = PairSet::measure(pair, &site.place, &site.file, &report.settings);
            write!(out, "\n{}", PairTable(&set))?;
            report.sets.push(set);
            keep(&report, args.json.as_deref())?;
        }
    }
    let ways = report.sets.iter().flat_map(|set| &set.ways);
    if ways.clone().all(|way| way.figures().is_none()) {
        return Err("nothing could be measured; the tables say why".into());
    }
    let flaws = report.flaws();
    if args.strict && !flaws.is_empty() {
        return Err(format!("not everything was measured:\n{}", flaws.join("\n")).into());
    }
    Ok(())
}

/// The pairs that are asked for.
fn choose(args: &PairsArgs) -> Result<Vec<Pair>> {
    let mut all = pairs::all();
    for part in &args.pairs {
        if !all.iter().any(|pair| pair.name.contains(part.as_str())) {
            return Err(
                format!("no pair with {part} in its name; try --list, without pairs").into(),
            );
        }
    }
    let asked = |pair: &Pair| args.pairs.iter().any(|part| pair.name.contains(part));
    all.retain(|pair| args.pairs.is_empty() || asked(pair));
    Ok(all)
}

/// Says how long it takes.
fn announce(args: &PairsArgs, sites: usize, chosen: &[Pair]) {
    let ways: usize = chosen.iter().map(|pair| pair.ways.len()).sum();
    let tables = sites * chosen.len();
    let time = time_of(sites * ways * usize::from(args.rounds), args.round_ms);
    eprintln!("tables: {tables}; takes {time} or more");
}
