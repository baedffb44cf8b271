//! [`SimulatedCuts`]: runs a program on simulated disks, cuts their power, and verifies what is left.
#![allow(dead_code, unreachable_pub)] // each binary uses a part

use std::fmt;

use tokio::runtime::{Builder, Runtime};
use tokio_kaio::simulation::{DiskImage, SimDisk, SimDiskBuilder};
use tokio_kaio::{AioContextBuilder, AioContextHandle};

use super::programs::{Job, Oracle, Result, random};

/// The last events of a trace that a [`Loss`] has.
const TRACE: usize = 40;

/// Runs a program on simulated disks, cuts their power, and verifies what is left.
#[derive(Clone, Debug)]
pub struct SimulatedCuts {
    pub job: Job,
    /// The seed of the first disk. The next one has the next seed.
    pub seed: u64,
    /// The properties of the disk of a seed.
    pub disk: fn(u64) -> SimDiskBuilder,
}

/// What was lost.
#[derive(Debug)]
pub struct Loss {
    pub seed: u64,
    /// The event after which the power was cut.
    pub cut: u64,
    /// What was found, or was not.
    pub what: String,
    /// The last events before the cut.
    pub trace: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss {
            seed,
            cut,
            what,
            trace,
        } = self;
        writeln!(f, "lost: seed {seed}, power cut after event {cut}: {what}")?;
        write!(f, "the last events before the cut:\n{trace}")
    }
}

/// A disk like the loop devices of `tests/power-cuts.sh` with ext4 or XFS: the journal keeps the order of
/// names, and a write that has completed is on the disk.
pub fn journaled_disk(seed: u64) -> SimDiskBuilder {
    let disk = SimDisk::builder().seed(seed).trace_events(TRACE);
    disk.journaled_names(true).volatile_cache(false)
}

/// A disk of one of four kinds.
pub fn any_disk(seed: u64) -> SimDiskBuilder {
    let disk = SimDisk::builder().seed(seed).trace_events(TRACE);
    match seed % 4 {
        0 => disk,
        1 => disk.journaled_names(true),
        2 => disk.volatile_cache(false),
        _ => disk.sector(512),
    }
}

impl SimulatedCuts {
    /// Cuts the power `cuts` times, after random events of the disk. Two cuts belong together: the second one
    /// happens while the program goes on with what the first one has left.
    ///
    /// # Errors
    ///
    /// The first loss, with the earliest cut at which its seed has one.
    pub fn run(&self, cuts: u64) -> Result<std::result::Result<(), Loss>> {
        let mut longest = self.events(self.seed)?;
        for index in 0..cuts.div_ceil(2) {
            let seed = self.seed + index;
            let cut = 1 + random(seed, longest, 0) % longest;
            let (events, lost) = self.cut(seed, cut)?;
            longest = longest.max(events);
            if lost.is_some() {
                return Ok(Err(self.earliest(seed, cut)?));
            }
        }
        Ok(Ok(()))
    }

    /// The number of events of a run without a power cut.
    fn events(&self, seed: u64) -> Result<u64> {
        let disk = (self.disk)(seed).build();
        on(&runtime()?, &disk, async |handle| {
            self.job(seed)
                .run(disk.path(), &handle, &Oracle::default())
                .await
        })?;
        Ok(disk.events())
    }

    /// The loss at the earliest cut before `cut` at which there is one.
    fn earliest(&self, seed: u64, cut: u64) -> Result<Loss> {
        for earlier in 1..=cut {
            if let (_, Some(loss)) = self.cut(seed, earlier)? {
                return Ok(loss);
            }
        }
        Err(format!("seed {seed}, cut {cut} had a loss, and does not have it again").into())
    }

    /// Cuts the power after the event `cut`, and later once more. Returns the number of events of the first
    /// disk, and what was lost.
    pub fn cut(&self, seed: u64, cut: u64) -> Result<(u64, Option<Loss>)> {
        let (job, oracle) = (self.job(seed), Oracle::default());
        // One for all: a disk that is used on two runtimes sees the time between them.
        let runtime = runtime()?;
        let first = (self.disk)(seed).build();
        let image = run_until_cut(&runtime, &job, &first, cut, &oracle)?;
        let events = first.events();
        let lost = |disk: &SimDisk, what: String| Loss {
            seed,
            cut,
            what,
            trace: disk.trace().to_string(),
        };
        let second = (self.disk)(seed).boot(&image);
        if let Err(loss) = verify(&runtime, &job, &second, &oracle) {
            return Ok((events, Some(lost(&first, loss))));
        }
        let later = second.events() + 1 + random(seed, cut, 1) % cut.max(1);
        let image = run_until_cut(&runtime, &job, &second, later, &oracle)?;
        let third = (self.disk)(seed).boot(&image);
        let what = verify(&runtime, &job, &third, &oracle).err();
        let what = what
            .map(|loss| format!("and after event {later}, when the program has gone on: {loss}"));
        Ok((events, what.map(|what| lost(&second, what))))
    }

    fn job(&self, seed: u64) -> Job {
        Job {
            seed,
            ..self.job.clone()
        }
    }
}

/// Runs the program until it ends or the power is cut, after the event `cut`. Then it is cut.
fn run_until_cut(
    runtime: &Runtime,
    job: &Job,
    disk: &SimDisk,
    cut: u64,
    oracle: &Oracle,
) -> Result<DiskImage> {
    disk.cut_power_after(cut);
    on(runtime, disk, async |handle| {
        let done = tokio::select! {
            biased;
            () = disk.power_lost() => Ok(()),
            done = job.run(disk.path(), &handle, oracle) => done,
        };
        match disk.image() {
            Some(_) => Ok(()), // then the program has failed because of it
            None => done,
        }
    })?;
    Ok(disk.power_cut())
}

fn verify(
    runtime: &Runtime,
    job: &Job,
    disk: &SimDisk,
    oracle: &Oracle,
) -> std::result::Result<(), String> {
    on(runtime, disk, async |handle| {
        job.verify(disk.path(), &handle, oracle).await
    })
    .map_err(|error| error.to_string())
}

/// A runtime whose clock is paused.
fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    Ok(builder.enable_all().start_paused(true).build()?)
}

/// Calls `work` with a handle of a context on the disk.
fn on(
    runtime: &Runtime,
    disk: &SimDisk,
    work: impl AsyncFnOnce(AioContextHandle) -> Result<()>,
) -> Result<()> {
    runtime.block_on(async {
        let (_context, handle) = AioContextBuilder::new(32).simulated(disk).build()?;
        work(handle).await
    })
}
