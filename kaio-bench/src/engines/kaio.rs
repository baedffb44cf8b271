//! `kaio/…`: tokio-kaio.

use std::error::Error;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local};
use tokio_kaio::{
    AioContext, AioContextBuilder, AioContextError, AioContextHandle, AioOpenOptionsExt,
    AlignedBuf, Backend, BufferPool, File, IoGroup, LocalAioContext, LocalAioContextHandle,
    ReadFlags, WriteFlags, local_aio_context,
};

use super::is_forbidden;
use crate::task_runner::{self, AsyncIo};
use crate::{
    Direction, Engine, Prepared, Result, Run, RunStats, RuntimeFlavor, Transfer, Unavailable,
    Workload, run_tasks,
};

/// An engine with an `AioContext`, on a runtime of either flavor.
pub(super) struct Kaio {
    flavor: RuntimeFlavor,
    /// Number of kernel contexts behind the handle.
    shards: usize,
    /// Whether a thread of the context's own serves completions.
    own_thread: bool,
    /// Whether groups of one context take the place of contexts.
    groups: bool,
    backend: Backend,
    /// Whether the buffers are those of a pool that is registered with the kernel.
    registered: bool,
    /// [`AioContextBuilder::max_batch`], if set.
    max_batch: Option<usize>,
    name: String,
}

impl Kaio {
    pub(super) fn new(flavor: RuntimeFlavor) -> Kaio {
        Kaio {
            flavor,
            shards: 1,
            own_thread: false,
            groups: false,
            backend: Backend::KernelAio,
            registered: false,
            max_batch: None,
            name: format!("kaio/{flavor}"),
        }
    }

    /// Creates an engine that collects batches of up to `requests`.
    pub(super) fn with_max_batch(flavor: RuntimeFlavor, requests: usize) -> Kaio {
        Kaio {
            max_batch: Some(requests),
            name: format!("kaio/{flavor}-max-batch-{requests}"),
            ..Kaio::new(flavor)
        }
    }

    /// Creates an engine whose context has a thread of its own, beside a current-thread runtime.
    pub(super) fn own_thread() -> Kaio {
        let flavor = RuntimeFlavor::CurrentThread;
        Kaio {
            own_thread: true,
            name: format!("kaio/{flavor}-own-thread"),
            ..Kaio::new(flavor)
        }
    }

    /// Creates an engine that has one context, with a group in place of each context of the workload.
    pub(super) fn groups() -> Kaio {
        let flavor = RuntimeFlavor::CurrentThread;
        Kaio {
            groups: true,
            name: format!("kaio/{flavor}-groups"),
            ..Kaio::new(flavor)
        }
    }

    /// Creates an engine that runs on io_uring.
    pub(super) fn on_uring(flavor: RuntimeFlavor) -> Kaio {
        Kaio {
            backend: Backend::IoUring,
            name: format!("kaio/{flavor}-uring"),
            ..Kaio::new(flavor)
        }
    }

    /// Creates an engine that runs on io_uring, with registered buffers.
    pub(super) fn on_uring_registered(flavor: RuntimeFlavor) -> Kaio {
        Kaio {
            registered: true,
            name: format!("kaio/{flavor}-uring-registered"),
            ..Kaio::on_uring(flavor)
        }
    }

    /// Creates an engine with a kernel context for each of the two workers, each with `depth` slots.
    pub(super) fn sharded() -> Kaio {
        let flavor = RuntimeFlavor::MultiThread;
        Kaio {
            shards: 2,
            name: format!("kaio/{flavor}-sharded"),
            ..Kaio::new(flavor)
        }
    }
}

impl Engine for Kaio {
    fn name(&self) -> &str {
        &self.name
    }

