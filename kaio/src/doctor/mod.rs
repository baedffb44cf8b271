//! `kaio doctor`.
//!
//! | module | contents |
//! |---|---|
//! | `doctor_report` | the findings: the schema of `--json` |
//! | `machine_check` | checks the kernel and its limits |
//! | `path_check` | checks a path, and chooses the file to measure on |
//! | `measure_class` | measures one class of requests |
//! | [`request_classes`] | the measurements |
//! | `advice` | advice that follows from the findings |
//! | `doctor_text` | the report as text |
//! | `error_hints` | hints on how to fix an error |

mod advice;
mod doctor_report;
mod doctor_text;
mod error_hints;
mod machine_check;
mod measure_class;
mod path_check;
pub mod request_classes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;

use crate::command_error::{CommandError, CommandResult};
use crate::stdio::{eprint_line, print_json, print_text, stdout_width};
use crate::thread_limit::{current_thread_runtime, require_threads};
use doctor_report::{DoctorReport, SCHEMA};

/// Check whether kernel AIO works well on this machine and its disks
///
/// Checks whether AIO is available, and its limits. For each path, checks whether direct I/O is supported
/// and which alignment it requires, and measures whether io_submit returns at once (async), completes the
/// request itself (inline) or blocks its thread (blocks). The measurement takes a few seconds per path. It
/// uses a scratch file of 1 MiB in the directory or next to the file, and removes it. Nothing else is
/// written: an existing file or a block device is only read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT, after_long_help = LONG)]
pub(crate) struct DoctorArgs {
    /// Directories, files or block devices
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,

    /// Print the report as JSON; docs/kaio.md describes the fields
    #[arg(long)]
    json: bool,
}

const EXIT: &str = "Exit codes: 0 AIO is usable on every path, 1 it is not, or could not be checked, \
2 wrong usage, 130 interrupted.";

const LONG: &str = "\
Examples:
  kaio doctor                              this machine, and this directory
  kaio doctor /var/lib/db /mnt/log         two disks
  kaio doctor /dev/nvme0n1                 a device, which is only read
  kaio doctor --json . | jq -r '.paths[].classes[] | select(.verdict == \"blocks\").class'

Exit codes: 0 AIO is usable on every path, 1 it is not, or could not be checked, 2 wrong usage, \
130 interrupted.";

/// Threads beyond those of the runtime: the contexts end on threads of their own.
const THREADS: usize = 2;

pub(crate) fn run(args: &DoctorArgs) -> CommandResult {
    // Single-threaded, because the thread that submits is observed.
    let runtime = current_thread_runtime()?;
    let progress = spinner()?;
    let report = runtime.block_on(check(&args.paths, &progress));
    match args.json {
        true => print_json(&report)?,
        false => print_text(&doctor_text::text(&report, stdout_width()))?,
    }
    for error in report.paths.iter().filter_map(|path| path.error.as_ref()) {
        // The JSON report contains the error, too.
        eprint_line(format_args!("error: {error}"));
    }
    Ok(match report.usable {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The progress on standard error, if that is a terminal.
fn spinner() -> Result<ProgressBar, CommandError> {
    let progress = ProgressBar::new_spinner().with_message("checking the machine");
    if progress.is_hidden() {
        require_threads(THREADS)?;
    } else {
        require_threads(THREADS + 1)?;
        progress.enable_steady_tick(Duration::from_millis(120));
    }
    Ok(progress)
}

async fn check(paths: &[PathBuf], progress: &ProgressBar) -> DoctorReport {
    let mut machine = machine_check::check_machine().await;
    machine.advice = advice::machine_advice(&machine);
    let mut reports = vec![];
    for path in paths {
        let mut report = path_check::check_path(path, machine.io_setup.works, progress).await;
        report.advice = advice::path_advice(&report);
        reports.push(report);
    }
    progress.finish_and_clear();
    DoctorReport {
        schema: SCHEMA,
        usable: machine.io_setup.works
            && reports
                .iter()
                .all(|path| path.usable && path.error.is_none()),
        machine,
        paths: reports,
    }
}
