//! [`text`]: formats the results as text. [`cells`] formats figures for the HTML page, too.

use std::fmt::Write;

use kaio_bench::{Disk, Spread};

use super::bench_results::{BenchResults, Row, RowFigures, TargetFacts};
use super::bench_target::Kind;
use crate::columns::Columns;
use crate::stdio::wrap;
use crate::units::format_bytes;

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

/// Notes on the table, which say what its last two columns mean.
pub(super) fn notes(results: &BenchResults) -> Vec<String> {
    let baseline = &results.settings.baseline;
    let has_ratios = |row: &Row| row.figures.as_ref()?.iops_ratio;
    let mut notes = vec![match results.rows.iter().find_map(has_ratios) {
        Some(_) => format!(
            "×: ratio to {baseline} in the same round, median over the rounds. More IOPS and less CPU \
             is better."
        ),
        None => format!(
            "×: there are no ratios, because {baseline} has no results; use --engines to put another \
             engine first."
        ),
    }];
    if !results.settings.direct {
        notes.push(
            "Through the page cache AIO is not asynchronous: io_submit completes the request, and \
             blocks its thread for data that is not cached."
                .into(),
        );
    }
    let engines = || results.rows.iter().filter(|row| row.figures.is_some());
    if results.settings.direct && engines().any(|row| row.engine == "tokio-fs") {
        notes.push(
            "tokio-fs uses the page cache, so its results are not comparable: it rarely reaches the \
             disk."
                .into(),
        );
    }
    notes.extend(widest_spread_note(results));
    let asked = results.settings.rounds;
    let rounds = engines().filter_map(|row| Some(row.figures.as_ref()?.rounds));
    match rounds.min() {
        Some(fewest) if fewest < asked => notes.push(format!(
            "There was time for only {fewest} of {asked} rounds; use a longer --runtime for more."
        )),
        _ => {}
    }
    let mut figures = engines().filter_map(|row| row.figures.as_ref());
    if figures.any(|figures| figures.system_calls.is_none()) {
        notes.push(
            "calls/op: – means that there was no time to count, or that counting is impossible; try a \
             longer --runtime."
                .into(),
        );
    }
    match results.machine.others {
        Some(share) if share > 0.1 => notes.push(format!(
            "Other programs used {:.0} % of the machine, so the results are less reliable.",
            100.0 * share
        )),
        _ => {}
    }
    notes
}

/// A note on the ratio that differs most between rounds, if it differs much.
fn widest_spread_note(results: &BenchResults) -> Option<String> {
    /// Relative to the median.
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
        "Rounds differ: half of the {name} × of {} at depth {} are outside {:.2} to {:.2}. Use a longer \
         --runtime and an idle machine for more reliable results.",
        row.engine, row.depth, it.q1, it.q3
    ))
}

/// The main result: tokio-kaio compared with the blocking pool, at the last depth that has both.
pub(super) fn headline(results: &BenchResults) -> Option<String> {
    if results.settings.baseline != "tokio-kaio" {
        return None;
    }
    let is_pool = |row: &&Row| row.engine == "blocking-pool" && row.figures.is_some();
    let row = results.rows.iter().rev().find(is_pool)?;
    let figures = row.figures.as_ref()?;
    let [iops, cpu] = [figures.iops_ratio?, figures.cpu_ratio?].map(|it| 1.0 / it.median);
    let depth = row.depth;
    Some(format!(
        "In short: at depth {depth}, tokio-kaio has {iops:.2} times the IOPS of the blocking pool, and \
         uses {cpu:.2} times the CPU per operation."
    ))
}

/// The workload and the environment, as names and values.
pub(super) fn facts(results: &BenchResults) -> Vec<(&'static str, String)> {
    let BenchResults {
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
            format!(
                "{} of {}{mix}, {how}",
                settings.rw,
                format_bytes(settings.block)
            ),
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
                format_bytes(machine.memory)
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
    let size = format_bytes(target.bytes);
    match target.kind {
        Kind::Scratch => format!("scratch, {size}"),
        Kind::File => format!("{}, first {size}", target.path.display()),
        Kind::BlockDevice => format!("{}, a block device, first {size}", target.path.display()),
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
        None => "none (page cache)".into(),
        Some(of) => format!("memory {}, offset {}; {}", of.memory, of.offset, of.source),
    }
}

/// Formats the results in lines of at most `width` columns. The tables are not wrapped.
pub(super) fn text(results: &BenchResults, width: usize) -> String {
    let mut text = String::new();
    let mut line = |line: &str| writeln!(text, "{line}").expect("writing to a string can't fail");
    for (name, value) in facts(results) {
        line(&wrap(
            &value,
            width,
            &format!("{name:<11}"),
            &" ".repeat(11),
        ));
    }
    for (depth, rows) in results.depths() {
        line("");
        line(table(depth, rows).trim_end());
        for row in rows {
            if let Some(skipped) = &row.skipped {
                let skipped = format!("{}: skipped: {}", row.engine, skipped.error);
                line(&wrap(&skipped, width, "", "  "));
            }
        }
    }
    line("");
    let notes = headline(results).into_iter().chain(notes(results));
    notes.for_each(|note| line(&wrap(&note, width, "", "")));
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

/// Formats the figures of a row.
pub(super) fn cells(figures: &RowFigures) -> [String; COLUMNS.len()] {
    let ratio = |spread: Option<Spread>| or_dash(spread.map(|s| format!("{:.2}", s.median)));
    let latency = figures.latency;
    let micros = |micros: Option<f64>| or_dash(micros.map(|micros| format!("{micros:.1}")));
    [
        or_dash(figures.iops.map(|s| format!("{:.0}", s.median))),
        or_dash(figures.mib_per_second.map(|rate| format!("{rate:.1}"))),
        micros(latency.map(|latency| latency.p50)),
        micros(latency.map(|latency| latency.p99)),
        micros(latency.map(|latency| latency.p99_9)),
        micros(latency.and_then(|latency| latency.max)),
        or_dash(figures.cpu.map(|s| format!("{:.2}", s.median))),
        or_dash(figures.system_calls.map(|calls| format!("{calls:.2}"))),
        ratio(figures.iops_ratio),
        ratio(figures.cpu_ratio),
    ]
}

fn or_dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "–".into())
}
