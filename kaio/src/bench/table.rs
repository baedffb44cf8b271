//! [`text`]: the results as text; and [`cells`], which the HTML page has, too.

use std::fmt::Write;

use kaio_bench::{Disk, Spread};

use super::results::{Results, Row, RowFigures, TargetFacts};
use super::target::Kind;
use crate::columns::Columns;
use crate::units::bytes;

/// The columns of figures.
pub(super) const COLUMNS: [&str; 10] = [
    "IOPS",
    "MiB/s",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "max µs",
    "CPU µs/op",
    "calls/op",
    "IOPS ×",
    "CPU ×",
];

/// What the last two columns mean, and what else is to be known of the table.
pub(super) fn notes(results: &Results) -> Vec<String> {
    let baseline = &results.settings.baseline;
    let has_ratios = |row: &Row| row.figures.as_ref()?.iops_ratio;
    let mut notes = vec![match results.rows.iter().find_map(has_ratios) {
        Some(_) => format!(
            "×: to {baseline} in the same round, medians of the rounds. More IOPS and less CPU is \
             better."
        ),
        None => format!(
            "×: there are no ratios, which would be to {baseline}; --engines chooses another first."
        ),
    }];
    if !results.settings.direct {
        notes.push(
            "Through the page cache AIO is not asynchronous: io_submit does all of a request, and its \
             thread waits for what is not cached."
                .into(),
        );
    }
    let engines = || results.rows.iter().filter(|row| row.figures.is_some());
    if results.settings.direct && engines().any(|row| row.engine == "tokio-fs") {
        notes.push(
            "tokio-fs goes through the page cache: it does another job, mostly without the disk."
                .into(),
        );
    }
    notes.extend(widest(results));
    let asked = results.settings.rounds;
    let rounds = engines().filter_map(|row| Some(row.figures.as_ref()?.rounds));
    match rounds.min() {
        Some(fewest) if fewest < asked => notes.push(format!(
            "There was time for {fewest} of {asked} rounds only; a longer --runtime has more."
        )),
        _ => {}
    }
    let mut figures = engines().filter_map(|row| row.figures.as_ref());
    if figures.any(|figures| figures.system_calls.is_none()) {
        notes.push(
            "calls/op: – where there was no time left to count, or it can't be done; a longer \
             --runtime may have them."
                .into(),
        );
    }
    match results.machine.others {
        Some(share) if share > 0.1 => notes.push(format!(
            "The machine was {:.0} % busy with something else: figures are less sure.",
            100.0 * share
        )),
        _ => {}
    }
    notes
}

/// How sure the ratios are, where they are not.
fn widest(results: &Results) -> Option<String> {
    /// Of the median.
    const WIDE: f64 = 0.2;
    let ratios = |row: &Row| {
        let figures = row.figures.as_ref()?;
        Some([("IOPS", figures.iops_ratio?), ("CPU", figures.cpu_ratio?)])
    };
    let all = results
        .rows
        .iter()
        .filter_map(|row| Some((row, ratios(row)?)));
    let all = all.flat_map(|(row, ratios)| ratios.map(|(name, it)| (row, name, it)));
    let width = |it: &Spread| (it.q3 - it.q1) / it.median;
    let wide = all.filter(|(_, _, it)| width(it) > WIDE);
    let (row, name, it) = wide.max_by(|a, b| width(&a.2).total_cmp(&width(&b.2)))?;
    Some(format!(
        "Rounds differ: half of the {name} × of {} at depth {} are outside of {:.2} to {:.2}. A longer \
         --runtime and a quiet machine have surer figures.",
        row.engine, row.depth, it.q1, it.q3
    ))
}

/// The answer to what most ask: tokio-kaio against the blocking pool, at the last depth that has both.
pub(super) fn in_short(results: &Results) -> Option<String> {
    if results.settings.baseline != "tokio-kaio" {
        return None;
    }
    let is_pool = |row: &&Row| row.engine == "blocking-pool" && row.figures.is_some();
    let row = results.rows.iter().rev().find(is_pool)?;
    let figures = row.figures.as_ref()?;
    let [iops, cpu] = [figures.iops_ratio?, figures.cpu_ratio?].map(|it| 1.0 / it.median);
    let depth = row.depth;
    Some(format!(
        "In short: at depth {depth}, tokio-kaio makes {iops:.2} times the operations a second of the \
         blocking pool, for {cpu:.2} of its CPU each."
    ))
}

