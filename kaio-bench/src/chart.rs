//! [`Chart`]: a line chart over a few categories, such as depths.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, KeyPointWeight};
use plotters::prelude::*;

use crate::Result;

/// A line chart over categories. The value axis is logarithmic, because engines differ by up to two
/// orders of magnitude.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Title, with the unit of the values.
    pub title: String,
    /// Label of the category axis.
    pub x: String,
    /// Categories, from left to right.
    pub ticks: Vec<String>,
    /// Lines.
    pub lines: Vec<Line>,
}

/// A line of a [`Chart`].
#[derive(Clone, Debug)]
pub struct Line {
    /// Colour.
    pub colour: Colour,
    /// Value of each category. `None` or a value not above 0 leaves a gap.
    pub values: Vec<Option<f64>>,
}

/// Red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(pub u8, pub u8, pub u8);

pub(crate) type DrawResult = std::result::Result<(), Box<dyn Error>>;

pub(crate) const FONT: &str = "sans-serif";

pub(crate) fn style(Colour(red, green, blue): Colour) -> ShapeStyle {
    ShapeStyle::from(RGBColor(red, green, blue)).stroke_width(2)
}

impl Chart {
    /// Renders the chart as an SVG image of the given size, black on white.
    ///
    /// # Errors
    ///
    /// If the size is too small for the chart.
    pub fn svg(&self, width: u32, height: u32) -> Result<String> {
        let mut image = String::new();
        let root = SVGBackend::with_string(&mut image, (width, height)).into_drawing_area();
        let drawn: DrawResult = (|| {
            root.fill(&WHITE)?;
            self.draw(&root)?;
            Ok(root.present()?)
        })();
        drawn.map_err(|error| format!("can't draw {}: {error}", self.title))?;
        drop(root);
        Ok(image)
    }

    /// Draws the chart into `area`. Draws nothing if no line has a value.
    pub(crate) fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> DrawResult {
        let lines: Vec<_> = self.lines.iter().map(Line::points).collect();
        let values = || lines.iter().flatten().map(|(_, y)| *y);
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(0.0, f64::max);
        if !low.is_finite() {
            return Ok(());
        }
        let (low, high) = (low / 1.25, high * 1.25);
        let x = Axis {
            range: -0.2..self.ticks.len() as f64 - 0.8,
            ticks: (0..self.ticks.len()).map(|i| i as f64).collect(),
            scale: |value| value,
        };
        let y = Axis {
            range: low..high,
            ticks: ticks(low, high),
            scale: f64::log10,
        };
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 17))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(x, y)?;
        let category = |x: &f64| self.ticks.get(x.round() as usize).cloned();
        chart
            .configure_mesh()
            .x_label_formatter(&|x| category(x).unwrap_or_default())
            .y_label_formatter(&|y| short(*y))
            .x_desc(&self.x)
            .label_style((FONT, 14))
            .bold_line_style(BLACK.mix(0.15))
            .draw()?;
        for (line, points) in self.lines.iter().zip(&lines) {
            let style = style(line.colour);
            chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            let circles = points
                .iter()
                .map(|point| Circle::new(*point, 4, style.filled()));
            chart.draw_series(circles)?;
        }
        Ok(())
    }
}

impl Line {
    /// Positions on the category axis, and values.
    fn points(&self) -> Vec<(f64, f64)> {
        let values = self.values.iter().enumerate();
        let points = values.filter_map(|(i, value)| Some((i as f64, (*value)?)));
        // The axis is logarithmic.
        points.filter(|(_, y)| *y > 0.0).collect()
    }
}

/// An axis with explicit ticks.
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
            KeyPointWeight::Any => Vec::new(), // no minor ticks
            KeyPointWeight::Bold => self.ticks.clone(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// About two to nine round numbers between `low` and `high`.
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

/// Formats a number in few characters.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        1000.0.. => (value / 1000.0, "k"),
        _ => (value, ""),
    };
    // Ticks are not exact, as 0.1 + 0.2 is not.
    format!("{}{unit}", (value * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_gaps_at_missing_values() {
        let line = Line {
            colour: Colour(1, 2, 3),
            values: vec![Some(2.0), None, Some(0.0), Some(8.0)],
        };
        assert_eq!(line.points(), [(0.0, 2.0), (3.0, 8.0)]);
        let chart = Chart {
            title: "CPU".into(),
            x: "depth".into(),
            ticks: ["1", "8", "32", "128"].map(String::from).into(),
            lines: vec![line],
        };
        let image = chart.svg(400, 300).unwrap();
        assert_eq!(image.matches("<circle").count(), 2);
        assert!(image.contains("CPU") && image.contains("#010203"));
    }

    #[test]
    fn an_axis_has_two_to_nine_round_ticks() {
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
