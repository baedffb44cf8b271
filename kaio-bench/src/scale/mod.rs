//! Cost against scale: the cost of a transfer with more tasks, more open files and more contexts.
//!
//! An [`Axis`] varies one of them. At each [`ScalePoint`] an engine does the same work, with the same number of
//! requests in flight, so that the kernel and the device do the same for each transfer; all other tasks wait
//! for a slot. A ratio is that of a point to the first point of its axis, within a round.
//!
//! Measure on a disk. On tmpfs a transfer completes inside its submission, so a task rarely waits.
//!
//! Only the part of a run in which all tasks are active is measured ([`SteadyWindow`](crate::SteadyWindow)).

mod point_engine;
mod scale_plots;
mod scale_report;
mod scale_tables;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use point_engine::PointEngine;
pub(crate) use point_engine::check_scale;
pub use scale_plots::plot_scale;
pub use scale_report::{ScaleReport, ScaleSet};
pub use scale_tables::{ScaleTable, ScaleTables};

/// The quantity that varies between the points of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// The number of tasks, of which all but those with a slot wait.
    Tasks,
    /// The number of open files that the tasks use in turn.
    Files,
    /// The number of contexts that the tasks use in turn, with the same number of slots in total.
    Contexts,
}

impl Axis {
    /// Every axis.
    pub const ALL: [Axis; 3] = [Axis::Tasks, Axis::Files, Axis::Contexts];

    /// Name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Tasks => "tasks",
            Axis::Files => "files",
            Axis::Contexts => "contexts",
        }
    }

    /// The coordinate of `point` on this axis.
    pub fn of(self, point: &ScalePoint) -> usize {
        match self {
            Axis::Tasks => point.tasks,
            Axis::Files => point.files,
            Axis::Contexts => point.contexts,
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The scale of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScalePoint {
    /// Number of tasks, each with one transfer at a time.
    pub tasks: usize,
    /// How often the file is opened.
    pub files: usize,
    /// Number of contexts.
    pub contexts: usize,
    /// Maximum requests in flight in all contexts together.
    pub slots: usize,
}

/// The values of each axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleValues {
    /// Numbers of tasks.
    pub tasks: Vec<usize>,
    /// Numbers of open files.
    pub files: Vec<usize>,
    /// Numbers of contexts.
    pub contexts: Vec<usize>,
    /// Maximum requests in flight, except along [`Axis::Contexts`].
    pub slots: usize,
}

/// Slots of a context, if there are as many contexts as the largest value of the axis.
const SLOTS_PER_CONTEXT: usize = 4;
/// Tasks for each slot along the axes of files and contexts.
const TASKS_PER_SLOT: usize = 4;

impl ScaleValues {
    /// Returns the points along `axis`.
    pub fn points(&self, axis: Axis) -> Vec<ScalePoint> {
        let most = |values: &[usize]| values.iter().copied().max().unwrap_or(1);
        match axis {
            Axis::Tasks => {
                let point = |&tasks| ScalePoint {
                    tasks,
                    files: 1,
                    contexts: 1,
                    slots: self.slots,
                };
                self.tasks.iter().map(point).collect()
            }
            Axis::Files => {
                let tasks = most(&self.files).max(TASKS_PER_SLOT * self.slots);
                let point = |&files| ScalePoint {
                    tasks,
                    files,
                    contexts: 1,
                    slots: self.slots,
                };
                self.files.iter().map(point).collect()
            }
            Axis::Contexts => {
                let slots = SLOTS_PER_CONTEXT * most(&self.contexts);
                let point = |&contexts| ScalePoint {
                    tasks: TASKS_PER_SLOT * slots,
                    files: 1,
                    contexts,
                    slots,
                };
                self.contexts.iter().map(point).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_of_the_axis_differs_between_points() {
        let values = ScaleValues {
            tasks: vec![10, 1000, 100_000],
            files: vec![1, 1000],
            contexts: vec![1, 64],
            slots: 8,
        };
        for axis in Axis::ALL {
            let points = values.points(axis);
            assert!(points.len() >= 2);
            for point in &points {
                let mut same = *point;
                match axis {
                    Axis::Tasks => same.tasks = points[0].tasks,
                    Axis::Files => same.files = points[0].files,
                    Axis::Contexts => same.contexts = points[0].contexts,
                }
                assert_eq!(same, points[0], "{axis}");
                assert!(point.tasks >= point.slots && point.tasks >= point.files);
                assert!(point.slots >= point.contexts);
            }
        }
    }
}
