//! `tokio-fs (buffered)`: `tokio::fs::File`, seek and read or write.
//!
//! Without direct I/O: `tokio::fs` copies through memory of its own, which is aligned as a `Vec<u8>`
//! of `malloc`'s is, to 16 bytes. With `O_DIRECT` its reads and writes fail with `EINVAL` on devices
//! that want more, as a virtio disk does (`queue/dma_alignment` in `/sys/block/…` is 511 there);
//! tmpfs would take them. Its transfers therefore go through the page cache, where reads meet no
//! disk once the file has been read, and writes that need not be durable meet it later: it does
//! another job than the rest, and is here because it is what comes with tokio.

use std::fs;
use std::path::PathBuf;
use std::{io::SeekFrom, process};

use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use crate::on_tokio::Transfers;
use crate::{
    Buffer, Direction, Engine, Flavour, Prepared, Result, Run, Tally, Transfer, Workload,
    run_on_tokio,
};

pub(super) struct TokioFs;

impl Engine for TokioFs {
    fn name(&self) -> &str {
        "tokio-fs (buffered)"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = Flavour::MultiThread.runtime()?;
        let file = Copied::new(workload)?;
        let mut options = OpenOptions::new();
        options.read(true).write(workload.pattern.writes());
        if workload.pattern.durable() {
            options.custom_flags(libc::O_DSYNC);
        }
        let slots = (0..workload.depth).map(|_| {
            let file = runtime.block_on(options.open(&file.0))?;
            Ok((file, Buffer::new(workload.block())))
        });
        let slots = slots.collect::<Result<_>>()?;
        Ok(Box::new(PreparedFs {
            runtime,
            slots,
            workload: workload.clone(),
            _file: file,
        }))
    }
}

struct PreparedFs {
    runtime: Runtime,
    /// A file each: its position is moved.
    slots: Vec<(File, Buffer)>,
    workload: Workload,
    _file: Copied,
}

impl Prepared for PreparedFs {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        let (workload, slots) = (&self.workload, &mut self.slots);
        self.runtime
            .block_on(async { run_on_tokio!(tokio::spawn, workload, run, Source, slots) })
    }
}

#[derive(Clone)]
struct Source;

impl Transfers for Source {
    type Slot = (File, Buffer);

    async fn transfer(&self, transfer: Transfer, slot: Self::Slot) -> (Self::Slot, Result<usize>) {
        let (mut file, mut buffer) = slot;
        let moved = seek_and_move(&mut file, transfer, &mut buffer).await;
        ((file, buffer), moved)
    }
}

async fn seek_and_move(file: &mut File, transfer: Transfer, buffer: &mut [u8]) -> Result<usize> {
    file.seek(SeekFrom::Start(transfer.offset)).await?;
    match transfer.direction {
        Direction::Read => Ok(file.read_exact(buffer).await?),
        Direction::Write => {
            file.write_all(buffer).await?;
            // Until then it is a thread of the pool's to do.
            file.flush().await?;
            Ok(buffer.len())
        }
    }
}

/// A copy of the workload's file, so that pages in the page cache are in nobody else's way. Removed
/// at the end.
struct Copied(PathBuf);

impl Copied {
    fn new(workload: &Workload) -> Result<Copied> {
        let mut name = workload.path.clone().into_os_string();
        name.push(format!(".buffered.{}", process::id()));
        let copied = Copied(name.into());
        fs::copy(&workload.path, &copied.0)?;
        fs::File::open(&copied.0)?.sync_all()?;
        Ok(copied)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // its directory is a temporary one
    }
}
