//! Cuts the power of simulated disks while a program writes files, and verifies what is left.
//!
//! ```sh
//! cargo run --release --features simulation --example power_cut -- --cuts 10000
//! ```
//!
//! The program is the log of the example `wal`; `--program` selects others, `--broken` leaves out a step, so
//! that something must be lost. A loss is printed with its seed, its power cuts, the events before them and
//! the command that repeats it. Ends with 0: nothing is lost; 1: something is lost; 2: an error.
//!
//! `--help` prints all options. The programs are in `tests/power_cut/programs/`, and run unchanged on real
//! file systems: `tests/power-cuts.sh` does that.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;
use std::{env, fmt};

use tokio_kaio::simulation::ExploreFailure;

use self::programs::{Job, Program, Result};
use self::simulated_cuts::{any_disk, cut_power, explorer};

#[path = "../tests/power_cut/programs/mod.rs"]
mod programs;
#[path = "power_cut/real_file_system.rs"]
mod real_file_system;
#[path = "../tests/power_cut/simulated_cuts.rs"]
mod simulated_cuts;

const HELP: &str = "\
Cuts the power of simulated disks while a program writes files, and verifies what is left.

power_cut [OPTIONS]
  --program NAME     log (default), objects, stream, copy, lsm, or all
  --broken STEP      what the program leaves out: no-sync, no-checksum, no-dir-sync
  --cuts N           the number of power cuts of each program, 1000 by default
  --operations N     the number of operations of a run, 200 by default
  --seed N           the first seed, 1 by default
The environment variable KAIO_EXPLORE=SEED:CUT:CUT repeats one run.

On a real file system, for tests/power-cuts.sh:
power_cut run NAME DIRECTORY --events FILE [--seed N] [--broken STEP] [--kaio PATH]
  runs a program until it is killed, and records in FILE what is durable
power_cut verify NAME DIRECTORY --events FILE --durable BYTES [--seed N] [--broken STEP] [--kaio PATH]
  verifies what a snapshot has, which was begun when FILE had this length";

fn main() -> ExitCode {
    let done = run(Arguments(env::args().skip(1).collect()));
    done.unwrap_or_else(|error| {
        eprintln!("power_cut: {error}");
        ExitCode::from(2)
    })
}

fn run(mut arguments: Arguments) -> Result<ExitCode> {
    if arguments.has("--help") || arguments.has("-h") {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let job = Job {
        program: Program::Log,
        omit: arguments.option("--broken")?,
        seed: arguments.option("--seed")?.unwrap_or(1),
        operations: arguments.option("--operations")?.unwrap_or(200),
        kaio: arguments.option("--kaio")?,
    };
    match arguments.0.first() {
        Some(command) if !command.starts_with('-') => real(job, arguments),
        _ => simulate(job, arguments),
    }
}

/// Cuts the power of simulated disks.
fn simulate(job: Job, mut arguments: Arguments) -> Result<ExitCode> {
    let cuts: u64 = arguments.option("--cuts")?.unwrap_or(1000);
    let programs = match arguments.option::<String>("--program")?.as_deref() {
        None => vec![Program::Log],
        Some("all") => Program::ALL.into(),
        Some(name) => vec![name.parse()?],
    };
    arguments.end()?;
    if cuts == 0 {
        return Err("--cuts 0 would verify nothing".into());
    }
    let mut total = 0;
    for program in programs {
        if let Some(step) = job.omit.filter(|it| !it.applies_to(program)) {
            println!("{program}: {step} does not apply to it");
            continue;
        }
        let start = Instant::now();
        let job = Job {
            program,
            ..job.clone()
        };
        match cut_power(&job, &explorer(job.seed, cuts, any_disk)) {
            Ok(explored) => total += explored.cuts(),
            Err(loss) => {
                println!("{program}: lost: {loss}");
                println!("to repeat it: {}", command(&job, &loss));
                return Ok(ExitCode::FAILURE);
            }
        }
        println!("{program}: {:.1} s", start.elapsed().as_secs_f64());
    }
    if total == 0 {
        return Err("there was no power cut: no program has the step of --broken".into());
    }
    println!("power cuts: {total}, lost: 0");
    Ok(ExitCode::SUCCESS)
}

/// The command that repeats a loss.
fn command(job: &Job, loss: &ExploreFailure) -> String {
    let environment = loss.replay().map(|run| format!("KAIO_EXPLORE={run} "));
    let broken = job.omit.map(|step| format!(" --broken {step}"));
    format!(
        "{}cargo run --release --features simulation --example power_cut -- --program {}{} --operations {}",
        environment.unwrap_or_default(),
        job.program,
        broken.unwrap_or_default(),
        job.operations
    )
}

/// Runs or verifies a program on a real file system.
fn real(job: Job, mut arguments: Arguments) -> Result<ExitCode> {
    let events: Option<PathBuf> = arguments.option("--events")?;
    let durable: Option<usize> = arguments.option("--durable")?;
    let command = arguments.next("run or verify")?;
    let program = arguments.next("a program")?.parse()?;
    let dir = PathBuf::from(arguments.next("a directory")?);
    arguments.end()?;
    let job = Job { program, ..job };
    let events = events.ok_or("--events FILE is missing")?;
    let runtime = tokio::runtime::Runtime::new()?;
    match &*command {
        "run" => runtime.block_on(real_file_system::run(job, &dir, &events)),
        "verify" => {
            let durable = durable.ok_or("--durable BYTES is missing")?;
            runtime.block_on(real_file_system::verify(job, &dir, &events, durable))
        }
        other => Err(format!("no command {other:?}; --help prints them").into()),
    }
}

/// The command line.
struct Arguments(Vec<String>);

impl Arguments {
    /// Takes a flag.
    fn has(&mut self, name: &str) -> bool {
        let found = self.0.iter().position(|argument| argument == name);
        found.map(|at| self.0.remove(at)).is_some()
    }

    /// Takes an option and its value.
    fn option<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(at) = self.0.iter().position(|argument| argument == name) else {
            return Ok(None);
        };
        self.0.remove(at);
        if at == self.0.len() {
            return Err(format!("{name} needs a value; --help prints the options").into());
        }
        let value = self.0.remove(at).parse();
        Ok(Some(value.map_err(|error| format!("{name}: {error}"))?))
    }

    /// Takes the next argument.
    fn next(&mut self, what: &str) -> Result<String> {
        match self.0.is_empty() {
            true => Err(format!("{what} is missing; --help prints the options").into()),
            false => Ok(self.0.remove(0)),
        }
    }

    fn end(self) -> Result<()> {
        match self.0.first() {
            Some(other) => Err(format!("unknown: {other}; --help prints the options").into()),
            None => Ok(()),
        }
    }
}
