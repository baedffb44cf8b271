//! What engines on tokio have in common: many tasks with one transfer each, or one task with waves.
//!
//! An engine says how one transfer is made ([`Transfers`]), and its run calls
//! [`run_on_tokio!`](crate::run_on_tokio) in a future that its runtime drives. Nothing here
//! allocates once a run has started all of its tasks.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio::task::JoinHandle;

use crate::{Lane, Result, Run, Tally, Transfer, Workload};

/// Makes single transfers.
pub trait Transfers {
    /// What one transfer at a time may use: a buffer, perhaps a file.
    type Slot;

    /// Makes `transfer`; returns how many bytes were moved, and the slot for the next one.
    fn transfer(
        &self,
        transfer: Transfer,
        slot: Self::Slot,
    ) -> impl Future<Output = (Self::Slot, Result<usize>)>;
}

/// Makes the transfers of one lane, one after another, and adds them to `tally`.
pub async fn one_by_one<T: Transfers>(
    transfers: T,
    mut lane: Lane,
    mut slot: T::Slot,
    block: usize,
    count: usize,
    mut tally: Tally,
) -> (T::Slot, Result<Tally>) {
    for _ in 0..count {
        let transfer = lane.next();
        let start = tally.latencies.start();
        let (back, moved) = transfers.transfer(transfer, slot).await;
        tally.latencies.stop(start);
        slot = back;
        if let Err(error) = check(moved, block) {
            return (slot, Err(error));
        }
        tally.transfers += 1;
    }
    (slot, Ok(tally))
}

/// Makes `count` waves of as many transfers as there are slots, waits for each wave as a whole, and
/// adds them to `tally`.
pub async fn in_waves<T: Transfers>(
    transfers: T,
    mut lane: Lane,
    mut slots: Vec<T::Slot>,
    block: usize,
    count: usize,
    mut tally: Tally,
) -> (Vec<T::Slot>, Result<Tally>) {
    // The transfers of every wave take the places of the one before.
    let mut flights: Vec<_> = slots.iter().map(|_| Box::pin(None)).collect();
    for _ in 0..count {
        let start = tally.latencies.start();
        for (slot, flight) in slots.drain(..).zip(&mut flights) {
            flight.set(Some(transfers.transfer(lane.next(), slot)));
        }
        let outcome = land(&mut flights, &mut slots, block).await;
        tally.latencies.stop(start);
        if let Err(error) = outcome {
            return (slots, Err(error));
        }
        tally.transfers += slots.len() as u64;
    }
    (slots, Ok(tally))
}

/// Waits for all of `flights`, and takes back their slots.
async fn land<S, F: Future<Output = (S, Result<usize>)>>(
    flights: &mut [Pin<Box<Option<F>>>],
    slots: &mut Vec<S>,
    block: usize,
) -> Result<()> {
    let mut outcome = Ok(());
    poll_fn(|cx| {
        for flight in flights.iter_mut() {
            let Some(transfer) = flight.as_mut().as_pin_mut() else {
                continue;
            };
            if let Poll::Ready((slot, moved)) = transfer.poll(cx) {
                flight.set(None);
                slots.push(slot);
                if let (Ok(()), Err(error)) = (&outcome, check(moved, block)) {
                    outcome = Err(error);
                }
            }
        }
        if slots.len() == flights.len() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outcome
}

/// Whether a transfer has moved all of its bytes.
///
/// # Errors
///
/// Where it has not, or has failed.
pub fn check(moved: Result<usize>, block: usize) -> Result<()> {
    match moved? {
        moved if moved == block => Ok(()),
        moved => Err(format!("a transfer of {block} bytes has moved {moved}").into()),
    }
}

/// Waits for the tasks of a run, and gives their slots back to `slots`.
///
/// # Errors
///
/// The first of theirs.
pub async fn gather<S>(
    tasks: Vec<JoinHandle<(S, Result<Tally>)>>,
    slots: &mut Vec<S>,
    run: &Run,
) -> Result<Tally> {
    let mut sum = Ok(Tally::new(run));
    for task in tasks {
        let tally = match task.await {
            Ok((slot, tally)) => {
                slots.push(slot);
                tally
            }
            Err(error) => Err(error.into()),
        };
        match (&mut sum, tally) {
            (Ok(sum), Ok(tally)) => sum.merge(&tally),
            (Ok(_), Err(error)) => sum = Err(error),
            (Err(_), _) => {}
        }
    }
    sum
}

/// Slots for every transfer that a workload keeps in flight.
///
/// # Errors
///
/// What `make` fails with.
pub fn slots<S>(workload: &Workload, mut make: impl FnMut() -> Result<S>) -> Result<Vec<S>> {
    (0..workload.depth).map(|_| make()).collect()
}

/// How many rounds of `depth` transfers make at least so many as the run asks for.
pub fn rounds(workload: &Workload, run: &Run) -> usize {
    run.transfers.div_ceil(workload.depth).max(1)
}

/// A run of `$workload`, inside a future: spawns its tasks with `$spawn`, waits for them, and is
/// their `Result<Tally>`. `$transfers` is cloned for each; `$slots` is a `Vec` of as many slots as
/// the workload is deep.
///
/// A macro, because a function can't ask that what `Transfers::transfer` returns be `Send` for one
/// way to spawn and not for another.
#[macro_export]
macro_rules! run_on_tokio {
    ($spawn:path, $workload:expr, $run:expr, $transfers:expr, $slots:expr) => {{
        let (workload, run): (&$crate::Workload, &$crate::Run) = ($workload, $run);
        let slots: &mut Vec<_> = $slots;
        let (block, rounds) = (workload.block(), $crate::on_tokio::rounds(workload, run));
        let mut lanes = workload.lanes(run.seed);
        if slots.len() != workload.depth {
            Err("an earlier run was broken off".into())
        } else if workload.shape == $crate::Shape::Tasks {
            // All before the first task starts: else its transfer would wait for the others'.
            let tallies: Vec<_> = lanes.iter().map(|_| $crate::Tally::new(run)).collect();
            let tasks = slots.drain(..).zip(lanes).zip(tallies);
            let tasks = tasks.map(|((slot, lane), tally)| {
                let transfers = $transfers.clone();
                $spawn($crate::on_tokio::one_by_one(
                    transfers, lane, slot, block, rounds, tally,
                ))
            });
            let tasks: Vec<_> = tasks.collect();
            $crate::on_tokio::gather(tasks, slots, run).await
        } else {
            // A task too, so that with several workers it runs on one of them.
            let (transfers, lane) = ($transfers.clone(), lanes.remove(0));
            let all = std::mem::take(slots);
            let tally = $crate::Tally::new(run);
            let task = $spawn($crate::on_tokio::in_waves(
                transfers, lane, all, block, rounds, tally,
            ));
            match task.await {
                Ok((back, tally)) => {
                    *slots = back;
                    tally
                }
                Err(error) => Err(error.into()),
            }
        }
    }};
}
