//! Tests of statements and outputs that fail.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::fixture::{failed, kaio_sql, parts, run, run_with_input, scratch};

#[test]
fn the_first_error_ends_the_program_with_exit_code_1() {
    let dir = scratch();
    let sql = "select 1 as a; select no_such_column; select 2 as a";
    let output = run(dir.path(), &["--quiet", "--format", "csv", sql]);
    let error = failed(&output, 1);
    assert!(error.starts_with("error: "), "{error}");
    assert!(error.contains("no_such_column"), "{error}");
    assert_eq!(parts(&output).1, "a\n1\n");
}

#[test]
fn a_syntax_error_says_where_it_is() {
    let dir = scratch();
    let error = failed(&run(dir.path(), &["selec 1"]), 1);
    assert!(
        error.contains("Expected: an SQL statement, found: selec"),
        "{error}"
    );
    let error = failed(&run(dir.path(), &["select 'open"]), 1);
    assert!(error.contains("Unterminated string"), "{error}");
}

#[test]
fn an_error_of_a_file_names_the_file_and_the_line() {
    let dir = scratch();
    fs::write(
        dir.path().join("a.sql"),
        "select 1;\n\n-- comment\nselect no_such_column;\n",
    )
    .unwrap();
    let error = failed(&run(dir.path(), &["-q", "-f", "a.sql"]), 1);
    assert!(error.starts_with("error: a.sql, line 4: "), "{error}");
    let error = failed(
        &run_with_input(dir.path(), &["-q"], "\nselect no_such_column"),
        1,
    );
    assert!(
        error.starts_with("error: standard input, line 2: "),
        "{error}"
    );
    let error = failed(&run(dir.path(), &["-f", "none.sql"]), 1);
    assert!(
        error.contains("can't read none.sql: No such file"),
        "{error}"
    );
    fs::write(dir.path().join("b.sql"), b"select '\xff';").unwrap();
    let error = failed(&run(dir.path(), &["-f", "b.sql"]), 1);
    assert!(
        error.contains("can't read b.sql: ") && error.contains("UTF-8"),
        "{error}"
    );
}

#[test]
fn a_missing_file_in_from_is_an_error_with_a_hint() {
    let dir = scratch();
    for name in ["none.parquet", "./none/a.csv", "none/*.parquet"] {
        for args in [&[][..], &["--local"]] {
            let sql = format!("select * from '{name}'");
            let error = failed(&run(dir.path(), &[args, &[&sql]].concat()), 1);
            assert!(
                error.contains("hint: a file in FROM has to exist"),
                "{name}: {error}"
            );
        }
    }
    let error = failed(&run(dir.path(), &["select * from orders"]), 1);
    assert!(
        error.contains("orders' not found") && !error.contains("hint"),
        "{error}"
    );
}

#[test]
fn a_damaged_file_is_an_error() {
    let dir = scratch();
    fs::write(
        dir.path().join("a.parquet"),
        "this is no Parquet file at all",
    )
    .unwrap();
    let error = failed(&run(dir.path(), &["select * from 'a.parquet'"]), 1);
    assert!(error.contains("Parquet"), "{error}");
}

#[test]
fn an_output_whose_reader_has_gone_ends_the_program_with_success() {
    let dir = scratch();
    for format in ["csv", "ndjson", "json", "table"] {
        let sql = "select value from generate_series(1, 100000000)";
        let mut command = kaio_sql(dir.path());
        command.args(["--quiet", "--max-rows", "100000", "--format", format]);
        // Only formats that are streamed end before the query does.
        let rows = if format == "table" {
            "generate_series(1, 100000)"
        } else {
            "generate_series(1, 100000000)"
        };
        command.arg(sql.replace("generate_series(1, 100000000)", rows));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut first = [0; 5];
        let mut out = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut out, &mut first).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        let (code, _, error) = parts(&output);
        assert_eq!((code, error.as_str()), (Some(0), ""), "{format}");
    }
}

#[test]
fn rows_are_written_while_the_query_runs() {
    let dir = scratch();
    let mut command = kaio_sql(dir.path());
    // It would take hours, so the first line shows that rows are not collected.
    command.args([
        "-q",
        "--format",
        "csv",
        "select value from generate_series(1, 100000000000)",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first: Vec<String> = lines.by_ref().take(3).map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(first, ["value", "1", "2"]);
}

#[test]
fn an_output_that_is_full_is_an_error() {
    let dir = scratch();
    for format in ["csv", "table"] {
        let mut command = kaio_sql(dir.path());
        command.args(["--format", format, "select 1"]);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let error = failed(&command.output().unwrap(), 1);
        assert!(
            error.starts_with("error: can't write to standard output: No space left"),
            "{error}"
        );
    }
}
