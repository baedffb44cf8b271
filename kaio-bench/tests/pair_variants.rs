//! The variants of a pair do the same job, and their counts show name the docs claim.

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{LEN, files};
use kaio_bench::pairs::{self, Pair, PairSet};
use kaio_bench::{CountingAllocator, Engine, Place, Run, Settings, Unavailable};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Serializes the tests, since the counters count the whole process.
fn lock_counters() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_variant_makes_whole_iterations() {
    let _lock = lock_counters();
    for (_dir, path) in files() {
        for pair in pairs::all() {
            for variant in &pair.variants {
                check(&pair, &**variant, &path);
            }
        }
    }
}

fn check(pair: &Pair, variant: &dyn Engine, path: &Path) {
    let name = format!("{}/{}", pair.name, variant.name());
    let mut prepared = match variant.prepare(&pair.workload(path, LEN as u64)) {
        Ok(prepared) => prepared,
        Err(error) if error.is::<Unavailable>() => return eprintln!("skipped: {name}: {error}"),
        Err(error) => panic!("{name}: {error}"),
    };
    for (transfers, latencies) in [(10, true), (100, false)] {
        let run = Run {
            transfers,
            seed: 5,
            latencies,
        };
        let stats = prepared.run(&run);
        let stats = stats.unwrap_or_else(|error| panic!("{name}: {error}"));
        let whole = transfers.next_multiple_of(pair.depth) as u64;
        assert_eq!(stats.transfers, whole, "{name}");
        let median = stats.latencies.quantile(0.5);
        assert_eq!(median.is_some(), latencies, "{name}");
    }
}

/// The pairs that write new files.
const NEW_FILES: [&str; 4] = ["stream-write", "extend", "log", "log-one"];

#[test]
fn all_write_variants_leave_the_same_file() {
    let _lock = lock_counters();
    let writes = pairs::all()
        .into_iter()
        .filter(|pair| pair.pattern.writes() && !NEW_FILES.contains(&pair.name));
    for pair in writes {
        let mut left = Vec::new();
        for variant in &pair.variants {
            for (_dir, path) in files() {
                let before = fs::read(&path).unwrap();
                check(&pair, &**variant, &path);
                let after = fs::read(&path).unwrap();
                assert_ne!(before, after, "{}/{}", pair.name, variant.name());
                if variant.name() != "unaligned" {
                    left.push(after); // `unaligned` writes parts of blocks
                }
            }
        }
        assert!(left.iter().all(|file| *file == left[0]), "{}", pair.name);
    }
}

#[test]
fn a_truncated_file_is_an_error() {
    let _lock = lock_counters();
    for (_dir, path) in files() {
        for pair in pairs::all() {
            if pair.pattern.writes() {
                continue;
            }
            fs::write(&path, vec![7; 4096]).unwrap();
            for variant in &pair.variants {
                let mut prepared = variant.prepare(&pair.workload(&path, LEN as u64)).unwrap();
                let run = Run {
                    transfers: 64,
                    seed: 1,
                    latencies: false,
                };
                assert!(
                    prepared.run(&run).is_err(),
                    "{}/{}",
                    pair.name,
                    variant.name()
                );
            }
        }
    }
}

/// The variants of a pair: name, system calls and allocations per transfer.
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
        let variants = set.variants.iter().map(|variant| {
            let counts = &variant.figures().unwrap().counts;
            let (calls, allocations) = (counts.all_calls(), counts.allocations);
            (variant.engine.clone(), calls.unwrap(), allocations.unwrap())
        });
        let counted = Counted(variants.collect());
        println!("{}: {:.2?}", set.title(), counted.0);
        counted
    }

    /// Measures pair `name` until `check` holds, at most ten times. On a loaded machine, a thread stopped
    /// between two calls may have to make another one; the calls that a variant needs itself occur each
    /// time.
    fn check_retrying(name: &str, path: &Path, check: impl Fn(&Counted) -> Result<(), String>) {
        let mut last_error = String::new();
        for _ in 0..10 {
            match check(&Counted::of(name, path)) {
                Ok(()) => return,
                Err(why) => last_error = why,
            }
        }
        panic!("{name} failed ten times, last with: {last_error}");
    }

    fn variant(&self, name: &str) -> &(String, f64, f64) {
        self.0.iter().find(|(variant, ..)| variant == name).unwrap()
    }

    fn calls(&self, name: &str) -> f64 {
        self.variant(name).1
    }

    fn allocations(&self, name: &str) -> f64 {
        self.variant(name).2
    }
}

/// Tolerance for the extra calls of a context's occasional probes.
const TOLERANCE: f64 = 0.1;

/// Checks that `figure` is below `limit`.
fn check_below(limit: f64, figure: f64, name: &str) -> Result<(), String> {
    let message = || format!("{name}: {figure} is not below {limit}");
    (figure < limit).then_some(()).ok_or_else(message)
}

#[test]
fn a_pool_saves_mmap_and_munmap() {
    let _lock = lock_counters();
    for (_dir, path) in files() {
        for pair in ["pool-4k", "pool-128k"] {
            Counted::check_retrying(pair, &path, |counted| {
                let (pool, fresh) = (counted.calls("pool"), counted.calls("fresh"));
                check_below(TOLERANCE, pool + 2.0 - fresh, "pool, mmap and munmap")?;
                check_below(TOLERANCE, pool - counted.calls("kept"), "pool")
            });
        }
    }
}

#[test]
fn a_batch_shares_system_calls() {
    let _lock = lock_counters();
    for (_dir, path) in files() {
        Counted::check_retrying("batch", &path, |counted| {
            let batch = counted.calls("batch");
            check_below(counted.calls("one-by-one") / 5.0, batch, "batch")?;
            for other in ["join-all", "tasks"] {
                check_below(counted.calls(other) + TOLERANCE, batch, other)?;
            }
            Ok(())
        });
    }
}

#[test]
fn vectored_and_owned_transfers_make_as_many_calls_as_plain_ones() {
    let _lock = lock_counters();
    for (_dir, path) in files() {
        for (pair, plain) in [
            ("vectored-read", "read-and-copy"),
            ("vectored-write", "copy-and-write"),
            ("owned", "borrowed"),
        ] {
            Counted::check_retrying(pair, &path, |counted| {
                for (variant, calls, _) in &counted.0 {
                    check_below(TOLERANCE, calls - counted.calls(plain), variant)?;
                }
                check_below(TOLERANCE, counted.allocations(plain), "allocations")
            });
        }
    }
}

#[test]
fn unaligned_reads_make_as_many_calls_as_aligned_ones_and_writes_add_those_of_a_read() {
    let _lock = lock_counters();
    for (_dir, path) in files() {
        for (pair, times) in [("unaligned-read", 1.0), ("unaligned-write", 2.0)] {
            Counted::check_retrying(pair, &path, |counted| {
                let aligned = counted.calls("aligned");
                let more = counted.calls("unaligned") - times * aligned;
                check_below(TOLERANCE, more, "unaligned")?;
                check_below(TOLERANCE, counted.calls("copied") - aligned, "copied")
            });
        }
    }
}

#[test]
fn an_owned_aligned_buffer_costs_no_allocation() {
    let _lock = lock_counters();
    for (_dir, path) in files() {
        Counted::check_retrying("owned", &path, |counted| {
            check_below(TOLERANCE, counted.allocations("owned"), "owned")
        });
    }
}
