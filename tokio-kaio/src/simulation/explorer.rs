//! [`Explorer`]: runs a program under many power cuts.

use std::env;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::exploration::{Cuts, Exploration, ExploreSettings, Explored};
use super::explore_failure::ExploreFailure;
use super::{SimDisk, SimDiskBuilder};

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
/// # Cuts during recovery
///
/// With [`cuts_per_run`](Explorer::cuts_per_run) the power is cut again on the disk that has booted: in verify,
/// whose opening of the files is the recovery of the program, or in the workload, which goes on after it.
///
/// # Determinism
///
/// Every run of a workload with a seed has to do the same. The workload must not depend on the time of day, on
/// threads, on random numbers of another seed, or on the order of a `HashMap`. The first seed is run twice, and
/// the [traces](crate::simulation::DiskTrace::hash) are compared.
///
/// All disks of an explorer have the same [path](SimDisk::path), so that a program may store it:
/// `/simulated-disk/explored`, or the [name](SimDiskBuilder::name) that the disk was given. While another explorer
/// runs, as in a test binary, or while an [`ExploreFailure`] or an image of one exists, the next explorer has
/// `explored-2` and so on: give the disks names, if the data of the program depends on the path.
///
/// # Running a failure again
///
/// The text of a failure says how: with the environment variable `KAIO_EXPLORE=SEED:CUT`, every explorer of the
/// process runs this seed and this cut only, and says so on standard error. `SEED:CUT:CUT` is a run with two
/// cuts.
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
/// assert_eq!(failure.cuts(), [1]); // after the event `create_dir`
/// let run = failure.replay().unwrap(); // for `KAIO_EXPLORE`
/// assert_eq!(run, format!("{}:1", failure.seed()));
/// ```
#[derive(Clone)]
#[must_use = "an explorer does nothing until `run` is called"]
pub struct Explorer {
    settings: ExploreSettings,
}