/// What was measured, and on what: a name and a value each.
pub(super) fn facts(results: &Results) -> Vec<(&'static str, String)> {
    let Results {
        machine,
        target,
        settings,
        limits,
        ..
    } = results;
    let mix = settings
        .mix
        .map_or(String::new(), |mix| format!(", {mix} % reads"));
    let how = if settings.direct {
        "direct"
    } else {
        "buffered"
    };
    let number = |number: Option<u64>| number.map_or("?".into(), |n| n.to_string());
    vec![
        (
            "workload",
            format!("{} of {}{mix}, {how}", settings.rw, bytes(settings.block)),
        ),
        ("file", file(target)),
        ("on", place(target)),
        ("alignment", alignment(target)),
        ("kernel", machine.kernel.clone()),
        (
            "machine",
            format!(
                "{}, {} cores, {} of memory",
                machine.cpu,
                machine.cores,
                bytes(machine.memory)
            ),
        ),
        (
            "limits",
            format!(
                "fs.aio-nr {} of {}; RLIMIT_MEMLOCK {}",
                number(limits.aio_nr),
                number(limits.aio_max_nr),
                limits.memlock
            ),
        ),
        (
            "rounds",
            format!(
                "{} of {} ms, {} more with latencies, seed {}",
                settings.rounds, settings.round_ms, settings.latency_rounds, settings.seed
            ),
        ),
        (
            "date",
            format!("{}, tokio-kaio {}", machine.date, machine.tokio_kaio),
        ),
    ]
}

fn file(target: &TargetFacts) -> String {
    let size = bytes(target.bytes);
    match target.kind {
        Kind::Scratch => format!("scratch, {size}"),
        Kind::File => format!("{}, {size} of it", target.path.display()),
        Kind::BlockDevice => format!("{}, a block device, {size} of it", target.path.display()),
    }
}

fn place(target: &TargetFacts) -> String {
    let mounted = target.file_system.as_ref().zip(target.source.as_ref());
    let mounted = mounted.map(|(file_system, source)| format!("{file_system} on {source}"));
    let device = target.device.as_ref().map(Disk::to_string);
    let both: Vec<_> = mounted.into_iter().chain(device).collect();
    both.join("; ")
}

fn alignment(target: &TargetFacts) -> String {
    match &target.alignment {
        None => "none, through the page cache".into(),
        Some(of) => format!("memory {}, offset {}; {}", of.memory, of.offset, of.source),
    }
}

/// The whole of it.
pub(super) fn text(results: &Results) -> String {
    let mut text = String::new();
    let mut line = |line: &str| writeln!(text, "{line}").expect("a string takes all");
    for (name, value) in facts(results) {
        line(&format!("{name:<11}{value}"));
    }
    for (depth, rows) in results.depths() {
        line("");
        line(table(depth, rows).trim_end());
        for row in rows {
            if let Some(skipped) = &row.skipped {
                line(&format!("{}: skipped: {}", row.engine, skipped.error));
            }
        }
    }
    line("");
    in_short(results).iter().for_each(|short| line(short));
    notes(results).iter().for_each(|note| line(note));
    text
}

fn table(depth: u16, rows: &[Row]) -> String {
    let head = std::iter::once(format!("depth {depth}"));
    let head = head.chain(COLUMNS.map(String::from)).collect();
    let measured = rows.iter().filter_map(|row| {
        let cells = cells(row.figures.as_ref()?);
        Some(std::iter::once(row.engine.clone()).chain(cells).collect())
    });
    let table: Vec<_> = std::iter::once(head).chain(measured).collect();
    Columns(&table).to_string()
}

/// The figures of a row, as text.
pub(super) fn cells(figures: &RowFigures) -> [String; COLUMNS.len()] {
    let ratio = |spread: Option<Spread>| or_none(spread.map(|s| format!("{:.2}", s.median)));
    let latency = figures.latency;
    let micros = |micros: Option<f64>| or_none(micros.map(|micros| format!("{micros:.1}")));
    [
        or_none(figures.iops.map(|s| format!("{:.0}", s.median))),
        or_none(figures.mib_per_second.map(|rate| format!("{rate:.1}"))),
        micros(latency.map(|latency| latency.p50)),
        micros(latency.map(|latency| latency.p99)),
        micros(latency.map(|latency| latency.p99_9)),
        micros(latency.and_then(|latency| latency.max)),
        or_none(figures.cpu.map(|s| format!("{:.2}", s.median))),
        or_none(figures.system_calls.map(|calls| format!("{calls:.2}"))),
        ratio(figures.iops_ratio),
        ratio(figures.cpu_ratio),
    ]
}

fn or_none(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "–".into())
}
