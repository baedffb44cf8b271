//! The pairs `extend`, `log` and `log-one`: writes that make a file grow, with `pwrite` on the blocking pool, on
//! kernel AIO, and on io_uring.
//!
//! Each task writes the next block of the file, one after another, until the tasks of the iteration have
//! written [`WRITES`] blocks. When the file has the size of the benchmark's file, a new one is started.

use std::fs::OpenOptions;
use std::future::Future;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_kaio::{
    AioContext, AioContextBuilder, AioContextHandle, AlignedBuf, Backend, File, WriteFlags,
};

use super::variant::{Fixture, Variant};
use crate::engines::context_error;
use crate::task_runner;
use crate::{Result, TransferGenerator};

/// Writes of one iteration.
pub(super) const WRITES: usize = 256;

/// The file that grows, and the tasks that write it. `TASKS` writes are in flight.
struct Writers<const TASKS: usize> {
    path: PathBuf,
    /// End of the last iteration.
    end: u64,
    buffers: Vec<AlignedBuf>,
}

impl<const TASKS: usize> Writers<TASKS> {
    fn new(fixture: &Fixture, name: &str) -> Result<Writers<TASKS>> {
        let buffer = || {
            let mut buffer = AlignedBuf::new(fixture.block)?;
            buffer.fill(0x5a);
            Result::Ok(buffer)
        };
        Ok(Writers {
            path: fixture.path.with_extension(format!("{name}-{TASKS}")),
            end: u64::MAX,
            buffers: (0..TASKS).map(|_| buffer()).collect::<Result<_>>()?,
        })
    }

    /// Creates the file anew, open for direct I/O, if it is to start again.
    fn next_file(&mut self, fixture: &Fixture, flags: i32) -> Result<Option<std::fs::File>> {
        if self.end.saturating_add((WRITES * fixture.block) as u64) <= fixture.len {
            return Ok(None);
        }
        self.end = 0;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        options.custom_flags(libc::O_DIRECT | flags);
        Ok(Some(options.open(&self.path)?))
    }

    /// Performs one iteration. `write` writes a block at an offset.
    async fn run<W, F>(&mut self, block: usize, write: W) -> Result<()>
    where
        W: Fn(u64, AlignedBuf) -> F + Clone + Send + 'static,
        F: Future<Output = (AlignedBuf, Result<usize>)> + Send,
    {
        let next = Arc::new(AtomicU64::new(self.end));
        let tasks = self.buffers.drain(..).map(|mut buffer| {
            let (write, next) = (write.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                for _ in 0..WRITES / TASKS {
                    let offset = next.fetch_add(block as u64, Ordering::Relaxed);
                    let (returned, written) = write(offset, buffer).await;
                    task_runner::check_len(written, block)?;
                    buffer = returned;
                }
                Result::Ok(buffer)
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            self.buffers.push(task.await??);
        }
        self.end = next.load(Ordering::Relaxed);
        Ok(())
    }
}

impl<const TASKS: usize> Drop for Writers<TASKS> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // nothing was measured
    }
}

/// `pwrite` on the blocking pool.
pub(super) struct SpawnBlocking<const TASKS: usize, const DSYNC: bool> {
    writers: Writers<TASKS>,
    file: Option<Arc<std::fs::File>>,
}

impl<const TASKS: usize, const DSYNC: bool> Variant for SpawnBlocking<TASKS, DSYNC> {
    const NAME: &'static str = "spawn-blocking";

    fn new(fixture: &Fixture) -> Result<SpawnBlocking<TASKS, DSYNC>> {
        Ok(SpawnBlocking {
            writers: Writers::new(fixture, "blocking")?,
            file: None,
        })
    }

    async fn iterate(&mut self, fixture: &Fixture, _: &mut TransferGenerator) -> Result<()> {
        let flags = if DSYNC { libc::O_DSYNC } else { 0 };
        if let Some(file) = self.writers.next_file(fixture, flags)? {
            self.file = Some(Arc::new(file));
        }
        let Some(file) = self.file.clone() else {
            return Err("the file is missing".into());
        };
        let write = move |offset, buffer: AlignedBuf| {
            let file = Arc::clone(&file);
            let write = tokio::task::spawn_blocking(move || {
                let written = file.write_at(&buffer, offset);
                (buffer, written.map_err(Into::into))
            });
            async {
                write
                    .await
                    .expect("the job neither panics nor is cancelled")
            }
        };
        self.writers.run(fixture.block, write).await
    }
}

/// tokio-kaio, with a context of its own on io_uring if `URING`.
pub(super) struct Kaio<const TASKS: usize, const DSYNC: bool, const URING: bool> {
    writers: Writers<TASKS>,
    _context: AioContext,
    handle: AioContextHandle,
    file: Option<Arc<File>>,
}

impl<const TASKS: usize, const DSYNC: bool, const URING: bool> Variant
    for Kaio<TASKS, DSYNC, URING>
{
    const NAME: &'static str = if URING { "kaio-uring" } else { "kaio" };

    fn new(fixture: &Fixture) -> Result<Kaio<TASKS, DSYNC, URING>> {
        let backend = match URING {
            true => Backend::IoUring,
            false => Backend::KernelAio,
        };
        let builder = AioContextBuilder::new(TASKS).backend(backend);
        let (context, handle) = builder.build().map_err(context_error)?;
        Ok(Kaio {
            writers: Writers::new(fixture, Self::NAME)?,
            _context: context,
            handle,
            file: None,
        })
    }

    async fn iterate(&mut self, fixture: &Fixture, _: &mut TransferGenerator) -> Result<()> {
        if let Some(file) = self.writers.next_file(fixture, 0)? {
            self.file = Some(Arc::new(File::from_std(file)?));
        }
        let Some(file) = self.file.clone() else {
            return Err("the file is missing".into());
        };
        let handle = self.handle.clone();
        let len = fixture.block as u64;
        let flags = match DSYNC {
            true => WriteFlags::DSYNC,
            false => WriteFlags::empty(),
        };
        let write = move |offset, buffer: AlignedBuf| {
            let (file, handle) = (Arc::clone(&file), handle.clone());
            async move {
                let written = file.write_at(&handle, offset, &buffer, len, flags).await;
                let written = written.map(|bytes| bytes as usize);
                (buffer, written.map_err(Into::into))
            }
        };
        self.writers.run(fixture.block, write).await
    }
}
