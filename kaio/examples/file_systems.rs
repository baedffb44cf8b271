//! Measures how file systems handle direct I/O that is submitted with kernel AIO, for each class of
//! request: whether `io_submit` blocks, how the kernel answers `RWF_NOWAIT`, and how the submit policies
//! perform. Prints Markdown.
//!
//! ```sh
//! cargo run --release -p tokio-kaio-cli --example file_systems -- /mnt/data "the log's disk=/mnt/log"
//! ```
//!
//! An argument is a directory, or `NAME=DIRECTORY`. The program creates files of a few MiB there, and
//! removes them. Requests have 4 KiB; one is in flight at a time, on one thread.
//! `docs/file-systems.md` explains the columns, and gives advice. The measurements are those of `kaio
//! doctor`, with more requests, classes and policies.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use kaio_cli::request_classes::{
    MeasureSettings, MeasureTarget, NowaitResults, PolicyRun, RequestClass, Result, SubmitStats,
    Verdict, percent, percent_of,
};
use tokio_kaio::SubmitPolicy;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments.is_empty() || arguments.iter().any(|argument| argument.starts_with('-')) {
        eprintln!("usage: file_systems [NAME=]DIRECTORY...");
        return ExitCode::from(2);
    }
    let mut tables = vec![];
    let mut failed = false;
    for argument in &arguments {
        let (name, dir) = argument.split_once('=').unwrap_or((argument, argument));
        match Table::measure(name, Path::new(dir)).await {
            Ok(table) => tables.push(table),
            Err(error) => {
                eprintln!("file_systems: {name}: {error}");
                failed = true;
            }
        }
    }
    print_summary(&tables);
    tables.iter().for_each(Table::print);
    ExitCode::from(u8::from(failed))
}

/// The measurements of one directory.
struct Table {
    name: String,
    rows: Vec<Row>,
}

struct Row {
    class: RequestClass,
    stats: SubmitStats,
    nowait: NowaitResults,
    inline: PolicyRun,
    nowait_first: PolicyRun,
    offload: PolicyRun,
}

impl Table {
    async fn measure(name: &str, dir: &Path) -> Result<Table> {
        eprintln!("measuring: {name}");
        let dir = tempfile::tempdir_in(dir)?;
        let target = MeasureTarget::Scratch(dir.path().into());
        let settings = MeasureSettings::default();
        let run = async |class, policy| PolicyRun::measure(&target, class, settings, policy).await;
        let mut rows = vec![];
        for class in RequestClass::ALL {
            rows.push(Row {
                class,
                stats: SubmitStats::measure(&target, class, settings).await?,
                nowait: NowaitResults::measure(&target, class, settings).await?,
                inline: run(class, SubmitPolicy::Inline).await?,
                nowait_first: run(class, SubmitPolicy::NoWaitFirst).await?,
                offload: run(class, SubmitPolicy::Offload).await?,
            });
        }
        let name = name.to_owned();
        Ok(Table { name, rows })
    }

    fn print(&self) {
        println!("\n### {}\n", self.name);
        println!(
            "| request | submission | slept | in `io_submit` | with `NOWAIT` | slow, `Inline` \
             | refused | offloaded | slow | in `io_submit` | `Inline`, µs | `NoWaitFirst` | `Offload` |\n\
             |---|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"
        );
        for row in &self.rows {
            let Row { stats, inline, .. } = row;
            let default = &row.nowait_first;
            println!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.0} | {:.2} | {:.2} |",
                row.class.name(),
                verdict(stats),
                percent(stats.slept, stats.seen),
                percent_of(stats.share_inside()),
                row.nowait,
                percent(inline.slow, inline.requests),
                percent(default.refused, default.requests),
                percent(default.offloaded, default.requests),
                percent(default.slow, default.requests),
                percent_of(default.share_inside()),
                inline.median.as_secs_f64() * 1e6,
                default.median.as_secs_f64() / inline.median.as_secs_f64(),
                row.offload.median.as_secs_f64() / inline.median.as_secs_f64(),
            );
        }
    }
}

fn print_summary(tables: &[Table]) {
    let names = RequestClass::ALL.map(RequestClass::name).join(" | ");
    println!("| file system | {names} |");
    println!("|---{}|", "|---".repeat(RequestClass::ALL.len()));
    for table in tables {
        print!("| {} |", table.name);
        for row in &table.rows {
            let Row { stats, nowait, .. } = row;
            print!(" {}{}; {nowait} |", verdict(stats), stats.exceptions());
        }
        println!();
    }
}

/// Formats the verdict, and highlights requests that block.
fn verdict(stats: &SubmitStats) -> String {
    match stats.verdict() {
        Verdict::Blocks => "**blocks**".to_owned(),
        other => other.to_string(),
    }
}
