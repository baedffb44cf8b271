//! The `soak` binary: uses tokio-kaio for a long time, checks all data that it reads, and checks that the
//! process has the resources of its start at the end. `tokio-kaio/tests/soak.sh` runs it.
//!
//! It runs in turns, each with one backend and one runtime. A turn has a context and all workloads at the same
//! time, and ends all of them.

mod block_jobs;
mod cancel_jobs;
mod context_jobs;
mod fault_jobs;
mod group_jobs;
mod live_bytes;
mod process_resources;
mod range_jobs;
mod soak_job;
mod soak_tables;
mod soak_turn;
mod staged_jobs;
mod stream_jobs;
mod unaligned_jobs;
mod verified_content;
mod work_counts;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use kaio_bench::temp_path::{self, TempPath};
use tokio_kaio::Backend;

use fault_jobs::FaultPlaces;
use live_bytes::LiveBytes;
use process_resources::{MachineAio, ProcessResources};
use soak_job::Result;
use soak_tables::{ResourceTable, work_table};
use soak_turn::{SoakTurn, TurnRuntime};
use work_counts::WorkCounts;

#[global_allocator]
static ALLOCATOR: LiveBytes = LiveBytes;

/// The longest turn. Then the next backend and runtime are due.
const LONGEST_TURN: Duration = Duration::from_secs(10);

/// Use tokio-kaio for a long time: check all data, cancel operations, cause errors, and compare the resources
/// of the process at the start and the end
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0: no difference; 1: wrong data, an unexpected error, or a \
    resource that was not released; 2: wrong usage."
)]
struct SoakOptions {
    /// How long to run, in minutes
    #[arg(value_name = "MINUTES", default_value = "1", value_parser = minutes)]
    minutes: Duration,
    /// Directory for the files, on a file system with direct I/O
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Backends, separated by commas: aio, uring, threads [default: those that are available]
    #[arg(long, value_delimiter = ',', value_parser = backend)]
    backends: Vec<Backend>,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Small file system that may be filled up
    #[arg(long, value_name = "DIR")]
    full: Option<PathBuf>,
    /// Device whose first half may be overwritten, and whose second half fails with EIO
    #[arg(long, value_name = "DEVICE")]
    broken: Option<PathBuf>,
}

fn minutes(text: &str) -> std::result::Result<Duration, String> {
    let minutes = text.parse::<f64>().ok();
    let minutes = minutes.and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).ok());
    minutes
        .filter(|minutes| !minutes.is_zero())
        .ok_or_else(|| "a number of minutes, such as 60 or 0.5".into())
}

fn backend(text: &str) -> std::result::Result<Backend, String> {
    match text {
        "aio" => Ok(Backend::KernelAio),
        "uring" => Ok(Backend::IoUring),
        "threads" => Ok(Backend::ThreadPool),
        _ => Err("aio, uring or threads".into()),
    }
}

fn main() -> ExitCode {
    let options = SoakOptions::parse();
    if let Err(error) = temp_path::remove_on_signal(|_| ()) {
        eprintln!("soak: can't handle signals: {error}");
        return ExitCode::FAILURE;
    }
    match soak(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all resources were released.
fn soak(options: SoakOptions) -> Result<bool> {
    process_resources::limit_arenas();
    let dir = TempPath::dir(&options.dir, "kaio-soak-")
        .map_err(|error| format!("{}: {error}", options.dir.display()))?;
    // The first runtime of a process opens descriptors that stay open.
    drop(TurnRuntime::CurrentThread.build()?);
    let machine = MachineAio::now();
    let start = ProcessResources::now();

    let backends = match options.backends.is_empty() {
        true => available_backends(),
        false => options.backends,
    };
    let places = FaultPlaces::new(options.full, options.broken);
    let runtimes = [TurnRuntime::CurrentThread, TurnRuntime::MultiThread];
    let turns = backends.len() * runtimes.len();
    let turn_time = LONGEST_TURN.min(options.minutes / turns as u32);
    let end = Instant::now() + options.minutes;
    let counts = WorkCounts::default();
    let mut after_cycle = None;
    let mut turn = 0;
    while after_cycle.is_none() || Instant::now() < end {
        for &backend in &backends {
            for runtime in runtimes {
                let soak_turn = SoakTurn {
                    backend,
                    runtime,
                    time: turn_time,
                    seed: options.seed.wrapping_add(turn),
                    number: turn,
                };
                soak_turn
                    .run(dir.path(), &places, &counts)
                    .map_err(|error| format!("{soak_turn}: {error}"))?;
                process_resources::wait_until_released(&start)
                    .map_err(|error| format!("{soak_turn}: {error}"))?;
                turn += 1;
            }
        }
        let now = ProcessResources::now();
        println!("{turn} turns: {} operations, {now}", counts.operations());
        after_cycle.get_or_insert(now);
    }
    let table = ResourceTable {
        start,
        after_cycle: after_cycle.expect("one cycle has run"),
        end: ProcessResources::now(),
        machine: machine.change(),
    };
    drop(dir);
    println!("\n{}\n{table}", work_table(&counts));
    Ok(table.is_released())
}

fn available_backends() -> Vec<Backend> {
    let all = [Backend::KernelAio, Backend::IoUring, Backend::ThreadPool];
    let is_available = |backend: &Backend| match soak_turn::probe(*backend) {
        Ok(()) => true,
        Err(error) => {
            println!("skipped: {backend}: {error}");
            false
        }
    };
    all.into_iter().filter(is_available).collect()
}
