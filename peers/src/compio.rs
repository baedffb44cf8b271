//! [compio](https://docs.rs/compio): a runtime over io_uring, on one thread.
//!
//! The ring has an entry for each transfer of a wave. It is created for a single submitting thread, and
//! completes requests when that thread waits (`IORING_SETUP_SINGLE_ISSUER`,
//! `IORING_SETUP_DEFER_TASKRUN`).

use compio::BufResult;
use compio::driver::{DriverType, ProactorBuilder};
use compio::fs::{File, OpenOptions};
use compio::io::{AsyncReadAt, AsyncWriteAt};
use compio::runtime::Runtime;
use kaio_bench::task_runner::{self, AsyncIo};
use kaio_bench::{Direction, Engine, Prepared, Result, Run, RunStats, Transfer, Workload};

use crate::uring_buffer::UringBuffer;
use crate::{local_tasks, open_flags, setup_error};

/// The compio engine.
pub(crate) struct Compio;

impl Engine for Compio {
    fn name(&self) -> &str {
        "compio"
    }

    fn max_contexts(&self) -> usize {
        1
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = runtime(workload)?;
        let mut options = OpenOptions::new();
        options.read(true).write(workload.pattern.writes());
        options.custom_flags(open_flags(workload));
        let ios = (0..workload.files)
            .map(|_| Ok(CompioIo(runtime.block_on(options.open(workload.path()))?)));
        Ok(Box::new(PreparedCompio {
            ios: ios.collect::<Result<_>>()?,
            slots: task_runner::make_slots(workload, || Ok(UringBuffer::new(workload.block())))?,
            workload: workload.clone(),
            runtime,
        }))
    }
}

fn runtime(workload: &Workload) -> Result<Runtime> {
    let mut driver = ProactorBuilder::new();
    // 1024 is the default.
    driver.capacity(u32::try_from(workload.slots)?.max(1024));
    driver.single_issuer(true).defer_taskrun(true);
    let runtime = Runtime::builder().with_proactor(driver).build();
    let runtime = runtime.map_err(|error| setup_error("compio", &error))?;
    match runtime.driver_type() {
        DriverType::IoUring => Ok(runtime),
        other => Err(format!("compio uses {other:?} instead of io_uring").into()),
    }
}

struct PreparedCompio {
    ios: Vec<CompioIo>,
    slots: Vec<UringBuffer>,
    workload: Workload,
    runtime: Runtime,
}

impl Prepared for PreparedCompio {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let slots = &mut self.slots;
        let plans = local_tasks::make_tasks(&self.workload, run, &self.ios, slots)?;
        self.runtime.block_on(async {
            let tasks = plans.into_iter().map(|plan| {
                let task = compio::runtime::spawn(plan.run());
                async { task.await.map_err(|_| "a task panicked".into()) }
            });
            local_tasks::join_tasks(tasks.collect(), slots, run).await
        })
    }
}

#[derive(Clone)]
struct CompioIo(File);

impl AsyncIo for CompioIo {
    type Slot = UringBuffer;

    async fn transfer(
        &self,
        transfer: Transfer,
        buffer: UringBuffer,
    ) -> (UringBuffer, Result<usize>) {
        let mut file = &self.0;
        let BufResult(transferred, buffer) = match transfer.direction {
            Direction::Read => file.read_at(buffer, transfer.offset).await,
            Direction::Write => file.write_at(buffer, transfer.offset).await,
        };
        (buffer, transferred.map_err(Into::into))
    }
}
