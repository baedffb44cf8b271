//! [`Variant`]: one of the ways that a pair compares.

use std::future::Future;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::result;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio_kaio::{AioCommandError, AioContext, AioContextBuilder, AioContextHandle, File};

use crate::engines::open_kaio;
use crate::{
    Engine, Prepared, Result, Run, RunStats, RuntimeFlavor, TransferGenerator, Workload,
    task_runner,
};

/// One of the ways that a pair compares.
pub(super) trait Variant: Sized + 'static {
    /// Name in tables and on the command line.
    const NAME: &'static str;

    /// Creates what all iterations use, such as buffers.
    fn new(fixture: &Fixture) -> Result<Self>;

    /// Performs the transfers of one iteration, at the offsets of `generator`, and [checks](Fixture::check)
    /// each.
    fn iterate(
        &mut self,
        fixture: &Fixture,
        generator: &mut TransferGenerator,
    ) -> impl Future<Output = Result<()>>;
}

/// The context and the file that every variant uses.
pub(super) struct Fixture {
    pub(super) handle: AioContextHandle,
    /// Open for reading, and for writing if the pair writes.
    pub(super) file: Arc<File>,
    /// The path of the file.
    pub(super) path: PathBuf,
    /// Bytes used of the file.
    pub(super) len: u64,
    /// Transfer size in bytes.
    pub(super) block: usize,
}

impl Fixture {
    /// Checks that a transfer succeeded with all of `len` bytes.
    pub(super) fn check(
        transferred: result::Result<u64, AioCommandError>,
        len: usize,
    ) -> Result<()> {
        let transferred = transferred.map(|bytes| bytes as usize);
        task_runner::check_len(transferred.map_err(Into::into), len)
    }
}

/// Wraps a variant as an engine.
pub(super) fn engine<V: Variant>() -> Box<dyn Engine> {
    Box::new(VariantEngine::<V>(PhantomData))
}

struct VariantEngine<V>(PhantomData<V>);

impl<V: Variant> Engine for VariantEngine<V> {
    fn name(&self) -> &str {
        V::NAME
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = RuntimeFlavor::CurrentThread.runtime()?;
        let builder = AioContextBuilder::new(workload.depth);
        let (context, handle) = runtime.block_on(async { builder.build() })?;
        let fixture = Fixture {
            handle,
            file: runtime.block_on(open_kaio(workload))?,
            path: workload.path.clone(),
            len: workload.len,
            block: workload.block(),
        };
        let variant = {
            let _guard = runtime.enter(); // some variants build a context of their own
            V::new(&fixture)?
        };
        Ok(Box::new(PreparedVariant {
            variant,
            runtime,
            context: Some(context),
            fixture,
            workload: workload.clone(),
        }))
    }
}

struct PreparedVariant<V> {
    runtime: Runtime,
    /// `None` once `drop` has taken it.
    context: Option<AioContext>,
    variant: V,
    fixture: Fixture,
    workload: Workload,
}

impl<V: Variant> Prepared for PreparedVariant<V> {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let iterations = task_runner::iterations(&self.workload, run);
        let mut generator = self.workload.generators(run.seed).remove(0);
        let mut stats = RunStats::new(run);
        self.runtime.block_on(async {
            for _ in 0..iterations {
                let start = stats.latencies.start();
                self.variant.iterate(&self.fixture, &mut generator).await?;
                stats.latencies.stop(start);
                stats.transfers += self.workload.depth as u64;
            }
            Ok(stats)
        })
    }
}

impl<V> Drop for PreparedVariant<V> {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            self.runtime.block_on(context.close());
        }
    }
}
