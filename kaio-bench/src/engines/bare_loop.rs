//! The loop of the bare engines, whatever interface of the kernel's it goes through.

use crate::{Lane, Result, Run, Shape, Tally, Transfer, Workload, on_tokio};

/// An interface of the kernel's, with a slot for each transfer in flight.
pub(super) trait Interface {
    fn workload(&self) -> &Workload;

    /// Has `transfer` go out with the next [`Interface::wait`].
    fn enqueue(&mut self, slot: usize, transfer: Transfer) -> Result<()>;

    /// Gives the kernel what is queued, waits for transfers that are done, and returns how many
    /// are. `wanted`: how many the caller can't go on without.
    fn wait(&mut self, wanted: usize) -> Result<usize>;

    /// The slot of number `i` of those, whose transfer is checked.
    fn landed(&self, i: usize) -> Result<usize>;
}

pub(super) fn drive(interface: &mut impl Interface, run: &Run) -> Result<Tally> {
    let workload = interface.workload();
    let lanes = workload.lanes(run.seed);
    let rounds = on_tokio::rounds(workload, run);
    match workload.shape {
        Shape::Tasks => tasks(interface, lanes, rounds, run),
        Shape::Waves => waves(interface, lanes, rounds, run),
    }
}

/// Whatever comes back is followed by the next transfer of its lane, until each lane has made
/// `rounds`.
fn tasks(
    interface: &mut impl Interface,
    mut lanes: Vec<Lane>,
    rounds: usize,
    run: &Run,
) -> Result<Tally> {
    let mut tally = Tally::new(run);
    let mut left = vec![rounds - 1; lanes.len()];
    let mut starts = vec![None; lanes.len()];
    for (slot, lane) in lanes.iter_mut().enumerate() {
        starts[slot] = tally.latencies.start();
        interface.enqueue(slot, lane.next())?;
    }
    let mut flying = lanes.len();
    while flying > 0 {
        for i in 0..interface.wait(1)? {
            let slot = interface.landed(i)?;
            tally.latencies.stop(starts[slot]);
            tally.transfers += 1;
            flying -= 1;
            if left[slot] > 0 {
                left[slot] -= 1;
                flying += 1;
                starts[slot] = tally.latencies.start();
                interface.enqueue(slot, lanes[slot].next())?;
            }
        }
    }
    Ok(tally)
}

fn waves(
    interface: &mut impl Interface,
    mut lanes: Vec<Lane>,
    rounds: usize,
    run: &Run,
) -> Result<Tally> {
    let mut tally = Tally::new(run);
    let depth = interface.workload().depth;
    for _ in 0..rounds {
        let start = tally.latencies.start();
        for slot in 0..depth {
            interface.enqueue(slot, lanes[0].next())?;
        }
        let mut landed = 0;
        while landed < depth {
            let done = interface.wait(depth - landed)?;
            for i in 0..done {
                interface.landed(i)?;
            }
            landed += done;
        }
        tally.latencies.stop(start);
        tally.transfers += depth as u64;
    }
    Ok(tally)
}
