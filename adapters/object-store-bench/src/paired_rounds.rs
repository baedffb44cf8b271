//! [`measure`]: rounds of a work, by turns on each store.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kaio_bench::Spread;
use object_store::ObjectStore;
use rustix::fs::{Advice, fadvise};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::library_reads::LibraryFile;
use crate::store_work::{LOCAL_OBJECT, OBJECT, Round, Work};

/// The stores that are compared, and what they read.
pub(crate) struct Stores<'a> {
    pub(crate) local: Arc<dyn ObjectStore>,
    pub(crate) kaio: Arc<dyn ObjectStore>,
    pub(crate) library: LibraryFile,
    /// The directory of the objects.
    pub(crate) dir: &'a Path,
}

/// What is measured in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Local,
    Kaio,
    Library,
}

/// The state of the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cache {
    /// The object is evicted before each round.
    Cold,
    /// The object is read before each round.
    Cached,
    /// The page cache is smaller than the object, and stays as earlier rounds have left it. Each store has an
    /// object of its own.
    Limited,
    /// Nothing is read.
    Written,
}

impl Cache {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cache::Cold => "cold",
            Cache::Cached => "cached",
            Cache::Limited => "larger than memory",
            Cache::Written => "written",
        }
    }
}

/// The result of a work. Times are medians, in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    work: String,
    pub(crate) about: String,
    pub(crate) cache: Cache,
    local: Times,
    kaio: Times,
    /// `KaioFileSystem` divided by `LocalFileSystem`, round by round.
    pub(crate) ratios: Ratios,
    /// The library without a store, divided by `LocalFileSystem`.
    pub(crate) library: Option<Ratios>,
    /// Bytes of the object that were in the page cache after the last round of each store.
    pub(crate) local_page_cache: Option<u64>,
    pub(crate) kaio_page_cache: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Times {
    wall: f64,
    cpu: f64,
}

/// Ratios of times.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ratios {
    pub(crate) wall: Spread,
    pub(crate) cpu: Spread,
}

type Failed = Box<dyn Error + Send + Sync>;

/// Runs `rounds` rounds of `work` on each store, after one that is not counted. The stores take turns in
/// going first.
pub(crate) fn measure(
    runtime: &Runtime,
    stores: &Stores<'_>,
    work: &Work,
    cache: Cache,
    rounds: u32,
    share: u64,
) -> Result<Compared, Failed> {
    let has_library = work.library.is_some() && cache == Cache::Cold;
    let mut readers = vec![Reader::Local, Reader::Kaio];
    readers.extend(has_library.then_some(Reader::Library));
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let mut page_cache = [None; 3];
    for round in 0..=rounds {
        for &reader in &readers {
            let name = match reader {
                Reader::Local if cache == Cache::Limited => LOCAL_OBJECT,
                _ => OBJECT,
            };
            let path = stores.dir.join(name);
            let file = File::open(&path)?;
            match cache {
                Cache::Cold => fadvise(&file, 0, None, Advice::DontNeed)?,
                Cache::Cached => drop(std::fs::read(&path)?),
                Cache::Limited | Cache::Written => {}
            }
            let of_round = Round {
                store: match reader {
                    Reader::Local => Arc::clone(&stores.local),
                    Reader::Kaio | Reader::Library => Arc::clone(&stores.kaio),
                },
                object: name,
                len: file.metadata()?.len(),
                scans_all: cache == Cache::Limited,
                seed: round.into(),
                share,
            };
            let time = run(runtime, stores, work, reader, of_round)?;
            if round > 0 {
                times[reader as usize].push(time);
            }
            if cache != Cache::Written {
                page_cache[reader as usize] = cached_bytes(&path);
            }
        }
        readers.rotate_left(1);
    }
    let [local, kaio, library] = &times;
    let ratios = |times: &[Times]| {
        let of = |of: fn(&Times) -> f64| {
            let pairs = times.iter().zip(local);
            spread(pairs.map(|(time, local)| of(time) / of(local)))
        };
        Ratios {
            wall: of(|times| times.wall),
            cpu: of(|times| times.cpu),
        }
    };
    Ok(Compared {
        work: work.name.into(),
        about: work.about.into(),
        cache,
        local: median(local),
        kaio: median(kaio),
        ratios: ratios(kaio),
        library: has_library.then(|| ratios(library)),
        local_page_cache: page_cache[Reader::Local as usize],
        kaio_page_cache: page_cache[Reader::Kaio as usize],
    })
}

fn run(
    runtime: &Runtime,
    stores: &Stores<'_>,
    work: &Work,
    reader: Reader,
    round: Round,
) -> Result<Times, Failed> {
    let task = match (reader, work.library) {
        (Reader::Library, Some(read)) => read(stores.library.clone(), &round),
        _ => (work.run)(round),
    };
    let (start, cpu) = (Instant::now(), cpu_time());
    runtime.block_on(runtime.spawn(task))??;
    Ok(Times {
        wall: start.elapsed().as_secs_f64() * 1e3,
        cpu: (cpu_time() - cpu).as_secs_f64() * 1e3,
    })
}

fn median(times: &[Times]) -> Times {
    Times {
        wall: spread(times.iter().map(|times| times.wall)).median,
        cpu: spread(times.iter().map(|times| times.cpu)).median,
    }
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

/// Bytes of a file that are in the page cache, by `fincore(1)` of util-linux. `None`: it is not installed.
fn cached_bytes(path: &Path) -> Option<u64> {
    let mut fincore = Command::new("fincore");
    fincore.args(["--bytes", "--noheadings", "--output", "RES"]);
    let output = fincore.arg(path).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().parse().ok()
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}, {}", self.work, self.cache.name());
        let times = |times: &Times| format!("{:.0} / {:.0}", times.wall, times.cpu);
        let ratio =
            |ratio: &Spread| format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.q1, ratio.q3);
        write!(
            f,
            "{name:34} {:>14} {:>14} {:>17} {:>17}",
            times(&self.local),
            times(&self.kaio),
            ratio(&self.ratios.wall),
            ratio(&self.ratios.cpu)
        )?;
        if let Some(library) = &self.library {
            let (wall, cpu) = (library.wall.median, library.cpu.median);
            write!(f, "  {wall:.2} / {cpu:.2}")?;
        }
        Ok(())
    }
}
