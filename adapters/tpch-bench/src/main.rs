//! Compares DataFusion over kaio-object-store with DataFusion over LocalFileSystem: TPC-H, scans, and data
//! that is larger than the page cache.

mod bench_session;
mod chart;
mod command_line;
mod data_files;
mod limited_passes;
mod marked_page;
mod memory_cgroup;
mod object_store_results;
mod process_usage;
mod render_command;
mod results;
mod rounds;
mod row_digest;
mod run_command;
mod tables;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use command_line::{Command, CommandLine};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Run(arguments) => run_command::run(&arguments),
        Command::Render(arguments) => render_command::run(&arguments),
        Command::Passes(arguments) => limited_passes::run_in_cgroup(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kaio-tpch-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
