//! Tests of reads and writes of files, by both stores.

use std::fs;
use std::path::Path;

use crate::fixture::{csv, has_direct_io, report_line, run, scratch, succeeded, write_parquet};

/// The rows that both stores read. They must be the same.
#[track_caller]
fn rows_of_both(dir: &Path, sql: &str) -> String {
    let rows = csv(dir, &[sql]);
    assert_eq!(rows, csv(dir, &["--local", sql]), "{sql}");
    assert_eq!(
        rows,
        csv(dir, &["--no-prefetch", "--cold", "--partitions", "3", sql]),
        "{sql}"
    );
    rows
}

#[test]
fn both_stores_read_the_same_rows_of_every_format() {
    let dir = scratch();
    let rows = "select value as n, md5(cast(value as text)) as t from generate_series(0, 30000)";
    for name in ["a.parquet", "a.csv", "a.json", "a.arrow", "a.csv.gz"] {
        let options = match name.ends_with(".gz") {
            true => "stored as csv options ('format.compression' 'gzip')",
            false => "",
        };
        succeeded(&run(
            dir.path(),
            &[&format!("copy ({rows}) to '{name}' {options}")],
        ));
        let sums = format!(
            "select count(*) as c, sum(n) as s, min(t) as low, max(t) as high from '{name}'"
        );
        let sums = rows_of_both(dir.path(), &sums);
        assert!(
            sums.starts_with("c,s,low,high\n30001,450015000,"),
            "{name}: {sums}"
        );
        let all = rows_of_both(dir.path(), &format!("select * from '{name}' order by n"));
        assert_eq!(all.lines().count(), 30_002, "{name}");
    }
}

#[test]
fn directories_and_patterns_are_tables() {
    let dir = scratch();
    for n in 0..4 {
        let copy = format!("copy (select {n} as n) to 'dir/{n}.parquet'");
        succeeded(&run(dir.path(), &[&copy]));
    }
    let sum = |from: &str| rows_of_both(dir.path(), &format!("select sum(n) as s from '{from}'"));
    assert_eq!(sum("dir/*.parquet"), "s\n6\n");
    assert_eq!(sum("dir/"), "s\n6\n");
    assert_eq!(sum("dir/[12].parquet"), "s\n3\n");
    assert_eq!(
        sum(&format!("{}/dir/3.parquet", dir.path().display())),
        "s\n3\n"
    );
}

#[test]
fn partitioned_tables_are_written_and_read() {
    let dir = scratch();
    let copy = "copy (select value as n, value % 3 as part from generate_series(1, 9)) \
                to 'table/' stored as parquet partitioned by (part)";
    succeeded(&run(dir.path(), &[copy]));
    assert!(dir.path().join("table/part=2").is_dir());
    let sql = "create external table t stored as parquet partitioned by (part) location 'table/'; \
               select part, sum(n) as s from t where part <> '0' group by part order by part";
    assert_eq!(rows_of_both(dir.path(), sql), "part,s\n1,12\n2,15\n");
}

#[test]
fn rows_are_inserted_into_external_tables() {
    let dir = scratch();
    fs::create_dir(dir.path().join("t")).unwrap();
    let create = "create external table t (a int, b text) stored as csv location 't/' \
                  options ('format.has_header' 'true'); ";
    for args in [&[][..], &["--local"]] {
        let insert = format!("{create} insert into t values (1, 'one'), (2, 'two')");
        succeeded(&run(dir.path(), &[args, &[&insert]].concat()));
    }
    let select = format!("{create} select * from t order by a");
    assert_eq!(
        rows_of_both(dir.path(), &select),
        "a,b\n1,one\n1,one\n2,two\n2,two\n"
    );
}

#[test]
fn uncached_files_are_read_with_direct_io_and_the_report_says_so() {
    let dir = scratch();
    write_parquet(dir.path(), "a.parquet");
    let path = dir.path().join("a.parquet");
    let size = fs::metadata(&path).unwrap().len();
    if !has_direct_io(&path) {
        return;
    }
    let file = fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let (_, report) = succeeded(&run(
        dir.path(),
        &["select count(distinct t) from 'a.parquet'"],
    ));
    let reads = report_line(&report, "reads: direct ");
    assert!(
        !reads.contains("direct 0,") && reads.contains("MiB)"),
        "{size}: {report}"
    );
    assert!(reads.contains("; backend "), "{report}");
    let device = report_line(&report, "device: ");
    assert!(
        device.contains("MiB read") || device.contains("unknown"),
        "{report}"
    );
}

#[test]
fn writes_are_reported() {
    let dir = scratch();
    let copy = "copy (select value from generate_series(1, 1000)) to 'a.csv'";
    let (_, report) = succeeded(&run(dir.path(), &[copy]));
    let writes = report_line(&report, "writes: ");
    assert!(
        writes.starts_with("writes: direct 0, blocking "),
        "{report}"
    );
    let text = fs::read_to_string(dir.path().join("a.csv")).unwrap();
    assert_eq!(text.lines().count(), 1001);
}
