//! [`CommandLine`]: the options.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kaio_tpch::{Codec, ParquetOptions};

use crate::results::Store;

/// Compares DataFusion over kaio-object-store with DataFusion over LocalFileSystem.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Generate the data if it is missing, measure, and print a line for each work
    Run(RunArguments),
    /// Make the tables and images of a page from results
    Render(RenderArguments),
    /// Run passes over the data in a cgroup (started by `run`)
    #[command(hide = true)]
    Passes(PassesArguments),
}

#[derive(Args, Debug)]
pub(crate) struct RunArguments {
    /// Directory of the data; data of the same scale and form is used again
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,

    /// Scale of the data: 1 is about 250 MB
    #[arg(long, default_value_t = 1.0)]
    pub(crate) scale: f64,

    /// Rounds of each store, after one that is not counted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// Work to measure, by its name (`q6`, `scan-all`): may be given more than once
    #[arg(long = "only", value_name = "NAME")]
    pub(crate) only: Vec<String>,

    /// Also measure kaio-object-store without prefetching row groups
    #[arg(long)]
    pub(crate) without_prefetch: bool,

    /// Partitions of each query; the number of CPUs by default
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) partitions: Option<u16>,

    /// Measure only with data that is not in the page cache
    #[arg(long)]
    pub(crate) cold_only: bool,

    /// Passes over data with a limit of memory, in each of two rounds; 0: none. Needs root
    #[arg(long, default_value_t = 2)]
    pub(crate) passes: u32,

    /// Scale of the data of these passes; four times that of the other data by default
    #[arg(long, value_name = "SCALE")]
    pub(crate) limited_scale: Option<f64>,

    /// Limit of memory for these passes in MiB; a third of their data by default, but not below 256 MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) limit: Option<u64>,

    /// Rows of a row group
    #[arg(long, default_value_t = 256 << 10, value_parser = at_least_one)]
    pub(crate) row_group_rows: usize,

    /// Files of a table
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) files: u32,

    /// Compression: zstd, snappy or none
    #[arg(long, default_value_t = Codec::Zstd)]
    pub(crate) codec: Codec,

    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// List the work
    #[arg(long)]
    pub(crate) list: bool,
}

impl RunArguments {
    pub(crate) fn form(&self) -> ParquetOptions {
        ParquetOptions::default()
            .with_codec(self.codec)
            .with_row_group_rows(self.row_group_rows)
            .with_files(self.files)
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: usize = text
        .parse()
        .map_err(|error| format!("{error}; give a number of rows"))?;
    match number {
        0 => Err("a row group has at least one row".into()),
        number => Ok(number),
    }
}

#[derive(Args, Debug)]
pub(crate) struct RenderArguments {
    /// Results of `run`
    #[arg(long, value_name = "FILE")]
    pub(crate) tpch: PathBuf,

    /// Results of kaio-object-store-bench
    #[arg(long, value_name = "FILE")]
    pub(crate) object_store: PathBuf,

    /// Page whose marked blocks are replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) page: PathBuf,

    /// Directory of the images
    #[arg(long, value_name = "DIR")]
    pub(crate) images: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct PassesArguments {
    #[arg(long)]
    pub(crate) store: Store,

    #[arg(long)]
    pub(crate) data: PathBuf,

    #[arg(long)]
    pub(crate) cgroup: PathBuf,

    #[arg(long)]
    pub(crate) passes: u32,

    #[arg(long)]
    pub(crate) partitions: usize,
}
