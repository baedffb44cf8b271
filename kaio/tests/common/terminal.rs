//! Programs on a terminal.

use std::process::Command;

use rexpect::session::{PtySession, spawn_command};

/// A program that takes longer hangs.
pub(crate) const MILLISECONDS: u64 = 300_000;

/// Starts a program on a terminal. Waiting for its output fails after [`MILLISECONDS`].
pub(crate) fn start_on_terminal(command: Command) -> PtySession {
    spawn_command(command, Some(MILLISECONDS)).unwrap()
}
