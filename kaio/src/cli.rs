//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{bench, cp, doctor, interrupt, manual};

/// See what your disk and kernel can do with Linux AIO, and move data with it.
///
/// Data goes to standard output, all talk to standard error. Sizes take k, M, G and T, powers of 1024.
#[derive(Debug, Parser)]
#[command(name = "kaio", version, disable_help_subcommand = true, after_help = EXIT, after_long_help = LONG)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Doctor(doctor::Args),
    Bench(bench::Args),
    Cp(cp::Args),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

const EXIT: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

const LONG: &str = "\
Examples:
  kaio doctor /var/lib/db        what AIO is worth on that disk
  kaio bench                     a scratch file here, half a minute
  kaio cp --verify big.img /mnt/backup/

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

/// The whole of the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before there are threads.
    let done = interrupt::watch().and_then(|()| match cli.command {
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Cp(args) => cp::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    });
    done.unwrap_or_else(|failure| failure.report())
}
