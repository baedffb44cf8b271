//! Contexts that are made and ended in every way, with requests in flight.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::task::LocalSet;
use tokio_kaio::{AioContextBuilder, AlignedBuf, Backend, File, ReadFlags};

use crate::block_jobs::{BlockFile, expect};
use crate::soak_job::{BLOCK, Result, SoakJob};
use crate::soak_turn::TurnRuntime;

const BLOCKS: usize = 8;

pub(crate) async fn make_and_end_contexts(mut job: SoakJob) -> Result<()> {
    let blocks = BlockFile::create(&mut job, BLOCKS).await?;
    while job.goes_on() {
        match job.random.u8(..5) {
            0 => close(&mut job, &blocks).await?,
            1 => drop_busy(&job, &blocks).await?,
            2 => on_own_thread(&job, &blocks).await?,
            3 => end_runtime(&job, &blocks).await?,
            _ => local(&job, &blocks).await?,
        }
        // The other workloads have most of the time.
        tokio::time::sleep(Duration::from_millis(job.random.u64(1..20))).await;
    }
    Ok(())
}

fn builder(job: &SoakJob) -> AioContextBuilder {
    AioContextBuilder::new(8).backend(job.backend)
}

async fn close(job: &mut SoakJob, blocks: &BlockFile) -> Result<()> {
    let shards = job.random.usize(1..4);
    let (context, handle) = builder(job).shards(shards).build()?;
    let mut bytes = AlignedBuf::new(BLOCK)?;
    let read = blocks
        .file
        .read_at(&handle, 0, &mut bytes, BLOCK as u64, ReadFlags::empty());
    expect(read.await?, BLOCK)?;
    blocks.verify(0, &bytes)?;
    job.count().verified(BLOCK);
    if job.random.bool() {
        let read = blocks
            .file
            .read_at(&handle, 0, &mut bytes, BLOCK as u64, ReadFlags::empty());
        let _ = pin!(read).poll(&mut Context::from_waker(Waker::noop()));
        job.count().cancelled();
    }
    match job.random.bool() {
        true => context.close().await,
        // It goes on in the background if it takes longer.
        false => drop(context.close_timeout(Duration::from_millis(1)).await),
    }
    Ok(())
}

/// Drops a context while a task reads. The reads complete, or fail because the context has stopped.
async fn drop_busy(job: &SoakJob, blocks: &BlockFile) -> Result<()> {
    let (context, handle) = builder(job).build()?;
    let file = blocks.file.clone();
    let task = tokio::spawn(async move {
        for _ in 0..1000 {
            let mut bytes = AlignedBuf::new(BLOCK)?;
            let read = file.read_at(&handle, 0, &mut bytes, BLOCK as u64, ReadFlags::empty());
            match read.await {
                Ok(_) => {}
                Err(tokio_kaio::AioCommandError::AioStopped) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Result::Ok(())
    });
    tokio::task::yield_now().await;
    drop(context);
    job.count().cancelled();
    task.await?
}

async fn on_own_thread(job: &SoakJob, blocks: &BlockFile) -> Result<()> {
    let handle = builder(job).own_thread().build_detached()?;
    let mut bytes = AlignedBuf::new(2 * BLOCK)?;
    let len = bytes.size() as u64;
    let read = blocks
        .file
        .read_exact_at(&handle, 0, &mut bytes, len, ReadFlags::empty());
    read.await?;
    blocks.verify(0, &bytes)?;
    job.count().verified(bytes.size());
    handle.closed().await;
    Ok(())
}

/// Runs `work` on a thread of its own.
async fn on_thread(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(move || std::thread::spawn(work).join())
        .await?
        .map_err(|_| "a thread has panicked")?
}

/// Reads a block of zeroes or more through a context that ends with its runtime.
async fn end_runtime(job: &SoakJob, blocks: &BlockFile) -> Result<()> {
    let (builder, file) = (builder(job), blocks.file.clone());
    on_thread(move || {
        let runtime = TurnRuntime::CurrentThread.build()?;
        let (context, handle) = {
            let _entered = runtime.enter();
            builder.build()?
        };
        runtime.block_on(async {
            let mut bytes = AlignedBuf::new(BLOCK)?;
            let read = file.read_at(&handle, 0, &mut bytes, BLOCK as u64, ReadFlags::empty());
            expect(read.await?, BLOCK)
        })?;
        let busy = handle.clone();
        runtime.spawn(async move {
            let mut bytes = AlignedBuf::new(BLOCK)?;
            let read = file.read_at(&busy, 0, &mut bytes, BLOCK as u64, ReadFlags::empty());
            expect(read.await?, BLOCK)
        });
        runtime.block_on(tokio::task::yield_now());
        drop(runtime);
        drop((context, handle));
        Ok(())
    })
    .await?;
    job.count().cancelled();
    Ok(())
}

async fn local(job: &SoakJob, blocks: &BlockFile) -> Result<()> {
    let (backend, file) = (job.backend, blocks.file.clone());
    on_thread(move || {
        let runtime = TurnRuntime::CurrentThread.build()?;
        LocalSet::new().block_on(&runtime, read_locally(backend, file))
    })
    .await?;
    job.count().done();
    Ok(())
}

async fn read_locally(backend: Backend, file: File) -> Result<()> {
    let (context, handle, background) = AioContextBuilder::new(4).backend(backend).build_local()?;
    tokio::task::spawn_local(background);
    let mut bytes = AlignedBuf::new(BLOCK)?;
    let read = file.read_at(&handle, 0, &mut bytes, BLOCK as u64, ReadFlags::empty());
    expect(read.await?, BLOCK)?;
    context.close().await;
    Ok(())
}
