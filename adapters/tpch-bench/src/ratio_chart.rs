//! [`Chart`]: ratios to LocalFileSystem, a row each, as an SVG image.

use std::error::Error;

use kaio_bench::Spread;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Result;

/// Rows of ratios on a logarithmic axis: a dot is a median, its line reaches from quartile to quartile.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) series: Vec<&'static str>,
    pub(crate) rows: Vec<Row>,
}

/// A row of a [`Chart`].
pub(crate) struct Row {
    pub(crate) label: String,
    /// A ratio for each series.
    pub(crate) ratios: Vec<Option<Spread>>,
}

// Legible on light and on dark backgrounds: the image has none of its own.
const TEXT: RGBColor = RGBColor(0x7a, 0x80, 0x88);
const SERIES: [RGBColor; 3] = [
    RGBColor(0x2f, 0x81, 0xf7),
    RGBColor(0xd9, 0x7a, 0x1e),
    RGBColor(0x2d, 0xa4, 0x4e),
];

const WIDTH: i32 = 880;
const RIGHT: i32 = WIDTH - 30;
const TOP: i32 = 78;
const ROW: i32 = 28;
const FONT: i32 = 15;
/// Width of a letter of a label.
const LETTER: i32 = 7;

/// Values of the axis with a label.
const TICKS: [f64; 16] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0, 10.0,
];

impl Chart {
    /// Draws the chart.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut image = String::new();
        let height = TOP + ROW * self.rows.len() as i32 + 34;
        let area = SVGBackend::with_string(&mut image, (WIDTH as u32, height as u32));
        let drawn = self.draw(&area.into_drawing_area(), height);
        drawn.map_err(|error| format!("can't draw {}: {error}", self.title))?;
        Ok(image)
    }

    fn draw(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        height: i32,
    ) -> std::result::Result<(), Box<dyn Error>> {
        let font = |size: i32| ("sans-serif", size).into_font().color(&TEXT);
        let at = |horizontal, vertical| Pos::new(horizontal, vertical);
        let axis = self.axis();
        let left = axis.left;
        let bottom = height - 30;
        area.draw(&Text::new(&*self.title, (12, 12), font(18)))?;
        for (index, (name, colour)) in self.series.iter().zip(SERIES).enumerate() {
            let x = left + 150 * index as i32;
            area.draw(&Circle::new((x, 50), 5, colour.filled()))?;
            let style = font(FONT).pos(at(HPos::Left, VPos::Center));
            area.draw(&Text::new(*name, (x + 10, 50), style))?;
        }
        for tick in TICKS.into_iter().filter(|tick| axis.has(*tick)) {
            let x = axis.x(tick);
            // LocalFileSystem itself.
            let style = match tick {
                1.0 => TEXT.stroke_width(2),
                _ => TEXT.mix(0.3).stroke_width(1),
            };
            area.draw(&PathElement::new([(x, TOP - 8), (x, bottom)], style))?;
            let style = font(FONT).pos(at(HPos::Center, VPos::Top));
            area.draw(&Text::new(tick.to_string(), (x, bottom + 6), style))?;
        }
        for (index, row) in self.rows.iter().enumerate() {
            let y = TOP + ROW * index as i32 + ROW / 2;
            let style = font(FONT).pos(at(HPos::Right, VPos::Center));
            area.draw(&Text::new(&*row.label, (left - 12, y), style))?;
            let drawn = row.ratios.iter().zip(SERIES).enumerate();
            for (series, (ratio, colour)) in drawn {
                let Some(ratio) = ratio else { continue };
                // Beside each other, since values are often the same.
                let y = y + 6 * series as i32 - 3 * (self.series.len() as i32 - 1);
                let line = [(axis.x(ratio.q1), y), (axis.x(ratio.q3), y)];
                area.draw(&PathElement::new(line, colour.stroke_width(2)))?;
                area.draw(&Circle::new((axis.x(ratio.median), y), 4, colour.filled()))?;
            }
        }
        Ok(area.present()?)
    }

    /// An axis that has all values, and 1, on the right of all labels.
    fn axis(&self) -> Axis {
        let ratios = self.rows.iter().flat_map(|row| row.ratios.iter().flatten());
        let values = ratios.flat_map(|ratio| [ratio.q1, ratio.q3]);
        let values = values.filter(|value| *value > 0.0);
        let (low, high) = values.fold((1.0_f64, 1.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let letters = self.rows.iter().map(|row| row.label.chars().count());
        Axis {
            low: (low * 0.85).min(0.45),
            high: (high * 1.15).max(1.3),
            left: letters.max().unwrap_or_default() as i32 * LETTER + 30,
        }
    }
}

/// The logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    /// Position of `low`.
    left: i32,
}

impl Axis {
    fn has(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    fn x(&self, value: f64) -> i32 {
        let share = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.left + (share * f64::from(RIGHT - self.left)).round() as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ratio_has_a_dot_within_the_image() {
        let spread = |median: f64| {
            Some(Spread {
                q1: median * 0.9,
                median,
                q3: median * 1.1,
            })
        };
        let row = |label: &str, ratios| Row {
            label: label.into(),
            ratios,
        };
        let chart = Chart {
            title: "ratios".into(),
            series: vec!["wall", "CPU"],
            rows: vec![
                row("first", vec![spread(0.012), spread(1.0)]),
                row("second", vec![spread(3.5), None]),
            ],
        };
        let image = chart.svg().unwrap();
        assert_eq!(image.matches("<circle").count(), 3 + 2); // and the legend
        assert!(image.contains("first") && image.contains("ratios"));
        let axis = chart.axis();
        for value in [0.012, 1.0, 3.5] {
            assert!((axis.left..=RIGHT).contains(&axis.x(value)));
        }
        assert!(axis.x(0.012) < axis.x(1.0) && axis.x(1.0) < axis.x(3.5));
    }
}
