//! Ctrl-C: what a command has made and not finished goes, and the exit code tells.

use std::io::{self, IsTerminal};
use std::process;

use kaio_bench::temp_path;

use crate::failure::Failure;
use crate::output::tell;

/// From now on, SIGINT, SIGTERM and SIGHUP remove every [`temp_path::TempPath`], and end the process
/// with 128 and the signal's number: 130 for Ctrl-C. To be called before any other thread is started.
///
/// # Errors
///
/// Where there can be no thread that waits for them.
pub(crate) fn watch() -> Result<(), Failure> {
    let watched = temp_path::remove_on_signal(|signal| {
        // A progress bar ends where it is.
        if io::stderr().is_terminal() {
            tell("");
        }
        tell("interrupted; what was not finished is removed");
        process::exit(128 + signal)
    });
    watched.map_err(|error| {
        let what = "can't start a thread that waits for signals";
        let way_out =
            "the limits of threads and memory (ulimit -u, ulimit -v) have to allow for some";
        format!("{what}: {error}; {way_out}").into()
    })
}
