//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use tempfile::TempDir;

/// Runs TPC-H queries on a Ballista cluster of processes on this machine, which read local files with Linux
/// kernel AIO, and checks the answers
#[derive(Debug, Parser)]
#[command(
    name = "cluster",
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct ClusterOptions {
    /// Numbers of the TPC-H queries to run, separated by commas [default: all 22]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = RangedU64ValueParser::<u8>::new().range(1..=22),
        default_values_t = 1..=22,
        hide_default_value = true
    )]
    pub(crate) queries: Vec<u8>,

    /// Size of the data: 1 has six million lines of orders, about 400 MB
    #[arg(long, value_name = "FACTOR", default_value_t = 0.01, value_parser = scale)]
    pub(crate) scale: f64,

    /// Number of executors
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=64)
    )]
    pub(crate) executors: usize,

    /// Read through LocalFileSystem on the cluster, too, to compare
    #[arg(long)]
    pub(crate) local: bool,

    /// The query in the middle of which an executor is killed
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 9,
        value_parser = RangedU64ValueParser::<u8>::new().range(1..=22)
    )]
    pub(crate) kill_query: u8,

    /// Kill no executor
    #[arg(long)]
    pub(crate) no_kill: bool,

    /// Limit for each query, in seconds, including the time until the scheduler gives up a lost executor
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) time_limit: u64,

    /// Keep the data in this directory, and use what is there of the same scale
    #[arg(long, value_name = "DIR")]
    pub(crate) keep_data: Option<PathBuf>,

    /// Create the temporary directory here, with the data and the work directories of the executors
    /// [default: $TMPDIR, or /tmp]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// What a process of the cluster is. The example starts these itself.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
pub(crate) enum Role {
    /// The scheduler
    #[command(hide = true)]
    Scheduler(SchedulerOptions),
    /// An executor
    #[command(hide = true)]
    Executor(ExecutorOptions),
}

#[derive(Debug, Args)]
pub(crate) struct SchedulerOptions {
    /// The directory that the scheduler removes if the process that started it has gone
    #[arg(long)]
    pub(crate) root: PathBuf,
    #[arg(long)]
    pub(crate) local: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExecutorOptions {
    #[arg(long)]
    pub(crate) name: String,
    #[arg(long)]
    pub(crate) scheduler_port: u16,
    #[arg(long)]
    pub(crate) work_dir: PathBuf,
    #[arg(long)]
    pub(crate) local: bool,
}

impl ClusterOptions {
    pub(crate) fn time_limit(&self) -> Duration {
        Duration::from_secs(self.time_limit)
    }

    pub(crate) fn kills_executor(&self) -> bool {
        !self.no_kill && self.executors > 1
    }

    pub(crate) fn temp_dir(&self) -> crate::Result<TempDir> {
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new()
            .prefix("kaio-cluster-")
            .tempdir_in(&parent);
        let dir = dir.map_err(|error| {
            format!(
                "no temporary directory in {}: {error}; give another by --dir",
                parent.display()
            )
        });
        Ok(dir?)
    }
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if scale > 0.0 && f64::is_finite(scale) => Ok(scale),
        _ => Err("the scale is a number above 0, such as 0.01".to_owned()),
    }
}
