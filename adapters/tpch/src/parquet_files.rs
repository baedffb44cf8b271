//! [`write_parquet`] and [`data_set`]: data sets on disk.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use datafusion::common::exec_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;

use crate::table_data::batches;
use crate::{ParquetOptions, TABLES};

/// Writes all tables: `dir/TABLE/TABLE-1.parquet` and so on. Creates `dir` if it is missing.
///
/// It uses as many threads as the process has CPUs, and blocks. It does not sync the files.
///
/// # Errors
///
/// - `scale` is not above 0.
/// - A directory of a table exists.
/// - Errors of writing the files. The files that are there by then stay.
pub fn write_parquet(dir: &Path, scale: f64, options: ParquetOptions) -> Result<()> {
    if !(scale.is_finite() && scale > 0.0) {
        return exec_err!("the scale of a data set is above 0, not {scale}");
    }
    fs::create_dir_all(dir).map_err(|error| failed(dir, error.into()))?;
    let mut files = Vec::new();
    // The largest table first, so that all threads have work until the end.
    for table in TABLES.into_iter().rev() {
        let dir = dir.join(table);
        fs::create_dir(&dir).map_err(|error| failed(&dir, error.into()))?;
        let parts = options.files_of(table);
        files.extend((1..=parts).map(|part| TableFile {
            path: dir.join(format!("{table}-{part}.parquet")),
            table,
            part,
            parts,
        }));
    }
    let next = AtomicUsize::new(0);
    let write_files = || -> Result<()> {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let written = file.write(scale, options);
            written.map_err(|error| failed(&file.path, error))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..count.min(files.len()))
            .map(|_| scope.spawn(write_files))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// Returns the directory of a data set in `parent`, and writes the set if it is not there. The name of the
/// directory has the scale and the options. A set appears under its name when it is whole, so an interrupted
/// call leaves none that is incomplete.
///
/// # Errors
///
/// As [`write_parquet`], and if `parent` does not exist.
pub fn data_set(parent: &Path, scale: f64, options: ParquetOptions) -> Result<PathBuf> {
    let dir = parent.join(format!("tpch-{scale}-{options}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    let new = tempfile::Builder::new()
        .prefix("tpch-")
        .tempdir_in(parent)
        .map_err(|error| failed(parent, error.into()))?;
    write_parquet(new.path(), scale, options)?;
    match fs::rename(new.path(), &dir) {
        Ok(()) => {
            let _renamed = new.keep();
        }
        // Another process was faster.
        Err(error) if is_taken(&error) && dir.is_dir() => {}
        Err(error) => return Err(failed(&dir, error.into())),
    }
    Ok(dir)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty
    )
}

/// A file to be written.
struct TableFile {
    path: PathBuf,
    table: &'static str,
    part: u32,
    parts: u32,
}

impl TableFile {
    fn write(&self, scale: f64, options: ParquetOptions) -> Result<()> {
        let batches = batches(self.table, scale, self.part, self.parts)?;
        let properties = WriterProperties::builder()
            .set_compression(options.compression())
            .set_max_row_group_row_count(Some(options.row_group_rows()))
            .build();
        let file = File::create(&self.path)?;
        let schema = Arc::clone(batches.schema());
        let mut writer = ArrowWriter::try_new(file, schema, Some(properties))?;
        for batch in batches {
            writer.write(&batch)?;
        }
        writer.close()?;
        Ok(())
    }
}

fn failed(path: &Path, error: DataFusionError) -> DataFusionError {
    error.context(format!("can't write {}", path.display()))
}
