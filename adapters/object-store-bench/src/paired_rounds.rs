//! [`measure`]: rounds of a work, by turns on each store.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kaio_bench::Spread;
use object_store::ObjectStore;
use rustix::fs::{Advice, fadvise};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::store_work::{Round, Work};

/// The stores that are compared, and the file of the object that they read.
pub(crate) struct Stores<'a> {
    pub(crate) local: Arc<dyn ObjectStore>,
    pub(crate) kaio: Arc<dyn ObjectStore>,
    pub(crate) object: &'a Path,
}

/// The result of a work. Times are medians, in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    work: String,
    about: String,
    cached: bool,
    local_wall: f64,
    local_cpu: f64,
    kaio_wall: f64,
    kaio_cpu: f64,
    /// `KaioFileSystem` divided by `LocalFileSystem`, round by round.
    wall_ratio: Spread,
    cpu_ratio: Spread,
}

#[derive(Clone, Copy)]
struct Times {
    wall: f64,
    cpu: f64,
}

/// Runs `rounds` rounds of `work` on each store, after one that is not counted. The stores take turns in
/// going first.
pub(crate) fn measure(
    runtime: &Runtime,
    stores: &Stores<'_>,
    work: &Work,
    cached: bool,
    rounds: u32,
    share: u64,
) -> Result<Compared, Box<dyn Error + Send + Sync>> {
    let file = File::open(stores.object)?;
    let len = file.metadata()?.len();
    let mut local = Vec::new();
    let mut kaio = Vec::new();
    for round in 0..=rounds {
        let run = |store: &Arc<dyn ObjectStore>| {
            match cached {
                true => drop(std::fs::read(stores.object)?),
                false => fadvise(&file, 0, None, Advice::DontNeed)?,
            }
            let of_round = Round {
                store: Arc::clone(store),
                len,
                seed: round.into(),
                share,
            };
            let task = (work.run)(of_round);
            let (start, cpu) = (Instant::now(), cpu_time());
            runtime.block_on(runtime.spawn(task))??;
            let times = Times {
                wall: start.elapsed().as_secs_f64() * 1e3,
                cpu: (cpu_time() - cpu).as_secs_f64() * 1e3,
            };
            Ok::<_, Box<dyn Error + Send + Sync>>(times)
        };
        let (of_local, of_kaio) = match round % 2 {
            0 => {
                let first = run(&stores.local)?;
                (first, run(&stores.kaio)?)
            }
            _ => {
                let first = run(&stores.kaio)?;
                (run(&stores.local)?, first)
            }
        };
        if round > 0 {
            local.push(of_local);
            kaio.push(of_kaio);
        }
    }
    let median = |times: &[Times], of: fn(&Times) -> f64| spread(times.iter().map(of)).median;
    let ratios = |of: fn(&Times) -> f64| {
        let pairs = kaio.iter().zip(&local);
        spread(pairs.map(|(kaio, local)| of(kaio) / of(local)))
    };
    Ok(Compared {
        work: work.name.into(),
        about: work.about.into(),
        cached,
        local_wall: median(&local, |times| times.wall),
        local_cpu: median(&local, |times| times.cpu),
        kaio_wall: median(&kaio, |times| times.wall),
        kaio_cpu: median(&kaio, |times| times.cpu),
        wall_ratio: ratios(|times| times.wall),
        cpu_ratio: ratios(|times| times.cpu),
    })
}

fn spread(values: impl Iterator<Item = f64>) -> Spread {
    match Spread::of(values) {
        Some(spread) => spread,
        None => unreachable!("there is at least one round"),
    }
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.cached {
            true => format!("{}, cached", self.work),
            false => format!("{}, cold", self.work),
        };
        let times = |wall: f64, cpu: f64| format!("{wall:.0} / {cpu:.0}");
        let ratio =
            |ratio: &Spread| format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.q1, ratio.q3);
        write!(
            f,
            "{name:36} {:>20} {:>20} {:>18} {:>18}",
            times(self.local_wall, self.local_cpu),
            times(self.kaio_wall, self.kaio_cpu),
            ratio(&self.wall_ratio),
            ratio(&self.cpu_ratio)
        )
    }
}
