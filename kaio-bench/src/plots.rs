//! [`plot`]: draws a report as SVG files.

use std::fs;
use std::path::{Path, PathBuf};

use plotters::prelude::*;

use crate::bench_report::Figures;
use crate::chart::{Chart, Colour, DrawResult, FONT, Line, style};
use crate::engine_summary::Summary;
use crate::{Pattern, Report, Result, ResultSet, Shape};

/// Draws one SVG file for each place, pattern and shape into `dir`, which is created if missing. Each
/// shows CPU and machine time relative to the baseline, IOPS and p99 by depth, with a line for each
/// engine. Returns the paths of the files.
///
/// # Errors
///
/// Errors of writing the files.
pub fn plot(report: &Report, dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut paths = Vec::new();
    for place in &report.places {
        for pattern in Pattern::ALL {
            for shape in Shape::ALL {
                let belongs = |set: &&ResultSet| {
                    set.place == place.name && set.pattern == pattern && set.shape == shape
                };
                let sets: Vec<_> = report.sets.iter().filter(belongs).collect();
                if sets.is_empty() {
                    continue;
                }
                let title = format!(
                    "{pattern} ({} KiB), {shape}, {} ({})",
                    pattern.block() / 1024,
                    place.name,
                    place.file_system
                );
                let path = dir.join(format!("{}-{pattern}-{shape}.svg", place.name));
                let mut image = String::new();
                draw(&sets, &title, &report.settings.baseline, &mut image)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                fs::write(&path, image).map_err(|error| format!("{}: {error}", path.display()))?;
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

const WIDTH: u32 = 1200;
const PANEL: u32 = 420;
const PANEL_COLUMNS: usize = 2;
const LEGEND_ROW: u32 = 24;
const LEGEND_COLUMNS: usize = 3;

/// The metric of one panel.
struct Metric {
    title: String,
    value: fn(&Figures, &Summary) -> Option<f64>,
}

fn metrics(baseline: &str) -> [Metric; 4] {
    let metric = |title: &str, value| Metric {
        title: title.into(),
        value,
    };
    [
        metric(&format!("CPU a transfer, {baseline} = 1"), |_, summary| {
            Some(summary.cpu_ratio?.median)
        }),
        metric(
            &format!("machine busy a transfer, {baseline} = 1"),
            |_, summary| summary.machine_ratio,
        ),
        metric("thousand IOPS", |_, summary| {
            Some(summary.iops?.median / 1e3)
        }),
        metric("p99 in µs", |figures, _| {
            Some(figures.latency?.p99_ns / 1e3)
        }),
    ]
}

fn draw(sets: &[&ResultSet], title: &str, baseline: &str, image: &mut String) -> DrawResult {
    let engines = engines(sets);
    let metrics = metrics(baseline);
    let charts = metrics.map(|metric| chart(sets, &engines, &metric));
    draw_panels(&charts, &engines, title, image)
}

/// Draws `charts` in two columns, with a legend of `engines` below. Line `i` of each chart is that of engine
/// `i`, in [`colour`] `i`.
pub(crate) fn draw_panels(
    charts: &[Chart],
    engines: &[&str],
    title: &str,
    image: &mut String,
) -> DrawResult {
    let rows = charts.len().div_ceil(PANEL_COLUMNS);
    let height = PANEL * rows as u32;
    let legend = LEGEND_ROW * engines.len().div_ceil(LEGEND_COLUMNS) as u32 + 10;
    let root = SVGBackend::with_string(image, (WIDTH, height + legend + 40)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, rest) = root.split_vertically(40);
    head.draw(&Text::new(title, (20, 10), (FONT, 22)))?;
    let (panels, foot) = rest.split_vertically(height);
    let areas = panels.split_evenly((rows, PANEL_COLUMNS));
    for (area, chart) in areas.iter().zip(charts) {
        chart.draw(area)?;
    }
    for (i, engine) in engines.iter().enumerate() {
        let column = (i % LEGEND_COLUMNS) as i32;
        let x = 20 + column * (WIDTH as i32 - 40) / LEGEND_COLUMNS as i32;
        let y = 10 + (i / LEGEND_COLUMNS) as i32 * LEGEND_ROW as i32;
        let style = style(colour(i));
        foot.draw(&PathElement::new([(x, y + 6), (x + 30, y + 6)], style))?;
        foot.draw(&Circle::new((x + 15, y + 6), 4, style.filled()))?;
        foot.draw(&Text::new(*engine, (x + 40, y), (FONT, 15)))?;
    }
    root.present()?;
    Ok(())
}

fn chart(sets: &[&ResultSet], engines: &[&str], metric: &Metric) -> Chart {
    let value = |set: &ResultSet, engine: &str| {
        let report = set.engines.iter().find(|report| report.engine == engine)?;
        (metric.value)(report.figures()?, report.summary.as_ref()?)
    };
    let line = |(i, engine): (usize, &&str)| Line {
        colour: colour(i),
        values: sets.iter().map(|set| value(set, engine)).collect(),
    };
    Chart {
        title: metric.title.clone(),
        x: "depth".into(),
        ticks: sets.iter().map(|set| set.depth.to_string()).collect(),
        lines: engines.iter().enumerate().map(line).collect(),
    }
}

/// Engines that were measured at any depth.
fn engines<'a>(sets: &[&'a ResultSet]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for report in sets.iter().flat_map(|set| &set.engines) {
        if report.figures().is_some() && !names.contains(&&*report.engine) {
            names.push(&report.engine);
        }
    }
    names
}

/// The colour of engine `index` of a plot.
pub(crate) fn colour(index: usize) -> Colour {
    COLOURS[index % COLOURS.len()]
}

/// Distinguishable colours on white, one for each engine.
const COLOURS: [Colour; 18] = [
    Colour(0x22, 0x22, 0x22),
    Colour(0x9e, 0x9e, 0x9e),
    Colour(0xd6, 0x27, 0x28),
    Colour(0x1f, 0x77, 0xb4),
    Colour(0x2c, 0xa0, 0x2c),
    Colour(0xe3, 0x8b, 0x00),
    Colour(0xa6, 0x6a, 0x2c),
    Colour(0xc2, 0x3f, 0xb5),
    Colour(0x17, 0xa8, 0xbe),
    Colour(0x6f, 0x4f, 0xb3),
    Colour(0x8c, 0x9a, 0x1e),
    Colour(0xf0, 0x62, 0x92),
    Colour(0x00, 0x69, 0x5c),
    Colour(0x6d, 0x1b, 0x2e),
    Colour(0x0d, 0x2f, 0x6b),
    Colour(0x5d, 0x7a, 0x8c),
    Colour(0x7f, 0xd3, 0x4e),
    Colour(0xc9, 0xa2, 0xe8),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_report::{EngineReport, Outcome, Sample};

    #[test]
    fn each_available_metric_has_a_panel() {
        let drawn = |busy_ns| {
            let round = Sample {
                transfers: 10,
                wall_ns: 1e6,
                user_ns: 1e5,
                system_ns: 1e5,
                busy_ns,
                voluntary: 0,
                involuntary: 0,
            };
            let figures = Figures {
                rounds: vec![round; 3],
                ..Figures::default()
            };
            let mut set = ResultSet {
                place: "disk".into(),
                pattern: Pattern::Mixed,
                shape: Shape::Tasks,
                depth: 8,
                engines: vec![EngineReport {
                    engine: "bare".into(),
                    outcome: Outcome::Measured(figures),
                    summary: None,
                }],
            };
            set.summarize("bare");
            let mut image = String::new();
            draw(&[&set], "mixed", "bare", &mut image).unwrap();
            ["CPU a", "machine busy a", "thousand IOPS", "p99"].map(|title| image.contains(title))
        };
        assert_eq!(drawn(Some(3e5)), [true, true, true, false]);
        assert_eq!(drawn(None), [true, false, true, false]);
    }
}
