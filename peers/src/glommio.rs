//! [glommio](https://docs.rs/glommio): a runtime of its own over io_uring, a thread a core; here
//! one thread, bound to no core, as the other engines are not.
//!
//! - Reads are `read_at_aligned`, into a buffer of glommio's registered memory, of which there is
//!   more than enough for all requests in flight. Writes are `write_rc_at` from such a buffer,
//!   which is kept.
//! - Its rings have room for a whole wave.
//! - `DmaFile` goes without `O_DIRECT` on tmpfs. It is among the flags of the open, so that the
//!   file has it there too.

use std::io;
use std::rc::Rc;

use glommio::io::{CloseResult, DmaBuffer, DmaFile, OpenOptions};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use io_uring::IoUring;
use kaio_bench::on_tokio::{self, Transfers};
use kaio_bench::{
    Direction, Engine, Prepared, Result, Run, Tally, Transfer, Unavailable, Workload,
};

use crate::{open_flags, setup_error, turns};

/// The crate.
pub(crate) struct Glommio;

impl Engine for Glommio {
    fn name(&self) -> &str {
        "glommio"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let executor = executor(workload)?;
        let file = executor.run(open(workload))?;
        let block = workload.block();
        let slots = on_tokio::slots(workload, || {
            let mut buffer = file.alloc_dma_buffer(block);
            buffer.as_bytes_mut().fill(0x5a);
            Ok(Rc::new(buffer))
        })?;
        Ok(Box::new(Ready {
            disk: Some(Disk { file, block }),
            slots,
            workload: workload.clone(),
            executor,
        }))
    }
}

fn executor(workload: &Workload) -> Result<LocalExecutor> {
    // Without io_uring, glommio panics.
    IoUring::new(1).map_err(|error| setup_error("glommio", &error))?;
    // A slot of each transfer and what it reads into, twice over: its allocator needs some too.
    let memory = 2 * 2 * workload.depth * workload.block();
    LocalExecutorBuilder::new(Placement::Unbound)
        // 128 and 10 MiB are what it has unless told otherwise.
        .ring_depth(workload.depth.max(128))
        .io_memory(memory.max(10 << 20))
        .make()
        .map_err(|error| match error.to_string() {
            // By then an I/O error of no kind.
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

struct Ready {
    /// `None` while its file is closed.
    disk: Option<Disk>,
    slots: Vec<Rc<DmaBuffer>>,
    workload: Workload,
    executor: LocalExecutor,
}

impl Prepared for Ready {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let (disk, slots) = (self.disk.as_ref(), &mut self.slots);
        let disk = disk.ok_or("its file is closed")?;
        let turns = turns::hand_out(&self.workload, run, disk, slots)?;
        self.executor.run(async {
            let tasks = turns.into_iter().map(|turn| {
                let task = glommio::spawn_local(turn.work());
                async { Ok(task.await) }
            });
            turns::gather(tasks.collect(), slots, run).await
        })
    }
}

impl Drop for Ready {
    /// A `DmaFile` that is merely dropped is closed when its executor runs the next time.
    fn drop(&mut self) {
        if let Some(Disk { file, .. }) = self.disk.take() {
            let closed = self.executor.run(file.close_rc());
            debug_assert!(matches!(closed, Ok(CloseResult::Closed)), "{closed:?}");
        }
    }
}

#[derive(Clone)]
struct Disk {
    file: Rc<DmaFile>,
    block: usize,
}

impl Transfers for Disk {
    type Slot = Rc<DmaBuffer>;

    async fn transfer(
        &self,
        transfer: Transfer,
        buffer: Rc<DmaBuffer>,
    ) -> (Rc<DmaBuffer>, Result<usize>) {
        let Disk { file, block } = self;
        let moved = match transfer.direction {
            Direction::Read => {
                let read = file.read_at_aligned(transfer.offset, *block).await;
                read.map(|bytes| bytes.len())
            }
            Direction::Write => file.write_rc_at(Rc::clone(&buffer), transfer.offset).await,
        };
        (buffer, moved.map_err(|error| io::Error::from(error).into()))
    }
}
