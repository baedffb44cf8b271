//! Copies a pipe to a file or device.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use rustix::pipe::fcntl_setpipe_size;
use tokio::sync::{Mutex, Notify};
use tokio_kaio::{AlignedBuf, Allocate};
use xxhash_rust::xxh3::xxh3_64;

use super::block_io::BlockIo;
use super::copy_data::{self, CopiedData};
use super::copy_error::CopyError;
use super::copy_file::{add_to_counters, make_durable, read_back, set_attributes};
use super::cp_args::{PAGE, Sparse};
use super::destination::Destination;
use super::file_attributes::FileAttributes;
use super::target_file::TargetFile;
use super::verify::ChunkChecksum;
use super::{blocking, pipes};

/// Bytes that a pipe can hold, if that is permitted: more than the usual 64 KiB let the other program write
/// a block while this one reads another.
const PIPE: usize = 1 << 20;

/// The space that is allocated ahead of the writes.
const AHEAD: u64 = 64 << 20;

/// Copies all that can be read from the pipe `source`.
pub(super) async fn copy_from_pipe(
    io: &BlockIo<'_>,
    source: &Path,
    destination: &Destination,
) -> Result<(), CopyError> {
    let pipe = pipes::open_source(source).map_err(|error| CopyError::of("open", source, &error))?;
    // Fails if it is not a pipe, or above the limit of the user.
    let _ = fcntl_setpipe_size(&pipe, PIPE);
    let target = TargetFile::open(destination, destination.path().into()).await?;
    io.note_target(&target.path, &target.file);
    let copy = PipeCopy {
        io,
        source,
        pipe: Mutex::new(Some(pipe)),
        has_ended: Cell::new(false),
        target: &target,
        device_length: destination.device_length(),
        allocated: Cell::new(0),
        moved: RefCell::default(),
    };
    let size = io.chunk_size(target.alignment.max(PAGE))?;
    let more = || (!copy.has_ended.get()).then_some(());
    let failed = RefCell::new(None);
    let failure = Notify::new();
    let each = async |(), buffer: &mut AlignedBuf| {
        if let Err(copy_error) = copy.block(size as usize, buffer).await {
            failed.borrow_mut().get_or_insert(copy_error);
            copy.has_ended.set(true);
            failure.notify_one();
        }
        Ok::<(), CopyError>(())
    };
    let blocks = io
        .buffers
        .for_each(std::iter::from_fn(more), usize::MAX, each);
    tokio::select! {
        done = blocks => done?,
        // The pipe may stay open without any data, so its reader is not waited for.
        () = failure.notified() => {}
    }
    if let Some(copy_error) = failed.into_inner() {
        return Err(copy_error);
    }
    let moved = copy.moved.into_inner();
    copy_data::set_final_length(&target, moved.length).await?;

    if io.args.verify {
        read_back(io, &target, &moved).await?;
    }
    if !target.is_device() {
        let attributes = match destination.replaced() {
            Some(replaced) => FileAttributes::for_replaced(replaced, &target.path),
            None => FileAttributes::for_content(io.umask),
        };
        set_attributes(io, attributes, &target).await?;
    }
    make_durable(io, &target).await?;
    target.publish(destination).await?;
    add_to_counters(io, &moved);
    Ok(())
}

/// A pipe that is being copied.
struct PipeCopy<'a> {
    io: &'a BlockIo<'a>,
    source: &'a Path,
    /// Locked by the block that is being read; the others are being written. `None`: it has ended, or could
    /// not be read.
    pipe: Mutex<Option<File>>,
    has_ended: Cell<bool>,
    target: &'a TargetFile,
    device_length: Option<u64>,
    /// The end of the allocated space.
    allocated: Cell<u64>,
    moved: RefCell<CopiedData>,
}

impl PipeCopy<'_> {
    /// Copies the next block.
    async fn block(&self, size: usize, buffer: &mut AlignedBuf) -> Result<(), CopyError> {
        let mut pipe = self.pipe.lock().await;
        let Some(mut reader) = pipe.take() else {
            return Ok(());
        };
        let mut block = std::mem::take(buffer);
        let filled = blocking(move || {
            let filled = fill(&mut reader, &mut block[..size]);
            Ok((filled, reader, block))
        });
        let (filled, reader, block) = filled
            .await
            .map_err(|error| CopyError::of("read", self.source, &error))?;
        *buffer = block;
        let read = filled.map_err(|error| CopyError::of("read", self.source, &error))? as u64;
        let at = self.moved.borrow().length;
        if let Some(most) = self.device_length.filter(|most| at + read > *most) {
            return Err(CopyError::new(format!(
                "{} has more than {most} bytes, the length of {}; use a larger device",
                self.source.display(),
                self.target.path.display()
            )));
        }
        self.moved.borrow_mut().length += read;
        match read == size as u64 {
            true => *pipe = Some(reader),
            false => self.has_ended.set(true),
        }
        drop(pipe);
        if read > 0 {
            self.write(at, read, buffer).await?;
        }
        Ok(())
    }

    async fn write(&self, at: u64, bytes: u64, buffer: &mut AlignedBuf) -> Result<(), CopyError> {
        if self.io.args.verify {
            let check = ChunkChecksum::new(at..at + bytes, xxh3_64(&buffer[..bytes as usize]));
            self.moved.borrow_mut().checks.push(check);
        }
        self.allocate(at + bytes).await;
        let sparse = match self.target.is_device() {
            true => Sparse::Never,
            false => self.io.args.sparse,
        };
        let written =
            copy_data::write_data(&self.io.limited, self.target, sparse, at, buffer, bytes).await?;
        self.moved.borrow_mut().written += written;
        self.io.console.advance(bytes);
        Ok(())
    }

    /// Allocates space ahead: writes that neither extend a file nor allocate blocks are asynchronous. What
    /// is left over is cut off at the end.
    async fn allocate(&self, end: u64) {
        let from = self.allocated.get();
        if end <= from || self.target.is_device() || self.io.args.sparse == Sparse::Always {
            return;
        }
        let to = end.next_multiple_of(AHEAD);
        // Set first: other blocks need not wait for it.
        self.allocated.set(to);
        let allocated = self.target.file.allocate(Allocate::Extend, from, to - from);
        if allocated.await.is_err() {
            // It is optional: if the disk is full, a write fails.
            self.allocated.set(u64::MAX);
        }
    }
}

/// Reads until the buffer is full or the pipe ends.
fn fill(pipe: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match pipe.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
