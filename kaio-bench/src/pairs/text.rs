//! [`PairTables`]: a report of pairs as text.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::{PairReport, PairSet};
use crate::EngineReport;
use crate::text::{count, header, or_none, ratio, rows};

/// A report of pairs as tables.
#[derive(Clone, Copy, Debug)]
pub struct PairTables<'a>(pub &'a PairReport);

impl Display for PairTables<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let PairTables(report) = self;
        header(f, &report.machine, &report.settings, &report.places)?;
        for set in &report.sets {
            write!(f, "\n{}", PairTable(set))?;
        }
        Ok(())
    }
}

/// One pair's ways, a row each.
#[derive(Clone, Copy, Debug)]
pub struct PairTable<'a>(pub &'a PairSet);

const COLUMNS: [&str; 5] = [
    "time ratio (quartiles)",
    "CPU ratio (quartiles)",
    "machine ratio",
    "allocs",
    "calls",
];

impl Display for PairTable<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.0.title())?;
        rows(f, &COLUMNS, &self.0.ways, row)
    }
}

/// The cells of a way that was measured, and which calls there were.
fn row(way: &EngineReport) -> Option<([String; COLUMNS.len()], String)> {
    let counts = &way.figures()?.counts;
    let summary = way.summary.as_ref()?;
    let cells = [
        ratio(summary.time_ratio),
        ratio(summary.cpu_ratio),
        or_none(summary.machine_ratio, |ratio| format!("{ratio:.2}")),
        count(counts.allocations),
        count(counts.all_calls()),
    ];
    Some((cells, counts.calls.as_ref().map_or(String::new(), named)))
}

/// System calls by name, the most frequent first; without those that can't be seen in two digits.
fn named(calls: &BTreeMap<String, f64>) -> String {
    let mut calls: Vec<_> = calls.iter().filter(|(_, count)| **count >= 0.005).collect();
    calls.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let calls = calls
        .iter()
        .map(|(name, count)| format!("{name} {count:.2}"));
    calls.collect::<Vec<_>>().join(", ")
}
