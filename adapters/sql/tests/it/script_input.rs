//! Tests of statements from files and from standard input, of commands in them, and of signals.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::fixture::{csv, failed, kaio_sql, run, run_with_input, scratch, succeeded};

#[test]
fn statements_come_from_a_pipe() {
    let dir = scratch();
    let script = "-- two; statements\nselect 1 as a;\nselect ';' as b\n;";
    for args in [
        &["-q", "--format", "csv"][..],
        &["-q", "--format", "csv", "-"],
    ] {
        let (out, _) = succeeded(&run_with_input(dir.path(), args, script));
        assert_eq!(out, "a\n1\nb\n;\n", "{args:?}");
    }
    let (out, _) = succeeded(&run_with_input(dir.path(), &["-q", "-f", "-"], ""));
    assert_eq!(out, "");
}

#[test]
fn files_run_before_the_statements_of_the_command_line() {
    let dir = scratch();
    fs::write(dir.path().join("a.sql"), "create table t as select 1 as a;").unwrap();
    fs::write(dir.path().join("b.sql"), "insert into t\n  values (2)").unwrap();
    let args = [
        "-f",
        "a.sql",
        "-f",
        "b.sql",
        "select sum(a) as sum from t",
        "select 5 as five",
    ];
    assert_eq!(csv(dir.path(), &args), "count\n1\nsum\n3\nfive\n5\n");
}

#[test]
fn a_statement_runs_as_soon_as_it_is_complete() {
    let dir = scratch();
    let mut command = kaio_sql(dir.path());
    command
        .args(["-q", "--format", "csv"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for n in 1..3 {
        writeln!(input, "select {n}\n as a;").unwrap();
        let mut lines = [String::new(), String::new()];
        lines
            .iter_mut()
            .for_each(|line| assert_ne!(output.read_line(line).unwrap(), 0));
        assert_eq!(lines, ["a\n".to_owned(), format!("{n}\n")]);
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn commands_change_how_results_are_shown() {
    let dir = scratch();
    let script = "\\pset format json\nselect 1 as a;\n\\pset format csv\n\\timing off\nselect 2 as a;\n\
                  \\pset format table\n\\pset max_rows 1\nselect * from (values (1), (2)) as t(a);\n\\q\nselect 3;";
    let (out, err) = succeeded(&run_with_input(dir.path(), &[], script));
    assert_eq!(
        out,
        "[{\"a\":1}]\na\n2\n+---+\n| a |\n+---+\n| 1 |\n+---+\n(1 more row)\n"
    );
    assert_eq!(err.matches("1 row, ").count(), 1, "{err}");
    for part in [
        "format json, max_rows 40",
        "timing is off",
        "format table, max_rows 1",
    ] {
        assert!(err.contains(part), "{part} in {err}");
    }
    let (_, err) = succeeded(&run_with_input(
        dir.path(),
        &[],
        "\\explain\n\\cold on\nselect 1;",
    ));
    assert!(
        err.contains("explain is on\ncold is on\n") && err.contains("metrics=["),
        "{err}"
    );
}

#[test]
fn commands_list_tables_columns_and_functions() {
    let dir = scratch();
    let script = "create table t (a int not null, b text); create view v as select 1;\n\\d\n\\d t\n\\df REGR_SLO\n";
    let (out, _) = succeeded(&run_with_input(
        dir.path(),
        &["-q", "--format", "csv"],
        script,
    ));
    let (tables, rest) = out.split_once("column_name").unwrap();
    assert_eq!(
        tables,
        "table_schema,table_name,table_type\npublic,t,BASE TABLE\npublic,v,VIEW\n"
    );
    assert!(
        rest.starts_with(",data_type,is_nullable\na,Int32,NO\nb,Utf8View,YES\n"),
        "{out}"
    );
    assert!(rest.contains("\nregr_slope,AGGREGATE,"), "{out}");
    fs::write(dir.path().join("a.csv"), "x,y\n1,2\n").unwrap();
    let (out, _) = succeeded(&run_with_input(
        dir.path(),
        &["-q", "--format", "csv"],
        "\\d 'a.csv'",
    ));
    assert_eq!(
        out,
        "column_name,data_type,is_nullable\nx,Int64,YES\ny,Int64,YES\n"
    );
}

#[test]
fn files_include_others_but_not_themselves() {
    let dir = scratch();
    fs::write(
        dir.path().join("a.sql"),
        "\\i b.sql\nselect a + 1 as a from t;",
    )
    .unwrap();
    fs::write(dir.path().join("b.sql"), "create table t as select 1 as a;").unwrap();
    assert_eq!(csv(dir.path(), &["-f", "a.sql"]), "a\n2\n");
    fs::write(dir.path().join("loop.sql"), "\\i loop.sql\n").unwrap();
    let error = failed(&run(dir.path(), &["-f", "loop.sql"]), 1);
    assert!(
        error.contains("more than 16 files include each other"),
        "{error}"
    );
}

#[test]
fn an_unknown_command_is_an_error() {
    let dir = scratch();
    for (script, text) in [
        ("\\nosuch", "there is no command \\nosuch; \\? lists them"),
        ("\\timing maybe", "expected on or off"),
        (
            "\\pset format xml",
            "expected table, json, ndjson, csv or tsv",
        ),
        (
            "\\pset color on",
            "expected `format FORMAT` or `max_rows NUMBER`",
        ),
        ("\\i", "\\i needs the name of a file"),
    ] {
        let error = failed(&run_with_input(dir.path(), &[], script), 1);
        assert!(error.contains(text), "{script}: {error}");
    }
}

/// A program that is killed if the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send_signal(child: &Child, signal: &str) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(
        Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn a_signal_cancels_a_query() {
    let dir = scratch();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut command = kaio_sql(dir.path());
        let sql =
            "select 1 as a; select count(distinct value) from generate_series(1, 100000000000)";
        command.args(["--quiet", "--format", "csv", "--memory-limit", "4G", sql]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().unwrap());
        let mut first = [0; 4];
        child
            .0
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut first)
            .unwrap();
        send_signal(&child.0, signal);
        assert_eq!(child.0.wait().unwrap().code(), Some(code), "{signal}");
        let mut error = String::new();
        child
            .0
            .stderr
            .as_mut()
            .unwrap()
            .read_to_string(&mut error)
            .unwrap();
        assert_eq!(error, "cancelled\n");
    }
}

#[test]
fn a_signal_ends_a_program_that_waits_for_input() {
    let dir = scratch();
    let mut command = kaio_sql(dir.path());
    command
        .args(["--quiet", "--format", "csv"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    let mut input = child.0.stdin.take().unwrap();
    writeln!(input, "select 1 as a;").unwrap();
    let mut first = [0; 4];
    child
        .0
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    send_signal(&child.0, "INT");
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    drop(input);
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_cancelled_copy_leaves_no_file() {
    let dir = scratch();
    let mut command = kaio_sql(dir.path());
    let sql = "copy (select value from generate_series(1, 100000000000)) to 'out.csv'";
    let mut child = Running(command.args(["-q", sql]).spawn().unwrap());
    while names(dir.path()).is_empty() {
        assert!(
            child.0.try_wait().unwrap().is_none(),
            "it ended before it wrote"
        );
        thread::sleep(Duration::from_millis(2));
    }
    send_signal(&child.0, "INT");
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    assert_eq!(names(dir.path()), [""; 0]);
}
