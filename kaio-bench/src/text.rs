//! [`Tables`]: a report as text.

use std::fmt::{self, Display, Formatter};

use crate::report::{EngineReport, Figures, Outcome};
use crate::summary::Summary;
use crate::{Machine, Place, Quantiles, Report, Set, Settings, Spread};

/// A report as tables.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a>(pub &'a Report);

impl Display for Tables<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Tables(report) = self;
        header(f, &report.machine, &report.settings)?;
        for place in &report.places {
            writeln!(f, "{}", line_of(place))?;
        }
        for set in &report.sets {
            write!(f, "\n{}", Table(set))?;
        }
        Ok(())
    }
}

fn header(f: &mut Formatter<'_>, machine: &Machine, settings: &Settings) -> fmt::Result {
    let gib = machine.memory as f64 / (1_u64 << 30) as f64;
    writeln!(f, "date        {}", machine.date)?;
    writeln!(f, "tokio-kaio  {}", machine.tokio_kaio)?;
    writeln!(f, "kernel      {}", machine.kernel)?;
    writeln!(
        f,
        "CPU         {}, {} cores, {gib:.0} GiB of memory",
        machine.cpu, machine.cores
    )?;
    writeln!(
        f,
        "rounds      {} of {} ms, {} with latencies; file of {} MiB; ratios to {}",
        settings.rounds,
        settings.round_ms,
        settings.latency_rounds,
        settings.file_size >> 20,
        settings.baseline
    )?;
    if let Some(share) = machine.others {
        let percent = 100.0 * share;
        writeln!(
            f,
            "others      {percent:.0} % of the machine busy before the start"
        )?;
    }
    Ok(())
}

fn line_of(place: &Place) -> String {
    let Place {
        name,
        file_system,
        source,
        dir,
        device,
    } = place;
    let device = device.as_ref().map_or(String::new(), |d| format!(" ({d})"));
    format!(
        "{name:<11} {file_system} on {source}{device}, {}",
        dir.display()
    )
}

/// One workload's engines, a row each.
pub(crate) struct Table<'a>(pub(crate) &'a Set);

const COLUMNS: [&str; 13] = [
    "CPU ns",
    "user",
    "CPU ratio (quartiles)",
    "machine ns",
    "machine ratio",
    "IOPS",
    "IOPS ratio (quartiles)",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "p99 ratio",
    "calls",
    "allocs",
];

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let engines = &self.0.engines;
        let rows: Vec<_> = engines.iter().filter_map(row).collect();
        let names = engines.iter().map(|report| report.engine.chars().count());
        let first = names.max().unwrap_or_default();
        let widths: Vec<_> = (0..COLUMNS.len())
            .map(|column| {
                let cells = rows.iter().map(|(_, cells)| cells[column].chars().count());
                cells.chain([COLUMNS[column].chars().count()]).max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        let line = |f: &mut Formatter<'_>, name: &str, cells: &[String]| {
            write!(f, "{name:<first$}")?;
            for (cell, width) in cells.iter().zip(&widths) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)
        };
        writeln!(f, "{}", self.0.title())?;
        line(f, "", &COLUMNS.map(String::from))?;
        for (name, cells) in &rows {
            line(f, name, cells)?;
        }
        for report in engines {
            if let Outcome::Skipped { error, .. } = &report.outcome {
                writeln!(f, "{:<first$}  skipped: {error}", report.engine)?;
            }
        }
        Ok(())
    }
}

/// The name and the cells of one that was measured.
fn row(report: &EngineReport) -> Option<(&str, Vec<String>)> {
    let figures = report.figures()?;
    let cells = report
        .summary
        .as_ref()
        .map(|summary| cells(figures, summary));
    let cells = cells.unwrap_or_else(|| vec![NONE.into(); COLUMNS.len()]);
    Some((&report.engine, cells))
}

fn cells(figures: &Figures, summary: &Summary) -> Vec<String> {
    let whole = |spread: Option<Spread>| or_none(spread, |s| format!("{:.0}", s.median));
    let ratio = |spread: Option<Spread>| {
        or_none(spread, |s| {
            format!("{:.2} ({:.2}–{:.2})", s.median, s.q1, s.q3)
        })
    };
    let micros = |nanos: fn(&Quantiles) -> f64| {
        or_none(figures.latency, |latency| {
            format!("{:.1}", nanos(&latency) / 1000.0)
        })
    };
    let count = |count| or_none(count, |count: f64| format!("{:.2}", count + 0.0));
    vec![
        whole(summary.cpu_ns),
        or_none(summary.user_share, |share| {
            format!("{:.0} %", 100.0 * share)
        }),
        ratio(summary.cpu_ratio),
        or_none(summary.machine_ns, |nanos| format!("{nanos:.0}")),
        or_none(summary.machine_ratio, |ratio| format!("{ratio:.2}")),
        whole(summary.iops),
        ratio(summary.iops_ratio),
        micros(|latency| latency.p50_ns),
        micros(|latency| latency.p99_ns),
        micros(|latency| latency.p999_ns),
        or_none(summary.p99_ratio, |s| format!("{:.2}", s.median)),
        count(figures.counts.all_calls()),
        count(figures.counts.allocations),
    ]
}

const NONE: &str = "–";

fn or_none<T>(value: Option<T>, cell: impl FnOnce(T) -> String) -> String {
    value.map_or(NONE.into(), cell)
}
