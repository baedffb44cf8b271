//! [`Exploration`]: the runs of an [`Explorer`](super::Explorer).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::explore_failure::{ExploreFailure, FailureKind, Phase};
use super::mount_name::MountName;
use super::seeded_rng::{RandomUse, SeededRng};
use super::sim_disk_builder::take_name;
use super::{DiskImage, DiskTrace, SimDisk, SimDiskBuilder, mount_points};

/// The settings of an [`Explorer`](super::Explorer).
#[derive(Clone)]
pub(super) struct ExploreSettings {
    /// The properties of the disk of a seed.
    pub(super) disks: Arc<dyn Fn(u64) -> SimDiskBuilder + Send + Sync>,
    pub(super) seeds: Vec<u64>,
    pub(super) cuts: Cuts,
    pub(super) cuts_per_run: usize,
    pub(super) time_limit: Duration,
}

/// The first cuts of the runs of a seed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cuts {
    All,
    Random(u64),
    At(u64),
}

/// What an [`Explorer`](super::Explorer) has done without a failure. `Display` prints a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    seeds: u64,
    cuts: u64,
    events: u64,
}

/// Runs a workload `W` and a verification `F` of the oracle `O`.
pub(super) struct Exploration<'e, O, W, F> {
    settings: &'e ExploreSettings,
    workload: W,
    verify: F,
    /// The names of the disks, by what their builders have chosen.
    names: RefCell<Vec<(Option<String>, MountName)>>,
    oracle: PhantomData<fn() -> O>,
}

/// The name of the disks whose builders have chosen none.
const DEFAULT_NAME: &str = "explored";

/// A disk on which a program has run until the power was cut.
struct Ended {
    events: u64,
    image: DiskImage,
    trace: DiskTrace,
    /// A failure while the power was on.
    result: Result<(), FailureKind>,
}

