//! [`plot`]: a report as SVG files.

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, KeyPointWeight};
use plotters::prelude::*;

use crate::report::Figures;
use crate::summary::Summary;
use crate::{Pattern, Report, Result, Set, Shape};

/// Draws a file for each place, pattern and shape into `dir`, which is made if need be: CPU and the
/// machine's busy time to the baseline's, IOPS and p99, by depth, a line for each engine. Returns the
/// files' paths.
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

const WIDTH: u32 = 1200;
const PANEL: u32 = 420;
const PANEL_COLUMNS: usize = 2;
const LEGEND_ROW: u32 = 24;
const LEGEND_COLUMNS: usize = 3;
const FONT: &str = "sans-serif";

type Drawn = std::result::Result<(), Box<dyn Error>>;

/// What one panel shows.
struct Metric {
    title: String,
    value: fn(&Figures, &Summary) -> Option<f64>,
}

fn metrics(baseline: &str) -> [Metric; 4] {
    let of = |title: &str, value| Metric {
        title: title.into(),
        value,
    };
    [
        of(&format!("CPU a transfer, {baseline} = 1"), |_, summary| {
            Some(summary.cpu_ratio?.median)
        }),
        of(
            &format!("machine busy a transfer, {baseline} = 1"),
            |_, summary| summary.machine_ratio,
        ),
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
    let metrics = metrics(baseline);
    let rows = metrics.len().div_ceil(PANEL_COLUMNS);
    let height = PANEL * rows as u32;
    let legend = LEGEND_ROW * engines.len().div_ceil(LEGEND_COLUMNS) as u32 + 10;
    let root = SVGBackend::with_string(image, (WIDTH, height + legend + 40)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, rest) = root.split_vertically(40);
    head.draw(&Text::new(title, (20, 10), (FONT, 22)))?;
    let (panels, foot) = rest.split_vertically(height);
    let areas = panels.split_evenly((rows, PANEL_COLUMNS));
    for (area, metric) in areas.iter().zip(&metrics) {
        panel(area, sets, &engines, metric)?;
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
    let (low, high) = (low / 1.25, high * 1.25);
    let places: Vec<_> = (0..sets.len()).map(|i| i as f64).collect();
    let x = Axis {
        range: -0.2..sets.len() as f64 - 0.8,
        ticks: places,
        scale: |value| value,
    };
    // What engines differ by goes up to a hundredfold.
    let y = Axis {
        range: low..high,
        ticks: ticks(low, high),
        scale: f64::log10,
    };
    let mut chart = ChartBuilder::on(area)
        .caption(&metric.title, (FONT, 17))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(x, y)?;
    let depth = |x: &f64| {
        let set = sets.get(x.round() as usize);
        set.map_or(String::new(), |set| set.depth.to_string())
    };
    chart
        .configure_mesh()
        .x_label_formatter(&depth)
        .y_label_formatter(&|y| short(*y))
        .x_desc("depth")
        .label_style((FONT, 14))
        .bold_line_style(BLACK.mix(0.15))
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

/// An axis with ticks of one's own choice.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
    scale: fn(f64) -> f64,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let [low, at, high] = [self.range.start, *value, self.range.end].map(self.scale);
        let pixels = f64::from(limit.1 - limit.0);
        limit.0 + ((at - low) / (high - low) * pixels).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight() {
            KeyPointWeight::Any => Vec::new(), // light ones
            KeyPointWeight::Bold => self.ticks.clone(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// The round numbers between `low` and `high`, about a handful.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = match high / low {
        ..4.0 => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        ..12.0 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
        ..300.0 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let ticks = decades.flat_map(|decade| steps.iter().map(move |s| s * 10_f64.powi(decade)));
    ticks.filter(|tick| (low..high).contains(tick)).collect()
}

/// Colours that stay apart on white, for as many engines as there may be.
const COLOURS: [RGBColor; 18] = [
    RGBColor(0x22, 0x22, 0x22),
    RGBColor(0x9e, 0x9e, 0x9e),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xe3, 0x8b, 0x00),
    RGBColor(0xa6, 0x6a, 0x2c),
    RGBColor(0xc2, 0x3f, 0xb5),
    RGBColor(0x17, 0xa8, 0xbe),
    RGBColor(0x6f, 0x4f, 0xb3),
    RGBColor(0x8c, 0x9a, 0x1e),
    RGBColor(0xf0, 0x62, 0x92),
    RGBColor(0x00, 0x69, 0x5c),
    RGBColor(0x6d, 0x1b, 0x2e),
    RGBColor(0x0d, 0x2f, 0x6b),
    RGBColor(0x5d, 0x7a, 0x8c),
    RGBColor(0x7f, 0xd3, 0x4e),
    RGBColor(0xc9, 0xa2, 0xe8),
];

fn style(i: usize) -> ShapeStyle {
    ShapeStyle::from(COLOURS[i % COLOURS.len()]).stroke_width(2)
}

/// A number in few characters.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        1000.0.. => (value / 1000.0, "k"),
        _ => (value, ""),
    };
    // Sums of powers of ten are not exact.
    format!("{}{unit}", (value * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{EngineReport, Outcome, Sample};

    #[test]
    fn each_figure_that_there_is_has_a_panel() {
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
            let mut set = Set {
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

    #[test]
    fn an_axis_has_a_handful_of_round_numbers() {
        assert_eq!(ticks(0.8, 10.5), [1.0, 2.0, 5.0, 10.0]);
        assert_eq!(ticks(95.0, 130.0), [100.0, 120.0]);
        for (low, high) in [(0.7, 1.6), (3.0, 17.0), (16.0, 200.0), (1.0, 5000.0)] {
            let count = ticks(low, high).len();
            assert!((2..=9).contains(&count), "{count} between {low} and {high}");
        }
    }

    #[test]
    fn labels_are_short() {
        let labels = [0.1 + 0.2, 1.0, 150.0, 1200.0].map(short);
        assert_eq!(labels, ["0.3", "1", "150", "1.2k"]);
    }
}
