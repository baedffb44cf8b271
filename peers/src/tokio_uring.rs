//! [tokio-uring](https://docs.rs/tokio-uring): tokio over io_uring, on one thread.
//!
//! - The ring has an entry for each transfer of a wave.
//! - With `IORING_SETUP_COOP_TASKRUN` the kernel does not interrupt the thread to complete a request, but
//!   completes it when the thread next enters the kernel to submit or wait. `IORING_SETUP_DEFER_TASKRUN`
//!   would save more, but needs a runtime that waits in io_uring; tokio-uring waits in epoll.
//! - `tokio-uring` passes its buffers to each request; `tokio-uring/fixed-buffers` registers them with the
//!   ring beforehand.

use std::io;
use std::rc::Rc;

use kaio_bench::engines::open_file;
use kaio_bench::task_runner::{self, AsyncIo};
use kaio_bench::{
    Direction, Engine, Prepared, Result, Run, RunStats, Transfer, Workload, run_tasks,
};
use tokio_uring::Runtime;
use tokio_uring::buf::fixed::{FixedBuf, FixedBufRegistry};
use tokio_uring::fs::File;

use crate::setup_error;
use crate::uring_buffer::UringBuffer;

/// The engine without registered buffers.
pub(crate) struct TokioUring;

/// The engine with registered buffers.
pub(crate) struct TokioUringFixed;

impl Engine for TokioUring {
    fn name(&self) -> &str {
        "tokio-uring"
    }

    fn max_contexts(&self) -> usize {
        1
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(PreparedTokioUring {
            ios: (0..workload.files)
                .map(|_| Ok(TokioUringIo(open(workload)?)))
                .collect::<Result<_>>()?,
            slots: task_runner::make_slots(workload, || Ok(UringBuffer::new(workload.block())))?,
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
        Ok(Box::new(PreparedTokioUring {
            ios: vec![FixedBufferIo(open(workload)?)],
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
    // 256 is the default.
    let entries = u32::try_from(workload.slots)?.max(256);
    builder.entries(entries).uring_builder(&ring);
    Runtime::new(&builder).map_err(|error| setup_error("tokio-uring", &error))
}

/// Registers buffers with the runtime's ring, which owns their memory until it is dropped.
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

struct PreparedTokioUring<T: AsyncIo> {
    ios: Vec<T>,
    slots: Vec<T::Slot>,
    workload: Workload,
    runtime: Runtime,
}

impl<T: AsyncIo<Slot: 'static> + Clone + 'static> Prepared for PreparedTokioUring<T> {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let (workload, ios, slots) = (&self.workload, &self.ios, &mut self.slots);
        self.runtime
            .block_on(async { run_tasks!(tokio_uring::spawn, workload, run, ios, slots) })
    }
}

#[derive(Clone)]
struct TokioUringIo(Rc<File>);

impl AsyncIo for TokioUringIo {
    type Slot = UringBuffer;

    async fn transfer(
        &self,
        transfer: Transfer,
        buffer: UringBuffer,
    ) -> (UringBuffer, Result<usize>) {
        let TokioUringIo(file) = self;
        let (transferred, buffer) = match transfer.direction {
            Direction::Read => file.read_at(buffer, transfer.offset).await,
            Direction::Write => file.write_at(buffer, transfer.offset).submit().await,
        };
        (buffer, transferred.map_err(Into::into))
    }
}

#[derive(Clone)]
struct FixedBufferIo(Rc<File>);

impl AsyncIo for FixedBufferIo {
    type Slot = FixedBuf;

    async fn transfer(&self, transfer: Transfer, buffer: FixedBuf) -> (FixedBuf, Result<usize>) {
        let FixedBufferIo(file) = self;
        let (transferred, buffer): (io::Result<usize>, _) = match transfer.direction {
            Direction::Read => file.read_fixed_at(buffer, transfer.offset).await,
            Direction::Write => file.write_fixed_at(buffer, transfer.offset).await,
        };
        (buffer, transferred.map_err(Into::into))
    }
}
