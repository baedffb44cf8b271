//! Every engine runs every workload correctly, on a disk and on tmpfs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use kaio_bench::{Engine, Pattern, Prepared, Run, Shape, Unavailable, Workload};
use tempfile::TempPath;

const LEN: usize = 1 << 20;
const BEFORE: u8 = 0xee;
const TRANSFERS: usize = 100;

#[test]
fn every_engine_runs_every_workload() {
    for_each_workload(&Pattern::ALL, |case, file, workload, mut prepared| {
        for (seed, latencies) in [(1, false), (2, true)] {
            let run = Run {
                transfers: TRANSFERS,
                seed,
                latencies,
            };
            let stats = prepared.run(&run).unwrap_or_else(|e| panic!("{case}: {e}"));
            let waves = TRANSFERS.div_ceil(workload.depth);
            assert_eq!(stats.transfers, (waves * workload.depth) as u64, "{case}");
            let median = stats.latencies.quantile(0.5);
            assert_eq!(median.is_some(), latencies, "{case}");
        }
        let content = fs::read(file).unwrap();
        assert_eq!(content.len(), LEN, "{case}");
        if !workload.pattern.writes() {
            assert!(content.iter().all(|&byte| byte == BEFORE), "{case}");
        }
    });
}

#[test]
fn a_full_pass_over_the_log_overwrites_all_of_it() {
    for_each_workload(
        &[Pattern::LogAppend],
        |case, file, workload, mut prepared| {
            let run = Run {
                transfers: LEN / workload.block(),
                seed: 1,
                latencies: false,
            };
            prepared.run(&run).unwrap_or_else(|e| panic!("{case}: {e}"));
            let content = fs::read(file).unwrap();
            assert!(!content.contains(&BEFORE), "{case}");
        },
    );
}

#[test]
fn files_are_opened_for_direct_io_and_the_log_for_durable_writes() {
    let patterns = [Pattern::RandomRead, Pattern::Mixed, Pattern::LogAppend];
    for_each_workload(&patterns, |case, file, workload, _prepared| {
        let open = flags_of_descriptors(file);
        assert!(!open.is_empty(), "{case}");
        for flags in open {
            assert_ne!(flags & libc::O_DIRECT, 0, "{case}: {flags:o}");
            let durable = flags & libc::O_DSYNC != 0;
            assert_eq!(durable, workload.pattern.durable(), "{case}: {flags:o}");
        }
    });
}

#[test]
fn a_dropped_engine_has_closed_its_files() {
    for_each_workload(&[Pattern::Mixed], |case, file, _, mut prepared| {
        let run = Run {
            transfers: TRANSFERS,
            seed: 1,
            latencies: false,
        };
        prepared.run(&run).unwrap_or_else(|e| panic!("{case}: {e}"));
        drop(prepared);
        assert!(flags_of_descriptors(file).is_empty(), "{case}");
    });
}

#[test]
fn engines_prepared_at_the_same_time_are_independent() {
    let file = file_in(&disk());
    let workload = workload(&file, Pattern::Mixed, Shape::Tasks, 8);
    let engines = peers::engines();
    let prepared_engines = engines
        .iter()
        .filter_map(|engine| prepare_if_available(&**engine, &workload));
    let mut all_prepared: Vec<_> = prepared_engines.collect();
    for seed in 0..3 {
        for prepared in &mut all_prepared {
            let run = Run {
                transfers: TRANSFERS,
                seed,
                latencies: false,
            };
            assert!(prepared.run(&run).unwrap().transfers >= TRANSFERS as u64);
        }
    }
}

#[test]
fn a_missing_file_is_an_error() {
    let missing = disk().join("there-is-no-such-file");
    let workload = workload(&missing, Pattern::RandomRead, Shape::Tasks, 1);
    for engine in peers::engines() {
        assert!(engine.prepare(&workload).is_err(), "{}", engine.name());
    }
}

#[test]
fn a_short_transfer_is_an_error() {
    let file = file_in(&disk());
    for shape in Shape::ALL {
        let workload = workload(&file, Pattern::SequentialRead, shape, 2);
        for engine in peers::engines() {
            let Some(mut prepared) = prepare_if_available(&*engine, &workload) else {
                continue;
            };
            set_len(&file, 4096);
            let run = Run {
                transfers: 8,
                seed: 1,
                latencies: false,
            };
            assert!(prepared.run(&run).is_err(), "{} {shape}", engine.name());
            set_len(&file, LEN as u64);
        }
    }
}

