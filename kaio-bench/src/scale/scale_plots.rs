//! [`plot_scale`]: draws a report of scales as SVG files.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Axis, ScaleReport, ScaleSet};
use crate::chart::{Chart, Line};
use crate::plots::{colour, draw_panels};
use crate::{Result, Summary};

/// Draws one SVG file for each place into `dir`, which is created if missing. It shows CPU time relative to the
/// first point of each axis, and CPU time by the number of tasks, with a line for each engine. Returns the
/// paths of the files.
///
/// # Errors
///
/// Errors of writing the files.
pub fn plot_scale(report: &ScaleReport, dir: &Path) -> Result<Vec<PathBuf>> {
    let failed =
        |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    let mut paths = Vec::new();
    for place in &report.places {
        let sets: Vec<_> = report
            .sets
            .iter()
            .filter(|set| set.place == place.name)
            .collect();
        let engines = engines(&sets);
        let mut charts: Vec<_> = Axis::ALL
            .iter()
            .map(|axis| {
                let title = "CPU a transfer, first point = 1";
                chart(&sets, &engines, *axis, title, |s| Some(s.cpu_ratio?.median))
            })
            .collect();
        let nanoseconds = |summary: &Summary| Some(summary.cpu_ns?.median);
        let title = "CPU a transfer in ns";
        charts.push(chart(&sets, &engines, Axis::Tasks, title, nanoseconds));
        charts.retain(|chart| !chart.ticks.is_empty());
        if charts.is_empty() {
            continue;
        }
        let title = format!(
            "cost against scale, random-read (4 KiB), {} ({})",
            place.name, place.file_system
        );
        let path = dir.join(format!("{}-scale.svg", place.name));
        let mut image = String::new();
        draw_panels(&charts, &engines, &title, &mut image)
            .map_err(|error| failed(&path, &error))?;
        fs::write(&path, image).map_err(|error| failed(&path, &error))?;
        paths.push(path);
    }
    Ok(paths)
}

fn chart(
    sets: &[&ScaleSet],
    engines: &[&str],
    axis: Axis,
    title: &str,
    value: impl Fn(&Summary) -> Option<f64>,
) -> Chart {
    let sets: Vec<_> = sets.iter().filter(|set| set.axis == axis).collect();
    let points = sets.first().map_or(&[][..], |set| &set.points);
    let values: Vec<_> = points.iter().map(|point| axis.of(point)).collect();
    let line = |(i, engine): (usize, &&str)| {
        let set = sets.iter().find(|set| set.engine == *engine);
        let at = |point: &usize| value(set?.summary(*point)?);
        Line {
            colour: colour(i),
            values: values.iter().map(at).collect(),
        }
    };
    Chart {
        title: title.into(),
        x: axis.name().into(),
        ticks: values.iter().map(usize::to_string).collect(),
        lines: engines.iter().enumerate().map(line).collect(),
    }
}

/// Engines that were measured along any axis.
fn engines<'a>(sets: &[&'a ScaleSet]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for set in sets {
        let measured = set.reports.iter().any(|report| report.figures().is_some());
        if measured && !names.contains(&&*set.engine) {
            names.push(&set.engine);
        }
    }
    names
}
