//! `render`: makes tables and plots from JSON.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::RenderArgs;
use super::engine_filter::EngineFilter;
use crate::{Report, Result, Tables, plot};

pub(super) fn run(args: &RenderArgs) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", args.from.display());
    let text = fs::read_to_string(&args.from).map_err(|error| failed(&error))?;
    let mut report: Report = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    if let Some(baseline) = &args.baseline {
        report.settings.baseline.clone_from(baseline);
    }
    choose(args, &mut report).map_err(|error| failed(&error))?;
    report.summarize();
    write!(std::io::stdout().lock(), "{}", Tables(&report))?;
    draw(&report, args.plots.as_deref())
}

/// Keeps the selected engines, and always the baseline.
fn choose(args: &RenderArgs, report: &mut Report) -> Result<()> {
    let filter = EngineFilter {
        parts: &args.engines,
        baseline: &report.settings.baseline,
    };
    let engines = report.sets.iter().flat_map(|set| &set.engines);
    let names: Vec<_> = engines.map(|report| &*report.engine).collect();
    filter.check(&names).map_err(|error| {
        let mut measured = names.clone();
        measured.sort_unstable();
        measured.dedup();
        format!("{error}; the file has {}", measured.join(", "))
    })?;
    for set in &mut report.sets {
        set.engines.retain(|report| filter.has(&report.engine));
    }
    Ok(())
}

pub(super) fn draw(report: &Report, plots: Option<&Path>) -> Result<()> {
    if let Some(dir) = plots {
        let paths = plot(report, dir)?;
        let plots = if paths.len() == 1 { "plot" } else { "plots" };
        eprintln!("{} {plots} in {}", paths.len(), dir.display());
    }
    Ok(())
}
