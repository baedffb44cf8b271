//! What file systems do with direct I/O that is submitted with kernel AIO, class of request by class
//! of request: whether the submission waits, what `RWF_NOWAIT` is answered, and what the submit
//! policies make of it. Prints Markdown.
//!
//! ```sh
//! cargo run --release -p tokio-kaio-cli --example file_systems -- /mnt/data "the log's disk=/mnt/log"
//! ```
//!
//! An argument is a directory, or a name for it, `=`, and the directory. Files of a few MiB are made
//! there, and removed. Requests are of 4 KiB, one at a time, on one thread. What the columns mean,
//! and what to do about it, is in `docs/file-systems.md`. The measuring is `kaio doctor`'s, with more
//! requests, classes and policies.

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
    let offsets: Vec<_> = env::args().skip(1).collect();
    if offsets.is_empty() || offsets.iter().any(|place| place.starts_with('-')) {
        eprintln!("usage: file_systems [NAME=]DIRECTORY...");
        return ExitCode::from(2);
    }
    let mut tables = vec![];
    let mut failed = false;
    for place in &offsets {
        let (name, dir) = place.split_once('=').unwrap_or((place, place));
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

/// What is measured of one directory.
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

/// With what is to be seen at first sight.
fn verdict(stats: &SubmitStats) -> String {
    match stats.verdict() {
        Verdict::Blocks => "**blocks**".to_owned(),
        other => other.to_string(),
    }
}
