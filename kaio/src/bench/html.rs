//! [`page`]: the results as one page of HTML, which needs no network. Its looks are in `report.html`.

use askama::Template;
use clap::ValueEnum;
use kaio_bench::{Chart, Colour, Line};

use super::contender::Contender;
use super::results::{Results, Row, RowFigures};
use super::table::{self, COLUMNS};
use crate::failure::Failure;
use crate::units::bytes;

/// Units of an image.
const WIDTH: u32 = 560;
const HEIGHT: u32 = 340;

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    command: String,
    title: String,
    /// The answer to what most ask.
    short: Option<String>,
    facts: Vec<(&'static str, String)>,
    legend: Vec<Legend>,
    plots: Vec<Plot>,
    columns: &'static [&'static str],
    tables: Vec<Table>,
    notes: Vec<String>,
    version: String,
}

/// An engine, and its colours as plots have them.
struct Legend {
    name: String,
    /// What is to be known of it while looking at plots.
    remark: &'static str,
    light: String,
    dark: String,
}

struct Plot {
    title: String,
    /// Made by ourselves, of numbers and fixed texts.
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
    /// Each with the quartiles, where there are such.
    cells: Vec<(String, String)>,
}

/// The page.
///
/// # Errors
///
/// Where a plot can't be drawn.
pub(super) fn page(results: &Results) -> Result<String, Failure> {
    let contenders = measured(results);
    let mut plots = vec![
        by_depth(results, &contenders, "IOPS", |row| Some(row.iops?.median))?,
        by_depth(results, &contenders, "CPU an operation, µs", |row| {
            Some(row.cpu?.median)
        })?,
    ];
    for (depth, rows) in results.depths() {
        plots.push(latencies(depth, rows, &contenders)?);
    }
    let file_system = results.target.file_system.as_deref();
    let page = Page {
        command: results.command.clone(),
        title: format!(
            "{} of {} on {}",
            results.settings.rw,
            bytes(results.settings.block),
            file_system.unwrap_or("a block device")
        ),
        short: table::in_short(results),
        facts: table::facts(results),
        legend: contenders
            .iter()
            .map(|contender| Legend::of(contender, results.settings.direct))
            .collect(),
        plots,
        columns: &COLUMNS,
        tables: results
            .depths()
            .map(|(depth, rows)| Table::of(depth, rows))
            .collect(),
        notes: table::notes(results),
        version: results.machine.tokio_kaio.clone(),
    };
    Ok(page.render()?)
}

/// Those that have figures at some depth.
fn measured(results: &Results) -> Vec<Contender> {
    let has_figures = |contender: &Contender| {
        let name = contender.name();
        let mut rows = results.rows.iter();
        rows.any(|row| row.engine == name && row.figures.is_some())
    };
    let all = Contender::value_variants().iter().copied();
    all.filter(has_figures).collect()
}

fn by_depth(
    results: &Results,
    contenders: &[Contender],
    title: &str,
    value: fn(&RowFigures) -> Option<f64>,
) -> Result<Plot, Failure> {
    let at = |rows: &[Row], name: &str| value(figures(rows, name)?);
    let line = |contender: &Contender| {
        let name = contender.name();
        Line {
            colour: contender.colours().0,
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
        lines: contenders.iter().map(line).collect(),
    };
    Plot::of(&chart)
}

fn latencies(depth: u16, rows: &[Row], contenders: &[Contender]) -> Result<Plot, Failure> {
    let line = |contender: &Contender| {
        let latency = figures(rows, &contender.name()).and_then(|figures| figures.latency);
        let values = latency.map_or([None; 4], |it| {
            [Some(it.p50), Some(it.p99), Some(it.p99_9), it.max]
        });
        Line {
            colour: contender.colours().0,
            values: values.into(),
        }
    };
    let chart = Chart {
        title: format!("latency at depth {depth}, µs"),
        x: "percentile".into(),
        ticks: ["p50", "p99", "p99.9", "max"].map(String::from).into(),
        lines: contenders.iter().map(line).collect(),
    };
    Plot::of(&chart)
}

fn figures<'a>(rows: &'a [Row], engine: &str) -> Option<&'a RowFigures> {
    let row = rows.iter().find(|row| row.engine == engine)?;
    row.figures.as_ref()
}

impl Legend {
    fn of(contender: &Contender, direct: bool) -> Legend {
        let hex = |Colour(red, green, blue)| format!("#{red:02X}{green:02X}{blue:02X}");
        let (light, dark) = contender.colours();
        Legend {
            name: contender.name(),
            remark: match contender {
                Contender::TokioFs if direct => " (through the page cache)",
                _ => "",
            },
            light: hex(light),
            dark: hex(dark),
        }
    }
}

impl Plot {
    fn of(chart: &Chart) -> Result<Plot, Failure> {
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
            let cells = table::cells(figures).into_iter();
            Some(TableRow {
                engine: row.engine.clone(),
                // The style sheet's variable, since it is another colour on dark ground.
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

/// The quartiles of ratios, which are the last columns.
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
