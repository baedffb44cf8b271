//! [`Explorer`]: runs a program under many power cuts.

use std::any::Any;
use std::env;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::explore_failure::{ExploreFailure, FailureKind};
use super::seeded_rng::{RandomUse, SeededRng};
use super::{DiskImage, DiskTrace, SimDisk, SimDiskBuilder};

/// Runs a workload under power cuts, and verifies what each cut has left. Shorthand for an [`Explorer`] with
/// these seeds, which cuts the power after every event.
///
/// # Errors
///
/// [`ExploreFailure`]: the first failure, with its seed and its cut.
///
/// # Panics
///
/// If there are no seeds, and as [`Explorer::run`].
///
/// # Examples
///
/// ```
/// use std::path::Path;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tokio_kaio::simulation::explore;
/// use tokio_kaio::{AioContextBuilder, File, WriteFlags, sync_dir, try_exists};
///
/// /// The blocks that were acknowledged.
/// type Acknowledged = AtomicU64;
///
/// let explored = explore(
///     0..3,
///     // Appends three blocks.
///     async |disk, acknowledged: &Acknowledged| -> Result<(), Box<dyn std::error::Error>> {
///         let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
///         let log = File::create(disk.path().join("log"), false).await?;
///         sync_dir(disk.path()).await?;
///         for block in 0..3 {
///             let mut data = tokio_kaio::AlignedBuf::new(4096)?;
///             data[..].fill(b'x');
///             log.write_at(&handle, block * 4096, &data, 4096, WriteFlags::DSYNC).await?;
///             acknowledged.fetch_add(1, Ordering::Relaxed);
///         }
///         Ok(())
///     },
///     // Every acknowledged block is there.
///     async |disk, acknowledged: &Acknowledged| -> Result<(), Box<dyn std::error::Error>> {
///         let blocks = acknowledged.load(Ordering::Relaxed);
///         if blocks == 0 {
///             return Ok(());
///         }
///         let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
///         let log = File::open(disk.path().join("log"), false).await?;
///         let mut data = vec![0; blocks as usize * 4096];
///         log.read_bytes_at(&handle, 0, &mut data, Default::default()).await?;
///         assert!(data.iter().all(|&byte| byte == b'x'));
///         Ok(())
///     },
/// )?;
/// assert!(explored.cuts() > 30);
/// # Ok::<(), tokio_kaio::simulation::ExploreFailure>(())
/// ```
pub fn explore<O, E, V>(
    seeds: impl IntoIterator<Item = u64>,
    workload: impl AsyncFn(SimDisk, &O) -> Result<(), E>,
    verify: impl AsyncFn(SimDisk, &O) -> Result<(), V>,
) -> Result<Explored, ExploreFailure>
where
    O: Default,
    E: fmt::Display,
    V: fmt::Display,
{
    Explorer::new().seeds(seeds).run(workload, verify)
}

