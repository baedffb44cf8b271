//! `tokio-fs (buffered)`: `tokio::fs::File`, seek and read or write.
//!
//! Without direct I/O: `tokio::fs` copies through memory of its own, which is aligned as a `Vec<u8>`
//! of `malloc`'s is, to 16 bytes. With `O_DIRECT` its reads and writes fail with `EINVAL` on devices
//! that want more, as a virtio disk does (`queue/dma_alignment` in `/sys/block/…` is 511 there);
//! tmpfs would take them. Its transfers therefore go through the page cache, where reads meet no
//! disk once the file has been read, and writes that need not be durable meet it later: it does
//! another job than the rest, and is here because it is what comes with tokio. It has a copy of a
//! scratch file; of another's file it reads, and does not write.

use std::cell::RefCell;
use std::fs;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::process;
use std::rc::Rc;

use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use crate::leftovers::Leftover;
use crate::on_tokio::Transfers;
use crate::site::room_for;
use crate::{
    Buffer, Direction, Engine, Flavour, Prepared, Result, Run, Tally, Transfer, Unavailable,
    Workload, run_on_tokio,
};

#[derive(Default)]
pub(super) struct TokioFs {
    /// Of the file that came last: workloads of one file share it.
    copy: RefCell<Option<Rc<Copied>>>,
}

impl TokioFs {
    /// The file that is read and written for `workload`.
    fn path(&self, workload: &Workload) -> Result<PathBuf> {
        if !workload.direct {
            return Ok(workload.path.clone()); // as all the others do
        }
        if workload.scratch {
            let mut copy = self.copy.borrow_mut();
            let copied = match copy.take() {
                Some(copied) if copied.of == workload.path => copied,
                _ => Rc::new(Copied::new(&workload.path).map_err(|error| {
                    let way_out = match error.raw_os_error() {
                        Some(libc::ENOSPC | libc::EDQUOT) => "; it takes as much again as the file",
                        _ => "",
                    };
                    format!("copy {}: {error}{way_out}", workload.path.display())
                })?),
            };
            return Ok(copy.insert(copied).leftover.path().to_owned());
        }
        match workload.pattern.writes() {
            false => Ok(workload.path.clone()),
            true => Err(Unavailable(format!(
                "what it writes to {} would be in the page cache, in the way of the others; without \
                 a FILE, or with --buffered, it can be measured",
                workload.path.display()
            ))
            .into()),
        }
    }
}

impl Engine for TokioFs {
    fn name(&self) -> &str {
        "tokio-fs (buffered)"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = Flavour::MultiThread.runtime()?;
        let path = self.path(workload)?;
        let mut options = OpenOptions::new();
        options.read(true).write(workload.pattern.writes());
        if workload.pattern.durable() {
            options.custom_flags(libc::O_DSYNC);
        }
        let slots = (0..workload.depth).map(|_| {
            let opened = runtime.block_on(options.open(&path));
            let file = opened.map_err(|error| {
                let way_out = match error.raw_os_error() {
                    Some(libc::EMFILE) => "; each task has one, which ulimit -n has to allow for",
                    _ => "",
                };
                format!("open {}: {error}{way_out}", path.display())
            })?;
            Ok((file, Buffer::new(workload.block())))
        });
        let slots = slots.collect::<Result<_>>()?;
        Ok(Box::new(PreparedFs {
            runtime,
            slots,
            workload: workload.clone(),
        }))
    }
}

struct PreparedFs {
    runtime: Runtime,
    /// A file each: its position is moved.
    slots: Vec<(File, Buffer)>,
    workload: Workload,
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

/// A copy of a file, so that pages in the page cache are in nobody else's way.
struct Copied {
    of: PathBuf,
    leftover: Leftover,
}

impl Copied {
    fn new(of: &Path) -> io::Result<Copied> {
        room_for(fs::metadata(of)?.len(), of)?;
        let mut name = of.to_owned().into_os_string();
        name.push(format!(".buffered.{}", process::id()));
        let path = PathBuf::from(name);
        let make = || fs::File::create_new(&path).map(|file| (path.clone(), file));
        let (leftover, mut copy) = Leftover::new(make)?;
        io::copy(&mut fs::File::open(of)?, &mut copy)?;
        copy.sync_all()?;
        let of = of.to_owned();
        Ok(Copied { of, leftover })
    }
}
