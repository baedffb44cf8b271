//! Directories to test in, and tables in them.

use std::fs::{self, File};
use std::path::Path;

use kaio_tpch::ParquetOptions;
use rustix::fs::{Advice, fadvise};
use tempfile::TempDir;

/// A directory on the disk of the build.
pub(crate) fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Writes the tables of TPC-H, with several files and row groups, that are not in the page cache.
pub(crate) fn write_tables(dir: &Path) {
    let options = ParquetOptions::default()
        .with_files(2)
        .with_row_group_rows(4 << 10);
    kaio_tpch::write_parquet(dir, 0.01, options).unwrap();
    for table in kaio_tpch::TABLES {
        for entry in fs::read_dir(dir.join(table)).unwrap() {
            let file = File::open(entry.unwrap().path()).unwrap();
            file.sync_all().unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}