/// Runs a program under many power cuts.
///
/// For each seed, [`run`](Explorer::run) makes a disk and a current-thread runtime with a paused clock, and runs
/// the *workload* on it to its end. Then it runs the workload again for each cut: the power is cut after one
/// event of the disk ([`SimDisk::events`]), the image boots as a new disk, and *verify* says whether it is right.
///
/// The *oracle* is a value of the caller's that both see. The workload notes in it what was acknowledged to it,
/// and verify demands that. Each run has a new one.
///
/// # Determinism
///
/// Every run of a workload with a seed has to do the same. The workload must not depend on the time of day, on
/// threads, on random numbers of another seed, or on the order of a `HashMap`; nor on
/// [`SimDisk::path`], which each run has another of: in files, keep paths relative to it. The first seed is run
/// twice, and the [traces](DiskTrace::hash) are compared.
///
/// # Running a failure again
///
/// The text of a failure says how: with the environment variable `KAIO_EXPLORE=SEED:CUT`, every explorer of the
/// process runs this seed and this cut only.
///
/// # Examples
///
/// ```
/// use tokio_kaio::simulation::{Explorer, SimDisk};
/// use tokio_kaio::{create_dir, try_exists};
///
/// // This program forgets to sync the directory.
/// let failure = Explorer::new()
///     .disk(SimDisk::builder().sector(512))
///     .seeds(0..100)
///     .random_cuts(10)
///     .run(
///         async |disk, created: &std::cell::Cell<bool>| {
///             create_dir(disk.path().join("tables")).await?;
///             created.set(true);
///             Ok::<(), std::io::Error>(())
///         },
///         async |disk, created: &std::cell::Cell<bool>| {
///             match created.get() && !try_exists(disk.path().join("tables")).await.unwrap() {
///                 true => Err("the directory is lost"),
///                 false => Ok(()),
///             }
///         },
///     )
///     .unwrap_err();
/// assert_eq!(failure.cut(), Some(1)); // after the event `create_dir`
/// ```
#[derive(Clone, Debug)]
#[must_use = "an explorer does nothing until `run` is called"]
pub struct Explorer {
    disk: SimDiskBuilder,
    seeds: Vec<u64>,
    cuts: Cuts,
    time_limit: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Cuts {
    All,
    Random(u64),
    At(u64),
}

/// What an [`Explorer`] has done without a failure. `Display` prints a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    seeds: u64,
    cuts: u64,
    events: u64,
}

/// The environment variable that chooses one seed and one cut.
const REPLAY: &str = "KAIO_EXPLORE";

/// How a run of a workload has ended.
struct Run<O> {
    oracle: O,
    events: u64,
    image: DiskImage,
    trace: DiskTrace,
    /// A failure while the power was on.
    result: Result<(), FailureKind>,
}

impl Default for Explorer {
    fn default() -> Explorer {
        Explorer::new()
    }
}

impl Explorer {
    /// Makes an explorer that cuts the power after every event of the seeds 0 to 9, on disks of the defaults of
    /// [`SimDiskBuilder`].
    pub fn new() -> Explorer {
        Explorer {
            disk: SimDisk::builder(),
            seeds: (0..10).collect(),
            cuts: Cuts::All,
            time_limit: Duration::from_secs(24 * 60 * 60),
        }
    }

    /// Sets the properties of the disks. The explorer sets their seeds.
    pub fn disk(mut self, disk: SimDiskBuilder) -> Explorer {
        self.disk = disk;
        self
    }

