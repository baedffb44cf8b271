//! `once`: runs one engine for a number of transfers.

use std::io::Write;
use std::path::PathBuf;

use super::OnceArgs;
use super::soft_limits::raise_soft_limits;
use crate::pairs::{self, Pair};
use crate::scale::{ScalePoint, check_scale};
use crate::{BenchFile, Engine, Pattern, Result, Run, Shape, Workload, counting};

pub(super) fn run(args: &OnceArgs, all: &[Box<dyn Engine>]) -> Result<()> {
    let pairs = pairs::all();
    let (engine, workload) = find(args, all, &pairs)?;
    raise_soft_limits();
    let len = u64::from(args.size) << 20;
    let file = BenchFile::new(&args.dir, len, true)?;
    let workload = Workload {
        path: file.path,
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
    let stats = prepared.run(&run)?;
    let counts = counting.counts();
    drop(counting);
    let mut out = std::io::stdout().lock();
    writeln!(out, "transfers {}", stats.transfers)?;
    let Some(allocations) = counts.allocations else {
        return Err("this binary can't count allocations".into());
    };
    writeln!(out, "allocations {allocations}")?;
    let calls = counts.calls.ok_or("this binary can't count system calls")?;
    for (name, count) in calls {
        writeln!(out, "{name} {count}")?;
    }
    Ok(())
}

/// Finds the engine or the variant of a pair. The path and length of its workload are not set yet.
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
            1,
            PathBuf::new(),
            0,
        );
        let depth = args.depth.unwrap_or(1);
        let point = ScalePoint {
            tasks: depth as usize,
            files: args.files as usize,
            contexts: args.contexts as usize,
            slots: args.slots.unwrap_or(depth) as usize,
        };
        let workload = point.workload(&workload, None);
        check_scale(&**engine, &workload)?;
        return Ok((&**engine, workload));
    }
    let (pair, variant) = find_variant(name, pairs)
        .ok_or_else(|| format!("no engine or variant {name}; run with --list to list all"))?;
    let is_scaled = args.slots.is_some() || args.files > 1 || args.contexts > 1;
    if args.pattern.is_some() || args.shape.is_some() || args.depth.is_some() || is_scaled {
        return Err(format!(
            "{name} has its own workload: remove --pattern, --shape, --depth, --slots, --files and \
             --contexts"
        )
        .into());
    }
    Ok((variant, pair.workload(&PathBuf::new(), 0)))
}

/// Finds a variant by its name, such as `batch/join-all`.
fn find_variant<'a>(name: &str, pairs: &'a [Pair]) -> Option<(&'a Pair, &'a dyn Engine)> {
    let (pair, variant) = name.split_once('/')?;
    let pair = pairs.iter().find(|other| other.name == pair)?;
    let variant = pair.variants.iter().find(|other| other.name() == variant)?;
    Some((pair, &**variant))
}