    fn max_contexts(&self) -> usize {
        usize::MAX
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = self.flavor.runtime()?;
        let contexts = match self.groups {
            true => 1,
            false => workload.contexts,
        };
        let slots = workload.contexts / contexts * workload.slots;
        let mut builder = AioContextBuilder::new(self.shards * slots)
            .shards(self.shards)
            .backend(self.backend);
        if self.own_thread {
            builder = builder.own_thread();
        }
        if let Some(requests) = self.max_batch {
            builder = builder.max_batch(requests);
        }
        let buffers = match self.registered {
            false => buffers(workload)?,
            true => {
                let pool = BufferPool::new(workload.depth, workload.block())?;
                builder = builder.register_buffers(&pool);
                task_runner::make_slots(workload, || {
                    let mut buffer = pool
                        .try_get()
                        .ok_or("the pool has a buffer for each slot")?;
                    buffer.fill(0x5a);
                    Ok(buffer)
                })?
            }
        };
        let build = |_| {
            let built = runtime.block_on(async { builder.clone().build() });
            built.map_err(context_error)
        };
        let built: Vec<_> = (0..contexts).map(build).collect::<Result<_>>()?;
        let (contexts, mut handles): (Vec<_>, Vec<AioContextHandle>) = built.into_iter().unzip();
        if self.groups {
            let grouped = |_| handles[0].with_group(&IoGroup::new("benchmark"));
            handles = (0..workload.contexts).map(grouped).collect();
        }
        if self.registered && handles.iter().any(|handle| handle.registered_bytes() == 0) {
            return Err("RLIMIT_MEMLOCK does not permit registered buffers".into());
        }
        let files = runtime.block_on(open_all(workload))?;
        Ok(Box::new(PreparedShared {
            runtime,
            contexts,
            ios: KaioIo::all(workload, &handles, &files),
            slots: buffers,
            workload: workload.clone(),
        }))
    }
}

struct PreparedShared {
    runtime: Runtime,
    contexts: Vec<AioContext>,
    ios: Vec<KaioIo<AioContextHandle>>,
    slots: Vec<AlignedBuf>,
    workload: Workload,
}

impl Prepared for PreparedShared {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let (workload, ios, slots) = (&self.workload, &self.ios, &mut self.slots);
        self.runtime
            .block_on(async { run_tasks!(tokio::spawn, workload, run, ios, slots) })
    }
}

impl Drop for PreparedShared {
    fn drop(&mut self) {
        for context in self.contexts.drain(..) {
            self.runtime.block_on(context.close());
        }
    }
}

/// The engine with a `LocalAioContext`, in a `LocalSet`.
pub(super) struct KaioLocal;

impl Engine for KaioLocal {
    fn name(&self) -> &str {
        "kaio/local"
    }

    fn max_contexts(&self) -> usize {
        usize::MAX
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = RuntimeFlavor::CurrentThread.runtime()?;
        let local = LocalSet::new();
        let (contexts, ios) = local.block_on(&runtime, async {
            let mut contexts = Vec::new();
            let mut handles = Vec::new();
            for _ in 0..workload.contexts {
                let (context, handle, background) =
                    local_aio_context(workload.slots, true).map_err(context_error)?;
                spawn_local(background);
                contexts.push(context);
                handles.push(handle);
            }
            let files = open_all(workload).await?;
            Result::Ok((contexts, KaioIo::all(workload, &handles, &files)))
        })?;
        Ok(Box::new(PreparedLocal {
            runtime,
            local,
            contexts,
            ios,
            slots: buffers(workload)?,
            workload: workload.clone(),
        }))
    }
}

struct PreparedLocal {
    runtime: Runtime,
    local: LocalSet,
    contexts: Vec<LocalAioContext>,
    ios: Vec<KaioIo<LocalAioContextHandle>>,
    slots: Vec<AlignedBuf>,
    workload: Workload,
}

impl Prepared for PreparedLocal {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let (workload, ios, slots) = (&self.workload, &self.ios, &mut self.slots);
        self.local.block_on(&self.runtime, async {
            run_tasks!(spawn_local, workload, run, ios, slots)
        })
    }
}

