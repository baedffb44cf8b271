//! [linux-aio-tokio](https://docs.rs/linux-aio-tokio): kernel AIO for tokio, the crate whose API
//! tokio-kaio has.
//!
//! - Its write flags don't reach the kernel, and its `is_sync` takes `O_DIRECT` away. So files are
//!   opened by hand, with `O_DSYNC` where writes are to be durable, and go through
//!   `submit_request`, which its `File` does nothing but call.
//! - A context has as many slots as the depth. It has no semaphore: no task ever waits for a slot,
//!   so that it would only cost.

use std::fs::File;
use std::sync::Arc;

use kaio_bench::on_tokio::{self, Transfers};
use kaio_bench::{
    Direction, Engine, Flavour, Prepared, Result, Run, Tally, Transfer, Workload, run_on_tokio,
};
use linux_aio_tokio::{
    AioContext, AioContextHandle, LocalAioContext, LocalAioContextHandle, LockedBuf, RawCommand,
    ReadFlags, WriteFlags, aio_context, local_aio_context,
};
use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local};

/// With a context for all threads.
pub(crate) struct LinuxAioTokio {
    flavour: Flavour,
    name: String,
}

/// With a context for one thread, in a `LocalSet`.
pub(crate) struct LinuxAioTokioLocal;

impl LinuxAioTokio {
    pub(crate) fn new(flavour: Flavour) -> LinuxAioTokio {
        LinuxAioTokio {
            flavour,
            name: format!("linux-aio-tokio/{flavour}"),
        }
    }
}

impl Engine for LinuxAioTokio {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = self.flavour.runtime()?;
        let (context, handle) = runtime.block_on(async { aio_context(workload.depth, false) })?;
        Ok(Box::new(Shared {
            disk: Disk::new(workload, handle)?,
            slots: slots(workload)?,
            workload: workload.clone(),
            _context: context,
            runtime,
        }))
    }
}

impl Engine for LinuxAioTokioLocal {
    fn name(&self) -> &str {
        "linux-aio-tokio/local"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = Flavour::CurrentThread.runtime()?;
        let tasks = LocalSet::new();
        let (context, handle) = tasks.block_on(&runtime, async {
            let (context, handle, background) = local_aio_context(workload.depth, false)?;
            spawn_local(background);
            Result::Ok((context, handle))
        })?;
        Ok(Box::new(Local {
            disk: Disk::new(workload, handle)?,
            slots: slots(workload)?,
            workload: workload.clone(),
            _context: context,
            tasks,
            runtime,
        }))
    }
}

struct Shared {
    disk: Disk<AioContextHandle>,
    slots: Vec<LockedBuf>,
    workload: Workload,
    _context: AioContext,
    /// Last: what drives the context ends with it, and then the context does.
    runtime: Runtime,
}

struct Local {
    disk: Disk<LocalAioContextHandle>,
    slots: Vec<LockedBuf>,
    workload: Workload,
    _context: LocalAioContext,
    /// After the context, as above.
    tasks: LocalSet,
    runtime: Runtime,
}

impl Prepared for Shared {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let (workload, disk, slots) = (&self.workload, &self.disk, &mut self.slots);
        self.runtime
            .block_on(async { run_on_tokio!(tokio::spawn, workload, run, disk, slots) })
    }
}

impl Prepared for Local {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let (workload, disk, slots) = (&self.workload, &self.disk, &mut self.slots);
        self.tasks.block_on(&self.runtime, async {
            run_on_tokio!(spawn_local, workload, run, disk, slots)
        })
    }
}

/// The file, and the context's handle.
#[derive(Clone)]
struct Disk<H> {
    file: Arc<File>,
    handle: H,
    block: u64,
}

impl<H> Disk<H> {
    fn new(workload: &Workload, handle: H) -> Result<Disk<H>> {
        Ok(Disk {
            file: Arc::new(kaio_bench::engines::open_file(workload, true)?),
            handle,
            block: workload.block() as u64,
        })
    }
}

/// The two handles differ in type parameters, whose bounds name types of further crates.
macro_rules! transfers {
    ($handle:ty) => {
        impl Transfers for Disk<$handle> {
            type Slot = LockedBuf;

            async fn transfer(
                &self,
                transfer: Transfer,
                mut buffer: LockedBuf,
            ) -> (LockedBuf, Result<usize>) {
                let command = command(transfer, &mut buffer, self.block);
                let moved = self.handle.submit_request(&self.file, command).await;
                (
                    buffer,
                    moved.map(|bytes| bytes as usize).map_err(Into::into),
                )
            }
        }
    };
}

transfers!(AioContextHandle);
transfers!(LocalAioContextHandle);

fn command(transfer: Transfer, buffer: &mut LockedBuf, len: u64) -> RawCommand<'_> {
    let offset = transfer.offset;
    match transfer.direction {
        Direction::Read => RawCommand::Pread {
            offset,
            buffer,
            flags: ReadFlags::empty(),
            len,
        },
        Direction::Write => RawCommand::Pwrite {
            offset,
            buffer,
            flags: WriteFlags::empty(),
            len,
        },
    }
}

fn slots(workload: &Workload) -> Result<Vec<LockedBuf>> {
    on_tokio::slots(workload, || Ok(LockedBuf::with_size(workload.block())?))
}
