//! [compio](https://docs.rs/compio): a runtime of its own over io_uring, one thread.
//!
//! The ring has room for a whole wave. It is told that one thread submits, and completes requests
//! when that thread waits (`IORING_SETUP_SINGLE_ISSUER`, `IORING_SETUP_DEFER_TASKRUN`).

use compio::BufResult;
use compio::driver::{DriverType, ProactorBuilder};
use compio::fs::{File, OpenOptions};
use compio::io::{AsyncReadAt, AsyncWriteAt};
use compio::runtime::Runtime;
use kaio_bench::on_tokio::{self, Transfers};
use kaio_bench::{Direction, Engine, Prepared, Result, Run, Tally, Transfer, Workload};

use crate::buffer::UringBuffer;
use crate::{open_flags, setup_error, turns};

/// The crate.
pub(crate) struct Compio;

impl Engine for Compio {
    fn name(&self) -> &str {
        "compio"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = runtime(workload)?;
        let mut options = OpenOptions::new();
        options.read(true).write(workload.pattern.writes());
        options.custom_flags(open_flags(workload));
        let file = runtime.block_on(options.open(workload.path()))?;
        Ok(Box::new(Ready {
            disk: Disk(file),
            slots: on_tokio::slots(workload, || Ok(UringBuffer::new(workload.block())))?,
            workload: workload.clone(),
            runtime,
        }))
    }
}

fn runtime(workload: &Workload) -> Result<Runtime> {
    let mut driver = ProactorBuilder::new();
    // 1024 is what it has unless told otherwise.
    driver.capacity(u32::try_from(workload.depth)?.max(1024));
    driver.single_issuer(true).defer_taskrun(true);
    let runtime = Runtime::builder().with_proactor(driver).build();
    let runtime = runtime.map_err(|error| setup_error("compio", &error))?;
    match runtime.driver_type() {
        DriverType::IoUring => Ok(runtime),
        other => Err(format!("compio drives {other:?} instead of io_uring").into()),
    }
}

struct Ready {
    disk: Disk,
    slots: Vec<UringBuffer>,
    workload: Workload,
    runtime: Runtime,
}

impl Prepared for Ready {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let slots = &mut self.slots;
        let turns = turns::hand_out(&self.workload, run, &self.disk, slots)?;
        self.runtime.block_on(async {
            let tasks = turns.into_iter().map(|turn| {
                let task = compio::runtime::spawn(turn.work());
                async { task.await.map_err(|_| "a task has panicked".into()) }
            });
            turns::gather(tasks.collect(), slots, run).await
        })
    }
}

#[derive(Clone)]
struct Disk(File);

impl Transfers for Disk {
    type Slot = UringBuffer;

    async fn transfer(
        &self,
        transfer: Transfer,
        buffer: UringBuffer,
    ) -> (UringBuffer, Result<usize>) {
        let mut file = &self.0;
        let BufResult(moved, buffer) = match transfer.direction {
            Direction::Read => file.read_at(buffer, transfer.offset).await,
            Direction::Write => file.write_at(buffer, transfer.offset).await,
        };
        (buffer, moved.map_err(Into::into))
    }
}
