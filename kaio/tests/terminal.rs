//! What `kaio bench` and `kaio doctor` show on a terminal.

mod common;

use std::path::Path;

use common::{kaio, names, scratch};
use rexpect::session::spawn_command;

const MILLISECONDS: u64 = 60_000;

/// All that a terminal is sent by the program.
fn shown(dir: &Path, args: &str) -> String {
    let mut command = kaio(dir);
    command.args(args.split(' '));
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let mut terminal = spawn_command(command, Some(MILLISECONDS)).unwrap();
    terminal.exp_eof().unwrap()
}

/// Those that colour: other escapes move the cursor, and clear lines.
fn colours(shown: &str) -> usize {
    let escapes = shown.split("\x1b[").skip(1);
    let mut ends = escapes.map(|it| it.trim_start_matches(|c: char| !c.is_alphabetic()));
    ends.by_ref().filter(|end| end.starts_with('m')).count()
}

#[test]
fn bench_tells_how_far_it_is_and_without_colours_if_those_are_not_wanted() {
    let dir = scratch();
    let args =
        "bench --buffered --size 1M --depth 1,3 --runtime 0.5 --engines blocking-pool,tokio-fs";
    let shown = shown(dir.path(), args);
    // The first steps are drawn for sure; later ones only if the last drawing is long enough ago.
    for part in [" %", " left", "depth 1: blocking-pool", "depth 1: tokio-fs"] {
        assert!(shown.contains(part), "{part}: {shown:?}");
    }
    // The table is below.
    assert!(shown.contains("IOPS"), "{shown:?}");
    assert_eq!(colours(&shown), 0, "{shown:?}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn doctor_tells_what_it_looks_at() {
    let dir = scratch();
    let shown = shown(dir.path(), "doctor");
    assert!(shown.contains("looking at the machine"), "{shown:?}");
    assert!(shown.contains("fs.aio-max-nr"), "{shown:?}");
    assert_eq!(colours(&shown), 0, "{shown:?}");
    assert_eq!(names(dir.path()), [""; 0]);
}
