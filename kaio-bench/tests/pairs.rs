//! The ways of a pair do the same, and what is counted of them is what they are said to save.

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{LEN, files};
use kaio_bench::pairs::{self, Pair, PairSet};
use kaio_bench::{CountingAllocator, Engine, Place, Run, Settings};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The counters are the process's, so that tests wait for each other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_way_makes_whole_turns() {
    let _alone = alone();
    for (_dir, path) in files() {
        for pair in pairs::all() {
            for way in &pair.ways {
                check(&pair, &**way, &path);
            }
        }
    }
}

fn check(pair: &Pair, way: &dyn Engine, path: &Path) {
    let what = format!("{}/{}", pair.name, way.name());
    let prepared = way.prepare(&pair.workload(path, LEN as u64));
    let mut prepared = prepared.unwrap_or_else(|error| panic!("{what}: {error}"));
    for (transfers, latencies) in [(10, true), (100, false)] {
        let run = Run {
            transfers,
            seed: 5,
            latencies,
        };
        let tally = prepared.run(&run);
        let tally = tally.unwrap_or_else(|error| panic!("{what}: {error}"));
        let whole = transfers.next_multiple_of(pair.depth) as u64;
        assert_eq!(tally.transfers, whole, "{what}");
        let median = tally.latencies.quantile(0.5);
        assert_eq!(median.is_some(), latencies, "{what}");
    }
}

#[test]
fn all_ways_to_write_leave_the_same_file() {
    let _alone = alone();
    let writes = pairs::all()
        .into_iter()
        .filter(|pair| pair.pattern.writes());
    for pair in writes {
        let mut left = Vec::new();
        for way in &pair.ways {
            for (_dir, path) in files() {
                let before = fs::read(&path).unwrap();
                check(&pair, &**way, &path);
                let after = fs::read(&path).unwrap();
                assert_ne!(before, after, "{}/{}", pair.name, way.name());
                if way.name() != "unaligned" {
                    left.push(after); // that one writes parts of blocks
                }
            }
        }
        assert!(left.iter().all(|file| *file == left[0]), "{}", pair.name);
    }
}

#[test]
fn a_file_that_ends_early_is_an_error_and_no_figure() {
    let _alone = alone();
    for (_dir, path) in files() {
        for pair in pairs::all() {
            if pair.pattern.writes() {
                continue;
            }
            fs::write(&path, vec![7; 4096]).unwrap();
            for way in &pair.ways {
                let mut prepared = way.prepare(&pair.workload(&path, LEN as u64)).unwrap();
                let run = Run {
                    transfers: 64,
                    seed: 1,
                    latencies: false,
                };
                assert!(prepared.run(&run).is_err(), "{}/{}", pair.name, way.name());
            }
        }
    }
}

/// A pair's ways, each with its system calls and allocations a transfer.
struct Counted(Vec<(String, f64, f64)>);

impl Counted {
    fn of(name: &str, path: &Path) -> Counted {
        let all = pairs::all();
        let pair = all.iter().find(|pair| pair.name == name).unwrap();
        let place = Place::of(path.parent().unwrap()).unwrap();
        let settings = Settings {
            rounds: 1,
            round_ms: 30,
            latency_rounds: 0,
            file_size: LEN as u64,
            ..Settings::default()
        };
        let set = PairSet::measure(pair, &place, path, &settings);
        let ways = set.ways.iter().map(|way| {
            let counts = &way.figures().unwrap().counts;
            let (calls, allocations) = (counts.all_calls(), counts.allocations);
            (way.engine.clone(), calls.unwrap(), allocations.unwrap())
        });
        let counted = Counted(ways.collect());
        println!("{}: {:.2?}", set.title(), counted.0);
        counted
    }

    /// Measures `name` until `check` holds, ten times at most. A thread that a busy machine stops
    /// between two calls may have to make another; what a way costs by itself, it costs each time.
    fn once(name: &str, path: &Path, check: impl Fn(&Counted) -> Result<(), String>) {
        let mut refuted = String::new();
        for _ in 0..10 {
            match check(&Counted::of(name, path)) {
                Ok(()) => return,
                Err(why) => refuted = why,
            }
        }
        panic!("{name}, ten times, and at last: {refuted}");
    }

    fn way(&self, name: &str) -> &(String, f64, f64) {
        self.0.iter().find(|(way, ..)| way == name).unwrap()
    }

    fn calls(&self, name: &str) -> f64 {
        self.way(name).1
    }

    fn allocations(&self, name: &str) -> f64 {
        self.way(name).2
    }
}

/// Counts differ by what a context tries out now and then.
const NEXT_TO_NOTHING: f64 = 0.1;

/// That `figure`, of `what`, is below `limit`.
fn below(limit: f64, figure: f64, what: &str) -> Result<(), String> {
    let told = || format!("{what}: {figure}, and not below {limit}");
    (figure < limit).then_some(()).ok_or_else(told)
}

#[test]
fn a_pool_saves_the_system_calls_for_memory() {
    let _alone = alone();
    for (_dir, path) in files() {
        for pair in ["pool-4k", "pool-128k"] {
            Counted::once(pair, &path, |counted| {
                let (pool, fresh) = (counted.calls("pool"), counted.calls("fresh"));
                below(NEXT_TO_NOTHING, pool + 2.0 - fresh, "pool, mmap and munmap")?;
                below(NEXT_TO_NOTHING, pool - counted.calls("kept"), "pool")
            });
        }
    }
}

#[test]
fn a_batch_shares_system_calls() {
    let _alone = alone();
    for (_dir, path) in files() {
        Counted::once("batch", &path, |counted| {
            let batch = counted.calls("batch");
            below(counted.calls("one-by-one") / 5.0, batch, "batch")?;
            for other in ["join-all", "tasks"] {
                below(counted.calls(other) + NEXT_TO_NOTHING, batch, other)?;
            }
            Ok(())
        });
    }
}

#[test]
fn vectored_and_owned_transfers_take_the_calls_of_plain_ones() {
    let _alone = alone();
    for (_dir, path) in files() {
        for (pair, plain) in [
            ("vectored-read", "read-and-copy"),
            ("vectored-write", "copy-and-write"),
            ("owned", "borrowed"),
        ] {
            Counted::once(pair, &path, |counted| {
                for (way, calls, _) in &counted.0 {
                    below(NEXT_TO_NOTHING, calls - counted.calls(plain), way)?;
                }
                below(NEXT_TO_NOTHING, counted.allocations(plain), "allocations")
            });
        }
    }
}

#[test]
fn unaligned_reads_take_the_calls_of_aligned_ones_and_writes_those_of_a_read_besides() {
    let _alone = alone();
    for (_dir, path) in files() {
        for (pair, times) in [("unaligned-read", 1.0), ("unaligned-write", 2.0)] {
            Counted::once(pair, &path, |counted| {
                let aligned = counted.calls("aligned");
                let more = counted.calls("unaligned") - times * aligned;
                below(NEXT_TO_NOTHING, more, "unaligned")?;
                below(NEXT_TO_NOTHING, counted.calls("copied") - aligned, "copied")
            });
        }
    }
}

#[test]
fn an_aligned_buffer_that_is_handed_over_costs_no_allocation() {
    let _alone = alone();
    for (_dir, path) in files() {
        Counted::once("owned", &path, |counted| {
            below(NEXT_TO_NOTHING, counted.allocations("owned"), "owned")
        });
    }
}
