//! [`PairReport`]: the results of pairs, and their JSON form.

use serde::{Deserialize, Serialize};

use crate::bench_report::summarize;
use crate::{EngineReport, Machine, Pattern, Place, Settings, measure};

use super::Pair;

/// Results of one measurement of pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    /// The machine.
    pub machine: Machine,
    /// The settings. The baseline is the first variant of each pair.
    pub settings: Settings,
    /// The measured directories.
    pub places: Vec<Place>,
    /// Results, one set for each pair and place.
    pub sets: Vec<PairSet>,
}

/// Results of one pair in one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairSet {
    /// Name of one of [`PairReport::places`].
    pub place: String,
    /// Name of the pair.
    pub pair: String,
    /// The access pattern.
    pub pattern: Pattern,
    /// Transfers of one iteration.
    pub depth: usize,
    /// Results of the variants. Ratios are relative to the first.
    #[serde(alias = "ways")]
    pub variants: Vec<EngineReport>,
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
        let variants: Vec<_> = pair.variants.iter().map(|variant| &**variant).collect();
        let mut reports = measure(&workload, &variants, settings);
        if let Some(first) = variants.first() {
            summarize(&mut reports, first.name());
        }
        PairSet {
            place: place.name.clone(),
            pair: pair.name.into(),
            pattern: pair.pattern,
            depth: pair.depth,
            variants: reports,
        }
    }

    /// Title in tables: `batch: random-read, 32 an iteration, disk`.
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
            depth => format!("{pair}: {pattern}, {depth} an iteration, {place}"),
        }
    }
}

impl PairReport {
    /// Lists the results that are incomplete.
    pub fn problems(&self) -> Vec<String> {
        let variants = self
            .sets
            .iter()
            .flat_map(|set| set.variants.iter().map(move |variant| (set, variant)));
        variants
            .filter_map(|(set, variant)| {
                let problem = variant.problem(false)?;
                Some(format!("{}: {}: {problem}", set.title(), variant.engine))
            })
            .collect()
    }
}
