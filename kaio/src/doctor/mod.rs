//! `kaio doctor`.
//!
//! | module | has |
//! |---|---|
//! | `report` | all that is found out, as `--json` has it |
//! | `machine` | the kernel and its limits |
//! | `examine` | a path: what is there, and on what is measured |
//! | `measure` | one class of requests |
//! | [`classes`] | the measuring itself |
//! | `advice` | what follows |
//! | `text` | the report for people |
//! | `way_out` | what to do about an error |

mod advice;
pub mod classes;
mod examine;
mod machine;
mod measure;
mod report;
mod text;
mod way_out;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::runtime;

use crate::failure::Outcome;
use crate::output::{print_json, print_text, tell};
use report::{Report, SCHEMA};

/// Say what kernel AIO does on this machine and its disks
///
/// Says whether AIO can be had at all, and what its limits are; then, of each path, whether there is
/// direct I/O, what that wants, and whether a submission returns at once (async), does all of it
/// (inline) or keeps its thread waiting (blocks). That is measured, for a few seconds a path, on a
/// scratch file of 1 MiB, in the directory or beside the file, which is removed. Nothing else is
/// written: a file is only read, and so is a block device.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT, after_long_help = LONG)]
pub(crate) struct Args {
    /// Directories, files or block devices
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,

    /// Print JSON, of the schema that docs/kaio.md tells
    #[arg(long)]
    json: bool,
}

const EXIT: &str = "Exit codes: 0 AIO is usable everywhere asked, 1 it is not, or not known to be, \
2 wrong usage, 130 interrupted.";

const LONG: &str = "\
Examples:
  kaio doctor                              this machine, and this directory
  kaio doctor /var/lib/db /mnt/log         two disks
  kaio doctor /dev/nvme0n1                 a device, which is only read
  kaio doctor --json . | jq -r '.paths[].classes[] | select(.verdict == \"blocks\").class'

Exit codes: 0 AIO is usable everywhere asked, 1 it is not, or not known to be, 2 wrong usage, \
130 interrupted.";

pub(crate) fn run(args: &Args) -> Outcome {
    // Single-threaded, since what a thread does while it submits is looked at.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(look(&args.paths));
    match args.json {
        true => print_json(&report)?,
        false => print_text(&text::text(&report))?,
    }
    for error in report.paths.iter().filter_map(|path| path.error.as_ref()) {
        // Where nobody hears it, it is in the report, too.
        tell(format_args!("error: {error}"));
    }
    Ok(match report.usable {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn look(paths: &[PathBuf]) -> Report {
    // Where standard error is no terminal, nothing is seen of it.
    let progress = ProgressBar::new_spinner().with_message("looking at the machine");
    progress.enable_steady_tick(Duration::from_millis(120));
    let mut machine = machine::look().await;
    machine.advice = advice::of_machine(&machine);
    let mut reports = vec![];
    for path in paths {
        let mut report = examine::examine(path, machine.io_setup.works, &progress).await;
        report.advice = advice::of_path(&report);
        reports.push(report);
    }
    progress.finish_and_clear();
    Report {
        schema: SCHEMA,
        usable: machine.io_setup.works
            && reports
                .iter()
                .all(|path| path.usable && path.error.is_none()),
        machine,
        paths: reports,
    }
}
