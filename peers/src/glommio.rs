//! [glommio](https://docs.rs/glommio): a thread-per-core runtime over io_uring. Here it has one thread,
//! which is not pinned to a core, as in the other engines.
//!
//! - Reads use `read_at_aligned`, which reads into a buffer from glommio's registered memory. There is
//!   enough of it for all requests in flight. Writes use `write_rc_at` from such a buffer, which is
//!   reused.
//! - Its rings have an entry for each transfer of a wave.
//! - `DmaFile` does not use `O_DIRECT` on tmpfs, so it is passed as a custom flag.

use std::io;
use std::rc::Rc;

use glommio::io::{CloseResult, DmaBuffer, DmaFile, OpenOptions};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use io_uring::IoUring;
use kaio_bench::task_runner::{self, AsyncIo};
use kaio_bench::{
    Direction, Engine, Prepared, Result, Run, RunStats, Transfer, Unavailable, Workload,
};

use crate::{local_tasks, open_flags, setup_error};

/// The glommio engine.
pub(crate) struct Glommio;

impl Engine for Glommio {
    fn name(&self) -> &str {
        "glommio"
    }

    fn max_contexts(&self) -> usize {
        1
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let executor = executor(workload)?;
        let files = (0..workload.files).map(|_| executor.run(open(workload)));
        let files = files.collect::<Result<Vec<_>>>()?;
        let (file, block) = (&files[0], workload.block());
        let slots = task_runner::make_slots(workload, || {
            let mut buffer = file.alloc_dma_buffer(block);
            buffer.as_bytes_mut().fill(0x5a);
            Ok(Rc::new(buffer))
        })?;
        Ok(Box::new(PreparedGlommio {
            ios: files
                .into_iter()
                .map(|file| GlommioIo { file, block })
                .collect(),
            slots,
            workload: workload.clone(),
            executor,
        }))
    }
}

fn executor(workload: &Workload) -> Result<LocalExecutor> {
    // Checked first, because glommio panics without io_uring.
    IoUring::new(1).map_err(|error| setup_error("glommio", &error))?;
    // For each transfer the slot and the buffer of the read, doubled for the overhead of its allocator.
    let memory = 2 * 2 * workload.depth * workload.block();
    LocalExecutorBuilder::new(Placement::Unbound)
        // 128 and 10 MiB are the defaults.
        .ring_depth(workload.slots.max(128))
        .io_memory(memory.max(10 << 20))
        .make()
        .map_err(|error| match error.to_string() {
            // The I/O error has lost its kind here.
            text if text.contains("MemLockLimit") => {
                Unavailable(format!("glommio: {text} (RLIMIT_MEMLOCK)")).into()
            }
            _ => setup_error("glommio", &error.into()),
        })
}

async fn open(workload: &Workload) -> Result<Rc<DmaFile>> {
    let mut options = OpenOptions::new();
    options.read(true).write(workload.pattern.writes());
    options.custom_flags(open_flags(workload));
    let file = options.dma_open(workload.path()).await;
    Ok(Rc::new(file.map_err(io::Error::from)?))
}

struct PreparedGlommio {
    ios: Vec<GlommioIo>,
    slots: Vec<Rc<DmaBuffer>>,
    workload: Workload,
    executor: LocalExecutor,
}

impl Prepared for PreparedGlommio {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let slots = &mut self.slots;
        let plans = local_tasks::make_tasks(&self.workload, run, &self.ios, slots)?;
        self.executor.run(async {
            let tasks = plans.into_iter().map(|plan| {
                let task = glommio::spawn_local(plan.run());
                async { Ok(task.await) }
            });
            local_tasks::join_tasks(tasks.collect(), slots, run).await
        })
    }
}

impl Drop for PreparedGlommio {
    /// Closes the files: a dropped `DmaFile` is only closed when its executor runs again.
    fn drop(&mut self) {
        for GlommioIo { file, .. } in self.ios.drain(..) {
            let closed = self.executor.run(file.close_rc());
            debug_assert!(matches!(closed, Ok(CloseResult::Closed)), "{closed:?}");
        }
    }
}

#[derive(Clone)]
struct GlommioIo {
    file: Rc<DmaFile>,
    block: usize,
}

impl AsyncIo for GlommioIo {
    type Slot = Rc<DmaBuffer>;

    async fn transfer(
        &self,
        transfer: Transfer,
        buffer: Rc<DmaBuffer>,
    ) -> (Rc<DmaBuffer>, Result<usize>) {
        let GlommioIo { file, block } = self;
        let transferred = match transfer.direction {
            Direction::Read => {
                let read = file.read_at_aligned(transfer.offset, *block).await;
                read.map(|bytes| bytes.len())
            }
            Direction::Write => file.write_rc_at(Rc::clone(&buffer), transfer.offset).await,
        };
        (
            buffer,
            transferred.map_err(|error| io::Error::from(error).into()),
        )
    }
}
