//! `spawn-blocking/…`: `pread` and `pwrite` with direct I/O, each on tokio's blocking pool.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::spawn_blocking;

use super::open_file;
use crate::task_runner::{self, AsyncIo};
use crate::{
    Direction, Engine, PageBuffer, Prepared, Result, Run, RunStats, RuntimeFlavor, Transfer,
    Workload, run_tasks,
};

pub(super) struct SpawnBlocking {
    flavor: RuntimeFlavor,
    name: String,
}

impl SpawnBlocking {
    pub(super) fn new(flavor: RuntimeFlavor) -> SpawnBlocking {
        SpawnBlocking {
            flavor,
            name: format!("spawn-blocking/{flavor}"),
        }
    }
}

impl Engine for SpawnBlocking {
    fn name(&self) -> &str {
        &self.name
    }

    fn max_contexts(&self) -> usize {
        1
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(PreparedBlocking {
            runtime: self.flavor.runtime()?,
            ios: (0..workload.files)
                .map(|_| Ok(BlockingIo(Arc::new(open_file(workload, true)?))))
                .collect::<Result<_>>()?,
            slots: task_runner::make_slots(workload, || Ok(PageBuffer::new(workload.block())))?,
            workload: workload.clone(),
        }))
    }
}

struct PreparedBlocking {
    runtime: Runtime,
    ios: Vec<BlockingIo>,
    slots: Vec<PageBuffer>,
    workload: Workload,
}

impl Prepared for PreparedBlocking {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let (workload, ios, slots) = (&self.workload, &self.ios, &mut self.slots);
        self.runtime
            .block_on(async { run_tasks!(tokio::spawn, workload, run, ios, slots) })
    }
}

#[derive(Clone)]
struct BlockingIo(Arc<File>);

impl AsyncIo for BlockingIo {
    type Slot = PageBuffer;

    async fn transfer(
        &self,
        transfer: Transfer,
        mut buffer: PageBuffer,
    ) -> (PageBuffer, Result<usize>) {
        let file = Arc::clone(&self.0);
        let done = spawn_blocking(move || {
            let transferred = match transfer.direction {
                Direction::Read => file.read_at(&mut buffer, transfer.offset),
                Direction::Write => file.write_at(&buffer, transfer.offset),
            };
            (buffer, transferred.map_err(Into::into))
        });
        done.await.expect("the job neither panics nor is cancelled")
    }
}
