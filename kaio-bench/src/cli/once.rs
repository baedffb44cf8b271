//! `once`: one engine, so many transfers.

use std::io::Write;
use std::path::PathBuf;

use super::OnceArgs;
use super::memlock::raise_memlock;
use crate::pairs::{self, Pair};
use crate::{Engine, Pattern, Result, Run, Shape, Site, Workload, counting};

pub(super) fn once(args: &OnceArgs, all: &[Box<dyn Engine>]) -> Result<()> {
    let pairs = pairs::all();
    let (engine, workload) = find(args, all, &pairs)?;
    raise_memlock();
    let len = u64::from(args.size) << 20;
    let site = Site::new(&args.dir, len, true)?;
    let workload = Workload {
        path: site.file,
        len,
        ..workload
    };
    let mut prepared = engine.prepare(&workload)?;
    let run = Run {
        transfers: args.transfers,
        seed: 1,
        latencies: false,
    };
    let counting = counting::start();
    let tally = prepared.run(&run)?;
    let counts = counting.counts();
    drop(counting);
    let mut out = std::io::stdout().lock();
    writeln!(out, "transfers {}", tally.transfers)?;
    let Some(allocations) = counts.allocations else {
        return Err("this binary does not count allocations".into());
    };
    writeln!(out, "allocations {allocations}")?;
    let calls = counts
        .calls
        .ok_or("this binary does not count system calls")?;
    for (name, count) in calls {
        writeln!(out, "{name} {count}")?;
    }
    Ok(())
}

/// The engine, or the way of a pair, and its workload, which has no file yet.
fn find<'a>(
    args: &OnceArgs,
    all: &'a [Box<dyn Engine>],
    pairs: &'a [Pair],
) -> Result<(&'a dyn Engine, Workload)> {
    let name = &args.engine;
    if let Some(engine) = all.iter().find(|engine| engine.name() == name) {
        let workload = Workload::new(
            args.pattern.unwrap_or(Pattern::RandomRead),
            args.shape.unwrap_or(Shape::Tasks),
            args.depth.unwrap_or(1).into(),
            PathBuf::new(),
            0,
        );
        return Ok((&**engine, workload));
    }
    let (pair, way) = way(name, pairs).ok_or_else(|| {
        format!("no engine {name}, nor a way of a pair; --list, in place of once, has all")
    })?;
    if args.pattern.is_some() || args.shape.is_some() || args.depth.is_some() {
        return Err(format!("{name} has a workload of its own: no pattern, shape or depth").into());
    }
    Ok((way, pair.workload(&PathBuf::new(), 0)))
}

/// The way of this name, `batch/join-all`.
fn way<'a>(name: &str, pairs: &'a [Pair]) -> Option<(&'a Pair, &'a dyn Engine)> {
    let (pair, way) = name.split_once('/')?;
    let pair = pairs.iter().find(|other| other.name == pair)?;
    let way = pair.ways.iter().find(|other| other.name() == way)?;
    Some((pair, &**way))
}
