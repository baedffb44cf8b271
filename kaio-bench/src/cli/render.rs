//! `render`: tables and plots from JSON.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::RenderArgs;
use crate::{Report, Result, Set, Tables, plot};

pub(super) fn render(args: &RenderArgs) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", args.from.display());
    let text = fs::read_to_string(&args.from).map_err(|error| failed(&error))?;
    let mut report: Report = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    if let Some(baseline) = &args.baseline {
        report.settings.baseline.clone_from(baseline);
        let known = |set: &Set| set.engines.iter().any(|report| report.engine == *baseline);
        if !report.sets.iter().any(known) {
            return Err(failed(&format!("no engine {baseline} in it")).into());
        }
    }
    report.summarize();
    write!(std::io::stdout().lock(), "{}", Tables(&report))?;
    draw(&report, args.plots.as_deref())
}

pub(super) fn draw(report: &Report, plots: Option<&Path>) -> Result<()> {
    if let Some(dir) = plots {
        let paths = plot(report, dir)?;
        eprintln!("{} plots in {}", paths.len(), dir.display());
    }
    Ok(())
}
