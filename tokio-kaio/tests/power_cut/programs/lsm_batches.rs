//! [`Program::Lsm`](super::Program::Lsm): batches of changes to a store.

use std::collections::BTreeMap;
use std::path::Path;

use tokio_kaio::AioContextHandle;

use super::Job;
use super::content::{content, random};
use super::history::Oracle;
use super::log::Result;
use super::lsm_store::{Change, LsmStore};

const KEYS: u64 = 40;

/// The changes of an operation: 1 to 4.
fn changes(job: &Job, operation: u64) -> Vec<Change> {
    let random = |index| random(job.seed, operation, index);
    let change = |index| {
        let removes = random(2 * index) % 6 == 0;
        let value = content(job.seed, 8 * operation + index, 1500);
        (random(2 * index + 1) % KEYS, (!removes).then_some(value))
    };
    (1..2 + random(0) % 4).map(change).collect()
}

pub async fn run(job: &Job, dir: &Path, handle: &AioContextHandle, oracle: &Oracle) -> Result<()> {
    let mut store = LsmStore::open(dir, handle, job.log_options()).await?;
    for _ in 0..job.operations {
        let operation = oracle.start(0);
        let batch = store.write(operation, &changes(job, operation)).await?;
        oracle.acknowledge(operation, batch);
        store.maintain().await?;
    }
    store.close().await
}

pub async fn check(
    job: &Job,
    dir: &Path,
    handle: &AioContextHandle,
    oracle: &Oracle,
) -> Result<()> {
    let store = LsmStore::open(dir, handle, job.log_options()).await?;
    let (found, last) = (store.scan().await?, store.last());
    store.close().await?;
    let mut history = oracle.history();
    let mut batches: BTreeMap<u64, u64> = BTreeMap::new();
    batches.extend(
        history
            .durable()
            .iter()
            .map(|(&operation, &batch)| (batch, operation)),
    );
    let durable = batches.last_key_value().map_or(0, |(&batch, _)| batch);
    if last < durable {
        return Err(format!("batch {durable} was acknowledged; the last one is {last}").into());
    }
    // Operations are made one after another, so those that are pending follow in their order.
    let pending: Vec<u64> = history.pending().keys().copied().collect();
    for batch in durable + 1..=last {
        let Some(&operation) = pending.get((batch - durable - 1) as usize) else {
            return Err(format!("there is a batch {batch}, which was never written").into());
        };
        history.found(operation, batch)?;
        batches.insert(batch, operation);
    }
    let mut expected = BTreeMap::new();
    for &operation in batches.values() {
        for (key, value) in changes(job, operation) {
            match value {
                Some(value) => expected.insert(key, value),
                None => expected.remove(&key),
            };
        }
    }
    let keys = (0..KEYS).filter(|key| found.get(key) != expected.get(key));
    let keys: Vec<_> = keys.collect();
    if !keys.is_empty() {
        return Err(format!("after batch {last} these keys have wrong values: {keys:?}").into());
    }
    history.settle();
    Ok(())
}
