//! Tests of the output of `kaio bench` and `kaio doctor` on a terminal.

mod common;

use std::path::Path;

use common::{kaio, names, scratch};
use rexpect::session::spawn_command;

const MILLISECONDS: u64 = 60_000;

/// Everything that the program sends to a terminal.
fn shown(dir: &Path, args: &str) -> String {
    let mut command = kaio(dir);
    command.args(args.split(' '));
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let mut terminal = spawn_command(command, Some(MILLISECONDS)).unwrap();
    terminal.exp_eof().unwrap()
}

/// The number of escapes that set colours. Others move the cursor or clear lines.
fn colours(shown: &str) -> usize {
    let escapes = shown.split("\x1b[").skip(1);
    let mut ends = escapes.map(|it| it.trim_start_matches(|c: char| !c.is_alphabetic()));
    ends.by_ref().filter(|end| end.starts_with('m')).count()
}

#[test]
fn bench_shows_progress_and_obeys_no_color() {
    let dir = scratch();
    let args =
        "bench --buffered --size 1M --depth 1,3 --runtime 0.5 --engines blocking-pool,tokio-fs";
    let shown = shown(dir.path(), args);
    // The first steps are always drawn; later ones only if the last drawing is long enough ago.
    for part in [" %", " left", "depth 1: blocking-pool", "depth 1: tokio-fs"] {
        assert!(shown.contains(part), "{part}: {shown:?}");
    }
    // The table follows.
    assert!(shown.contains("IOPS"), "{shown:?}");
    assert_eq!(colours(&shown), 0, "{shown:?}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn doctor_shows_what_it_checks() {
    let dir = scratch();
    let shown = shown(dir.path(), "doctor");
    assert!(shown.contains("checking the machine"), "{shown:?}");
    assert!(shown.contains("fs.aio-max-nr"), "{shown:?}");
    assert_eq!(colours(&shown), 0, "{shown:?}");
    assert_eq!(names(dir.path()), [""; 0]);
}
