//! Tests of the program on a terminal.

use std::fs;
use std::path::Path;

use rexpect::process::{Signal, WaitStatus};
use rexpect::session::{PtySession, spawn_command};

use crate::fixture::{kaio_sql, scratch};

const MILLISECONDS: u64 = 60_000;

const PROMPT: &str = "kaio-sql> ";

/// The program on a terminal.
struct Terminal(PtySession);

impl Terminal {
    fn start(dir: &Path, args: &[&str]) -> Terminal {
        let mut command = kaio_sql(dir);
        command.args(args).env("TERM", "xterm");
        // The terminal is its standard input, too.
        command.stdin(std::process::Stdio::inherit());
        let mut terminal = Terminal(spawn_command(command, Some(MILLISECONDS)).unwrap());
        terminal.prompt();
        terminal
    }

    /// Waits for the prompt, and returns what was shown before.
    fn prompt(&mut self) -> String {
        self.0.exp_string(PROMPT).unwrap()
    }

    /// Sends a line, and returns what is shown until the next prompt.
    fn ask(&mut self, line: &str) -> String {
        self.0.send_line(line).unwrap();
        // The line editor draws the prompt again with each key, so the answer starts with a line feed.
        self.0.exp_string("\r\n").unwrap();
        self.prompt()
    }

    /// Waits for the end of the program, and returns its exit code.
    fn end(mut self) -> i32 {
        self.0.exp_eof().unwrap();
        match self.0.process().wait().unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn statements_are_read_line_by_line_until_the_semicolon() {
    let dir = scratch();
    let mut terminal = Terminal::start(dir.path(), &["--quiet", "--format", "csv"]);
    let out = terminal.ask("select 41 + 1 as a;");
    assert!(out.contains("a\r\n42\r\n"), "{out:?}");
    terminal.0.send_line("select 'x;").unwrap();
    terminal.0.send_line("y' as b,").unwrap();
    terminal
        .0
        .send_line(" 6 * 7 as c; select 5 as d; -- end")
        .unwrap();
    let rows = terminal.0.exp_string("d\r\n5\r\n").unwrap();
    assert!(rows.contains("b,c\r\n\"x;\r\ny\",42\r\n"), "{rows:?}");
    terminal.prompt();
    terminal.0.send_control('d').unwrap();
    assert_eq!(terminal.end(), 0);
}

#[test]
fn an_error_does_not_end_the_program() {
    let dir = scratch();
    let mut terminal = Terminal::start(dir.path(), &["--quiet", "--format", "csv"]);
    let error = terminal.ask("select no_such;");
    assert!(
        error.contains("error: ") && error.contains("no_such"),
        "{error:?}"
    );
    let error = terminal.ask("\\nosuch");
    assert!(error.contains("there is no command \\nosuch"), "{error:?}");
    let out = terminal.ask("select 42 as a;");
    assert!(out.contains("a\r\n42\r\n"), "{out:?}");
    terminal.0.send_line("exit").unwrap();
    assert_eq!(terminal.end(), 0);
}

#[test]
fn control_c_cancels_the_query_or_discards_the_line() {
    let dir = scratch();
    let args = ["--quiet", "--format", "csv", "--memory-limit", "4G"];
    let mut terminal = Terminal::start(dir.path(), &args);
    let sql = "select 7 as a; select count(distinct value) from generate_series(1, 100000000000);";
    terminal.0.send_line(sql).unwrap();
    terminal.0.exp_string("a\r\n7\r\n").unwrap();
    terminal.0.send_control('c').unwrap();
    terminal.0.exp_string("cancelled\r\n").unwrap();
    terminal.prompt();
    terminal.0.send("select 'not finished").unwrap();
    terminal.0.flush().unwrap();
    terminal.0.exp_string("finished").unwrap();
    terminal.0.send_control('c').unwrap();
    terminal.prompt();
    let out = terminal.ask("select 42 as a;");
    assert!(out.contains("a\r\n42\r\n"), "{out:?}");
    terminal.0.send_line("\\q").unwrap();
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_signal_ends_the_program_at_the_prompt() {
    let dir = scratch();
    let mut terminal = Terminal::start(dir.path(), &["--quiet"]);
    terminal.0.process_mut().signal(Signal::SIGTERM).unwrap();
    assert_eq!(terminal.end(), 143);
}

#[test]
fn help_tables_and_settings_are_shown() {
    let dir = scratch();
    let mut terminal = Terminal::start(dir.path(), &[]);
    for help in ["help", "\\?"] {
        let text = terminal.ask(help);
        assert!(text.contains("Statements end with a semicolon"), "{text:?}");
    }
    let report = terminal.ask("create table t as select 1 as first;");
    assert!(
        report.contains("done, ") && report.contains("reads: "),
        "{report:?}"
    );
    let tables = terminal.ask("\\d");
    assert!(
        tables.contains("| public       | t          | BASE TABLE |"),
        "{tables:?}"
    );
    let columns = terminal.ask("\\d t");
    assert!(
        columns.contains("| first       | Int64     | NO "),
        "{columns:?}"
    );
    assert!(terminal.ask("\\timing").contains("timing is off"));
    let out = terminal.ask("select first from t;");
    assert!(
        out.contains("| 1     |") && !out.contains("reads: "),
        "{out:?}"
    );
    terminal.0.send_control('d').unwrap();
    assert_eq!(terminal.end(), 0);
}

#[test]
fn names_keywords_and_paths_are_completed() {
    let dir = scratch();
    fs::write(dir.path().join("people.csv"), "name,age\nAda,36\n").unwrap();
    let mut terminal = Terminal::start(dir.path(), &["--quiet", "--format", "csv"]);
    terminal.ask("create table t as select 1 as unusual_name;");
    let out = terminal.ask("select unus\t + 41 as a from t;");
    assert!(
        out.ends_with("a\r\n42\r\n") || out.contains("a\r\n42\r\n"),
        "{out:?}"
    );
    let out = terminal.ask("select name from 'peo\t';");
    assert!(out.contains("name\r\nAda\r\n"), "{out:?}");
    // The column of a file that was read before.
    let out = terminal.ask("describ\t 'people.csv';");
    assert!(out.contains("age,Int64,YES"), "{out:?}");
    terminal.0.send_line("\\q").unwrap();
    assert_eq!(terminal.end(), 0);
}

#[test]
fn the_history_is_kept_in_the_state_directory() {
    let dir = scratch();
    let mut terminal = Terminal::start(dir.path(), &["--quiet", "--format", "csv"]);
    terminal.ask("select 42 as a;");
    terminal.0.send_line("\\q").unwrap();
    assert_eq!(terminal.end(), 0);
    let history = dir.path().join(".local/state/kaio-sql/history");
    let text = fs::read_to_string(&history).unwrap();
    assert!(text.contains("select 42 as a;\n"), "{text}");

    let mut terminal = Terminal::start(dir.path(), &["--quiet", "--format", "csv"]);
    // The last statement but one: up, up, return.
    let out = terminal.ask("\x1b[A\x1b[A");
    assert!(out.contains("a\r\n42\r\n"), "{out:?}");
    terminal.0.send_control('d').unwrap();
    assert_eq!(terminal.end(), 0);
}
