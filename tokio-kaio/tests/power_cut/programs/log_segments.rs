//! [`Program::Log`](super::Program::Log): tasks append records to the log of the example `wal`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::task::JoinSet;
use tokio_kaio::AioContextHandle;

use super::Job;
use super::content::{content, operation_of, random};
use super::history::Oracle;
use super::log::{Log, Result};

/// Tasks that append at the same time, so that a commit has several records.
const TASKS: u64 = 4;
/// The number of records that are kept, about.
const KEPT: u64 = 48;

fn record(job: &Job, operation: u64) -> Vec<u8> {
    content(job.seed, operation, 9000)
}

pub async fn run(job: &Job, dir: &Path, handle: &AioContextHandle, oracle: &Oracle) -> Result<()> {
    let (log, committer, _) = Log::open(dir, handle, job.log_options()).await?;
    let left = Arc::new(AtomicU64::new(job.operations));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (job, log, oracle, left) = (job.clone(), log.clone(), oracle.clone(), left.clone());
        tasks.spawn(async move {
            while left
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                .is_ok()
            {
                let operation = oracle.start(0);
                let sequence = log.append(record(&job, operation)).await?;
                oracle.acknowledge(operation, sequence);
                if random(job.seed, operation, 1) % 16 == 0 && sequence > KEPT {
                    oracle.discard(sequence - KEPT);
                    log.discard(sequence - KEPT).await?;
                }
            }
            Result::Ok(())
        });
    }
    drop(log);
    let appended: Result<Vec<()>> = tasks.join_all().await.into_iter().collect();
    committer.await??; // has the error that made appends fail
    appended.map(drop)
}

pub async fn check(
    job: &Job,
    dir: &Path,
    handle: &AioContextHandle,
    oracle: &Oracle,
) -> Result<()> {
    let (log, committer, replay) = Log::open(dir, handle, job.log_options()).await?;
    drop(log);
    committer.await??;
    let mut history = oracle.history();
    let discarded = history.discarded().max(1);
    if replay.first > discarded {
        let first = replay.first;
        return Err(format!("the log begins with record {first} instead of {discarded}").into());
    }
    for (&operation, &sequence) in history.durable() {
        let index = sequence.checked_sub(replay.first);
        let found = index.and_then(|index| replay.records.get(index as usize));
        match found {
            Some(found) if *found == record(job, operation) => {}
            Some(_) => return Err(format!("record {sequence} has a wrong content").into()),
            None => {
                let last = replay.next() - 1;
                return Err(format!(
                    "record {sequence} was acknowledged and is missing: the last one is {last}"
                )
                .into());
            }
        }
    }
    let acknowledged: BTreeSet<u64> = history.durable().values().copied().collect();
    for (sequence, found) in (replay.first..).zip(&replay.records) {
        if acknowledged.contains(&sequence) || sequence < discarded {
            continue;
        }
        let operation = operation_of(found).filter(|&operation| *found == record(job, operation));
        let Some(operation) = operation else {
            return Err(format!("record {sequence} has a wrong content").into());
        };
        history.found(operation, sequence)?;
    }
    history.settle();
    Ok(())
}
