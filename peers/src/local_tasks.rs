//! Prepares and joins the tasks of a run on runtimes other than tokio. The tasks themselves are those of
//! [`kaio_bench::task_runner`].

use std::future::Future;

use kaio_bench::task_runner::{self, AsyncIo};
use kaio_bench::{Result, Run, RunStats, Shape, TransferGenerator, Workload};

/// The work of one task: the transfers of a generator, with one in flight for each slot.
pub(crate) struct TaskPlan<T: AsyncIo> {
    io: T,
    generator: TransferGenerator,
    slots: Vec<T::Slot>,
    shape: Shape,
    block: usize,
    iterations: usize,
    stats: RunStats,
}

/// The slots and statistics that a task returns.
pub(crate) type TaskResult<S> = (Vec<S>, Result<RunStats>);

/// Returns a plan for each task of a run; spawn [`TaskPlan::run`] of each. All allocations happen here,
/// before the first task starts. The tasks use clones of `ios` in turn.
pub(crate) fn make_tasks<T: AsyncIo + Clone>(
    workload: &Workload,
    run: &Run,
    ios: &[T],
    slots: &mut Vec<T::Slot>,
) -> Result<Vec<TaskPlan<T>>> {
    if slots.len() != workload.depth {
        return Err("an earlier run failed, so this engine can't run again".into());
    }
    let generators = workload.generators(run.seed);
    let slots_per_task = slots.len() / generators.len();
    let plan = |(generator, io): (_, &T)| TaskPlan {
        io: io.clone(),
        generator,
        slots: slots.drain(..slots_per_task).collect(),
        shape: workload.shape,
        block: workload.block(),
        iterations: task_runner::iterations(workload, run),
        stats: RunStats::new(run),
    };
    Ok(generators
        .into_iter()
        .zip(ios.iter().cycle())
        .map(plan)
        .collect())
}

/// Waits for `tasks`, returns their slots to `slots` and adds up their statistics.
pub(crate) async fn join_tasks<S, F>(
    tasks: Vec<F>,
    slots: &mut Vec<S>,
    run: &Run,
) -> Result<RunStats>
where
    F: Future<Output = Result<TaskResult<S>>>,
{
    let mut sum = Ok(RunStats::new(run));
    for task in tasks {
        let (returned, stats) = task.await?;
        slots.extend(returned);
        sum = sum.and_then(|mut sum| {
            sum.merge(&stats?);
            Ok(sum)
        });
    }
    sum
}

impl<T: AsyncIo> TaskPlan<T> {
    /// Performs all transfers of the task.
    pub(crate) async fn run(self) -> TaskResult<T::Slot> {
        let TaskPlan {
            io,
            generator,
            mut slots,
            shape,
            block,
            iterations,
            stats,
        } = self;
        match (shape, slots.pop()) {
            (Shape::Tasks, Some(slot)) => {
                let future = task_runner::run_task(io, generator, slot, block, iterations, stats);
                let (slot, stats) = future.await;
                slots.push(slot);
                (slots, stats)
            }
            (_, last) => {
                slots.extend(last);
                task_runner::run_waves(io, generator, slots, block, iterations, stats).await
            }
        }
    }
}
