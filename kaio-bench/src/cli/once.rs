//! `once`: one engine, so many transfers.

use std::io::Write;

use super::OnceArgs;
use super::memlock::raise_memlock;
use super::site::Site;
use crate::{Engine, Result, Run, Workload, counting};

pub(super) fn once(args: &OnceArgs, all: &[Box<dyn Engine>]) -> Result<()> {
    let engine = all.iter().find(|engine| engine.name() == args.engine);
    let engine = engine.ok_or_else(|| {
        format!(
            "no engine {}; --list, in place of once, has all",
            args.engine
        )
    })?;
    raise_memlock();
    let len = u64::from(args.size) << 20;
    let site = Site::new(&args.dir, len)?;
    let workload = Workload {
        pattern: args.pattern,
        shape: args.shape,
        depth: args.depth.into(),
        path: site.file,
        len,
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
