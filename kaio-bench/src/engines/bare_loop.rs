//! The loop of the bare engines, generic over the kernel interface.

use crate::{Result, Run, RunStats, Shape, Transfer, TransferGenerator, Workload, task_runner};

/// A kernel interface for asynchronous I/O, with a slot for each transfer in flight.
pub(super) trait KernelInterface {
    fn workload(&self) -> &Workload;

    /// Queues `transfer` in `slot`, to be submitted by the next [`KernelInterface::wait`].
    fn enqueue(&mut self, slot: usize, transfer: Transfer) -> Result<()>;

    /// Submits the queued transfers, waits for completions and returns their number. `wanted` is the number
    /// that the caller needs.
    fn wait(&mut self, wanted: usize) -> Result<usize>;

    /// Checks completion `i` of the last [`KernelInterface::wait`] and returns its slot.
    fn completed_slot(&self, i: usize) -> Result<usize>;
}

pub(super) fn run_loop(interface: &mut impl KernelInterface, run: &Run) -> Result<RunStats> {
    let workload = interface.workload();
    let generators = workload.generators(run.seed);
    let iterations = task_runner::iterations(workload, run);
    match workload.shape {
        Shape::Tasks => run_tasks(interface, generators, iterations, run),
        Shape::Waves => run_waves(interface, generators, iterations, run),
    }
}

/// Replaces each completed transfer with the next one of its generator, until each generator has made
/// `iterations` transfers.
fn run_tasks(
    interface: &mut impl KernelInterface,
    mut generators: Vec<TransferGenerator>,
    iterations: usize,
    run: &Run,
) -> Result<RunStats> {
    let mut stats = RunStats::new(run);
    let mut left = vec![iterations - 1; generators.len()];
    let mut starts = vec![None; generators.len()];
    for (slot, generator) in generators.iter_mut().enumerate() {
        starts[slot] = stats.latencies.start();
        interface.enqueue(slot, generator.next_transfer())?;
    }
    let mut in_flight = generators.len();
    while in_flight > 0 {
        for i in 0..interface.wait(1)? {
            let slot = interface.completed_slot(i)?;
            stats.latencies.stop(starts[slot]);
            stats.transfers += 1;
            in_flight -= 1;
            if left[slot] > 0 {
                left[slot] -= 1;
                in_flight += 1;
                starts[slot] = stats.latencies.start();
                interface.enqueue(slot, generators[slot].next_transfer())?;
            }
        }
    }
    Ok(stats)
}

fn run_waves(
    interface: &mut impl KernelInterface,
    mut generators: Vec<TransferGenerator>,
    iterations: usize,
    run: &Run,
) -> Result<RunStats> {
    let mut stats = RunStats::new(run);
    let depth = interface.workload().depth;
    for _ in 0..iterations {
        let start = stats.latencies.start();
        for slot in 0..depth {
            interface.enqueue(slot, generators[0].next_transfer())?;
        }
        let mut completed = 0;
        while completed < depth {
            let done = interface.wait(depth - completed)?;
            for i in 0..done {
                interface.completed_slot(i)?;
            }
            completed += done;
        }
        stats.latencies.stop(start);
        stats.transfers += depth as u64;
    }
    Ok(stats)
}
