//! [`PointEngine`]: an engine at one scale.

use std::sync::Arc;

use super::{Axis, ScalePoint};
use crate::{
    Engine, Prepared, Result, Run, RunStats, SteadyPart, SteadyWindow, Unavailable, Workload,
};

/// An engine at one scale, as an engine of its own. Its workload is that of the measurement, with the numbers
/// of its point.
pub struct PointEngine<'a> {
    engine: &'a dyn Engine,
    point: ScalePoint,
    name: String,
}

impl<'a> PointEngine<'a> {
    /// Creates the engine for `point`, named after its place on `axis`.
    pub fn new(engine: &'a dyn Engine, axis: Axis, point: ScalePoint) -> PointEngine<'a> {
        PointEngine {
            engine,
            point,
            name: axis.of(&point).to_string(),
        }
    }
}

impl std::fmt::Debug for PointEngine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PointEngine")
            .field("engine", &self.engine.name())
            .field("point", &self.point)
            .finish_non_exhaustive()
    }
}

impl Engine for PointEngine<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn max_contexts(&self) -> usize {
        self.engine.max_contexts()
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let window = Arc::new(SteadyWindow::default());
        let workload = self.point.workload(workload, Some(Arc::clone(&window)));
        check_scale(self.engine, &workload)?;
        Ok(Box::new(PreparedPoint {
            prepared: self.engine.prepare(&workload)?,
            tasks: self.point.tasks,
            window,
        }))
    }
}

impl ScalePoint {
    /// Returns `workload` at this scale.
    pub(crate) fn workload(
        &self,
        workload: &Workload,
        window: Option<Arc<SteadyWindow>>,
    ) -> Workload {
        Workload {
            depth: self.tasks,
            files: self.files,
            contexts: self.contexts,
            slots: self.slots.div_ceil(self.contexts),
            window,
            ..workload.clone()
        }
    }
}

/// Checks that `engine` respects the scale of `workload`.
///
/// # Errors
///
/// [`Unavailable`] if it does not.
pub(crate) fn check_scale(engine: &dyn Engine, workload: &Workload) -> Result<()> {
    let (name, most) = (engine.name(), engine.max_contexts());
    match most {
        0 if workload.is_scaled() => {
            Err(Unavailable(format!("{name} is not made for other scales")).into())
        }
        1.. if workload.contexts > most => {
            Err(Unavailable(format!("{name} has at most {most} context")).into())
        }
        _ => Ok(()),
    }
}

struct PreparedPoint {
    prepared: Box<dyn Prepared>,
    tasks: usize,
    window: Arc<SteadyWindow>,
}

/// Minimum transfers of each task. The first and the last are not measured.
const MIN_TRANSFERS: usize = 3;

/// Maximum runs of a point whose window is missed.
const ATTEMPTS: usize = 10;

impl Prepared for PreparedPoint {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let each = run.transfers.div_ceil(self.tasks).max(MIN_TRANSFERS);
        let transfers = each * self.tasks;
        let (first, last) = (self.tasks as u64, (transfers - self.tasks) as u64);
        for _ in 0..ATTEMPTS {
            self.window.prepare(first, last);
            let stats = self.prepared.run(&Run { transfers, ..*run })?;
            if !self.window.is_missed() {
                return Ok(stats);
            }
        }
        Err("a thread was preempted during the whole measurement, each time".into())
    }

    fn steady_part(&self) -> Option<SteadyPart> {
        self.window.part()
    }
}