impl Drop for PreparedLocal {
    fn drop(&mut self) {
        for context in self.contexts.drain(..) {
            self.local.block_on(&self.runtime, context.close());
        }
    }
}

/// The file, with a handle of either kind.
#[derive(Clone)]
struct KaioIo<H> {
    handle: H,
    file: Arc<File>,
    flags: WriteFlags,
    block: u64,
}

impl<H: Clone> KaioIo<H> {
    /// Returns a value for each combination that tasks use in turn.
    fn all(workload: &Workload, handles: &[H], files: &[Arc<File>]) -> Vec<KaioIo<H>> {
        let count = handles.len().max(files.len());
        let handles = handles.iter().cycle();
        let ios = handles.zip(files.iter().cycle()).take(count);
        ios.map(|(handle, file)| KaioIo {
            handle: handle.clone(),
            file: Arc::clone(file),
            flags: write_flags(workload),
            block: workload.block() as u64,
        })
        .collect()
    }
}

/// Implements [`AsyncIo`] for both handles: the bounds of a generic implementation would be longer.
macro_rules! impl_async_io {
    ($handle:ty) => {
        impl AsyncIo for KaioIo<$handle> {
            type Slot = AlignedBuf;

            async fn transfer(
                &self,
                transfer: Transfer,
                mut buffer: AlignedBuf,
            ) -> (AlignedBuf, Result<usize>) {
                let (file, handle, offset) = (&self.file, &self.handle, transfer.offset);
                let result = match transfer.direction {
                    Direction::Read => {
                        let flags = ReadFlags::empty();
                        file.read_at(handle, offset, &mut buffer, self.block, flags)
                            .await
                    }
                    Direction::Write => {
                        file.write_at(handle, offset, &buffer, self.block, self.flags)
                            .await
                    }
                };
                (
                    buffer,
                    result.map(|bytes| bytes as usize).map_err(Into::into),
                )
            }
        }
    };
}

impl_async_io!(AioContextHandle);
impl_async_io!(LocalAioContextHandle);

/// Converts an error of building a context: [`Unavailable`] for the same reasons as in the bare engines.
pub(crate) fn context_error(error: AioContextError) -> Box<dyn Error + Send + Sync> {
    match &error {
        AioContextError::IoSetup(cause) if is_forbidden(cause) => {
            Unavailable(error.to_string()).into()
        }
        _ => error.into(),
    }
}

/// Opens the workload's file.
pub(crate) async fn open(workload: &Workload) -> Result<Arc<File>> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(workload.pattern.writes());
    let file = options
        .aio_open_or_buffered(workload.path.clone(), false)
        .await?;
    match (workload.direct, file.is_direct()) {
        (true, false) => {
            let path = workload.path.display();
            return Err(format!("open {path}: its file system has no direct I/O").into());
        }
        (false, true) => set_buffered(&file)?,
        _ => {}
    }
    Ok(Arc::new(file))
}

/// Opens the workload's file as often as the workload says.
async fn open_all(workload: &Workload) -> Result<Vec<Arc<File>>> {
    let mut files = Vec::new();
    for _ in 0..workload.files {
        files.push(open(workload).await?);
    }
    Ok(files)
}

/// Clears `O_DIRECT`.
fn set_buffered(file: &File) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(
        file,
        flags - rustix::fs::OFlags::DIRECT,
    )?)
}

fn write_flags(workload: &Workload) -> WriteFlags {
    match workload.pattern.durable() {
        true => WriteFlags::DSYNC,
        false => WriteFlags::empty(),
    }
}

/// Allocates the buffers, with all pages resident. They are not locked: the kernel pins the pages of a
/// request anyway, and locked memory is limited.
fn buffers(workload: &Workload) -> Result<Vec<AlignedBuf>> {
    task_runner::make_slots(workload, || {
        let mut buffer = AlignedBuf::new(workload.block())?;
        buffer.fill(0x5a);
        Ok(buffer)
    })
}