#[test]
fn lints_and_profiles_are_those_of_the_workspace() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = fs::read_to_string(here.join("Cargo.toml")).unwrap();
    let theirs = fs::read_to_string(here.join("../Cargo.toml")).unwrap();
    assert_eq!(tables(&ours, "profile."), tables(&theirs, "profile."));
    let lints = tables(&theirs, "workspace.lints.");
    // The `cfg` names of the workspace are not used here.
    let lints = lints
        .lines()
        .filter(|line| !line.contains("unexpected_cfgs"));
    let lints = lints.map(|line| line.replace("[workspace.", "[") + "\n");
    assert_eq!(tables(&ours, "lints."), lints.collect::<String>());
}

/// Calls `test` for each engine, directory, pattern of `patterns`, shape and some depths.
fn for_each_workload(
    patterns: &[Pattern],
    test: impl Fn(&str, &Path, &Workload, Box<dyn Prepared>),
) {
    for dir in places() {
        for engine in peers::engines() {
            for (pattern, shape, depth) in workloads(patterns) {
                let file = file_in(&dir);
                let workload = workload(&file, pattern, shape, depth);
                let Some(prepared) = prepare_if_available(&*engine, &workload) else {
                    break;
                };
                let (name, dir) = (engine.name(), dir.display());
                let case = format!("{name}, {pattern}, {shape}, depth {depth}, in {dir}");
                test(&case, &file, &workload, prepared);
            }
        }
    }
}

fn workloads(patterns: &[Pattern]) -> impl Iterator<Item = (Pattern, Shape, usize)> {
    let shapes = || Shape::ALL.into_iter();
    let both = move |pattern| shapes().map(move |shape| (pattern, shape));
    let depths = |(pattern, shape)| [1, 8, 33].map(|depth| (pattern, shape, depth));
    patterns.iter().copied().flat_map(both).flat_map(depths)
}

/// The disk of the build directory, and tmpfs if it supports direct I/O.
fn places() -> Vec<PathBuf> {
    let tmpfs = PathBuf::from("/dev/shm");
    let direct = tmpfs.is_dir() && {
        let file = file_in(&tmpfs);
        let reads = workload(&file, Pattern::RandomRead, Shape::Tasks, 1);
        kaio_bench::engines::open_file(&reads, false).is_ok()
    };
    if !direct {
        println!("skipped: {}: no direct I/O", tmpfs.display());
    }
    [disk()]
        .into_iter()
        .chain(direct.then_some(tmpfs))
        .collect()
}

/// Prepares an engine. `None` if it is unavailable on this machine.
fn prepare_if_available(engine: &dyn Engine, workload: &Workload) -> Option<Box<dyn Prepared>> {
    match engine.prepare(workload) {
        Ok(prepared) => Some(prepared),
        Err(error) if error.is::<Unavailable>() => {
            println!("skipped: {}: {error}", engine.name());
            None
        }
        Err(error) => panic!("{}: {error}", engine.name()),
    }
}

fn workload(path: &Path, pattern: Pattern, shape: Shape, depth: usize) -> Workload {
    Workload::new(pattern, shape, depth, path, LEN as u64)
}

/// The build directory.
fn disk() -> PathBuf {
    env!("CARGO_TARGET_TMPDIR").into()
}

/// Creates a closed file.
fn file_in(dir: &Path) -> TempPath {
    let mut file = tempfile::NamedTempFile::new_in(dir).unwrap();
    file.write_all(&vec![BEFORE; LEN]).unwrap();
    file.as_file().sync_all().unwrap();
    file.into_temp_path()
}

fn set_len(file: &Path, len: u64) {
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(len).unwrap();
}

/// The open flags of this process's descriptors of `file`.
fn flags_of_descriptors(file: &Path) -> Vec<i32> {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let ours = descriptors.filter_map(|entry| {
        let entry = entry.unwrap();
        let target = fs::read_link(entry.path()).ok()?;
        (target == file).then(|| entry.file_name().into_string().unwrap())
    });
    let flags = ours.map(|number| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        i32::from_str_radix(flags.unwrap().trim(), 8).unwrap()
    });
    flags.collect()
}

/// Returns the tables of `manifest` whose names start with `prefix`, without comments and empty lines.
fn tables(manifest: &str, prefix: &str) -> String {
    let mut inside = false;
    let mut found = String::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            inside = name.starts_with(prefix);
        }
        if inside && !line.is_empty() && !line.starts_with('#') {
            found += line;
            found += "\n";
        }
    }
    found
}
