//! The program `kaio-sql`: runs SQL on local files with DataFusion, which reads and writes them with Linux
//! kernel AIO.

mod backslash_command;
mod byte_sizes;
mod failure;
mod file_eviction;
mod history_file;
mod interrupts;
mod known_names;
mod line_editing;
mod line_reader;
mod messages;
mod process_usage;
mod prompt_signals;
mod query_report;
mod repl;
mod result_writer;
mod scripts;
mod sql_options;
mod sql_session;
mod statement_run;
mod statement_splitter;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::failure::Failure;
use crate::interrupts::Interrupts;
use crate::messages::print_message;
use crate::sql_options::CommandLine;
use crate::sql_session::SqlSession;

/// How long the end of the program waits for writes and removals of files that are under way.
const SHUTDOWN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let options = CommandLine::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_message(format_args!("error: can't start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = run(&options, &runtime);
    // Without a limit, a read from a dead device would keep the program.
    runtime.shutdown_timeout(SHUTDOWN);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(options: &CommandLine, runtime: &tokio::runtime::Runtime) -> Result<(), Failure> {
    let mut interrupts = {
        let _context = runtime.enter();
        Interrupts::new()
            .map_err(|error| Failure::Usage(format!("can't catch signals: {error}")))?
    };
    let mut session = runtime.block_on(SqlSession::new(options))?;
    if options.has_statements() {
        runtime.block_on(scripts::run_all(options, &mut session, &mut interrupts))
    } else if io::stdin().is_terminal() {
        repl::run(runtime, &mut session, &mut interrupts)
    } else {
        runtime.block_on(scripts::run_stdin(&mut session, &mut interrupts))
    }
}
