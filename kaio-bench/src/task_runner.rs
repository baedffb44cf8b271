//! Runs the tasks and waves of asynchronous engines.
//!
//! An engine implements [`AsyncIo`], and its run calls [`run_tasks!`](crate::run_tasks) in a future
//! that its runtime drives. Nothing here allocates once a run has started all of its tasks.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio::task::JoinHandle;

use crate::{Result, Run, RunStats, Transfer, TransferGenerator, Workload};

/// Performs single transfers.
pub trait AsyncIo {
    /// State used by one transfer at a time: a buffer, perhaps a file.
    type Slot;

    /// Performs `transfer`. Returns the slot for reuse, and the number of bytes transferred.
    fn transfer(
        &self,
        transfer: Transfer,
        slot: Self::Slot,
    ) -> impl Future<Output = (Self::Slot, Result<usize>)>;
}

/// Performs `count` transfers of `generator`, one after another, and adds them to `stats`.
pub async fn run_task<T: AsyncIo>(
    io: T,
    mut generator: TransferGenerator,
    mut slot: T::Slot,
    block: usize,
    count: usize,
    mut stats: RunStats,
) -> (T::Slot, Result<RunStats>) {
    for _ in 0..count {
        let transfer = generator.next_transfer();
        let start = stats.latencies.start();
        let (returned_slot, transferred) = io.transfer(transfer, slot).await;
        stats.latencies.stop(start);
        slot = returned_slot;
        if let Err(error) = check_len(transferred, block) {
            return (slot, Err(error));
        }
        stats.transfers += 1;
    }
    (slot, Ok(stats))
}

/// Performs `count` waves with one transfer for each slot, and adds them to `stats`. Each wave is
/// awaited as a whole.
pub async fn run_waves<T: AsyncIo>(
    io: T,
    mut generator: TransferGenerator,
    mut slots: Vec<T::Slot>,
    block: usize,
    count: usize,
    mut stats: RunStats,
) -> (Vec<T::Slot>, Result<RunStats>) {
    // Each wave reuses the boxes of the wave before, so that no wave allocates.
    let mut futures: Vec<_> = slots.iter().map(|_| Box::pin(None)).collect();
    for _ in 0..count {
        let start = stats.latencies.start();
        for (slot, future) in slots.drain(..).zip(&mut futures) {
            future.set(Some(io.transfer(generator.next_transfer(), slot)));
        }
        let outcome = wait_for_all(&mut futures, &mut slots, block).await;
        stats.latencies.stop(start);
        if let Err(error) = outcome {
            return (slots, Err(error));
        }
        stats.transfers += slots.len() as u64;
    }
    (slots, Ok(stats))
}

/// Waits for all futures and collects their slots.
async fn wait_for_all<S, F: Future<Output = (S, Result<usize>)>>(
    futures: &mut [Pin<Box<Option<F>>>],
    slots: &mut Vec<S>,
    block: usize,
) -> Result<()> {
    let mut outcome = Ok(());
    poll_fn(|cx| {
        for future in futures.iter_mut() {
            let Some(transfer) = future.as_mut().as_pin_mut() else {
                continue;
            };
            if let Poll::Ready((slot, transferred)) = transfer.poll(cx) {
                future.set(None);
                slots.push(slot);
                if let (Ok(()), Err(error)) = (&outcome, check_len(transferred, block)) {
                    outcome = Err(error);
                }
            }
        }
        if slots.len() == futures.len() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outcome
}

/// Checks that a transfer succeeded and transferred all of its bytes.
///
/// # Errors
///
/// The transfer's own error, or that it was short.
pub fn check_len(transferred: Result<usize>, block: usize) -> Result<()> {
    match transferred? {
        transferred if transferred == block => Ok(()),
        transferred => Err(format!("short transfer: {transferred} of {block} bytes").into()),
    }
}

/// Waits for the tasks of a run, returns their slots to `slots` and adds up their statistics.
///
/// # Errors
///
/// The first error of a task.
pub async fn join_tasks<S>(
    tasks: Vec<JoinHandle<(S, Result<RunStats>)>>,
    slots: &mut Vec<S>,
    run: &Run,
) -> Result<RunStats> {
    let mut sum = Ok(RunStats::new(run));
    for task in tasks {
        let stats = match task.await {
            Ok((slot, stats)) => {
                slots.push(slot);
                stats
            }
            Err(error) => Err(error.into()),
        };
        match (&mut sum, stats) {
            (Ok(sum), Ok(stats)) => sum.merge(&stats),
            (Ok(_), Err(error)) => sum = Err(error),
            (Err(_), _) => {}
        }
    }
    sum
}

/// Creates one slot for each transfer in flight.
///
/// # Errors
///
/// Those of `make`.
pub fn make_slots<S>(workload: &Workload, mut make: impl FnMut() -> Result<S>) -> Result<Vec<S>> {
    (0..workload.depth).map(|_| make()).collect()
}

/// Transfers of each task, or number of waves: `run.transfers` divided by the depth, rounded up.
pub fn iterations(workload: &Workload, run: &Run) -> usize {
    run.transfers.div_ceil(workload.depth).max(1)
}

/// Runs `$workload` inside a future: spawns its tasks with `$spawn`, waits for them and evaluates to
/// a `Result<RunStats>`. `$ios` is a slice; the tasks use clones of its elements in turn. `$slots` is a `Vec`
/// with `depth` slots.
///
/// This is a macro because a function can't require the future of `AsyncIo::transfer` to be `Send`
/// for `tokio::spawn` only.
#[macro_export]
macro_rules! run_tasks {
    ($spawn:path, $workload:expr, $run:expr, $ios:expr, $slots:expr) => {{
        let (workload, run): (&$crate::Workload, &$crate::Run) = ($workload, $run);
        let slots: &mut Vec<_> = $slots;
        let (block, iterations) = (
            workload.block(),
            $crate::task_runner::iterations(workload, run),
        );
        let mut generators = workload.generators(run.seed);
        if slots.len() != workload.depth {
            Err("an earlier run failed, so this engine can't run again".into())
        } else if workload.shape == $crate::Shape::Tasks {
            // Before the first task starts, so that its transfer does not wait for these allocations.
            let all_stats: Vec<_> = generators
                .iter()
                .map(|_| $crate::RunStats::new(run))
                .collect();
            let tasks = slots.drain(..).zip(generators).zip(all_stats);
            let tasks = tasks.zip($ios.iter().cycle());
            let tasks = tasks.map(|(((slot, generator), stats), io)| {
                let io = io.clone();
                $spawn($crate::task_runner::run_task(
                    io, generator, slot, block, iterations, stats,
                ))
            });
            let tasks: Vec<_> = tasks.collect();
            $crate::task_runner::join_tasks(tasks, slots, run).await
        } else {
            // A spawned task, so that it runs on a worker of a multi-thread runtime.
            let (io, generator) = ($ios[0].clone(), generators.remove(0));
            let all = std::mem::take(slots);
            let stats = $crate::RunStats::new(run);
            let task = $spawn($crate::task_runner::run_waves(
                io, generator, all, block, iterations, stats,
            ));
            match task.await {
                Ok((back, stats)) => {
                    *slots = back;
                    stats
                }
                Err(error) => Err(error.into()),
            }
        }
    }};
}
