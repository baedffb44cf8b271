//! [linux-aio-tokio](https://docs.rs/linux-aio-tokio): kernel AIO for tokio, whose API tokio-kaio has.
//!
//! - Its write flags do not reach the kernel, and its `is_sync` loses `O_DIRECT`. So the engine opens
//!   files itself, with `O_DSYNC` for durable writes, and calls `submit_request`, as the crate's `File`
//!   does.
//! - A context has `depth` slots and no semaphore, because no task ever waits for a slot. With fewer slots
//!   than tasks it has the semaphore.

use std::fs::File;
use std::sync::Arc;

use kaio_bench::task_runner::{self, AsyncIo};
use kaio_bench::{
    Direction, Engine, Prepared, Result, Run, RunStats, RuntimeFlavor, Transfer, Workload,
    run_tasks,
};
use linux_aio_tokio::{
    AioContext, AioContextHandle, LocalAioContext, LocalAioContextHandle, LockedBuf, RawCommand,
    ReadFlags, WriteFlags, aio_context, local_aio_context,
};
use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local};

/// The engine with an `AioContext`, on a runtime of either flavor.
pub(crate) struct LinuxAioTokio {
    flavor: RuntimeFlavor,
    name: String,
}

/// The engine with a `LocalAioContext`, in a `LocalSet`.
pub(crate) struct LinuxAioTokioLocal;

impl LinuxAioTokio {
    pub(crate) fn new(flavor: RuntimeFlavor) -> LinuxAioTokio {
        LinuxAioTokio {
            flavor,
            name: format!("linux-aio-tokio/{flavor}"),
        }
    }
}

impl Engine for LinuxAioTokio {
    fn name(&self) -> &str {
        &self.name
    }

    fn max_contexts(&self) -> usize {
        usize::MAX
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = self.flavor.runtime()?;
        let waits = workload.slots < workload.depth;
        let made = (0..workload.contexts)
            .map(|_| Ok(runtime.block_on(async { aio_context(workload.slots, waits) })?));
        let (contexts, handles) = made.collect::<Result<(Vec<_>, Vec<_>)>>()?;
        Ok(Box::new(PreparedShared {
            ios: LinuxAioTokioIo::all(workload, &handles)?,
            slots: slots(workload)?,
            workload: workload.clone(),
            _contexts: contexts,
            runtime,
        }))
    }
}

impl Engine for LinuxAioTokioLocal {
    fn name(&self) -> &str {
        "linux-aio-tokio/local"
    }

    fn max_contexts(&self) -> usize {
        usize::MAX
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = RuntimeFlavor::CurrentThread.runtime()?;
        let tasks = LocalSet::new();
        let waits = workload.slots < workload.depth;
        let (contexts, handles) = tasks.block_on(&runtime, async {
            let make = |_| {
                let (context, handle, background) = local_aio_context(workload.slots, waits)?;
                spawn_local(background);
                Ok((context, handle))
            };
            (0..workload.contexts)
                .map(make)
                .collect::<Result<(Vec<_>, Vec<_>)>>()
        })?;
        Ok(Box::new(PreparedLocal {
            ios: LinuxAioTokioIo::all(workload, &handles)?,
            slots: slots(workload)?,
            workload: workload.clone(),
            _contexts: contexts,
            tasks,
            runtime,
        }))
    }
}

struct PreparedShared {
    ios: Vec<LinuxAioTokioIo<AioContextHandle>>,
    slots: Vec<LockedBuf>,
    workload: Workload,
    _contexts: Vec<AioContext>,
    /// Declared last: a context ends when the runtime has dropped the task that drives it.
    runtime: Runtime,
}

struct PreparedLocal {
    ios: Vec<LinuxAioTokioIo<LocalAioContextHandle>>,
    slots: Vec<LockedBuf>,
    workload: Workload,
    _contexts: Vec<LocalAioContext>,
    /// Declared after the contexts, for the same reason.
    tasks: LocalSet,
    runtime: Runtime,
}

impl Prepared for PreparedShared {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let (workload, ios, slots) = (&self.workload, &self.ios, &mut self.slots);
        self.runtime
            .block_on(async { run_tasks!(tokio::spawn, workload, run, ios, slots) })
    }
}

impl Prepared for PreparedLocal {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let (workload, ios, slots) = (&self.workload, &self.ios, &mut self.slots);
        self.tasks.block_on(&self.runtime, async {
            run_tasks!(spawn_local, workload, run, ios, slots)
        })
    }
}

/// The file and the handle of the context.
#[derive(Clone)]
struct LinuxAioTokioIo<H> {
    file: Arc<File>,
    handle: H,
    block: u64,
}

impl<H: Clone> LinuxAioTokioIo<H> {
    /// Returns a value for each combination that tasks use in turn.
    fn all(workload: &Workload, handles: &[H]) -> Result<Vec<LinuxAioTokioIo<H>>> {
        let files = (0..workload.files)
            .map(|_| Ok(Arc::new(kaio_bench::engines::open_file(workload, true)?)));
        let files = files.collect::<Result<Vec<_>>>()?;
        let count = files.len().max(handles.len());
        let ios = files.iter().cycle().zip(handles.iter().cycle());
        let ios = ios.take(count).map(|(file, handle)| LinuxAioTokioIo {
            file: Arc::clone(file),
            handle: handle.clone(),
            block: workload.block() as u64,
        });
        Ok(ios.collect())
    }
}

/// Implements [`AsyncIo`] for both handles: the bounds of a generic implementation would need types of
/// other crates.
macro_rules! impl_async_io {
    ($handle:ty) => {
        impl AsyncIo for LinuxAioTokioIo<$handle> {
            type Slot = LockedBuf;

            async fn transfer(
                &self,
                transfer: Transfer,
                mut buffer: LockedBuf,
            ) -> (LockedBuf, Result<usize>) {
                let command = command(transfer, &mut buffer, self.block);
                let transferred = self.handle.submit_request(&self.file, command).await;
                (
                    buffer,
                    transferred.map(|bytes| bytes as usize).map_err(Into::into),
                )
            }
        }
    };
}

impl_async_io!(AioContextHandle);
impl_async_io!(LocalAioContextHandle);

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
    task_runner::make_slots(workload, || Ok(LockedBuf::with_size(workload.block())?))
}
