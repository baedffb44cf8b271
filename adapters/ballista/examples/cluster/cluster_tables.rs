//! [`TableData`]: the tables of TPC-H as files.

use std::fmt;
use std::fs::{self, File};
use std::io::IoSliceMut;
use std::path::{Path, PathBuf};

use datafusion::prelude::SessionContext;
use kaio_tpch::ParquetOptions;
use rustix::fs::{Advice, OFlags, fadvise};
use rustix::io::ReadWriteFlags;

use crate::Result;
use crate::cluster_options::ClusterOptions;

/// A directory with a subdirectory for each table.
pub(crate) struct TableData {
    dir: PathBuf,
    files: Vec<PathBuf>,
    bytes: u64,
    scale: f64,
}

/// Files of at least this size are read from the device, where that is possible.
const LARGE: u64 = 256 << 10;

impl TableData {
    /// Writes the files, in several parts and row groups, or uses those that are kept.
    pub(crate) async fn generate(options: &ClusterOptions, root: &Path) -> Result<TableData> {
        let scale = options.scale;
        // At any scale, each table of some size has several row groups for each task.
        let row_group_rows = ((scale * 1e6) as usize).clamp(1 << 10, 256 << 10);
        let form = ParquetOptions::default()
            .with_files(4)
            .with_row_group_rows(row_group_rows);
        let (parent, kept) = match &options.keep_data {
            Some(dir) => (dir.clone(), true),
            None => (root.join("data"), false),
        };
        let dir = tokio::task::spawn_blocking(move || -> Result<PathBuf> {
            fs::create_dir_all(&parent)
                .map_err(|error| format!("{}: {error}", parent.display()))?;
            match kept {
                true => Ok(kaio_tpch::data_set(&parent, scale, form)?),
                false => {
                    kaio_tpch::write_parquet(&parent, scale, form)?;
                    Ok(parent)
                }
            }
        });
        let dir = fs::canonicalize(dir.await??)?;
        let (mut files, mut bytes) = (Vec::new(), 0);
        for table in kaio_tpch::TABLES {
            for entry in fs::read_dir(dir.join(table))? {
                let entry = entry?;
                bytes += entry.metadata()?.len();
                files.push(entry.path());
            }
        }
        Ok(TableData {
            dir,
            files,
            bytes,
            scale,
        })
    }

    pub(crate) async fn register(&self, session: &SessionContext) -> Result<()> {
        Ok(kaio_tpch::register_tables(session, &self.dir).await?)
    }

    /// Removes the files from the page cache.
    pub(crate) fn evict(&self) -> Result<()> {
        for path in &self.files {
            let file = File::open(path)?;
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }

    /// Returns whether large files have to be read from the device with direct I/O, after they were removed
    /// from the page cache. There are none at a very small scale, and on tmpfs.
    pub(crate) fn needs_direct_reads(&self) -> Result<bool> {
        self.evict()?;
        let mut cold = false;
        for path in &self.files {
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            if len >= LARGE {
                let direct = rustix::fs::open(
                    path,
                    OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                );
                let mut byte = [0];
                // Fails with EAGAIN if the byte is not in the page cache.
                let read = rustix::io::preadv2(
                    &file,
                    &mut [IoSliceMut::new(&mut byte)],
                    len / 2,
                    ReadWriteFlags::NOWAIT,
                );
                cold |= direct.is_ok() && read == Err(rustix::io::Errno::AGAIN);
            }
        }
        Ok(cold)
    }
}

impl fmt::Display for TableData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TPC-H at scale {}, {} files, {:.1} MB, in {}",
            self.scale,
            self.files.len(),
            self.bytes as f64 / 1e6,
            self.dir.display(),
        )
    }
}
