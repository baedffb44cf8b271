//! [`Way`]: one way to do what a pair is about.

use std::future::Future;
use std::marker::PhantomData;
use std::result;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio_kaio::{AioCommandError, AioContext, AioContextBuilder, AioContextHandle, File};

use crate::engines::open_kaio;
use crate::{Engine, Flavour, Lane, Prepared, Result, Run, Tally, Workload, on_tokio};

/// One way to do what a pair is about.
pub(super) trait Way: Sized + 'static {
    /// Its name in tables.
    const NAME: &'static str;

    /// Makes what is there before the first turn: buffers that are kept.
    fn new(bench: &Bench) -> Result<Self>;

    /// Makes the transfers of one turn, which `lane` draws, and [checks](Bench::check) each.
    fn turn(&mut self, bench: &Bench, lane: &mut Lane) -> impl Future<Output = Result<()>>;
}

/// What every way works with.
pub(super) struct Bench {
    pub(super) handle: AioContextHandle,
    /// Open for writing too, if the pair writes.
    pub(super) file: Arc<File>,
    /// Bytes of a transfer.
    pub(super) block: usize,
}

impl Bench {
    /// Whether `moved`, what a transfer came to, is all of `len` bytes.
    pub(super) fn check(moved: result::Result<u64, AioCommandError>, len: usize) -> Result<()> {
        let moved = moved.map(|bytes| bytes as usize);
        on_tokio::check(moved.map_err(Into::into), len)
    }
}

/// The way as an engine.
pub(super) fn engine<W: Way>() -> Box<dyn Engine> {
    Box::new(Of::<W>(PhantomData))
}

struct Of<W>(PhantomData<W>);

impl<W: Way> Engine for Of<W> {
    fn name(&self) -> &str {
        W::NAME
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = Flavour::CurrentThread.runtime()?;
        let builder = AioContextBuilder::new(workload.depth);
        let (context, handle) = runtime.block_on(async { builder.build() })?;
        let bench = Bench {
            handle,
            file: runtime.block_on(open_kaio(workload))?,
            block: workload.block(),
        };
        Ok(Box::new(PreparedWay {
            way: W::new(&bench)?,
            runtime,
            context: Some(context),
            bench,
            workload: workload.clone(),
        }))
    }
}

struct PreparedWay<W> {
    runtime: Runtime,
    /// `None` while it is closed.
    context: Option<AioContext>,
    way: W,
    bench: Bench,
    workload: Workload,
}

impl<W: Way> Prepared for PreparedWay<W> {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let turns = on_tokio::rounds(&self.workload, run);
        let mut lane = self.workload.lanes(run.seed).remove(0);
        let mut tally = Tally::new(run);
        self.runtime.block_on(async {
            for _ in 0..turns {
                let start = tally.latencies.start();
                self.way.turn(&self.bench, &mut lane).await?;
                tally.latencies.stop(start);
                tally.transfers += self.workload.depth as u64;
            }
            Ok(tally)
        })
    }
}

impl<W> Drop for PreparedWay<W> {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            self.runtime.block_on(context.close());
        }
    }
}
