//! Tests of the progress bar on a terminal.

use std::process::Command;

use rexpect::session::PtySession;

use crate::cp_fixture::{Dir, bytes, kaio};
use crate::terminal::start_on_terminal;

/// Starts a copy on a terminal. The program has the default handling of signals.
fn start(dir: &Dir, args: &[&str]) -> PtySession {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM,HUP", kaio().to_str().unwrap()]);
    command.args(["cp", "--bs", "64k"]).args(args);
    command.args(["source", "copy"]).current_dir(dir.path());
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    start_on_terminal(command)
}

/// Everything that a copy shows.
fn shows(dir: &Dir, args: &[&str]) -> String {
    start(dir, args).exp_eof().unwrap()
}

/// What a copy shows up to a match of `regex` in its bar. Then the copy is ended: it would take longer than
/// [`MILLISECONDS`](crate::terminal::MILLISECONDS), so that the bar is drawn, however late its thread is.
fn bar_shows(dir: &Dir, args: &[&str], regex: &str) -> String {
    let mut terminal = start(dir, &[&["--limit", "2k"], args].concat());
    let (before, matched) = terminal.exp_regex(regex).unwrap();
    before + &matched
}

/// Whether escapes set colours: they end in m. Others move the cursor or clear lines.
fn has_colours(shown: &str) -> bool {
    let escapes = shown.split("\x1b[").skip(1);
    let mut ends = escapes.map(|escape| escape.trim_start_matches(|it: char| !it.is_alphabetic()));
    ends.any(|end| end.starts_with('m'))
}

#[test]
fn progress_is_shown_with_rate_and_time_left_and_no_colours() {
    let dir = Dir::new();
    dir.file("source", bytes(2 << 20));
    // The time is not known until the first block is copied.
    let bar = bar_shows(
        &dir,
        &[],
        r"KiB of 2\.00 MiB +[0-9.]+ (Ki)?B/s +[0-9][0-9a-z ]* left",
    );
    assert!(!has_colours(&bar), "{bar:?}");
    let shown = shows(&dir, &[]);
    assert!(shown.contains("2.00 MiB in 1 file, "), "{shown:?}");
    assert!(shown.contains("iB/s"), "{shown:?}");
    assert!(!has_colours(&shown), "{shown:?}");
}

#[test]
fn quiet_shows_nothing() {
    let dir = Dir::new();
    dir.file("source", bytes(1 << 20));
    // Slow enough for a bar to be drawn more than once.
    assert_eq!(shows(&dir, &["-q", "--limit", "1M"]), "");
}

#[test]
fn the_progress_includes_verification() {
    let dir = Dir::new();
    dir.file("source", bytes(1 << 20));
    bar_shows(&dir, &["--verify"], "of 2\\.00 MiB, verifying");
}