impl<'e, O, W, F> Exploration<'e, O, W, F>
where
    O: Default,
    W: AsyncFn(SimDisk, &O) -> Result<(), String>,
    F: AsyncFn(SimDisk, &O) -> Result<(), String>,
{
    pub(super) fn new(settings: &'e ExploreSettings, workload: W, verify: F) -> Self {
        Exploration {
            settings,
            workload,
            verify,
            names: RefCell::new(Vec::new()),
            oracle: PhantomData,
        }
    }

    /// Makes one run.
    pub(super) fn replay(&self, seed: u64, cuts: &[u64]) -> Result<Explored, ExploreFailure> {
        self.run_with_cuts(seed, cuts)?;
        Ok(Explored {
            seeds: 1,
            cuts: cuts.len() as u64,
            events: 0,
        })
    }

    /// Makes the runs of all seeds.
    pub(super) fn run(&self) -> Result<Explored, ExploreFailure> {
        let mut explored = Explored::default();
        for (index, &seed) in self.settings.seeds.iter().enumerate() {
            let whole = self.run_whole(seed);
            if index == 0 {
                self.check_determinism(seed, &whole)?;
            }
            let events = whole.events;
            if let Err(kind) = whole.result {
                let traces = vec![whole.trace];
                let failure =
                    ExploreFailure::of_workload(seed, &[], events, kind, traces, whole.image);
                return Err(failure);
            }
            let first_cuts = self.first_cuts(seed, events);
            for &first in &first_cuts {
                let cuts = self.cuts_of_run(seed, first, events);
                if let Err(failure) = self.run_with_cuts(seed, &cuts) {
                    return Err(self.shrink(seed, cuts, failure));
                }
                explored.cuts += cuts.len() as u64;
            }
            explored.seeds += 1;
            explored.events += events;
        }
        Ok(explored)
    }

    /// The events after which the runs of a seed have their first cuts.
    fn first_cuts(&self, seed: u64, events: u64) -> Vec<u64> {
        match self.settings.cuts {
            Cuts::All => (0..=events).collect(),
            Cuts::At(event) => vec![event],
            Cuts::Random(count) => {
                let mut rng = SeededRng::new(seed, RandomUse::CutPoints);
                (0..count).map(|_| rng.below(events + 1)).collect()
            }
        }
    }

    /// The cuts of a run: the first one, and random ones on the disks that boot later.
    ///
    /// Half of the later cuts are anywhere. The others have a random number of bits: most of them are among
    /// the first events, which belong to the recovery.
    fn cuts_of_run(&self, seed: u64, first: u64, events: u64) -> Vec<u64> {
        let mut rng = SeededRng::new(seed.rotate_left(32) ^ first, RandomUse::LaterCuts);
        let bits = u64::from(events.checked_ilog2().map_or(0, |bit| bit + 1)); // less than 64
        let later = (1..self.settings.cuts_per_run).map(|_| match rng.chance(8) {
            true => rng.below(events + 1),
            false => rng.next() & ((1 << rng.below(bits + 1)) - 1),
        });
        [first].into_iter().chain(later).collect()
    }

    fn check_determinism(&self, seed: u64, whole: &Ended) -> Result<(), ExploreFailure> {
        let again = self.run_whole(seed);
        if again.trace == whole.trace {
            return Ok(());
        }
        let first = whole.trace.clone();
        Err(ExploreFailure::not_deterministic(seed, first, again.trace))
    }

    /// The failure of a run with fewer or earlier cuts, if one can be found; of such a run again, and so on.
    fn shrink(&self, seed: u64, mut cuts: Vec<u64>, mut failure: ExploreFailure) -> ExploreFailure {
        let fails = |cuts: Vec<u64>| Some((self.run_with_cuts(seed, &cuts).err()?, cuts));
        loop {
            let smaller = self.smaller(&cuts).find_map(fails);
            let Some(smaller) = smaller else {
                return failure;
            };
            (failure, cuts) = smaller;
        }
    }

    /// The cuts of smaller runs: with fewer cuts, or with one that is earlier.
    fn smaller(&self, cuts: &[u64]) -> impl Iterator<Item = Vec<u64>> {
        let prefixes = (1..cuts.len()).map(|count| cuts[..count].to_vec());
        let later = match self.settings.cuts {
            Cuts::At(_) => &[], // the first cut is given
            Cuts::All | Cuts::Random(_) => cuts.get(1..).unwrap_or_default(),
        };
        let later_alone = later.iter().map(|&cut| vec![cut]);
        let tried = match self.settings.cuts {
            Cuts::Random(_) => 0,
            Cuts::All => usize::from(self.settings.cuts_per_run == 1),
            Cuts::At(_) => 1,
        };
        let earlier = (tried..cuts.len()).flat_map(move |index| {
            (0..cuts[index]).map(move |cut| {
                let mut earlier = cuts.to_vec();
                earlier[index] = cut;
                earlier
            })
        });
        prefixes.chain(later_alone).chain(earlier)
    }

    /// Runs the workload without a power cut.
    fn run_whole(&self, seed: u64) -> Ended {
        let oracle = O::default();
        self.run_until_cut(self.first_disk(seed), &oracle, &[Phase::Workload], None)
    }

    /// Makes one run: the workload until the first cut; verify and the workload until each further one; verify.
    fn run_with_cuts(&self, seed: u64, cuts: &[u64]) -> Result<(), ExploreFailure> {
        let oracle = O::default();
        let mut traces = Vec::with_capacity(cuts.len());
        let mut image: Option<DiskImage> = None;
        for (index, &cut) in cuts.iter().enumerate() {
            let (disk, phases) = match &image {
                None => (self.first_disk(seed), &[Phase::Workload][..]),
                Some(image) => (image.boot(), &[Phase::Verify, Phase::Workload][..]),
            };
            let Ended {
                events,
                image: left,
                trace,
                result,
            } = self.run_until_cut(disk, &oracle, phases, Some(cut));
            if let Err(kind) = result {
                let before = &cuts[..index];
                return Err(match image {
                    Some(image) if kind.phase() == Some(Phase::Verify) => {
                        ExploreFailure::of_verification(seed, before, kind, traces, image)
                    }
                    _ => {
                        traces.push(trace);
                        ExploreFailure::of_workload(seed, before, events, kind, traces, left)
                    }
                });
            }
            traces.push(trace);
            image = Some(left);
        }
        let Some(image) = image else {
            return Ok(()); // there was no cut
        };
        let verified = self.verify_whole(image.boot(), &oracle);
        verified.map_err(|kind| ExploreFailure::of_verification(seed, cuts, kind, traces, image))
    }

    /// Makes the disk of a seed.
    fn first_disk(&self, seed: u64) -> SimDisk {
        let builder = (self.settings.disks)(seed).seed(seed);
        let name = self.name(builder.chosen_name());
        builder.build_as(Some(name))
    }

    /// The name of the disks for which `chosen` is chosen. It is taken until the exploration ends.
    fn name(&self, chosen: Option<&str>) -> MountName {
        let mut names = self.names.borrow_mut();
        if let Some((_, name)) = names.iter().find(|(of, _)| of.as_deref() == chosen) {
            return name.clone();
        }
        let name = match chosen {
            Some(name) => take_name(name),
            None => MountName::take_first_free(DEFAULT_NAME),
        };
        names.push((chosen.map(str::to_owned), name.clone()));
        name
    }

    /// Runs the phases until they end or until the power is cut. Then it is cut.
    fn run_until_cut(
        &self,
        disk: SimDisk,
        oracle: &O,
        phases: &[Phase],
        cut: Option<u64>,
    ) -> Ended {
        let runtime = paused_runtime();
        let current = Cell::new(Phase::Workload);
        let ended = run_to_end(&runtime, &current, async {
            if let Some(cut) = cut {
                disk.cut_power_after(cut);
            }
            let phases = async {
                for &phase in phases {
                    current.set(phase);
                    self.run_phase(phase, disk.clone(), oracle).await?;
                }
                Ok(())
            };
            until_power_lost(&disk, phases).await.unwrap_or(Ok(()))
        });
        let result = match disk.image() {
            None => ended,
            Some(_) => Ok(()), // the phase has failed because of the cut, or has not noticed it
        };
        Ended {
            events: disk.events(),
            image: disk.power_cut(),
            trace: disk.trace(),
            result,
        }
    }

    /// Verifies the disk that boots after the last cut of a run.
    fn verify_whole(&self, disk: SimDisk, oracle: &O) -> Result<(), FailureKind> {
        let runtime = paused_runtime();
        let current = Cell::new(Phase::Verify);
        let verified = run_to_end(
            &runtime,
            &current,
            self.run_phase(Phase::Verify, disk.clone(), oracle),
        );
        mount_points::unmount(disk.disk()); // if verify has kept the disk, the next one needs its path
        verified
    }

    async fn run_phase(&self, phase: Phase, disk: SimDisk, oracle: &O) -> Result<(), FailureKind> {
        let limit = self.settings.time_limit;
        let ended = match phase {
            Phase::Workload => timeout(limit, (self.workload)(disk, oracle)).await,
            Phase::Verify => timeout(limit, (self.verify)(disk, oracle)).await,
        };
        match ended {
            Ok(result) => result.map_err(|text| FailureKind::Error(phase, text)),
            Err(_) => Err(FailureKind::Timeout(phase, limit)),
        }
    }
}