/// The environment variable that chooses one seed and its cuts.
const REPLAY: &str = "KAIO_EXPLORE";

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
            settings: ExploreSettings {
                disks: Arc::new(|_| SimDisk::builder()),
                seeds: (0..10).collect(),
                cuts: Cuts::All,
                cuts_per_run: 1,
                time_limit: Duration::from_secs(24 * 60 * 60),
            },
        }
    }

    /// Sets the properties of the disks. The explorer sets their seeds.
    pub fn disk(self, disk: SimDiskBuilder) -> Explorer {
        self.disks(move |_| disk.clone())
    }

    /// Sets the properties of the disk of each seed. The explorer sets its seed.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::simulation::{Explorer, SimDisk};
    ///
    /// // Half of the disks have small sectors, the others have no volatile cache.
    /// let explorer = Explorer::new().disks(|seed| match seed % 2 {
    ///     0 => SimDisk::builder().sector(512),
    ///     _ => SimDisk::builder().volatile_cache(false),
    /// });
    /// # let _ = explorer;
    /// ```
    pub fn disks(
        mut self,
        disk_of_seed: impl Fn(u64) -> SimDiskBuilder + Send + Sync + 'static,
    ) -> Explorer {
        self.settings.disks = Arc::new(disk_of_seed);
        self
    }

    /// Sets the seeds of the disks. There has to be one at least.
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = u64>) -> Explorer {
        self.settings.seeds = seeds.into_iter().collect();
        self
    }

    /// Cuts the power after every event, and before the first one. The default.
    pub fn all_cuts(mut self) -> Explorer {
        self.settings.cuts = Cuts::All;
        self
    }

    /// Makes this number of runs for each seed, one at least, and cuts the power after random events. They follow
    /// from the seed.
    pub fn random_cuts(mut self, runs_per_seed: u64) -> Explorer {
        self.settings.cuts = Cuts::Random(runs_per_seed);
        self
    }

    /// Makes one run for each seed, and cuts the power after this event. 0: before the first one.
    pub fn cut_after(mut self, event: u64) -> Explorer {
        self.settings.cuts = Cuts::At(event);
        self
    }

    /// Cuts the power this many times in each run. 1 by default, and 1 at least.
    ///
    /// After each cut but the last, the image boots, and verify and then the workload run on the new disk until
    /// the next cut. The cut is after a random event of that disk. Many are after one of its first events, in
    /// verify, which recovers the files. The last image boots, and verify runs to its end.
    ///
    /// So the workload has to accept the files that it finds, as a program does that starts again, and verify may
    /// be interrupted by a cut and called again with the same oracle.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::cell::Cell;
    /// use tokio_kaio::simulation::Explorer;
    /// use tokio_kaio::{create_dir, read_dir, rename, sync_dir};
    ///
    /// // Creates directories, each by a rename of "new" to the next number. Recovery renames what it finds.
    /// async fn recover(dir: &std::path::Path) -> std::io::Result<usize> {
    ///     let names = read_dir(dir).await?;
    ///     if !names.iter().any(|name| name == "new") {
    ///         return Ok(names.len());
    ///     }
    ///     rename(dir.join("new"), dir.join((names.len() - 1).to_string())).await?;
    ///     sync_dir(dir).await?;
    ///     Ok(names.len())
    /// }
    ///
    /// let explored = Explorer::new().cuts_per_run(2).run(
    ///     async |disk, durable: &Cell<usize>| {
    ///         for _ in recover(disk.path()).await?..4 {
    ///             create_dir(disk.path().join("new")).await?;
    ///             sync_dir(disk.path()).await?;
    ///             durable.set(recover(disk.path()).await?);
    ///         }
    ///         Ok::<(), std::io::Error>(())
    ///     },
    ///     async |disk, durable: &Cell<usize>| {
    ///         let found = recover(disk.path()).await.map_err(|error| error.to_string())?;
    ///         match found >= durable.get() {
    ///             true => Ok(()),
    ///             false => Err(format!("{found} directories of {}", durable.get())),
    ///         }
    ///     },
    /// )?;
    /// assert_eq!(explored.cuts() % 2, 0);
    /// # Ok::<(), tokio_kaio::simulation::ExploreFailure>(())
    /// ```
    pub fn cuts_per_run(mut self, cuts: usize) -> Explorer {
        self.settings.cuts_per_run = cuts;
        self
    }

    /// Sets how much simulated time a workload or a verification may take. A day by default. More is a failure:
    /// it waits for something that does not happen.
    pub fn time_limit(mut self, limit: Duration) -> Explorer {
        self.settings.time_limit = limit;
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
    /// [`ExploreFailure`]: the first failure, with as few cuts as it needs. If the cuts were random, the workload
    /// is run again to find the earliest cuts with this seed that fail.
    ///
    /// # Panics
    ///
    /// If there would be no power cut: without [seeds](Explorer::seeds), with 0
    /// [random cuts](Explorer::random_cuts), or with 0 [cuts per run](Explorer::cuts_per_run). If a disk can't be
    /// [built](SimDiskBuilder::build), also because its name is taken, for example by an earlier failure that
    /// still exists. If `KAIO_EXPLORE` is set, and is neither `SEED:CUT` nor has more cuts, as `SEED:CUT:CUT`.
    /// Inside of a tokio runtime.
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
        let exploration = Exploration::new(
            &self.settings,
            async |disk, oracle: &O| to_text(workload(disk, oracle).await),
            async |disk, oracle: &O| to_text(verify(disk, oracle).await),
        );
        match replay() {
            Some((seed, cuts)) => {
                eprintln!("{REPLAY}: runs seed {seed} with the cuts {cuts:?} only");
                exploration.replay(seed, &cuts)
            }
            None => exploration.run(),
        }
    }

    /// Panics inside of a runtime, or if there would be no power cut: a test that verifies nothing must not pass.
    fn check_settings(&self) {
        assert!(
            Handle::try_current().is_err(),
            "an explorer makes its own runtimes, and can't run inside of one: use #[test], not #[tokio::test]"
        );
        assert!(
            !self.settings.seeds.is_empty(),
            "there are no seeds to explore: give `explore` or `Explorer::seeds` one at least, as in 0..10"
        );
        assert!(
            !matches!(self.settings.cuts, Cuts::Random(0)),
            "`Explorer::random_cuts` needs at least one cut for each seed"
        );
        assert!(
            self.settings.cuts_per_run > 0,
            "`Explorer::cuts_per_run` needs at least one cut for each run"
        );
    }
}

impl fmt::Debug for Explorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explorer")
            .field("seeds", &self.settings.seeds)
            .field("cuts", &self.settings.cuts)
            .field("cuts_per_run", &self.settings.cuts_per_run)
            .field("time_limit", &self.settings.time_limit)
            .finish_non_exhaustive()
    }
}

fn to_text(result: Result<(), impl fmt::Display>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

/// The seed and the cuts of the environment.
fn replay() -> Option<(u64, Vec<u64>)> {
    let value = env::var(REPLAY).ok()?;
    let numbers: Result<Vec<u64>, _> = value.split(':').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([seed, cuts @ ..]) if !cuts.is_empty() => Some((*seed, cuts.to_vec())),
        _ => panic!("{REPLAY} is {value:?}, not SEED:CUT or SEED:CUT:CUT, as in {REPLAY}=7:42"),
    }
}
