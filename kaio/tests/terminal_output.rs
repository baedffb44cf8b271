//! Tests of the output of `kaio bench` and `kaio doctor` on a terminal.

mod common;
#[path = "common/terminal.rs"]
mod terminal;

use std::path::Path;
use std::process::{Command, Output};

use common::{failed, kaio, names, parts, run, scratch};
use terminal::start_on_terminal;

/// Everything that the program sends to a terminal.
fn shown(dir: &Path, args: &str) -> String {
    let mut command = kaio(dir);
    command.args(args.split(' '));
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let mut terminal = start_on_terminal(command);
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

/// Everything that a shell command sends to a terminal of 60 columns. `$KAIO` is the program.
fn shown_in_60_columns(dir: &Path, command: &str) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("stty cols 60 && {command}")]);
    shell.current_dir(dir).env("NO_COLOR", "1");
    shell.env("KAIO", env!("CARGO_BIN_EXE_kaio"));
    let mut terminal = start_on_terminal(shell);
    // rexpect makes a character of each byte.
    let shown = terminal.exp_eof().unwrap();
    let bytes = shown.chars().map(|byte| u8::try_from(byte).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}

/// Asserts that lines have at most `width` columns, except those of tables and those of a single word.
#[track_caller]
fn assert_wrapped(text: &str, width: usize) {
    let mut is_table = false;
    for line in text.lines() {
        is_table = match line.trim_start() {
            "" => false,
            start => is_table || start.starts_with("request ") || start.starts_with("depth "),
        };
        let is_word = !line.trim().contains(' ');
        let fits = line.chars().count() <= width;
        assert!(fits || is_table || is_word, "{line:?} in:\n{text}");
    }
}

#[test]
fn text_and_errors_are_wrapped_to_the_width_of_the_terminal() {
    let dir = scratch();
    let report = shown_in_60_columns(dir.path(), "$KAIO doctor 2>/dev/null");
    assert!(report.contains("RLIMIT_MEMLOCK"), "{report}");
    assert_wrapped(&report, 60);

    let bench = "$KAIO bench --buffered --runtime 0.2 --size 1M --depth 1 --engines blocking-pool";
    let table = shown_in_60_columns(dir.path(), &format!("{bench} 2>/dev/null"));
    assert!(table.contains("Through the page cache"), "{table}");
    assert_wrapped(&table, 60);

    let error = shown_in_60_columns(dir.path(), "$KAIO bench /proc");
    assert!(error.starts_with("error: can't create"), "{error}");
    assert!(error.lines().count() > 1, "{error}");
    assert_wrapped(&error, 60);

    // An error of the parser of the command line.
    let error = shown_in_60_columns(dir.path(), "$KAIO bench --depth 1-4");
    assert!(error.contains("separated by commas"), "{error}");
    assert!(error.contains("For more information"), "{error}");
    assert_wrapped(&error, 60);
}

#[test]
fn without_a_terminal_text_has_100_columns_and_an_error_is_one_line() {
    let dir = scratch();
    let report = succeeded_or_unusable(&run(dir.path(), "doctor"));
    assert_wrapped(&report, 100);
    let error = failed(&run(dir.path(), "bench /proc"), 1);
    assert!(error.len() > 100, "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// The report of doctor, which has exit code 1 without direct I/O.
fn succeeded_or_unusable(output: &Output) -> String {
    let (code, report, error) = parts(output);
    assert!(matches!(code, Some(0 | 1)), "{error}");
    report
}
