//! Reads that are waited for together: one after the other, with `join_all`, a task each, a batch.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio_kaio::{AioCommandError, AlignedBuf, RawCommand, ReadFlags};

use super::way::{Bench, Way};
use crate::{Lane, Result};

/// Reads of a turn.
pub(super) const READS: usize = 32;

fn buffers(bench: &Bench) -> Result<Vec<AlignedBuf>> {
    let buffers = (0..READS).map(|_| Ok(AlignedBuf::new(bench.block)?));
    buffers.collect()
}

/// Each when the one before it is done.
pub(super) struct OneByOne(Vec<AlignedBuf>);

impl Way for OneByOne {
    const NAME: &'static str = "one-by-one";

    fn new(bench: &Bench) -> Result<OneByOne> {
        Ok(OneByOne(buffers(bench)?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let (handle, len, flags) = (&bench.handle, bench.block as u64, ReadFlags::empty());
        for buffer in &mut self.0 {
            let offset = lane.next().offset;
            let read = bench.file.read_at(handle, offset, buffer, len, flags);
            Bench::check(read.await, bench.block)?;
        }
        Ok(())
    }
}

/// All futures in one task, with `join_all` of the crate `futures`.
pub(super) struct JoinAll(Vec<AlignedBuf>);

impl Way for JoinAll {
    const NAME: &'static str = "join-all";

    fn new(bench: &Bench) -> Result<JoinAll> {
        Ok(JoinAll(buffers(bench)?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let (handle, len, flags) = (&bench.handle, bench.block as u64, ReadFlags::empty());
        let reads = self.0.iter_mut().map(|buffer| {
            let offset = lane.next().offset;
            bench.file.read_at(handle, offset, buffer, len, flags)
        });
        let results = join_all(reads).await;
        let mut results = results.into_iter();
        results.try_for_each(|read| Bench::check(read, bench.block))
    }
}

type Read = (std::result::Result<u64, AioCommandError>, AlignedBuf);

/// A task for each, which has the buffer meanwhile.
pub(super) struct Tasks {
    buffers: Vec<AlignedBuf>,
    tasks: Vec<JoinHandle<Read>>,
}

impl Way for Tasks {
    const NAME: &'static str = "tasks";

    fn new(bench: &Bench) -> Result<Tasks> {
        Ok(Tasks {
            buffers: buffers(bench)?,
            tasks: Vec::with_capacity(READS),
        })
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let (len, flags) = (bench.block as u64, ReadFlags::empty());
        let tasks = self.buffers.drain(..).map(|mut buffer| {
            let (file, handle) = (Arc::clone(&bench.file), bench.handle.clone());
            let offset = lane.next().offset;
            tokio::spawn(async move {
                let read = file.read_at(&handle, offset, &mut buffer, len, flags);
                (read.await, buffer)
            })
        });
        self.tasks.extend(tasks);
        for task in self.tasks.drain(..) {
            let (read, buffer) = task.await?;
            self.buffers.push(buffer);
            Bench::check(read, bench.block)?;
        }
        Ok(())
    }
}

/// A batch, waited for as a whole.
pub(super) struct Batch(Vec<AlignedBuf>);

impl Way for Batch {
    const NAME: &'static str = "batch";

    fn new(bench: &Bench) -> Result<Batch> {
        Ok(Batch(buffers(bench)?))
    }

    async fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> Result<()> {
        let (len, flags) = (bench.block as u64, ReadFlags::empty());
        let mut batch = bench.handle.batch();
        for buffer in &mut self.0 {
            let offset = lane.next().offset;
            let command = RawCommand::Pread {
                offset,
                buffer,
                flags,
                len,
            };
            batch.push(&bench.file, command);
        }
        let mut results = batch.all().await.into_iter();
        results.try_for_each(|read| Bench::check(read, bench.block))
    }
}
