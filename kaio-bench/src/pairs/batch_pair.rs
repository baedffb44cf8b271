//! The pair `batch`: 32 reads as a batch, one by one, with `join_all`, and with a task each.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio_kaio::{AioCommandError, AlignedBuf, RawCommand, ReadFlags};

use super::variant::{Fixture, Variant};
use crate::{Result, TransferGenerator};

/// Reads of one iteration.
pub(super) const READS: usize = 32;

fn buffers(fixture: &Fixture) -> Result<Vec<AlignedBuf>> {
    let buffers = (0..READS).map(|_| Ok(AlignedBuf::new(fixture.block)?));
    buffers.collect()
}

/// Reads one after another.
pub(super) struct OneByOne(Vec<AlignedBuf>);

impl Variant for OneByOne {
    const NAME: &'static str = "one-by-one";

    fn new(fixture: &Fixture) -> Result<OneByOne> {
        Ok(OneByOne(buffers(fixture)?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let (handle, len, flags) = (&fixture.handle, fixture.block as u64, ReadFlags::empty());
        for buffer in &mut self.0 {
            let offset = generator.next_transfer().offset;
            let read = fixture.file.read_at(handle, offset, buffer, len, flags);
            Fixture::check(read.await, fixture.block)?;
        }
        Ok(())
    }
}

/// Polls all futures in one task, with `join_all` of the crate `futures`.
pub(super) struct JoinAll(Vec<AlignedBuf>);

impl Variant for JoinAll {
    const NAME: &'static str = "join-all";

    fn new(fixture: &Fixture) -> Result<JoinAll> {
        Ok(JoinAll(buffers(fixture)?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let (handle, len, flags) = (&fixture.handle, fixture.block as u64, ReadFlags::empty());
        let reads = self.0.iter_mut().map(|buffer| {
            let offset = generator.next_transfer().offset;
            fixture.file.read_at(handle, offset, buffer, len, flags)
        });
        let results = join_all(reads).await;
        let mut results = results.into_iter();
        results.try_for_each(|read| Fixture::check(read, fixture.block))
    }
}

type Read = (std::result::Result<u64, AioCommandError>, AlignedBuf);

/// Spawns a task for each read, which owns the buffer meanwhile.
pub(super) struct Tasks {
    buffers: Vec<AlignedBuf>,
    tasks: Vec<JoinHandle<Read>>,
}

impl Variant for Tasks {
    const NAME: &'static str = "tasks";

    fn new(fixture: &Fixture) -> Result<Tasks> {
        Ok(Tasks {
            buffers: buffers(fixture)?,
            tasks: Vec::with_capacity(READS),
        })
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let (len, flags) = (fixture.block as u64, ReadFlags::empty());
        let tasks = self.buffers.drain(..).map(|mut buffer| {
            let (file, handle) = (Arc::clone(&fixture.file), fixture.handle.clone());
            let offset = generator.next_transfer().offset;
            tokio::spawn(async move {
                let read = file.read_at(&handle, offset, &mut buffer, len, flags);
                (read.await, buffer)
            })
        });
        self.tasks.extend(tasks);
        for task in self.tasks.drain(..) {
            let (read, buffer) = task.await?;
            self.buffers.push(buffer);
            Fixture::check(read, fixture.block)?;
        }
        Ok(())
    }
}

/// Submits the reads as a batch and awaits it as a whole.
pub(super) struct Batch(Vec<AlignedBuf>);

impl Variant for Batch {
    const NAME: &'static str = "batch";

    fn new(fixture: &Fixture) -> Result<Batch> {
        Ok(Batch(buffers(fixture)?))
    }

    async fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> Result<()> {
        let (len, flags) = (fixture.block as u64, ReadFlags::empty());
        let mut batch = fixture.handle.batch();
        for buffer in &mut self.0 {
            let offset = generator.next_transfer().offset;
            let command = RawCommand::Pread {
                offset,
                buffer,
                flags,
                len,
            };
            batch.push(&fixture.file, command);
        }
        let mut results = batch.all().await.into_iter();
        results.try_for_each(|read| Fixture::check(read, fixture.block))
    }
}
