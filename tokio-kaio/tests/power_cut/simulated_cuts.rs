//! Runs the programs on simulated disks whose power is cut.
#![allow(dead_code, unreachable_pub)] // each binary uses a part

use std::cell::OnceCell;

use tokio_kaio::AioContextBuilder;
use tokio_kaio::simulation::{ExploreFailure, Explored, Explorer, SimDisk, SimDiskBuilder};

use super::programs::{Job, Oracle, Result};

/// Runs of one seed, each with two cuts. The seed also decides what the program writes.
const RUNS_OF_SEED: u64 = 10;

/// The last events of a trace that are kept.
const TRACE: usize = 40;

/// The state that the workload and the verification of a run share.
#[derive(Default)]
struct Run {
    /// The seed of the first disk, which decides what the program writes: later disks have other seeds.
    seed: OnceCell<u64>,
    oracle: Oracle,
}

/// An explorer that cuts the power `cuts` times or a little more: twice in a run, also during recovery.
pub fn explorer(seed: u64, cuts: u64, disks: fn(u64) -> SimDiskBuilder) -> Explorer {
    let runs = cuts.div_ceil(2);
    let runs_of_seed = runs.clamp(1, RUNS_OF_SEED);
    Explorer::new()
        .disks(disks)
        .seeds((seed..).take(runs.div_ceil(runs_of_seed) as usize))
        .random_cuts(runs_of_seed)
        .cuts_per_run(2)
}

/// A disk like the loop devices of `tests/power-cuts.sh` with ext4 or XFS: the journal keeps the order of
/// names, and a write that has completed is on the disk.
pub fn journaled_disk(_seed: u64) -> SimDiskBuilder {
    let disk = SimDisk::builder().trace_events(TRACE);
    disk.journaled_names(true).volatile_cache(false)
}

/// A disk of one of four kinds.
pub fn any_disk(seed: u64) -> SimDiskBuilder {
    let disk = SimDisk::builder().trace_events(TRACE);
    match seed % 4 {
        0 => disk,
        1 => disk.journaled_names(true),
        2 => disk.volatile_cache(false),
        _ => disk.sector(512),
    }
}

/// Runs a program on the disks of `explorer`, and verifies what their power cuts leave.
///
/// # Errors
///
/// The first loss.
pub fn cut_power(job: &Job, explorer: &Explorer) -> std::result::Result<Explored, ExploreFailure> {
    explorer.run(
        async |disk, run: &Run| -> Result<()> {
            let (_context, handle) = AioContextBuilder::new(32).simulated(&disk).build()?;
            let job = run.job(job, &disk);
            job.run(disk.path(), &handle, &run.oracle).await
        },
        async |disk, run: &Run| -> Result<()> {
            let (_context, handle) = AioContextBuilder::new(32).simulated(&disk).build()?;
            let job = run.job(job, &disk);
            job.verify(disk.path(), &handle, &run.oracle).await
        },
    )
}

impl Run {
    fn job(&self, job: &Job, disk: &SimDisk) -> Job {
        Job {
            seed: *self.seed.get_or_init(|| disk.seed()),
            ..job.clone()
        }
    }
}
