//! [`Tables`]: formats a report as text.

use std::fmt::{self, Display, Formatter};

use crate::bench_report::{EngineReport, Figures, Outcome};
use crate::engine_summary::Summary;
use crate::{Machine, Place, Quantiles, Report, ResultSet, Settings, Spread};

/// Formats a report as tables.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a>(pub &'a Report);

impl Display for Tables<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Tables(report) = self;
        header(f, &report.machine, &report.settings, &report.places)?;
        for set in &report.sets {
            write!(f, "\n{}", Table(set))?;
        }
        Ok(())
    }
}

/// Writes the machine, the settings and the places.
pub(crate) fn header(
    f: &mut Formatter<'_>,
    machine: &Machine,
    settings: &Settings,
    places: &[Place],
) -> fmt::Result {
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
    for place in places {
        writeln!(f, "{}", line_of(place))?;
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

/// Formats one result set, with a row for each engine.
pub(crate) struct Table<'a>(pub(crate) &'a ResultSet);

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
    "p99 ratio (quartiles)",
    "calls",
    "allocs",
];

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.0.title())?;
        rows(f, &COLUMNS, &self.0.engines, |report| {
            Some((row(report)?, String::new()))
        })
    }
}

/// Writes a header and a row for each engine. `row` returns the cells of a measured engine, and text to
/// append to its row.
pub(crate) fn rows<const N: usize>(
    f: &mut Formatter<'_>,
    columns: &[&str; N],
    engines: &[EngineReport],
    row: impl Fn(&EngineReport) -> Option<([String; N], String)>,
) -> fmt::Result {
    let named = |report: &EngineReport| Some((report.engine.clone(), row(report)?));
    let rows: Vec<_> = engines.iter().filter_map(named).collect();
    let names = engines.iter().map(|report| report.engine.chars().count());
    let first = names.max().unwrap_or_default();
    let widths: [_; N] = std::array::from_fn(|column| {
        let cells = rows
            .iter()
            .map(|(_, (cells, _))| cells[column].chars().count());
        cells.fold(columns[column].chars().count(), usize::max)
    });
    let line = |f: &mut Formatter<'_>, name: &str, cells: &[String; N], more: &str| {
        write!(f, "{name:<first$}")?;
        for (cell, width) in cells.iter().zip(&widths) {
            write!(f, "  {cell:>width$}")?;
        }
        match more {
            "" => writeln!(f),
            more => writeln!(f, "  {more}"),
        }
    };
    line(f, "", &columns.map(String::from), "")?;
    for (name, (cells, more)) in &rows {
        line(f, name, cells, more)?;
    }
    for report in engines {
        if let Outcome::Skipped { error, .. } = &report.outcome {
            writeln!(f, "{:<first$}  skipped: {error}", report.engine)?;
        }
    }
    Ok(())
}

/// The cells of a measured engine.
fn row(report: &EngineReport) -> Option<[String; COLUMNS.len()]> {
    let figures = report.figures()?;
    let summary = report.summary.as_ref();
    let cells = summary.map(|summary| cells(figures, summary));
    Some(cells.unwrap_or_else(|| COLUMNS.map(|_| NONE.into())))
}

fn cells(figures: &Figures, summary: &Summary) -> [String; COLUMNS.len()] {
    let whole = |spread: Option<Spread>| or_none(spread, |s| format!("{:.0}", s.median));
    let micros = |nanos: fn(&Quantiles) -> f64| {
        or_none(figures.latency, |latency| {
            format!("{:.1}", nanos(&latency) / 1000.0)
        })
    };
    [
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
        ratio(summary.p99_ratio),
        count(figures.counts.all_calls()),
        count(figures.counts.allocations),
    ]
}

/// Formats a median with its quartiles.
pub(crate) fn ratio(spread: Option<Spread>) -> String {
    or_none(spread, |s| {
        format!("{:.2} ({:.2}–{:.2})", s.median, s.q1, s.q3)
    })
}

/// Formats a count per transfer.
pub(crate) fn count(count: Option<f64>) -> String {
    or_none(count, |count| format!("{:.2}", count + 0.0))
}

pub(crate) const NONE: &str = "–";

pub(crate) fn or_none<T>(value: Option<T>, cell: impl FnOnce(T) -> String) -> String {
    value.map_or(NONE.into(), cell)
}
