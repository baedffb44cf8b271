//! [`page`]: formats the results as a single HTML page that works offline. The template is `report.html`.

use askama::Template;
use clap::ValueEnum;
use kaio_bench::{Chart, Colour, Line};

use super::bench_results::{BenchResults, Row, RowFigures};
use super::bench_text::{self, COLUMNS};
use super::engine_choice::EngineChoice;
use crate::command_error::CommandError;
use crate::units::format_bytes;

/// Size of an image.
const WIDTH: u32 = 560;
const HEIGHT: u32 = 340;

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    command: String,
    title: String,
    /// The main result.
    headline: Option<String>,
    facts: Vec<(&'static str, String)>,
    legend: Vec<Legend>,
    plots: Vec<Plot>,
    columns: &'static [&'static str],
    tables: Vec<Table>,
    notes: Vec<String>,
    version: String,
}

/// An engine and its colours in plots.
struct Legend {
    name: String,
    /// A remark for readers of the plots.
    remark: &'static str,
    light: String,
    dark: String,
}

struct Plot {
    title: String,
    /// Generated from numbers and fixed texts, so it needs no escaping.
    svg: String,
}

struct Table {
    depth: u16,
    rows: Vec<TableRow>,
    skipped: Vec<(String, String)>,
}

struct TableRow {
    engine: String,
    colour: String,
    /// Each with its quartiles, if any.
    cells: Vec<(String, String)>,
}

/// Formats the page.
///
/// # Errors
///
/// A plot can't be drawn.
pub(super) fn page(results: &BenchResults) -> Result<String, CommandError> {
    let choices = measured(results);
    let mut plots = vec![
        by_depth(results, &choices, "IOPS", |row| Some(row.iops?.median))?,
        by_depth(results, &choices, "CPU per operation, µs", |row| {
            Some(row.cpu?.median)
        })?,
    ];
    for (depth, rows) in results.depths() {
        plots.push(latencies(depth, rows, &choices)?);
    }
    let file_system = results.target.file_system.as_deref();
    let page = Page {
        command: results.command.clone(),
        title: format!(
            "{} of {} on {}",
            results.settings.rw,
            format_bytes(results.settings.block),
            file_system.unwrap_or("a block device")
        ),
        headline: bench_text::headline(results),
        facts: bench_text::facts(results),
        legend: choices
            .iter()
            .map(|choice| Legend::of(choice, results.settings.direct))
            .collect(),
        plots,
        columns: &COLUMNS,
        tables: results
            .depths()
            .map(|(depth, rows)| Table::of(depth, rows))
            .collect(),
        notes: bench_text::notes(results),
        version: results.machine.tokio_kaio.clone(),
    };
    Ok(page.render()?)
}

/// The engines that have figures at some depth.
fn measured(results: &BenchResults) -> Vec<EngineChoice> {
    let has_figures = |choice: &EngineChoice| {
        let name = choice.name();
        let mut rows = results.rows.iter();
        rows.any(|row| row.engine == name && row.figures.is_some())
    };
    let all = EngineChoice::value_variants().iter().copied();
    all.filter(has_figures).collect()
}

fn by_depth(
    results: &BenchResults,
    choices: &[EngineChoice],
    title: &str,
    value: fn(&RowFigures) -> Option<f64>,
) -> Result<Plot, CommandError> {
    let at = |rows: &[Row], name: &str| value(figures(rows, name)?);
    let line = |choice: &EngineChoice| {
        let name = choice.name();
        Line {
            colour: choice.colours().0,
            values: results.depths().map(|(_, rows)| at(rows, &name)).collect(),
        }
    };
    let chart = Chart {
        title: title.into(),
        x: "depth".into(),
        ticks: results
            .depths()
            .map(|(depth, _)| depth.to_string())
            .collect(),
        lines: choices.iter().map(line).collect(),
    };
    Plot::of(&chart)
}

fn latencies(depth: u16, rows: &[Row], choices: &[EngineChoice]) -> Result<Plot, CommandError> {
    let line = |choice: &EngineChoice| {
        let latency = figures(rows, &choice.name()).and_then(|figures| figures.latency);
        let values = latency.map_or([None; 4], |it| {
            [Some(it.p50), Some(it.p99), Some(it.p99_9), it.max]
        });
        Line {
            colour: choice.colours().0,
            values: values.into(),
        }
    };
    let chart = Chart {
        title: format!("latency at depth {depth}, µs"),
        x: "percentile".into(),
        ticks: ["p50", "p99", "p99.9", "max"].map(String::from).into(),
        lines: choices.iter().map(line).collect(),
    };
    Plot::of(&chart)
}

fn figures<'a>(rows: &'a [Row], engine: &str) -> Option<&'a RowFigures> {
    let row = rows.iter().find(|row| row.engine == engine)?;
    row.figures.as_ref()
}

impl Legend {
    fn of(choice: &EngineChoice, direct: bool) -> Legend {
        let hex = |Colour(red, green, blue)| format!("#{red:02X}{green:02X}{blue:02X}");
        let (light, dark) = choice.colours();
        Legend {
            name: choice.name(),
            remark: match choice {
                EngineChoice::TokioFs if direct => " (through the page cache)",
                _ => "",
            },
            light: hex(light),
            dark: hex(dark),
        }
    }
}

impl Plot {
    fn of(chart: &Chart) -> Result<Plot, CommandError> {
        Ok(Plot {
            title: chart.title.clone(),
            svg: chart.svg(WIDTH, HEIGHT)?,
        })
    }
}

impl Table {
    fn of(depth: u16, rows: &[Row]) -> Table {
        let measured = rows.iter().filter_map(|row| {
            let figures = row.figures.as_ref()?;
            let cells = bench_text::cells(figures).into_iter();
            Some(TableRow {
                engine: row.engine.clone(),
                // A variable of the style sheet, because the colour depends on the background.
                colour: format!("var(--{})", row.engine),
                cells: cells.zip(quartiles(figures)).collect(),
            })
        });
        let skipped = rows.iter().filter_map(|row| {
            let skipped = row.skipped.as_ref()?;
            Some((row.engine.clone(), skipped.error.clone()))
        });
        Table {
            depth,
            rows: measured.collect(),
            skipped: skipped.collect(),
        }
    }
}

/// The quartiles of the ratios, which are the last columns.
fn quartiles(figures: &RowFigures) -> [String; COLUMNS.len()] {
    let mut quartiles = COLUMNS.map(|_| String::new());
    let ratios = [figures.iops_ratio, figures.cpu_ratio];
    for (text, ratio) in quartiles.iter_mut().rev().zip(ratios.into_iter().rev()) {
        if let Some(ratio) = ratio {
            *text = format!("{:.2}–{:.2}", ratio.q1, ratio.q3);
        }
    }
    quartiles
}
