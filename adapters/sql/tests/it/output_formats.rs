//! Tests of the formats of results.

use crate::fixture::{failed, run, scratch, succeeded};

const ROWS: &str =
    "select * from (values (1, 'one'), (2, null), (3, 'a,\"b\"\tc')) as t(n, name) order by n";

const NO_ROWS: &str = "select * from (values (1, 'one')) as t(n, name) where n > 1";

/// The output of a statement in a format.
#[track_caller]
fn output(format: &str, sql: &str) -> String {
    let dir = scratch();
    let args = ["--quiet", "--format", format, sql];
    let (out, err) = succeeded(&run(dir.path(), &args));
    assert_eq!(err, "");
    out
}

#[test]
fn a_table_has_a_frame() {
    let table = output(
        "table",
        "select * from (values (1, 'one'), (2, null)) as t(n, name) order by n",
    );
    let expected = "\
+---+------+
| n | name |
+---+------+
| 1 | one  |
| 2 |      |
+---+------+
";
    assert_eq!(table, expected);
    assert_eq!(
        output("table", NO_ROWS),
        "+---+------+\n| n | name |\n+---+------+\n+---+------+\n"
    );
}

#[test]
fn json_is_an_array_of_objects_with_every_column() {
    let expected = r#"[{"n":1,"name":"one"},{"n":2,"name":null},{"n":3,"name":"a,\"b\"\tc"}]"#;
    assert_eq!(output("json", ROWS), format!("{expected}\n"));
    assert_eq!(output("json", NO_ROWS), "[]\n");
}

#[test]
fn ndjson_is_an_object_per_line() {
    let rows = output("ndjson", ROWS);
    let expected = "{\"n\":1,\"name\":\"one\"}\n{\"n\":2,\"name\":null}\n{\"n\":3,\"name\":\"a,\\\"b\\\"\\tc\"}\n";
    assert_eq!(rows, expected);
    assert_eq!(output("ndjson", NO_ROWS), "");
}

#[test]
fn csv_and_tsv_have_a_header_and_quotes_where_they_are_needed() {
    assert_eq!(
        output("csv", ROWS),
        "n,name\n1,one\n2,\n3,\"a,\"\"b\"\"\tc\"\n"
    );
    assert_eq!(
        output("tsv", ROWS),
        "n\tname\n1\tone\n2\t\n3\t\"a,\"\"b\"\"\tc\"\n"
    );
    assert_eq!(output("csv", NO_ROWS), "n,name\n");
}

#[test]
fn rows_of_several_batches_are_one_result() {
    let sql = "select value from generate_series(1, 20000) order by value";
    let lines = (1..=20_000).map(|n| format!("{n}\n"));
    let numbers = lines.collect::<String>();
    assert_eq!(output("csv", sql), format!("value\n{numbers}"));
    let joined = numbers.trim_end().replace('\n', "},{\"value\":");
    assert_eq!(output("json", sql), format!("[{{\"value\":{joined}}}]\n"));
}

#[test]
fn a_table_shows_the_first_rows_and_counts_the_rest() {
    let dir = scratch();
    let sql = "select value as v from generate_series(1, 100) order by v";
    let shown = |args: &[&str]| succeeded(&run(dir.path(), &[&["-q", sql], args].concat())).0;
    let rows = shown(&[]);
    assert_eq!(rows.lines().count(), 4 + 40 + 1, "{rows}");
    assert!(rows.ends_with("| 40 |\n+----+\n(60 more rows)\n"), "{rows}");
    assert!(shown(&["--max-rows", "99"]).ends_with("| 99 |\n+----+\n(1 more row)\n"));
    let rows = shown(&["--max-rows", "all"]);
    assert!(rows.ends_with("| 100 |\n+-----+\n"), "{rows}");
    assert_eq!(
        shown(&["--max-rows", "0"]),
        "+---+\n| v |\n+---+\n+---+\n(100 more rows)\n"
    );
}

#[test]
fn the_results_of_several_statements_follow_each_other() {
    let two = output(
        "csv",
        "create table t as select 1 as a; select * from t; select a + 1 as b from t",
    );
    assert_eq!(two, "a\n1\nb\n2\n");
}

#[test]
fn statements_without_a_result_print_nothing() {
    for format in ["table", "json", "ndjson", "csv", "tsv"] {
        let sql = "create table t (a int); set datafusion.execution.batch_size = 100; drop table t";
        assert_eq!(output(format, sql), "", "{format}");
    }
    assert_eq!(
        output(
            "csv",
            "create table t (a int); insert into t values (1), (2)"
        ),
        "count\n2\n"
    );
}

#[test]
fn nested_values_are_printed_as_json_and_refused_as_csv() {
    let sql = "select [1, 2] as list, {'a': 3} as object";
    assert_eq!(
        output("json", sql),
        "[{\"list\":[1,2],\"object\":{\"a\":3}}]\n"
    );
    let dir = scratch();
    let error = failed(&run(dir.path(), &["--format", "csv", sql]), 1);
    assert!(error.contains("not supported in CSV"), "{error}");
    assert!(error.contains("hint: --format json"), "{error}");
}
