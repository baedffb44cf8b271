//! `spawn-blocking/…`: `pread` and `pwrite` with direct I/O, each on a thread of tokio's pool.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::spawn_blocking;

use super::open_file;
use crate::on_tokio::{self, Transfers};
use crate::{
    Buffer, Direction, Engine, Flavour, Prepared, Result, Run, Tally, Transfer, Workload,
    run_on_tokio,
};

pub(super) struct SpawnBlocking {
    flavour: Flavour,
    name: String,
}

impl SpawnBlocking {
    pub(super) fn new(flavour: Flavour) -> SpawnBlocking {
        SpawnBlocking {
            flavour,
            name: format!("spawn-blocking/{flavour}"),
        }
    }
}

impl Engine for SpawnBlocking {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(PreparedBlocking {
            runtime: self.flavour.runtime()?,
            source: Source(Arc::new(open_file(workload, true)?)),
            slots: on_tokio::slots(workload, || Ok(Buffer::new(workload.block())))?,
            workload: workload.clone(),
        }))
    }
}

struct PreparedBlocking {
    runtime: Runtime,
    source: Source,
    slots: Vec<Buffer>,
    workload: Workload,
}

impl Prepared for PreparedBlocking {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let (workload, source, slots) = (&self.workload, &self.source, &mut self.slots);
        self.runtime
            .block_on(async { run_on_tokio!(tokio::spawn, workload, run, source, slots) })
    }
}

#[derive(Clone)]
struct Source(Arc<File>);

impl Transfers for Source {
    type Slot = Buffer;

    async fn transfer(&self, transfer: Transfer, mut buffer: Buffer) -> (Buffer, Result<usize>) {
        let file = Arc::clone(&self.0);
        let done = spawn_blocking(move || {
            let moved = match transfer.direction {
                Direction::Read => file.read_at(&mut buffer, transfer.offset),
                Direction::Write => file.write_at(&buffer, transfer.offset),
            };
            (buffer, moved.map_err(Into::into))
        });
        done.await.expect("neither panics nor is cancelled")
    }
}
