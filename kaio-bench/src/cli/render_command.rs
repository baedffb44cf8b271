//! `render`: makes tables and plots from JSON.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::RenderArgs;
use super::engine_filter::EngineFilter;
use crate::scale::{ScaleReport, ScaleTables, plot_scale};
use crate::{Report, Result, Tables, plot};

pub(super) fn run(args: &RenderArgs) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", args.from.display());
    let text = fs::read_to_string(&args.from).map_err(|error| failed(&error))?;
    let mut report: Report = match serde_json::from_str(&text) {
        Ok(report) => report,
        Err(error) => match serde_json::from_str(&text) {
            Ok(report) => return render_scale(args, report).map_err(|error| failed(&error).into()),
            Err(_) => return Err(failed(&error).into()),
        },
    };
    if let Some(baseline) = &args.baseline {
        report.settings.baseline.clone_from(baseline);
    }
    choose(args, &mut report).map_err(|error| failed(&error))?;
    report.summarize();
    write!(std::io::stdout().lock(), "{}", Tables(&report))?;
    draw(&report, args.plots.as_deref())
}

/// The same for a measurement of `scale`.
fn render_scale(args: &RenderArgs, mut report: ScaleReport) -> Result<()> {
    if args.baseline.is_some() {
        return Err("the ratios of a scale are to its first row: remove --baseline".into());
    }
    let names: Vec<_> = report.sets.iter().map(|set| set.engine.clone()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let filter = EngineFilter {
        parts: &args.engines,
        baseline: None,
        names: &names,
    };
    filter.check()?;
    report.sets.retain(|set| filter.has(&set.engine));
    write!(std::io::stdout().lock(), "{}", ScaleTables(&report))?;
    draw_scale(&report, args.plots.as_deref())
}

pub(super) fn draw_scale(report: &ScaleReport, plots: Option<&Path>) -> Result<()> {
    if let Some(dir) = plots {
        print_plots(&plot_scale(report, dir)?, dir);
    }
    Ok(())
}

fn print_plots(paths: &[PathBuf], dir: &Path) {
    let plots = if paths.len() == 1 { "plot" } else { "plots" };
    eprintln!("{} {plots} in {}", paths.len(), dir.display());
}

/// Keeps the selected engines, and always the baseline.
fn choose(args: &RenderArgs, report: &mut Report) -> Result<()> {
    let engines = report.sets.iter().flat_map(|set| &set.engines);
    let mut names: Vec<_> = engines.map(|report| report.engine.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let filter = EngineFilter {
        parts: &args.engines,
        baseline: Some(&report.settings.baseline),
        names: &names,
    };
    filter
        .check()
        .map_err(|error| format!("{error}; the file has {}", names.join(", ")))?;
    for set in &mut report.sets {
        set.engines.retain(|report| filter.has(&report.engine));
    }
    Ok(())
}

pub(super) fn draw(report: &Report, plots: Option<&Path>) -> Result<()> {
    if let Some(dir) = plots {
        print_plots(&plot(report, dir)?, dir);
    }
    Ok(())
}
