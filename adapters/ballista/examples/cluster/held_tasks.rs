//! [`HoldingEngine`]: holds tasks, so that an executor can be killed in the middle of a query for sure.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::serde::protobuf::{
    RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport,
};
use ballista_executor::execution_engine::{
    DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor,
};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;

use crate::node_message::Event;
use crate::parent_pipe::report;

/// Whether tasks are held.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    state: Mutex<HoldState>,
}

#[derive(Debug, Default)]
struct HoldState {
    armed: bool,
    /// Finished tasks since it was armed.
    finished: u64,
    /// Finished tasks of all.
    tasks: u64,
}

impl Hold {
    /// Holds the tasks that start after the next one has finished. The output of that one is lost with the
    /// executor, so others have to do its work again.
    pub(crate) fn arm(&self) {
        let mut state = self.state.lock().unwrap();
        (state.armed, state.finished) = (true, 0);
    }

    pub(crate) fn disarm(&self) {
        self.state.lock().unwrap().armed = false;
    }

    /// Number of tasks that have finished.
    pub(crate) fn finished_tasks(&self) -> u64 {
        self.state.lock().unwrap().tasks
    }

    fn holds(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.armed && state.finished > 0
    }

    fn finished(&self) {
        let mut state = self.state.lock().unwrap();
        state.finished += 1;
        state.tasks += 1;
    }
}

/// Ballista's engine, except that it holds tasks.
pub(crate) struct HoldingEngine {
    engine: DefaultExecutionEngine,
    hold: Arc<Hold>,
}

impl HoldingEngine {
    pub(crate) fn new(hold: Arc<Hold>) -> HoldingEngine {
        let engine = DefaultExecutionEngine::new();
        HoldingEngine { engine, hold }
    }
}

impl ExecutionEngine for HoldingEngine {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        global_output_partition_ids: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let stage = self.engine.create_query_stage_exec(
            job_id.clone(),
            stage_id,
            task_id,
            global_output_partition_ids,
            plan,
            work_dir,
            config,
        )?;
        Ok(Arc::new(HeldStage {
            stage,
            hold: Arc::clone(&self.hold),
            job: job_id.to_string(),
            stage_id,
        }))
    }
}

/// A stage whose tasks may be held.
#[derive(Debug)]
struct HeldStage {
    stage: Arc<dyn QueryStageExecutor>,
    hold: Arc<Hold>,
    job: String,
    stage_id: usize,
}

impl fmt::Display for HeldStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stage.fmt(f)
    }
}

#[async_trait]
impl QueryStageExecutor for HeldStage {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        if self.hold.holds() {
            let (job, stage) = (self.job.clone(), self.stage_id);
            report(&Event::Holding { job, stage });
            pending::<()>().await;
        }
        let written = self.stage.execute_query_stage(task_id, context).await;
        self.hold.finished();
        written
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.stage.collect_plan_metrics()
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.stage.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.stage.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.stage.collect_column_stats()
    }
}
