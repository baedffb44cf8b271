//! [`ScaleTables`]: formats a report of scales as text.

use std::fmt::{self, Display, Formatter};

use super::{ScaleReport, ScaleSet};
use crate::EngineReport;
use crate::tables::{count, header, or_none, ratio, rows};

/// Formats a report of scales as tables.
#[derive(Clone, Copy, Debug)]
pub struct ScaleTables<'a>(pub &'a ScaleReport);

impl Display for ScaleTables<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ScaleTables(report) = self;
        header(f, &report.machine, &report.settings, &report.places)?;
        for set in &report.sets {
            write!(f, "\n{}", ScaleTable(set))?;
        }
        Ok(())
    }
}

/// Formats the results of one engine along one axis, with a row for each point.
#[derive(Clone, Copy, Debug)]
pub struct ScaleTable<'a>(pub &'a ScaleSet);

const COLUMNS: [&str; 7] = [
    "CPU ns",
    "CPU ratio (quartiles)",
    "user",
    "IOPS",
    "IOPS ratio (quartiles)",
    "calls",
    "allocs",
];

impl Display for ScaleTable<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.0.title())?;
        rows(f, &COLUMNS, &self.0.reports, |report| {
            Some((row(report)?, String::new()))
        })
    }
}

/// The cells of a measured point.
fn row(report: &EngineReport) -> Option<[String; COLUMNS.len()]> {
    let counts = &report.figures()?.counts;
    let summary = report.summary.as_ref()?;
    Some([
        or_none(summary.cpu_ns, |cpu| format!("{:.0}", cpu.median)),
        ratio(summary.cpu_ratio),
        or_none(summary.user_share, |share| {
            format!("{:.0} %", 100.0 * share)
        }),
        or_none(summary.iops, |iops| format!("{:.0}", iops.median)),
        ratio(summary.iops_ratio),
        count(counts.all_calls()),
        count(counts.allocations),
    ])
}
