//! Compares DataFusion over kaio-object-store with DataFusion over LocalFileSystem: TPC-H, scans, and data
//! that is larger than the page cache.

mod bench_options;
mod bench_session;
mod data_files;
mod limited_passes;
mod marked_page;
mod memory_cgroup;
mod object_store_results;
mod page_command;
mod query_work;
mod ratio_chart;
mod ratio_tables;
mod results;
mod rounds;
mod row_digest;
mod run_command;
mod run_usage;

use std::process::ExitCode;

use clap::Parser;

use bench_options::{Command, CommandLine};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Run(arguments) => run_command::run(&arguments),
        Command::Render(arguments) => page_command::run(&arguments),
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
