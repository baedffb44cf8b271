//! [`PairTables`]: formats a report of pairs as text.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::{PairReport, PairSet};
use crate::EngineReport;
use crate::tables::{count, header, or_none, ratio, rows};

/// Formats a report of pairs as tables.
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

/// Formats the results of one pair, with a row for each variant.
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
        rows(f, &COLUMNS, &self.0.variants, row)
    }
}

/// The cells of a measured variant, and its system calls by name.
fn row(variant: &EngineReport) -> Option<([String; COLUMNS.len()], String)> {
    let counts = &variant.figures()?.counts;
    let summary = variant.summary.as_ref()?;
    let cells = [
        ratio(summary.time_ratio),
        ratio(summary.cpu_ratio),
        or_none(summary.machine_ratio, |ratio| format!("{ratio:.2}")),
        count(counts.allocations),
        count(counts.all_calls()),
    ];
    Some((
        cells,
        counts.calls.as_ref().map_or(String::new(), calls_by_name),
    ))
}

/// Lists system calls by name, the most frequent first, without those that round to 0.00.
fn calls_by_name(calls: &BTreeMap<String, f64>) -> String {
    let mut calls: Vec<_> = calls.iter().filter(|(_, count)| **count >= 0.005).collect();
    calls.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let calls = calls
        .iter()
        .map(|(name, count)| format!("{name} {count:.2}"));
    calls.collect::<Vec<_>>().join(", ")
}
