//! Tests of the options.

use crate::fixture::{
    csv, failed, has_direct_io, is_cached, kaio_sql, report_line, run, scratch, succeeded,
    write_parquet,
};

#[test]
fn a_report_follows_each_statement_and_quiet_leaves_it_out() {
    let dir = scratch();
    let (out, report) = succeeded(&run(
        dir.path(),
        &["--format", "csv", "select 1 as a; select 2 as a"],
    ));
    assert_eq!(out, "a\n1\na\n2\n");
    assert_eq!(report.matches("1 row, 8 bytes, ").count(), 2, "{report}");
    assert!(report.contains(" s (planning "), "{report}");
    assert!(report_line(&report, "reads: ").starts_with("reads: direct 0, cached 0, blocking 0"));
    assert!(
        report_line(&report, "device: ").contains(" read, "),
        "{report}"
    );
    let (_, report) = succeeded(&run(dir.path(), &["create table t (a int)"]));
    assert!(report.starts_with("done, "), "{report}");
    assert_eq!(succeeded(&run(dir.path(), &["--quiet", "select 1"])).1, "");
}

#[test]
fn explain_prints_the_plan_and_its_metrics_beside_the_result() {
    let dir = scratch();
    write_parquet(dir.path(), "a.parquet");
    let sql = "select count(*) as rows from 'a.parquet' where n < 1000";
    let args = ["--explain", "--format", "csv", sql];
    let (out, plan) = succeeded(&run(dir.path(), &args));
    assert_eq!(out, "rows\n1000\n");
    for part in [
        "AggregateExec",
        "DataSourceExec",
        "output_rows=1",
        "bytes_scanned=",
    ] {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    let (_, quiet) = succeeded(&run(dir.path(), &["--explain", "--quiet", sql]));
    assert!(
        quiet.contains("DataSourceExec") && !quiet.contains("reads: "),
        "{quiet}"
    );
}

#[test]
fn local_reads_with_local_file_system() {
    let dir = scratch();
    write_parquet(dir.path(), "a.parquet");
    let sql = "select sum(n) as sum from 'a.parquet'";
    let (out, report) = succeeded(&run(dir.path(), &["--local", "--format", "csv", sql]));
    assert_eq!(out, "sum\n19999900000\n");
    let reads = report_line(&report, "reads: ");
    assert!(reads.starts_with("reads: LocalFileSystem, "), "{report}");
    assert!(!report.contains("prefetch:"), "{report}");
}

#[test]
fn no_prefetch_reads_no_row_groups_ahead() {
    let dir = scratch();
    write_parquet(dir.path(), "a.parquet");
    let sql = "select count(distinct t) as c from 'a.parquet'";
    let args = ["--cold", "--partitions", "1", "--format", "csv", sql];
    let (with, report) = succeeded(&run(dir.path(), &args));
    let uses_direct_io = report.contains("; backend ");
    assert!(
        report.contains("\nprefetch: ") || !uses_direct_io,
        "{report}"
    );
    let (without, report) = succeeded(&run(dir.path(), &[&["--no-prefetch"], &args[..]].concat()));
    assert_eq!(
        (with.as_str(), without.as_str()),
        ("c\n200000\n", "c\n200000\n")
    );
    assert!(!report.contains("prefetch:"), "{report}");
}

#[test]
fn cold_evicts_the_files_of_a_query_before_it_runs() {
    let dir = scratch();
    write_parquet(dir.path(), "a.parquet");
    let path = dir.path().join("a.parquet");
    if !has_direct_io(&path) {
        return;
    }
    let sql = "select sum(n) as sum from 'a.parquet'";
    let reads_directly = |report: &str| {
        let reads = report_line(report, "reads: ");
        !reads.starts_with("reads: direct 0, ")
    };
    let (_, warm) = succeeded(&run(dir.path(), &[sql]));
    // Direct reads leave the page cache alone, so what is cached now was cached before.
    if !is_cached(&path) {
        return;
    }
    assert!(!reads_directly(&warm), "{warm}");
    let (_, cold) = succeeded(&run(dir.path(), &["--cold", sql]));
    assert!(reads_directly(&cold), "{cold}");
}

#[test]
fn partitions_and_set_change_options_of_datafusion() {
    let dir = scratch();
    let value = |args: &[&str], name: &str| {
        let sql = format!("select value from information_schema.df_settings where name = '{name}'");
        csv(dir.path(), &[args, &[&sql]].concat())
    };
    let partitions = "datafusion.execution.target_partitions";
    assert_eq!(value(&["--partitions", "7"], partitions), "value\n7\n");
    let size = "datafusion.execution.batch_size";
    assert_eq!(
        value(&["--set", "datafusion.execution.batch_size=77"], size),
        "value\n77\n"
    );
    // A setting with a quote, and one of the runtime, which keeps the store.
    let zone = "datafusion.catalog.location";
    assert_eq!(
        value(&["--set", "datafusion.catalog.location=it's"], zone),
        "value\nit's\n"
    );
    let args = [
        "--set",
        "datafusion.runtime.memory_limit=1G",
        "select 1 as a from (select 2)",
    ];
    let (_, report) = succeeded(&run(dir.path(), &args));
    assert!(
        report_line(&report, "reads: ").starts_with("reads: direct "),
        "{report}"
    );
}

#[test]
fn the_environment_sets_options_of_datafusion() {
    let dir = scratch();
    let mut command = kaio_sql(dir.path());
    command.env("DATAFUSION_EXECUTION_BATCH_SIZE", "55");
    command.args([
        "-q",
        "--format",
        "csv",
        "show datafusion.execution.batch_size",
    ]);
    let (out, _) = succeeded(&command.output().unwrap());
    assert_eq!(out, "name,value\ndatafusion.execution.batch_size,55\n");
}

#[test]
fn a_query_that_needs_more_memory_than_allowed_fails_and_says_how_to_allow_more() {
    let dir = scratch();
    let sql = "select count(*) as n from generate_series(1, 1000000) as a(x) \
               join generate_series(1, 1000000) as b(y) on a.x = b.y";
    let sql = format!("set datafusion.optimizer.prefer_hash_join = true; {sql}");
    assert_eq!(
        csv(dir.path(), &["--memory-limit", "1G", &sql]),
        "n\n1000000\n"
    );
    let error = failed(&run(dir.path(), &["--memory-limit", "256K", &sql]), 1);
    assert!(error.contains("Resources exhausted"), "{error}");
    assert!(
        error.contains("hint: allow more memory with --memory-limit"),
        "{error}"
    );
}

#[test]
fn help_and_version_are_printed() {
    let dir = scratch();
    let (help, _) = succeeded(&run(dir.path(), &["--help"]));
    for option in [
        "--file",
        "--local",
        "--no-prefetch",
        "--cold",
        "--explain",
        "--format",
        "--max-rows",
        "--quiet",
        "--memory-limit",
        "--partitions",
        "--set",
        "EXAMPLES",
        "EXIT CODE",
    ] {
        assert!(help.contains(option), "{option} in {help}");
    }
    let (version, _) = succeeded(&run(dir.path(), &["--version"]));
    assert!(
        version.starts_with("kaio-sql 0.") && version.contains("(DataFusion 55."),
        "{version}"
    );
}

#[test]
fn a_wrong_command_line_is_refused_with_exit_code_2() {
    let dir = scratch();
    for (args, text) in [
        (
            &["--format", "xml", "select 1"][..],
            "[possible values: table, json, ndjson, csv, tsv]",
        ),
        (
            &["--max-rows", "few", "select 1"],
            "expected a number of rows, or `all`",
        ),
        (
            &["--memory-limit", "lots", "select 1"],
            "such as 512M or 1.5G",
        ),
        (
            &["--partitions", "0", "select 1"],
            "expected a number of partitions, at least 1",
        ),
        (&["--set", "batch_size", "select 1"], "expected KEY=VALUE"),
        (
            &["--set", "datafusion.no.such=1", "select 1"],
            "datafusion.no.such",
        ),
        (
            &["--local", "--no-prefetch", "select 1"],
            "cannot be used with",
        ),
        (&["--colour", "select 1"], "--colour"),
    ] {
        let error = failed(&run(dir.path(), args), 2);
        assert!(error.contains(text), "{args:?}: {error}");
        assert!(error.contains("try '--help'"), "{args:?}: {error}");
    }
    let mut command = kaio_sql(dir.path());
    command
        .env("DATAFUSION_EXECUTION_BATCH_SIZE", "many")
        .arg("select 1");
    let error = failed(&command.output().unwrap(), 2);
    assert!(error.contains("environment: "), "{error}");
}
