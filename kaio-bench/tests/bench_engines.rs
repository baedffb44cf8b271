//! Every engine runs every pattern in both shapes, on a disk and on tmpfs.

mod common;

use std::fs;
use std::path::Path;

use common::{LEN, files};
use kaio_bench::{Engine, Pattern, Run, Shape, Unavailable, Workload, engines};

fn workload(path: &Path, pattern: Pattern, shape: Shape, depth: usize) -> Workload {
    Workload::new(pattern, shape, depth, path, LEN as u64)
}

fn check(engine: &dyn Engine, workload: &Workload) {
    let case = || format!("{} with {workload:?}", engine.name());
    let mut prepared = match engine.prepare(workload) {
        Ok(prepared) => prepared,
        Err(error) if error.is::<Unavailable>() => {
            eprintln!("skipped: {}: {error}", engine.name());
            return;
        }
        Err(error) => panic!("{}: {error}", case()),
    };
    // Two runs: a prepared engine can be reused.
    for (transfers, latencies) in [(10, true), (20, false)] {
        let run = Run {
            transfers,
            seed: 5,
            latencies,
        };
        let stats = prepared
            .run(&run)
            .unwrap_or_else(|error| panic!("{}: {error}", case()));
        let whole = transfers.next_multiple_of(workload.depth) as u64;
        assert_eq!(stats.transfers, whole, "{}", case());
        let median = stats.latencies.quantile(0.5);
        assert_eq!(median.is_some(), latencies, "{}", case());
    }
}

fn check_everywhere(name: &str) {
    for (_dir, path) in files() {
        let mut all = engines::all().into_iter();
        let engine = all.find(|engine| engine.name() == name);
        let engine = engine.expect("the engine exists");
        for pattern in Pattern::ALL {
            for shape in Shape::ALL {
                for depth in [1, 8] {
                    check(&*engine, &workload(&path, pattern, shape, depth));
                }
            }
        }
        drop(engine); // with the state that its workloads share
        let directory = path.parent().unwrap();
        let left = fs::read_dir(directory).unwrap().count();
        assert_eq!(left, 1, "{name} leaves files");
    }
}

#[test]
fn bare_runs_every_pattern_in_both_shapes() {
    check_everywhere("bare");
    check_everywhere("bare-epoll");
}

#[test]
fn bare_uring_runs_every_pattern_in_both_shapes() {
    check_everywhere("bare-uring");
}

#[test]
fn bare_tokio_runs_every_pattern_in_both_shapes() {
    check_everywhere("bare-tokio/multi-thread");
    check_everywhere("bare-tokio/current-thread");
}

#[test]
fn kaio_runs_every_pattern_in_both_shapes() {
    check_everywhere("kaio/multi-thread");
    check_everywhere("kaio/multi-thread-max-batch-16");
    check_everywhere("kaio/multi-thread-sharded");
    check_everywhere("kaio/current-thread");
    check_everywhere("kaio/current-thread-max-batch-16");
    check_everywhere("kaio/current-thread-own-thread");
    check_everywhere("kaio/current-thread-groups");
    check_everywhere("kaio/local");
}

#[test]
fn kaio_on_uring_runs_every_pattern_in_both_shapes() {
    check_everywhere("kaio/multi-thread-uring");
    check_everywhere("kaio/current-thread-uring");
    check_everywhere("kaio/current-thread-uring-registered");
}

#[test]
fn spawn_blocking_runs_every_pattern_in_both_shapes() {
    check_everywhere("spawn-blocking/multi-thread");
    check_everywhere("spawn-blocking/current-thread");
}

#[test]
fn tokio_fs_runs_every_pattern_in_both_shapes() {
    check_everywhere("tokio-fs (buffered)");
}

#[test]
fn these_tests_cover_every_engine() {
    let names: Vec<_> = engines::all().iter().map(|e| e.name().to_owned()).collect();
    assert_eq!(
        names,
        [
            "bare",
            "bare-epoll",
            "bare-uring",
            "bare-tokio/multi-thread",
            "bare-tokio/current-thread",
            "kaio/multi-thread",
            "kaio/multi-thread-max-batch-16",
            "kaio/multi-thread-sharded",
            "kaio/current-thread",
            "kaio/current-thread-max-batch-16",
            "kaio/current-thread-own-thread",
            "kaio/current-thread-groups",
            "kaio/local",
            "kaio/multi-thread-uring",
            "kaio/current-thread-uring",
            "kaio/current-thread-uring-registered",
            "spawn-blocking/multi-thread",
            "spawn-blocking/current-thread",
            "tokio-fs (buffered)",
        ]
    );
}

#[test]
fn a_truncated_file_is_an_error() {
    for (_dir, path) in files() {
        fs::write(&path, vec![7; 4096]).unwrap();
        let workload = workload(&path, Pattern::RandomRead, Shape::Waves, 8);
        for engine in engines::all() {
            let Ok(mut prepared) = engine.prepare(&workload) else {
                continue;
            };
            let run = Run {
                transfers: 64,
                seed: 1,
                latencies: false,
            };
            assert!(prepared.run(&run).is_err(), "{}", engine.name());
        }
    }
}