impl Explored {
    /// Seeds that were explored.
    pub fn seeds(&self) -> u64 {
        self.seeds
    }

    /// Power cuts of all runs.
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    /// Events of the disk in one run of each seed without a cut: the points at which the power can be cut.
    pub fn events(&self) -> u64 {
        self.events
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explored { seeds, cuts, .. } = self;
        write!(f, "power cuts: {cuts}, seeds: {seeds}, failures: 0")
    }
}

/// Runs a program to its end. A panic is a failure of the current phase.
fn run_to_end(
    runtime: &Runtime,
    current: &Cell<Phase>,
    program: impl Future<Output = Result<(), FailureKind>>,
) -> Result<(), FailureKind> {
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(program)));
    ended.unwrap_or_else(|panic| Err(FailureKind::Panic(current.get(), panic_text(&*panic))))
}

fn paused_runtime() -> Runtime {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.expect("a runtime needs a few descriptors")
}

/// Runs a future until the power is cut. `None`: it was cut.
async fn until_power_lost<T>(disk: &SimDisk, program: impl Future<Output = T>) -> Option<T> {
    let (mut lost, mut program) = (pin!(disk.power_lost()), pin!(program));
    poll_fn(|cx| {
        if lost.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        program.as_mut().poll(cx).map(Some)
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}
