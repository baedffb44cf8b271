//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::stdio::eprint_line;
use crate::{bench, cp, doctor, interrupt, manual};

/// Test Linux AIO on your disks, compare it with the alternatives, and copy files past the page cache
///
/// Results go to standard output, messages to standard error. Sizes take the suffixes k, M, G and T,
/// which are powers of 1024.
#[derive(Debug, Parser)]
#[command(name = "kaio", version, after_help = EXIT, after_long_help = LONG)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Doctor(doctor::DoctorArgs),
    Bench(bench::BenchArgs),
    Cp(cp::CpArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

const EXIT: &str = "Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.";

const LONG: &str = "\
Examples:
  kaio doctor /var/lib/db        does AIO work well on that disk?
  kaio bench                     30 seconds, on a scratch file in this directory
  kaio cp --verify big.img /mnt/backup/

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.";

/// Prints the text of `--help` or `--version`, or an error of the command line, as other errors are printed.
fn report(error: &clap::Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    match error.use_stderr() {
        true => eprint_line(error.render().to_string().trim_end()),
        // A reader that has gone is not an error.
        false => _ = error.print(),
    }
    code
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report(&error),
    };
    // Before any other thread is started.
    let result = interrupt::clean_up_on_signal().and_then(|()| match cli.command {
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Cp(args) => cp::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    });
    result.unwrap_or_else(|error| error.report())
}
