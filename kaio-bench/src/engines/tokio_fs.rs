//! `tokio-fs (buffered)`: `tokio::fs::File`, seek and read or write.
//!
//! It uses the page cache, because `tokio::fs` copies through its own buffer, a `Vec<u8>` aligned to 16
//! bytes. With `O_DIRECT` its reads and writes fail with `EINVAL` on devices that need more, such as a
//! virtio disk (`queue/dma_alignment` in `/sys/block/…` is 511 there). So cached reads never reach the
//! disk, and writes reach it later unless they are durable: its figures are not comparable with those of
//! direct I/O. It is included because it is what tokio offers.
//!
//! The engine copies a scratch file, so that its cached pages do not affect the other engines. It reads a
//! user's file in place, and does not write to it.

use std::cell::RefCell;
use std::fs;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::process;
use std::rc::Rc;

use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use crate::bench_file::check_free_space;
use crate::task_runner::AsyncIo;
use crate::temp_path::TempPath;
use crate::{
    Direction, Engine, PageBuffer, Prepared, Result, Run, RunStats, RuntimeFlavor, Transfer,
    Unavailable, Workload, run_tasks,
};

#[derive(Default)]
pub(super) struct TokioFs {
    /// Copy of the last workload's file, shared by all workloads of that file.
    last_copy: RefCell<Option<Rc<FileCopy>>>,
}

impl TokioFs {
    /// Returns the path of the file to use for `workload`.
    fn path(&self, workload: &Workload) -> Result<PathBuf> {
        if !workload.direct {
            return Ok(workload.path.clone()); // all engines use the page cache
        }
        if workload.scratch {
            let mut last_copy = self.last_copy.borrow_mut();
            let copy = match last_copy.take() {
                Some(copy) if copy.original == workload.path => copy,
                _ => Rc::new(FileCopy::new(&workload.path).map_err(|error| {
                    let hint = match error.raw_os_error() {
                        Some(libc::ENOSPC | libc::EDQUOT) => {
                            "; the copy needs as much space as the file"
                        }
                        _ => "",
                    };
                    format!("copy {}: {error}{hint}", workload.path.display())
                })?),
            };
            return Ok(last_copy.insert(copy).temp_path.path().to_owned());
        }
        match workload.pattern.writes() {
            false => Ok(workload.path.clone()),
            true => Err(Unavailable(format!(
                "its writes to {} would fill the page cache and affect the other engines; measure it \
                 without a FILE, or with --buffered",
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
        let runtime = RuntimeFlavor::MultiThread.runtime()?;
        let path = self.path(workload)?;
        let mut options = OpenOptions::new();
        options.read(true).write(workload.pattern.writes());
        if workload.pattern.durable() {
            options.custom_flags(libc::O_DSYNC);
        }
        let slots = (0..workload.depth).map(|_| {
            let opened = runtime.block_on(options.open(&path));
            let file = opened.map_err(|error| {
                let hint = match error.raw_os_error() {
                    Some(libc::EMFILE) => {
                        "; each transfer in flight needs a descriptor: raise ulimit -n"
                    }
                    _ => "",
                };
                format!("open {}: {error}{hint}", path.display())
            })?;
            Ok((file, PageBuffer::new(workload.block())))
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
    /// A file for each transfer in flight, since each seeks.
    slots: Vec<(File, PageBuffer)>,
    workload: Workload,
}

impl Prepared for PreparedFs {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let (workload, slots) = (&self.workload, &mut self.slots);
        self.runtime
            .block_on(async { run_tasks!(tokio::spawn, workload, run, [TokioFsIo], slots) })
    }
}

#[derive(Clone)]
struct TokioFsIo;

impl AsyncIo for TokioFsIo {
    type Slot = (File, PageBuffer);

    async fn transfer(&self, transfer: Transfer, slot: Self::Slot) -> (Self::Slot, Result<usize>) {
        let (mut file, mut buffer) = slot;
        let transferred = seek_and_transfer(&mut file, transfer, &mut buffer).await;
        ((file, buffer), transferred)
    }
}

async fn seek_and_transfer(
    file: &mut File,
    transfer: Transfer,
    buffer: &mut [u8],
) -> Result<usize> {
    file.seek(SeekFrom::Start(transfer.offset)).await?;
    match transfer.direction {
        Direction::Read => Ok(file.read_exact(buffer).await?),
        Direction::Write => {
            file.write_all(buffer).await?;
            // `write_all` returns before the blocking pool has written.
            file.flush().await?;
            Ok(buffer.len())
        }
    }
}

/// A temporary copy of a file.
struct FileCopy {
    original: PathBuf,
    temp_path: TempPath,
}

impl FileCopy {
    fn new(original: &Path) -> io::Result<FileCopy> {
        check_free_space(fs::metadata(original)?.len(), original)?;
        let mut name = original.to_owned().into_os_string();
        name.push(format!(".buffered.{}", process::id()));
        let path = PathBuf::from(name);
        let create = || fs::File::create_new(&path).map(|file| (path.clone(), file));
        let (temp_path, mut copy) = TempPath::new(create)?;
        io::copy(&mut fs::File::open(original)?, &mut copy)?;
        copy.sync_all()?;
        let original = original.to_owned();
        Ok(FileCopy {
            original,
            temp_path,
        })
    }
}
