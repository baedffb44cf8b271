//! [tokio-uring](https://docs.rs/tokio-uring): tokio over io_uring, one thread.
//!
//! - The ring has room for a whole wave.
//! - The kernel need not interrupt the thread to complete a request (`IORING_SETUP_COOP_TASKRUN`):
//!   it does so when the thread enters the kernel next, to submit or to wait.
//!   `IORING_SETUP_DEFER_TASKRUN` would do more, but wants a runtime that waits in io_uring: this
//!   one waits in epoll.
//! - `tokio-uring` has memory of its own, passed to each request; `tokio-uring/fixed-buffers` has
//!   registered it with the ring beforehand.

use std::io;
use std::rc::Rc;

use kaio_bench::engines::open_file;
use kaio_bench::on_tokio::{self, Transfers};
use kaio_bench::{
    Direction, Engine, Prepared, Result, Run, Tally, Transfer, Workload, run_on_tokio,
};
use tokio_uring::Runtime;
use tokio_uring::buf::fixed::{FixedBuf, FixedBufRegistry};
use tokio_uring::fs::File;

use crate::buffer::UringBuffer;
use crate::setup_error;

/// Without registered buffers.
pub(crate) struct TokioUring;

/// With registered buffers.
pub(crate) struct TokioUringFixed;

impl Engine for TokioUring {
    fn name(&self) -> &str {
        "tokio-uring"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(Ready {
            disk: Disk(open(workload)?),
            slots: on_tokio::slots(workload, || Ok(UringBuffer::new(workload.block())))?,
            workload: workload.clone(),
            runtime: runtime(workload)?,
        }))
    }
}

impl Engine for TokioUringFixed {
    fn name(&self) -> &str {
        "tokio-uring/fixed-buffers"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = runtime(workload)?;
        Ok(Box::new(Ready {
            disk: FixedDisk(open(workload)?),
            slots: registered(workload, &runtime)?,
            workload: workload.clone(),
            runtime,
        }))
    }
}

fn open(workload: &Workload) -> Result<Rc<File>> {
    Ok(Rc::new(File::from_std(open_file(workload, true)?)))
}

fn runtime(workload: &Workload) -> Result<Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    // 256 is what it has unless told otherwise.
    let entries = u32::try_from(workload.depth)?.max(256);
    builder.entries(entries).uring_builder(&ring);
    Runtime::new(&builder).map_err(|error| setup_error("tokio-uring", &error))
}

/// Buffers that the runtime's ring knows. It keeps their memory until it ends.
fn registered(workload: &Workload, runtime: &Runtime) -> Result<Vec<FixedBuf>> {
    let buffers = (0..workload.depth).map(|_| UringBuffer::new(workload.block()));
    let registry = FixedBufRegistry::new(buffers);
    runtime
        .block_on(async { registry.register() })
        .map_err(|error| format!("register buffers: {error}"))?;
    let slots = (0..workload.depth).map(|index| registry.check_out(index));
    let slots: Option<_> = slots.collect();
    slots.ok_or_else(|| "not all buffers were registered".into())
}

struct Ready<T: Transfers> {
    disk: T,
    slots: Vec<T::Slot>,
    workload: Workload,
    runtime: Runtime,
}

impl<T: Transfers<Slot: 'static> + Clone + 'static> Prepared for Ready<T> {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let (workload, disk, slots) = (&self.workload, &self.disk, &mut self.slots);
        self.runtime
            .block_on(async { run_on_tokio!(tokio_uring::spawn, workload, run, disk, slots) })
    }
}

#[derive(Clone)]
struct Disk(Rc<File>);

impl Transfers for Disk {
    type Slot = UringBuffer;

    async fn transfer(
        &self,
        transfer: Transfer,
        buffer: UringBuffer,
    ) -> (UringBuffer, Result<usize>) {
        let Disk(file) = self;
        let (moved, buffer) = match transfer.direction {
            Direction::Read => file.read_at(buffer, transfer.offset).await,
            Direction::Write => file.write_at(buffer, transfer.offset).submit().await,
        };
        (buffer, moved.map_err(Into::into))
    }
}

#[derive(Clone)]
struct FixedDisk(Rc<File>);

impl Transfers for FixedDisk {
    type Slot = FixedBuf;

    async fn transfer(&self, transfer: Transfer, buffer: FixedBuf) -> (FixedBuf, Result<usize>) {
        let FixedDisk(file) = self;
        let (moved, buffer): (io::Result<usize>, _) = match transfer.direction {
            Direction::Read => file.read_fixed_at(buffer, transfer.offset).await,
            Direction::Write => file.write_fixed_at(buffer, transfer.offset).await,
        };
        (buffer, moved.map_err(Into::into))
    }
}
