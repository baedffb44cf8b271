//! Tests of the progress bar on a terminal.

use std::process::Command;

use rexpect::session::spawn_command;

use crate::cp_fixture::{Dir, bytes, kaio};

const MILLISECONDS: u64 = 60_000;

fn shows(dir: &Dir, args: &[&str]) -> String {
    let mut command = Command::new(kaio());
    // Slow enough for the bar to be drawn more than once.
    command.args(["cp", "--limit", "4M", "--bs", "64k"]);
    command
        .args(args)
        .args(["source", "copy"])
        .current_dir(dir.path());
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let mut terminal = spawn_command(command, Some(MILLISECONDS)).unwrap();
    terminal.exp_eof().unwrap()
}

#[test]
fn progress_is_shown_with_rate_and_time_left_and_no_colours() {
    let dir = Dir::new();
    dir.file("source", bytes(2 << 20));
    let shown = shows(&dir, &[]);
    assert!(
        shown.contains("of 2.00 MiB") && shown.contains(" left"),
        "{shown:?}"
    );
    assert!(shown.contains("MiB/s"), "{shown:?}");
    assert!(shown.contains("2.00 MiB in 1 file"), "{shown:?}");
    // Escapes that end in m set colours. Others move the cursor or clear lines.
    let escapes = shown.split("\x1b[").skip(1);
    let mut ends = escapes.map(|escape| escape.trim_start_matches(|it: char| !it.is_alphabetic()));
    assert!(ends.all(|end| !end.starts_with('m')), "{shown:?}");
}

#[test]
fn quiet_shows_nothing() {
    let dir = Dir::new();
    dir.file("source", bytes(1 << 20));
    assert_eq!(shows(&dir, &["-q"]), "");
}

#[test]
fn the_progress_includes_verification() {
    let dir = Dir::new();
    dir.file("source", bytes(1 << 20));
    let shown = shows(&dir, &["--verify"]);
    assert!(shown.contains("of 2.00 MiB, verifying"), "{shown:?}");
}
