//! `kaio/…`: tokio-kaio.

use std::error::Error;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local};
use tokio_kaio::{
    AioContext, AioContextBuilder, AioContextError, AioContextHandle, AioOpenOptionsExt,
    AlignedBuf, File, LocalAioContext, LocalAioContextHandle, ReadFlags, WriteFlags,
    local_aio_context,
};

use super::is_forbidden;
use crate::on_tokio::{self, Transfers};
use crate::{
    Direction, Engine, Flavour, Prepared, Result, Run, Tally, Transfer, Unavailable, Workload,
    run_on_tokio,
};

/// With a context for all threads.
pub(super) struct Kaio {
    flavour: Flavour,
    /// Kernel contexts behind the handle.
    shards: usize,
    name: String,
}

impl Kaio {
    pub(super) fn new(flavour: Flavour) -> Kaio {
        Kaio {
            flavour,
            shards: 1,
            name: format!("kaio/{flavour}"),
        }
    }

    /// With a kernel context for each of the two workers, either with as many slots as the depth.
    pub(super) fn sharded() -> Kaio {
        let flavour = Flavour::MultiThread;
        Kaio {
            flavour,
            shards: 2,
            name: format!("kaio/{flavour}-sharded"),
        }
    }
}

impl Engine for Kaio {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = self.flavour.runtime()?;
        let builder = AioContextBuilder::new(self.shards * workload.depth).shards(self.shards);
        let (context, handle) = runtime
            .block_on(async { builder.build() })
            .map_err(forbidden)?;
        let source = Source {
            handle,
            file: runtime.block_on(open(workload))?,
            flags: write_flags(workload),
            block: workload.block() as u64,
        };
        Ok(Box::new(PreparedShared {
            runtime,
            context: Some(context),
            source,
            slots: buffers(workload)?,
            workload: workload.clone(),
        }))
    }
}

struct PreparedShared {
    runtime: Runtime,
    /// `None` while it is closed.
    context: Option<AioContext>,
    source: Source<AioContextHandle>,
    slots: Vec<AlignedBuf>,
    workload: Workload,
}

impl Prepared for PreparedShared {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let (workload, source, slots) = (&self.workload, &self.source, &mut self.slots);
        self.runtime
            .block_on(async { run_on_tokio!(tokio::spawn, workload, run, source, slots) })
    }
}

impl Drop for PreparedShared {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            self.runtime.block_on(context.close());
        }
    }
}

/// With a context for one thread, in a `LocalSet`.
pub(super) struct KaioLocal;

impl Engine for KaioLocal {
    fn name(&self) -> &str {
        "kaio/local"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = Flavour::CurrentThread.runtime()?;
        let local = LocalSet::new();
        let (context, source) = local.block_on(&runtime, async {
            let (context, handle, background) =
                local_aio_context(workload.depth, true).map_err(forbidden)?;
            spawn_local(background);
            let source = Source {
                handle,
                file: open(workload).await?,
                flags: write_flags(workload),
                block: workload.block() as u64,
            };
            Result::Ok((context, source))
        })?;
        Ok(Box::new(PreparedLocal {
            runtime,
            local,
            context: Some(context),
            source,
            slots: buffers(workload)?,
            workload: workload.clone(),
        }))
    }
}

struct PreparedLocal {
    runtime: Runtime,
    local: LocalSet,
    /// `None` while it is closed.
    context: Option<LocalAioContext>,
    source: Source<LocalAioContextHandle>,
    slots: Vec<AlignedBuf>,
    workload: Workload,
}

impl Prepared for PreparedLocal {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let (workload, source, slots) = (&self.workload, &self.source, &mut self.slots);
        self.local.block_on(&self.runtime, async {
            run_on_tokio!(spawn_local, workload, run, source, slots)
        })
    }
}

impl Drop for PreparedLocal {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            self.local.block_on(&self.runtime, context.close());
        }
    }
}

/// A handle of either kind.
#[derive(Clone)]
struct Source<H> {
    handle: H,
    file: Arc<File>,
    flags: WriteFlags,
    block: u64,
}

/// The two handles differ in type parameters, whose bounds would be longer than the code.
macro_rules! transfers {
    ($handle:ty) => {
        impl Transfers for Source<$handle> {
            type Slot = AlignedBuf;

            async fn transfer(
                &self,
                transfer: Transfer,
                mut buffer: AlignedBuf,
            ) -> (AlignedBuf, Result<usize>) {
                let (file, handle, offset) = (&self.file, &self.handle, transfer.offset);
                let moved = match transfer.direction {
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
                    moved.map(|bytes| bytes as usize).map_err(Into::into),
                )
            }
        }
    };
}

transfers!(AioContextHandle);
transfers!(LocalAioContextHandle);

/// The error, which is [`Unavailable`] for the same reasons as a bare loop's.
fn forbidden(error: AioContextError) -> Box<dyn Error + Send + Sync> {
    match &error {
        AioContextError::IoSetup(cause) if is_forbidden(cause) => {
            Unavailable(error.to_string()).into()
        }
        _ => error.into(),
    }
}

/// The workload's file.
pub(crate) async fn open(workload: &Workload) -> Result<Arc<File>> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(workload.pattern.writes());
    let file = options
        .aio_open_or_buffered(workload.path.clone(), false)
        .await?;
    match (workload.direct, file.is_direct()) {
        (true, false) => {
            let path = workload.path.display();
            return Err(format!("open {path} for direct I/O: its file system has none").into());
        }
        (false, true) => set_buffered(&file)?,
        _ => {}
    }
    Ok(Arc::new(file))
}

/// Takes `O_DIRECT` away from a file that has it.
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

/// All of their pages are there. Not locked: that makes no difference to the kernel, which holds on to
/// them while it needs them, but to how many there may be.
fn buffers(workload: &Workload) -> Result<Vec<AlignedBuf>> {
    on_tokio::slots(workload, || {
        let mut buffer = AlignedBuf::new(workload.block())?;
        buffer.fill(0x5a);
        Ok(buffer)
    })
}
