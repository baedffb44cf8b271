//! Runs on runtimes that are not tokio's. Their tasks do what those on tokio do: it stands in
//! [`kaio_bench::on_tokio`]; here they are handed out and gathered.

use std::future::Future;

use kaio_bench::on_tokio::{self, Transfers};
use kaio_bench::{Lane, Result, Run, Shape, Tally, Workload};

/// What one task is to do: all transfers of a lane, with as many in flight as it has slots.
pub(crate) struct Turn<T: Transfers> {
    transfers: T,
    lane: Lane,
    slots: Vec<T::Slot>,
    shape: Shape,
    block: usize,
    rounds: usize,
    tally: Tally,
}

/// The slots that a task gives back, and what it has done.
pub(crate) type Done<S> = (Vec<S>, Result<Tally>);

/// The tasks of a run, to be spawned: each does its [`Turn::work`]. What they allocate is there
/// before the first of them starts.
pub(crate) fn hand_out<T: Transfers + Clone>(
    workload: &Workload,
    run: &Run,
    transfers: &T,
    slots: &mut Vec<T::Slot>,
) -> Result<Vec<Turn<T>>> {
    if slots.len() != workload.depth {
        return Err("an earlier run was broken off".into());
    }
    let lanes = workload.lanes(run.seed);
    let each = slots.len() / lanes.len();
    let turn = |lane| Turn {
        transfers: transfers.clone(),
        lane,
        slots: slots.drain(..each).collect(),
        shape: workload.shape,
        block: workload.block(),
        rounds: on_tokio::rounds(workload, run),
        tally: Tally::new(run),
    };
    Ok(lanes.into_iter().map(turn).collect())
}

/// Waits for `tasks`, takes back their slots, and adds up what they have done.
pub(crate) async fn gather<S, F>(tasks: Vec<F>, slots: &mut Vec<S>, run: &Run) -> Result<Tally>
where
    F: Future<Output = Result<Done<S>>>,
{
    let mut sum = Ok(Tally::new(run));
    for task in tasks {
        let (back, tally) = task.await?;
        slots.extend(back);
        sum = sum.and_then(|mut sum| {
            sum.merge(&tally?);
            Ok(sum)
        });
    }
    sum
}

impl<T: Transfers> Turn<T> {
    pub(crate) async fn work(self) -> Done<T::Slot> {
        let Turn {
            transfers,
            lane,
            mut slots,
            shape,
            block,
            rounds,
            tally,
        } = self;
        match (shape, slots.pop()) {
            (Shape::Tasks, Some(slot)) => {
                let work = on_tokio::one_by_one(transfers, lane, slot, block, rounds, tally);
                let (slot, tally) = work.await;
                slots.push(slot);
                (slots, tally)
            }
            (_, last) => {
                slots.extend(last);
                on_tokio::in_waves(transfers, lane, slots, block, rounds, tally).await
            }
        }
    }
}
