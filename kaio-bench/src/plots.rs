//! [`plot`]: a report as SVG files.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::report::{Figures, Summary};
use crate::{Pattern, Report, Result, Set, Shape};

/// Draws a file for each place, pattern and shape into `dir`, which is made if need be: CPU to the
/// baseline's, IOPS and p99, by depth, a line for each engine. Returns the files' paths.
///
/// # Errors
///
/// Where the files can't be written.
pub fn plot(report: &Report, dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut paths = Vec::new();
    for place in &report.places {
        for pattern in Pattern::ALL {
            for shape in Shape::ALL {
                let belongs = |set: &&Set| {
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

const WIDTH: u32 = 1500;
const PANEL: u32 = 420;
const LEGEND_ROW: u32 = 24;
const LEGEND_COLUMNS: usize = 4;
const FONT: &str = "sans-serif";

type Drawn = std::result::Result<(), Box<dyn Error>>;

/// What one panel shows.
struct Metric {
    title: String,
    value: fn(&Figures, &Summary) -> Option<f64>,
}

fn metrics(baseline: &str) -> [Metric; 3] {
    let of = |title: &str, value| Metric {
        title: title.into(),
        value,
    };
    [
        of(&format!("CPU a transfer, {baseline} = 1"), |_, summary| {
            Some(summary.cpu_ratio?.median)
        }),
        of("thousand IOPS", |_, summary| {
            Some(summary.iops?.median / 1e3)
        }),
        of("p99 in µs", |figures, _| {
            Some(figures.latency?.p99_ns / 1e3)
        }),
    ]
}

fn draw(sets: &[&Set], title: &str, baseline: &str, image: &mut String) -> Drawn {
    let engines = engines(sets);
    let legend = LEGEND_ROW * engines.len().div_ceil(LEGEND_COLUMNS) as u32 + 10;
    let root = SVGBackend::with_string(image, (WIDTH, PANEL + legend + 40)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, rest) = root.split_vertically(40);
    head.draw(&Text::new(title, (20, 10), (FONT, 22)))?;
    let (panels, foot) = rest.split_vertically(PANEL);
    for (area, metric) in panels.split_evenly((1, 3)).iter().zip(metrics(baseline)) {
        panel(area, sets, &engines, &metric)?;
    }
    for (i, engine) in engines.iter().enumerate() {
        let column = (i % LEGEND_COLUMNS) as i32;
        let x = 20 + column * (WIDTH as i32 - 40) / LEGEND_COLUMNS as i32;
        let y = 10 + (i / LEGEND_COLUMNS) as i32 * LEGEND_ROW as i32;
        foot.draw(&PathElement::new([(x, y + 6), (x + 30, y + 6)], style(i)))?;
        foot.draw(&Circle::new((x + 15, y + 6), 4, style(i).filled()))?;
        foot.draw(&Text::new(*engine, (x + 40, y), (FONT, 15)))?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    sets: &[&Set],
    engines: &[&str],
    metric: &Metric,
) -> Drawn {
    let lines: Vec<_> = engines
        .iter()
        .map(|engine| points(sets, engine, metric))
        .collect();
    let values = || lines.iter().flatten().map(|(_, y)| *y);
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(0.0, f64::max);
    if !low.is_finite() {
        return Ok(()); // nothing to show
    }
    let last = sets.len() as f64 - 1.0;
    let mut chart = ChartBuilder::on(area)
        .caption(&metric.title, (FONT, 17))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            -0.2..last + 0.2,
            // What engines differ by goes up to a hundredfold.
            (low / 1.25..high * 1.25).log_scale(),
        )?;
    let depth = |x: &f64| {
        let set = sets.get(x.round() as usize);
        let whole = (x - x.round()).abs() < 0.01;
        set.filter(|_| whole && *x > -0.01)
            .map_or(String::new(), |set| set.depth.to_string())
    };
    chart
        .configure_mesh()
        .x_labels(2 * sets.len() + 1)
        .x_label_formatter(&depth)
        .y_label_formatter(&|y| short(*y))
        .x_desc("depth")
        .label_style((FONT, 14))
        .light_line_style(BLACK.mix(0.06))
        .disable_x_mesh()
        .draw()?;
    for (i, line) in lines.iter().enumerate() {
        chart.draw_series(LineSeries::new(line.iter().copied(), style(i)))?;
        let circles = line
            .iter()
            .map(|point| Circle::new(*point, 4, style(i).filled()));
        chart.draw_series(circles)?;
    }
    Ok(())
}

/// The points of one engine: the place of a depth on the axis, and a value. None where it has none.
fn points(sets: &[&Set], engine: &str, metric: &Metric) -> Vec<(f64, f64)> {
    let value = |set: &Set| {
        let report = set.engines.iter().find(|report| report.engine == engine)?;
        (metric.value)(report.figures()?, report.summary.as_ref()?)
    };
    let points = sets.iter().enumerate();
    let points = points.filter_map(|(i, set)| Some((i as f64, value(set)?)));
    // A logarithm of it is drawn.
    points.filter(|(_, y)| *y > 0.0).collect()
}

/// Every engine that was measured at some depth.
fn engines<'a>(sets: &[&'a Set]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for report in sets.iter().flat_map(|set| &set.engines) {
        if report.figures().is_some() && !names.contains(&&*report.engine) {
            names.push(&report.engine);
        }
    }
    names
}

fn style(i: usize) -> ShapeStyle {
    ShapeStyle::from(&Palette99::pick(i)).stroke_width(2)
}

/// A number in few characters.
fn short(value: f64) -> String {
    match value {
        1000.0.. => format!("{:.0}k", value / 1000.0),
        10.0.. => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}