    /// Sets the seeds of the disks. There has to be one at least.
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = u64>) -> Explorer {
        self.seeds = seeds.into_iter().collect();
        self
    }

    /// Cuts the power after every event, and before the first one. The default.
    pub fn all_cuts(mut self) -> Explorer {
        self.cuts = Cuts::All;
        self
    }

    /// Cuts the power this many times for each seed, once at least, after random events. They follow from the
    /// seed.
    pub fn random_cuts(mut self, cuts_per_seed: u64) -> Explorer {
        self.cuts = Cuts::Random(cuts_per_seed);
        self
    }

    /// Cuts the power once for each seed, after this event. 0: before the first one.
    pub fn cut_after(mut self, event: u64) -> Explorer {
        self.cuts = Cuts::At(event);
        self
    }

    /// Sets how much simulated time a workload or a verification may take. A day by default. More is a failure:
    /// it waits for something that does not happen.
    pub fn time_limit(mut self, limit: Duration) -> Explorer {
        self.time_limit = limit;
        self
    }

    /// Runs the workload and verifies what the power cuts leave.
    ///
    /// The workload should return at the first error of the disk: after the cut every operation fails with `EIO`.
    /// Errors and panics after the cut are ignored, and tasks that the workload has spawned are dropped. Before the
    /// cut, an error or a panic of the workload is a failure, and so is each of verify. An error of the workload
    /// that comes from a [fault](super::Fault) is for the workload to handle.
    ///
    /// A workload that ends before the cut is verified too: then the power is cut at its end.
    /// [All cuts](Explorer::all_cuts) have that one.
    ///
    /// # Errors
    ///
    /// [`ExploreFailure`]: the first failure. If the cuts were random, the workload is run again to find the
    /// earliest cut with this seed that fails.
    ///
    /// # Panics
    ///
    /// If there would be no power cut: without [seeds](Explorer::seeds), or with 0
    /// [random cuts](Explorer::random_cuts). If `KAIO_EXPLORE` is set, and is no `SEED:CUT`. Inside of a tokio
    /// runtime.
    pub fn run<O, E, V>(
        &self,
        workload: impl AsyncFn(SimDisk, &O) -> Result<(), E>,
        verify: impl AsyncFn(SimDisk, &O) -> Result<(), V>,
    ) -> Result<Explored, ExploreFailure>
    where
        O: Default,
        E: fmt::Display,
        V: fmt::Display,
    {
        self.check_settings();
        let mut explored = Explored::default();
        if let Some((seed, cut)) = replay() {
            self.try_cut(seed, cut, &workload, &verify)?;
            explored.count(1);
            return Ok(explored);
        }
        for (index, &seed) in self.seeds.iter().enumerate() {
            let whole = self.run_once(seed, None, &workload);
            if index == 0 {
                let again = self.run_once(seed, None, &workload);
                if again.trace != whole.trace {
                    let kind = FailureKind::NotDeterministic(Box::new(again.trace));
                    return Err(ExploreFailure::new(seed, None, kind, whole.trace));
                }
            }
            let events = whole.events;
            if whole.result.is_err() {
                self.check(seed, events, whole, &verify)?;
                continue;
            }
            let cuts = self.cuts_of(seed, events);
            let mut cuts_with_results = cuts.iter().map(|&cut| {
                let result = self.try_cut(seed, cut, &workload, &verify);
                (cut, result)
            });
            let failed = cuts_with_results.find_map(|(cut, result)| Some((cut, result.err()?)));
            if let Some((cut, failure)) = failed {
                return Err(self.shrink(seed, cut, failure, &workload, &verify));
            }
            explored.events += events;
            explored.count(cuts.len() as u64);
        }
        Ok(explored)
    }

    /// Panics if there would be no power cut: a test that verifies nothing must not pass.
    fn check_settings(&self) {
        assert!(
            !self.seeds.is_empty(),
            "there are no seeds to explore: give `explore` or `Explorer::seeds` one at least, as in 0..10"
        );
        assert!(
            !matches!(self.cuts, Cuts::Random(0)),
            "`Explorer::random_cuts` needs at least one cut for each seed"
        );
    }

    /// The failure of the earliest cut with this seed that fails.
    fn shrink<O, E, V>(
        &self,
        seed: u64,
        cut: u64,
        failure: ExploreFailure,
        workload: &impl AsyncFn(SimDisk, &O) -> Result<(), E>,
        verify: &impl AsyncFn(SimDisk, &O) -> Result<(), V>,
    ) -> ExploreFailure
    where
        O: Default,
        E: fmt::Display,
        V: fmt::Display,
    {
        if !matches!(self.cuts, Cuts::Random(_)) {
            return failure; // the earliest one, or the only one
        }
        let earlier = (0..cut).find_map(|cut| self.try_cut(seed, cut, workload, verify).err());
        earlier.unwrap_or(failure)
    }

    /// The events after which the power is cut.
    fn cuts_of(&self, seed: u64, events: u64) -> Vec<u64> {
        match self.cuts {
            Cuts::All => (0..=events).collect(),
            Cuts::At(event) => vec![event],
            Cuts::Random(count) => {
                let mut rng = SeededRng::new(seed, RandomUse::CutPoints);
                (0..count).map(|_| rng.below(events + 1)).collect()
            }
        }
    }

    fn try_cut<O, E, V>(
        &self,
        seed: u64,
        cut: u64,
        workload: &impl AsyncFn(SimDisk, &O) -> Result<(), E>,
        verify: &impl AsyncFn(SimDisk, &O) -> Result<(), V>,
    ) -> Result<(), ExploreFailure>
    where
        O: Default,
        E: fmt::Display,
        V: fmt::Display,
    {
        let run = self.run_once(seed, Some(cut), workload);
        self.check(seed, cut, run, verify)
    }

    /// Runs the workload until its end or until the power is cut.
    fn run_once<O, E>(
        &self,
        seed: u64,
        cut: Option<u64>,
        workload: &impl AsyncFn(SimDisk, &O) -> Result<(), E>,
    ) -> Run<O>
    where
        O: Default,
        E: fmt::Display,
    {
        let disk = self.disk.clone().seed(seed).build();
        let oracle = O::default();
        let runtime = paused_runtime();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                if let Some(cut) = cut {
                    disk.cut_power_after(cut);
                }
                let until_cut = until_power_lost(&disk, workload(disk.clone(), &oracle));
                timeout(self.time_limit, until_cut).await
            })
        }));
        let is_on = disk.image().is_none();
        let result = match ended {
            _ if !is_on => Ok(()),
            Ok(Ok(None | Some(Ok(())))) => Ok(()),
            Ok(Ok(Some(Err(error)))) => Err(FailureKind::Workload(error.to_string())),
            Ok(Err(_)) => Err(FailureKind::WorkloadTimeout(self.time_limit)),
            Err(panic) => Err(FailureKind::WorkloadPanic(panic_text(&*panic))),
        };
        let events = disk.events();
        let image = disk.power_cut();
        let trace = disk.trace();
        drop(runtime);
        Run {
            oracle,
            events,
            image,
            trace,
            result,
        }
    }

    /// Verifies what a run has left.
    fn check<O, V>(
        &self,
        seed: u64,
        cut: u64,
        run: Run<O>,
        verify: &impl AsyncFn(SimDisk, &O) -> Result<(), V>,
    ) -> Result<(), ExploreFailure>
    where
        V: fmt::Display,
    {
        if let Err(kind) = run.result {
            let failure = ExploreFailure::without_cut(seed, run.events, kind, run.trace);
            return Err(failure.with_image(run.image));
        }
        let result = {
            let disk = run.image.boot();
            let runtime = paused_runtime();
            let verified = catch_unwind(AssertUnwindSafe(|| {
                runtime
                    .block_on(async { timeout(self.time_limit, verify(disk, &run.oracle)).await })
            }));
            match verified {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err(error))) => Err(FailureKind::Verify(error.to_string())),
                Ok(Err(_)) => Err(FailureKind::VerifyTimeout(self.time_limit)),
                Err(panic) => Err(FailureKind::VerifyPanic(panic_text(&*panic))),
            }
        };
        result.map_err(|kind| {
            ExploreFailure::new(seed, Some(cut), kind, run.trace).with_image(run.image)
        })
    }
}

