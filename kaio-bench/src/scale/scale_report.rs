//! [`ScaleReport`]: the results of a measurement of scales, and their JSON form.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Axis, PointEngine, ScalePoint};
use crate::bench_report::summarize;
use crate::{
    Engine, EngineReport, Machine, Pattern, Place, Settings, Shape, Summary, Workload, measure,
};

/// Results of one measurement of scales.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleReport {
    /// The machine.
    pub machine: Machine,
    /// The settings. The baseline of a set is its first point.
    pub settings: Settings,
    /// The measured directories.
    pub places: Vec<Place>,
    /// Results, one set for each place, axis and engine.
    pub sets: Vec<ScaleSet>,
}

/// Results of one engine along one axis in one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleSet {
    /// Name of one of [`ScaleReport::places`].
    pub place: String,
    /// The quantity that varies.
    pub axis: Axis,
    /// Name of the engine.
    pub engine: String,
    /// The points.
    pub points: Vec<ScalePoint>,
    /// Results of the points, named by their value on the axis. Ratios are relative to the first.
    pub reports: Vec<EngineReport>,
}

impl ScaleSet {
    /// Measures random reads of `engine` at `points` along `axis` in `place`, with the file at `path`.
    pub fn measure(
        engine: &dyn Engine,
        axis: Axis,
        points: &[ScalePoint],
        place: &Place,
        path: &Path,
        settings: &Settings,
    ) -> ScaleSet {
        let engines: Vec<_> = points
            .iter()
            .map(|point| PointEngine::new(engine, axis, *point))
            .collect();
        let engines: Vec<_> = engines.iter().map(|engine| engine as &dyn Engine).collect();
        // Each point sets its own depth. This one only rounds the number of transfers.
        let workload = Workload::new(
            Pattern::RandomRead,
            Shape::Tasks,
            1,
            path,
            settings.file_size,
        );
        let mut reports = measure(&workload, &engines, settings);
        if let Some(first) = engines.first() {
            summarize(&mut reports, first.name());
        }
        ScaleSet {
            place: place.name.clone(),
            axis,
            engine: engine.name().into(),
            points: points.to_vec(),
            reports,
        }
    }

    /// Title in tables: `tasks: kaio/current-thread, 8 in flight, disk`.
    pub fn title(&self) -> String {
        let ScaleSet {
            place,
            axis,
            engine,
            points,
            ..
        } = self;
        let Some(ScalePoint { tasks, slots, .. }) = points.first() else {
            return format!("{axis}: {engine}, {place}");
        };
        match axis {
            Axis::Tasks => format!("{axis}: {engine}, {slots} slots, {place}"),
            _ => format!("{axis}: {engine}, {slots} slots, {tasks} tasks, {place}"),
        }
    }

    /// The summary of the point with the value `value` on the axis.
    pub(super) fn summary(&self, value: usize) -> Option<&Summary> {
        let name = value.to_string();
        let report = self.reports.iter().find(|report| report.engine == name)?;
        report.summary.as_ref()
    }
}

impl ScaleReport {
    /// Lists the results that are incomplete.
    pub fn problems(&self) -> Vec<String> {
        let reports = self
            .sets
            .iter()
            .flat_map(|set| set.reports.iter().map(move |report| (set, report)));
        reports
            .filter_map(|(set, report)| {
                let problem = report.problem(false)?;
                Some(format!("{}: {}: {problem}", set.title(), report.engine))
            })
            .collect()
    }
}
