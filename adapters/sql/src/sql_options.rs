//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::LazyLock;

use clap::{Parser, ValueEnum};
use datafusion::DATAFUSION_VERSION;

use crate::byte_sizes::parse_bytes;

const AFTER_HELP: &str = "\
Without SQL and FILE, statements are read from standard input: line by line with history and completion on a \
terminal, as a script otherwise.

After each statement, a report goes to standard error: rows, times, and how files were read. --quiet leaves \
it out.

Exit code: 0 if all statements succeeded, 1 if one failed, 2 for a wrong command line, 130 after Ctrl-C.";

const AFTER_LONG_HELP: &str = "\
EXAMPLES
  kaio-sql \"select count(*) from '/data/*.parquet'\"
      Files, directories and patterns are tables. Types follow from the names.

  kaio-sql --cold --quiet --format csv \"select a, b from 'data.parquet'\" > out.csv

  kaio-sql --cold -f queries.sql; kaio-sql --cold --local -f queries.sql
      Compares the store with LocalFileSystem.

  kaio-sql \"copy (select * from 'data.csv' order by a) to 'data.parquet'\"

ENVIRONMENT
  DATAFUSION_EXECUTION_BATCH_SIZE and others set options of DataFusion, as --set does.
  XDG_STATE_HOME: the history is in kaio-sql/history there, by default in ~/.local/state.

EXIT CODE
  0 if all statements succeeded, 1 if one failed (further ones do not run), 2 for a wrong command
  line or setting, 128 plus the number of the signal that cancelled a statement (130: Ctrl-C).
  It is 0, too, if the reader of the output has ended, as in `kaio-sql … | head`.";

/// Runs SQL on local files with DataFusion, which reads and writes them with Linux kernel AIO.
#[derive(Debug, Parser)]
#[command(name = "kaio-sql", version = VERSION.as_str())]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP)]
pub(crate) struct CommandLine {
    /// Statements, separated by semicolons; `-` reads them from standard input
    #[arg(value_name = "SQL")]
    pub(crate) statements: Vec<String>,

    /// Runs the statements of a file, before those of the command line; `-` is standard input
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Reads and writes with LocalFileSystem, as DataFusion does by default, for comparison
    #[arg(long)]
    pub(crate) local: bool,

    /// Does not read row groups of Parquet files ahead
    #[arg(long, conflicts_with = "local")]
    pub(crate) no_prefetch: bool,

    /// Evicts the files of each query from the page cache before it runs
    ///
    /// The files are known when the query is planned. Planning reads the metadata of Parquet files, and the
    /// first lines of CSV and JSON files, so that much is read before the eviction. Files that have not been
    /// written to the disk yet are written first. The time of all this is not reported.
    #[arg(long)]
    pub(crate) cold: bool,

    /// Prints the plan of each query with the metrics of its run to standard error
    ///
    /// The plan is that of the run whose result is printed. The query does not run twice, as it would with
    /// EXPLAIN ANALYZE.
    #[arg(long)]
    pub(crate) explain: bool,

    /// Format of the results
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Table)]
    pub(crate) format: OutputFormat,

    /// Rows of a table that are shown, or `all`; other formats have all rows
    ///
    /// These rows are kept in memory until the query ends. Other formats are written as the rows come.
    #[arg(long, value_name = "ROWS", default_value = "40")]
    pub(crate) max_rows: RowLimit,

    /// Prints results and errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Limit of DataFusion's memory for sorts, joins and groups, such as 512M or 1.5G
    ///
    /// Sorts and groups that need more are spilled to temporary files. Buffers of reads are not part of it.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) memory_limit: Option<usize>,

    /// Partitions that a query is run in [default: the number of CPUs]
    #[arg(long, value_name = "NUMBER", value_parser = parse_partitions)]
    pub(crate) partitions: Option<NonZeroUsize>,

    /// Sets an option of DataFusion, such as datafusion.execution.batch_size=4096
    ///
    /// `show all` lists the options. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) settings: Vec<(String, String)>,
}

impl CommandLine {
    /// Whether the command line has statements or files to run.
    pub(crate) fn has_statements(&self) -> bool {
        !self.statements.is_empty() || !self.files.is_empty()
    }
}

/// Format of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A table for people
    Table,
    /// An array of objects
    Json,
    /// An object per line
    Ndjson,
    /// Values separated by commas, with a header
    Csv,
    /// Values separated by tabs, with a header
    Tsv,
}

/// Number of rows of a table that are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowLimit(pub(crate) usize);

impl FromStr for RowLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<RowLimit, String> {
        match text.parse() {
            Ok(rows) => Ok(RowLimit(rows)),
            Err(_) if text.eq_ignore_ascii_case("all") => Ok(RowLimit(usize::MAX)),
            Err(_) => Err("expected a number of rows, or `all`".into()),
        }
    }
}

fn parse_partitions(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "expected a number of partitions, at least 1".into())
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.into())),
        _ => Err("expected KEY=VALUE, such as datafusion.execution.batch_size=4096".into()),
    }
}

/// The version of this program, and that of DataFusion.
pub(crate) static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (DataFusion {DATAFUSION_VERSION})",
        env!("CARGO_PKG_VERSION")
    )
});

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