impl Explored {
    /// Seeds that were explored.
    pub fn seeds(&self) -> u64 {
        self.seeds
    }

    /// Power cuts, each with a run of the workload and a verification.
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    /// Events of the disk in one run of each seed: the points at which the power can be cut.
    pub fn events(&self) -> u64 {
        self.events
    }

    fn count(&mut self, cuts: u64) {
        self.seeds += 1;
        self.cuts += cuts;
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explored { seeds, cuts, .. } = self;
        write!(f, "power cuts: {cuts}, seeds: {seeds}, failures: 0")
    }
}

/// The seed and the cut of the environment.
fn replay() -> Option<(u64, u64)> {
    let value = env::var(REPLAY).ok()?;
    let numbers = value.split_once(':');
    let numbers = numbers.and_then(|(seed, cut)| Some((seed.parse().ok()?, cut.parse().ok()?)));
    match numbers {
        None => panic!("{REPLAY} is {value:?}, not SEED:CUT, as in {REPLAY}=7:42"),
        numbers => numbers,
    }
}

fn paused_runtime() -> Runtime {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.expect("a runtime needs a few descriptors")
}

/// Runs a future until the power is cut. `None`: it was cut.
async fn until_power_lost<T>(disk: &SimDisk, workload: impl Future<Output = T>) -> Option<T> {
    let (mut lost, mut workload) = (pin!(disk.power_lost()), pin!(workload));
    poll_fn(|cx| {
        if lost.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        workload.as_mut().poll(cx).map(Some)
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}
