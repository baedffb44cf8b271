//! [`Results`]: the samples, as JSON.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use kaio_bench::{Machine, Place, Spread};
use serde::{Deserialize, Serialize};

use crate::Result;

/// The results of a run. Every sample is kept; medians and ratios are computed from them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) place: Place,
    pub(crate) data: DataSet,
    /// Whether the benchmark was built without optimization.
    pub(crate) debug_build: bool,
    pub(crate) rounds: u32,
    pub(crate) partitions: usize,
    pub(crate) works: Vec<WorkResult>,
    /// Passes with a limit of memory. `None`: not measured.
    pub(crate) limited: Option<LimitedResult>,
}

/// The data that is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DataSet {
    pub(crate) scale: f64,
    /// Compression, rows of a row group, and files of a table.
    pub(crate) form: String,
    pub(crate) bytes: u64,
    pub(crate) files: usize,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    Local,
    Kaio,
    KaioWithoutPrefetch,
}

/// Kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Query,
    Scan,
}

/// A work in one state of the page cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkResult {
    pub(crate) work: String,
    pub(crate) about: String,
    pub(crate) kind: Kind,
    /// Whether the data was in the page cache before each run.
    pub(crate) cached: bool,
    /// Rows of the answer.
    pub(crate) rows: u64,
    pub(crate) stores: Vec<StoreSamples>,
}

/// The samples of a store, a value each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoreSamples {
    pub(crate) store: Store,
    pub(crate) wall_ms: Vec<f64>,
    /// CPU time of all threads of the process.
    pub(crate) cpu_ms: Vec<f64>,
    /// Bytes that the process read from the device.
    pub(crate) read_bytes: Vec<u64>,
    /// Bytes of the data that were in the page cache after the run.
    pub(crate) cached_bytes: Vec<u64>,
}

/// Passes with a limit of memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LimitedResult {
    /// The works of a pass, in this order.
    pub(crate) works: Vec<String>,
    pub(crate) data_bytes: u64,
    pub(crate) limit_bytes: u64,
    /// A process each.
    pub(crate) runs: Vec<LimitedRun>,
}

/// A process with a limit of memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LimitedRun {
    pub(crate) store: Store,
    pub(crate) passes: Vec<Pass>,
}

/// A pass over the data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pass {
    pub(crate) wall_ms: f64,
    pub(crate) cpu_ms: f64,
    pub(crate) read_bytes: u64,
    /// Page cache of the cgroup at the end of the pass.
    pub(crate) cached_bytes: u64,
    /// Memory of the process at the end of the pass.
    pub(crate) process_bytes: u64,
}

/// A quantity that is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Quantity {
    Wall,
    Cpu,
}

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Results> {
        let failed = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
        Ok(serde_json::from_str(&text).map_err(|error| failed(&error))?)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self)? + "\n";
        // A line for each work and store, so that a change is legible.
        let text = text
            .replace("{\"work\":", "\n{\"work\":")
            .replace("{\"store\":", "\n{\"store\":");
        Ok(fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?)
    }

    /// LocalFileSystem with cached data divided by LocalFileSystem with cold data: what a store would reach that
    /// needs no time to read. A ratio of medians, since the two were not measured in the same rounds.
    pub(crate) fn floor(&self, work: &WorkResult, quantity: Quantity) -> Option<f64> {
        let median = |cached| {
            let mut works = self.works(work.kind, cached);
            let work = works.find(|other| other.work == work.work)?;
            let values = work.samples(Store::Local)?.values(quantity);
            Some(Spread::of(values.iter().copied())?.median)
        };
        Some(median(true)? / median(false)?)
    }

    pub(crate) fn works(&self, kind: Kind, cached: bool) -> impl Iterator<Item = &WorkResult> {
        let is_wanted = move |work: &&WorkResult| work.kind == kind && work.cached == cached;
        self.works.iter().filter(is_wanted)
    }
}

impl WorkResult {
    pub(crate) fn samples(&self, store: Store) -> Option<&StoreSamples> {
        self.stores.iter().find(|samples| samples.store == store)
    }

    /// `store` divided by LocalFileSystem, round by round.
    pub(crate) fn ratio(&self, store: Store, quantity: Quantity) -> Option<Spread> {
        let (above, below) = (self.samples(store)?, self.samples(Store::Local)?);
        let of = |samples: &StoreSamples| samples.values(quantity).to_vec();
        Spread::of_ratios(of(above), of(below))
    }
}

impl StoreSamples {
    pub(crate) fn values(&self, quantity: Quantity) -> &[f64] {
        match quantity {
            Quantity::Wall => &self.wall_ms,
            Quantity::Cpu => &self.cpu_ms,
        }
    }
}

impl LimitedResult {
    /// The passes of number `index` of all processes of a store.
    pub(crate) fn passes(&self, store: Store, index: usize) -> impl Iterator<Item = &Pass> {
        let runs = self.runs.iter().filter(move |run| run.store == store);
        runs.filter_map(move |run| run.passes.get(index))
    }

    /// kaio-object-store divided by LocalFileSystem, process by process.
    pub(crate) fn ratio(&self, index: usize, quantity: Quantity) -> Option<Spread> {
        let of = |pass: &Pass| match quantity {
            Quantity::Wall => pass.wall_ms,
            Quantity::Cpu => pass.cpu_ms,
        };
        let values = |store| self.passes(store, index).map(of);
        Spread::of_ratios(values(Store::Kaio), values(Store::Local))
    }

    pub(crate) fn pass_count(&self) -> usize {
        self.runs.first().map_or(0, |run| run.passes.len())
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Store::Local => "local",
            Store::Kaio => "kaio",
            Store::KaioWithoutPrefetch => "kaio-without-prefetch",
        })
    }
}

impl FromStr for Store {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Store, String> {
        let all = [Store::Local, Store::Kaio, Store::KaioWithoutPrefetch];
        let found = all.into_iter().find(|store| store.to_string() == name);
        found.ok_or_else(|| format!("no such store: {name:?}"))
    }
}

/// The geometric mean. `None` of no values.
pub(crate) fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<f64> = values.into_iter().map(f64::ln).collect();
    match logarithms.len() {
        0 => None,
        count => Some((logarithms.iter().sum::<f64>() / count as f64).exp()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        let mean = geometric_mean([0.25, 4.0, 1.0]).unwrap();
        assert!((mean - 1.0).abs() < 1e-12, "{mean}");
        assert_eq!(geometric_mean([]), None);
    }

    #[test]
    fn ratios_pair_the_rounds_of_two_stores() {
        let samples = |store, wall_ms: &[f64]| StoreSamples {
            store,
            wall_ms: wall_ms.to_vec(),
            cpu_ms: vec![1.0; wall_ms.len()],
            read_bytes: vec![0; wall_ms.len()],
            cached_bytes: vec![0; wall_ms.len()],
        };
        let work = WorkResult {
            work: "q1".into(),
            about: "q1".into(),
            kind: Kind::Query,
            cached: false,
            rows: 4,
            stores: vec![
                samples(Store::Local, &[10.0, 20.0, 40.0]),
                samples(Store::Kaio, &[5.0, 20.0, 10.0]),
            ],
        };
        let wall = work.ratio(Store::Kaio, Quantity::Wall).unwrap();
        assert_eq!(wall.median, 0.5);
        assert!(
            work.ratio(Store::KaioWithoutPrefetch, Quantity::Wall)
                .is_none()
        );
    }
}
