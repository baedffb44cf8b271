//! Data sets on disk.

use std::fs;
use std::path::Path;

use datafusion::arrow::array::Int64Array;
use datafusion::prelude::SessionContext;
use kaio_tpch::{Codec, ParquetOptions, TABLES, data_set, register_tables, write_parquet};

async fn count(session: &SessionContext, table: &str) -> i64 {
    let query = format!("select count(*) from {table}");
    let batches = session.sql(&query).await.unwrap().collect().await.unwrap();
    let column = batches[0].column(0).as_any().downcast_ref::<Int64Array>();
    column.unwrap().value(0)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

#[tokio::test]
async fn tables_have_the_rows_of_their_scale_in_any_number_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let options = ParquetOptions::default()
        .with_codec(Codec::Snappy)
        .with_row_group_rows(1_000);
    let mut counts = Vec::new();
    for files in [1, 3] {
        let dir = dir.path().join(files.to_string());
        write_parquet(&dir, 0.01, options.with_files(files)).unwrap();
        let session = SessionContext::new();
        register_tables(&session, &dir).await.unwrap();
        let mut of_tables = Vec::new();
        for table in TABLES {
            of_tables.push(count(&session, table).await);
        }
        counts.push(of_tables);
        let is = names(&dir.join("lineitem"));
        let expected = (1..=files).map(|part| format!("lineitem-{part}.parquet"));
        assert_eq!(is, expected.collect::<Vec<_>>());
        assert_eq!(names(&dir.join("nation")), ["nation-1.parquet"]);
    }
    // The number of order lines is random, but always the same.
    let expected = [25, 5, 2_000, 100, 8_000, 1_500, 15_000, 60_175];
    assert_eq!(counts, [expected, expected]);
}

#[test]
fn a_data_set_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = ParquetOptions::default();
    let first = data_set(dir.path(), 0.001, options).unwrap();
    let file = first.join("orders/orders-1.parquet");
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(data_set(dir.path(), 0.001, options).unwrap(), first);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
    let other = data_set(dir.path(), 0.002, options).unwrap();
    assert_ne!(other, first);
    assert_eq!(names(dir.path()).len(), 2); // and nothing else
}

#[test]
fn errors_name_the_directory_or_the_scale() {
    let dir = tempfile::tempdir().unwrap();
    let options = ParquetOptions::default();
    write_parquet(dir.path(), 0.001, options).unwrap();
    let again = write_parquet(dir.path(), 0.001, options).unwrap_err();
    assert!(again.to_string().contains(dir.path().to_str().unwrap()));
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = write_parquet(&dir.path().join("new"), scale, options).unwrap_err();
        assert!(error.to_string().contains("scale"), "{error}");
    }
    assert!(!dir.path().join("new").exists());
    let missing = dir.path().join("missing");
    let error = data_set(&missing, 0.001, options).unwrap_err();
    assert!(error.to_string().contains(missing.to_str().unwrap()));
}

#[test]
fn a_codec_has_a_name_that_is_parsed() {
    for codec in [Codec::Zstd, Codec::Snappy, Codec::Uncompressed] {
        assert_eq!(codec.to_string().parse(), Ok(codec));
    }
    let error = "lzo".parse::<Codec>().unwrap_err();
    assert!(error.contains("lzo") && error.contains("snappy"));
}
