//! [`PairReport`]: what has been measured of pairs.

use serde::{Deserialize, Serialize};

use crate::report::summarize;
use crate::{EngineReport, Machine, Pattern, Place, Settings, measure};

use super::Pair;

/// All of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    /// Where it was.
    pub machine: Machine,
    /// What was asked for. The baseline is each pair's own.
    pub settings: Settings,
    /// The directories.
    pub places: Vec<Place>,
    /// What came out, a pair in one place each.
    pub sets: Vec<PairSet>,
}

/// One pair in one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairSet {
    /// Which of [`PairReport::places`], by its name.
    pub place: String,
    /// Which pair.
    pub pair: String,
    /// What was moved.
    pub pattern: Pattern,
    /// Transfers of a turn.
    pub depth: usize,
    /// The ways; ratios are to the first.
    pub ways: Vec<EngineReport>,
}

impl PairSet {
    /// Measures `pair` in `place`, with the file at `path`.
    pub fn measure(
        pair: &Pair,
        place: &Place,
        path: &std::path::Path,
        settings: &Settings,
    ) -> PairSet {
        let workload = pair.workload(path, settings.file_size);
        let ways: Vec<_> = pair.ways.iter().map(|way| &**way).collect();
        let mut reports = measure(&workload, &ways, settings);
        if let Some(first) = ways.first() {
            summarize(&mut reports, first.name());
        }
        PairSet {
            place: place.name.clone(),
            pair: pair.name.into(),
            pattern: pair.pattern,
            depth: pair.depth,
            ways: reports,
        }
    }

    /// In words: `batch: random-read, 32 a turn, disk`.
    pub fn title(&self) -> String {
        let PairSet {
            place,
            pair,
            pattern,
            depth,
            ..
        } = self;
        match depth {
            1 => format!("{pair}: {pattern}, {place}"),
            depth => format!("{pair}: {pattern}, {depth} a turn, {place}"),
        }
    }
}

impl PairReport {
    /// What should have been measured and was not.
    pub fn flaws(&self) -> Vec<String> {
        let ways = self
            .sets
            .iter()
            .flat_map(|set| set.ways.iter().map(move |way| (set, way)));
        ways.filter_map(|(set, way)| {
            let flaw = way.flaw(false)?;
            Some(format!("{}: {}: {flaw}", set.title(), way.engine))
        })
        .collect()
    }
}
