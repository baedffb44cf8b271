//! Signals: removes unfinished files, and sets the exit code.

use std::io::{self, IsTerminal};
use std::process;

use kaio_bench::temp_path;

use crate::command_error::CommandError;
use crate::stdio::eprint_line;
use crate::thread_limit::THREAD_LIMIT_HINT;

/// Installs the handling of SIGINT, SIGTERM and SIGHUP: each removes every [`temp_path::TempPath`] and
/// ends the process with exit code 128 plus the signal number, so 130 for Ctrl-C. Must be called before
/// any other thread is started.
///
/// # Errors
///
/// The thread that waits for signals can't be started.
pub(crate) fn clean_up_on_signal() -> Result<(), CommandError> {
    let installed = temp_path::remove_on_signal(|signal| {
        // Leaves the line of the progress bar.
        if io::stderr().is_terminal() {
            eprint_line("");
        }
        eprint_line("interrupted; unfinished files were removed");
        process::exit(128 + signal)
    });
    installed.map_err(|error| {
        let what = "can't start the thread that waits for signals";
        format!("{what}: {error}; {THREAD_LIMIT_HINT}, or the limit on memory (ulimit -v)").into()
    })
}
