//! Writes of objects: uploads in one piece or in parts.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio_kaio::{AioContextHandle, File, WriteFlags};

use crate::blocking_call::run_blocking;
use crate::object_files::ObjectFiles;
use crate::open_object::ObjectFacts;
use crate::staged_object::StagedObject;
use crate::store_fault::StoreFault;

/// Offsets and lengths of direct writes are multiples of this, which suits all usual devices. Where a device
/// wants larger blocks, they fail with `EINVAL`, and are repeated through the page cache.
const BLOCK: u64 = 4096;

/// Writes `payload` to a new object `name` at `target`.
///
/// # Cancel safety
///
/// The object is written, or not; no temporary file stays.
pub(crate) async fn put(
    files: &Arc<ObjectFiles>,
    name: String,
    target: PathBuf,
    payload: Vec<Bytes>,
    replace: bool,
    sync: bool,
) -> Result<ObjectFacts, StoreFault> {
    let len = total(&payload);
    let of = Arc::clone(files);
    if !sync || len < files.settings.direct_upload_size || files.context().is_none() {
        return run_blocking(move || {
            let staged = StagedObject::create(target, sync, false)?;
            if let Err(error) = write_blocking(&of, &staged, 0, &payload) {
                staged.discard();
                return Err(error);
            }
            let published = staged.publish(replace);
            of.forget(&name);
            published
        })
        .await;
    }
    let staged = run_blocking(move || StagedObject::create(target, sync, true)).await?;
    let upload = ObjectUpload::new(of, name, staged);
    match upload.start_part(payload).write().await {
        Ok(()) => upload.complete(replace).await,
        Err(error) => {
            let _ = upload.abort().await; // the first error counts
            Err(error)
        }
    }
}

/// The file of an upload that has not ended.
type StagedGuard = OwnedRwLockReadGuard<Option<StagedObject>, StagedObject>;

/// An object that is uploaded in parts, which are written in any order, and at the same time.
#[derive(Debug)]
pub(crate) struct ObjectUpload {
    files: Arc<ObjectFiles>,
    /// `None` after the upload has ended. Parts have it locked for reading while they are written.
    staged: Arc<RwLock<Option<StagedObject>>>,
    name: String,
    target: PathBuf,
    /// Where the next part begins.
    next: AtomicU64,
    /// Bytes that were written.
    written: Arc<AtomicU64>,
    /// The temporary file is removed. Parts in flight may keep it open.
    is_aborted: Arc<AtomicBool>,
}

/// A part that has its place in the object.
#[derive(Debug)]
pub(crate) struct NewPart {
    files: Arc<ObjectFiles>,
    staged: Arc<RwLock<Option<StagedObject>>>,
    target: PathBuf,
    written: Arc<AtomicU64>,
    is_aborted: Arc<AtomicBool>,
    offset: u64,
    payload: Vec<Bytes>,
}

impl ObjectUpload {
    pub(crate) fn new(files: Arc<ObjectFiles>, name: String, staged: StagedObject) -> ObjectUpload {
        ObjectUpload {
            files,
            name,
            target: staged.target.clone(),
            staged: Arc::new(RwLock::new(Some(staged))),
            next: AtomicU64::new(0),
            written: Arc::default(),
            is_aborted: Arc::default(),
        }
    }

    /// Gives `payload` the place after the parts before it.
    pub(crate) fn start_part(&self, payload: Vec<Bytes>) -> NewPart {
        NewPart {
            files: Arc::clone(&self.files),
            staged: Arc::clone(&self.staged),
            target: self.target.clone(),
            written: Arc::clone(&self.written),
            is_aborted: Arc::clone(&self.is_aborted),
            offset: self.next.fetch_add(total(&payload), Ordering::Relaxed),
            payload,
        }
    }

    /// Waits for the parts that are being written, whose futures have to be polled meanwhile, and publishes the
    /// object. An upload of which a part has
    /// failed ends without an object.
    ///
    /// # Cancel safety
    ///
    /// The object appears, or not; the upload has ended, and no temporary file stays.
    pub(crate) async fn complete(&self, replace: bool) -> Result<ObjectFacts, StoreFault> {
        let staged = self.end().await?;
        let total = self.next.load(Ordering::Relaxed);
        let missing = total - self.written.load(Ordering::Acquire);
        let (files, name, target) = (
            Arc::clone(&self.files),
            self.name.clone(),
            self.target.clone(),
        );
        run_blocking(move || {
            if missing > 0 {
                staged.discard();
                return Err(StoreFault::Incomplete {
                    path: target,
                    missing,
                    total,
                });
            }
            let published = staged.publish(replace);
            files.forget(&name);
            published
        })
        .await
    }

    /// Ends the upload, and removes the temporary file. Does not wait for parts that are being written:
    /// perhaps nobody polls them any more.
    pub(crate) async fn abort(&self) -> Result<(), StoreFault> {
        let ended = || StoreFault::UploadEnded {
            path: self.target.clone(),
        };
        if self.is_aborted.swap(true, Ordering::Relaxed) {
            return Err(ended());
        }
        let staged = Arc::clone(&self.staged).read_owned().await;
        let staged = OwnedRwLockReadGuard::try_map(staged, Option::as_ref).map_err(|_| ended())?;
        let removed = run_blocking(move || staged.remove()).await;
        if let Ok(mut staged) = self.staged.try_write() {
            drop(staged.take()); // else the last part closes the file
        }
        removed
    }

    async fn end(&self) -> Result<StagedObject, StoreFault> {
        let staged = match self.is_aborted.load(Ordering::Relaxed) {
            true => None,
            false => self.staged.write().await.take(),
        };
        staged.ok_or_else(|| StoreFault::UploadEnded {
            path: self.target.clone(),
        })
    }
}

impl NewPart {
    /// Writes the part.
    ///
    /// # Cancel safety
    ///
    /// A dropped write may still take effect, and counts as failed: the upload can't be completed.
    pub(crate) async fn write(self) -> Result<(), StoreFault> {
        let len = total(&self.payload);
        let staged = self.staged.read_owned().await;
        let staged = OwnedRwLockReadGuard::try_map(staged, Option::as_ref);
        let staged = staged
            .ok()
            .filter(|_| !self.is_aborted.load(Ordering::Relaxed));
        let staged = staged.ok_or_else(|| StoreFault::UploadEnded {
            path: self.target.clone(),
        })?;
        let (files, offset, payload) = (self.files, self.offset, self.payload);
        let context = staged.direct().and_then(|_| files.context());
        let is_large = len >= files.settings.direct_upload_size;
        match context.filter(|_| is_large) {
            Some(context) => {
                let handle = &context.handle;
                write_direct(&files, handle, staged, offset, payload).await?;
            }
            None => {
                run_blocking(move || write_blocking(&files, &staged, offset, &payload)).await?;
            }
        }
        self.written.fetch_add(len, Ordering::Release);
        Ok(())
    }
}

/// Writes `payload` at `offset`, through the page cache.
fn write_blocking(
    files: &ObjectFiles,
    staged: &StagedObject,
    offset: u64,
    payload: &[Bytes],
) -> Result<(), StoreFault> {
    let mut at = offset;
    for bytes in payload {
        let written = staged.file().write_all_at(bytes, at);
        written.map_err(|error| StoreFault::of("write", &staged.target, error))?;
        at += bytes.len() as u64;
    }
    files.blocking_writes.add(at - offset);
    Ok(())
}

/// Writes `payload` at `offset`: whole blocks with direct I/O, many at a time; what shares its block with
/// other parts through the page cache. Where direct I/O fails, all through the page cache.
async fn write_direct(
    files: &Arc<ObjectFiles>,
    handle: &AioContextHandle,
    staged: StagedGuard,
    offset: u64,
    payload: Vec<Bytes>,
) -> Result<(), StoreFault> {
    let end = offset + total(&payload);
    let body = offset.next_multiple_of(BLOCK)..end / BLOCK * BLOCK;
    let Some(file) = staged.direct().filter(|_| body.start < body.end).cloned() else {
        let files = Arc::clone(files);
        return run_blocking(move || write_blocking(&files, &staged, offset, &payload)).await;
    };
    let (staged, payload) = (Arc::new(staged), Arc::new(payload));
    let edges = {
        let (staged, payload, body) = (Arc::clone(&staged), Arc::clone(&payload), body.clone());
        run_blocking(move || {
            allocate(&staged, &body)?;
            for edge in [offset..body.start, body.end..end] {
                let mut bytes = vec![0; (edge.end - edge.start) as usize];
                copy(&payload, edge.start - offset, &mut bytes);
                let written = staged.file().write_all_at(&bytes, edge.start);
                written.map_err(|error| StoreFault::of("write", &staged.target, error))?;
            }
            Ok(())
        })
    };
    edges.await?;
    let chunk = files.settings.chunk_size.next_multiple_of(BLOCK);
    let starts = (body.start..body.end).step_by(usize::try_from(chunk).unwrap_or(usize::MAX));
    let writes = stream::iter(starts).map(|start| {
        let len = chunk.min(body.end - start);
        write_chunk(handle, &file, start, start - offset, len as usize, &payload)
    });
    let written = writes.buffer_unordered(files.settings.depth);
    match written.try_for_each(async |()| Ok(())).await {
        Ok(()) => {
            files.direct_writes.add(body.end - body.start);
            Ok(())
        }
        Err(_) => {
            let files = Arc::clone(files);
            run_blocking(move || write_blocking(&files, &staged, offset, &payload)).await
        }
    }
}

/// Copies `len` bytes of `payload`, from byte `from`, and writes them to the file at `start`.
async fn write_chunk(
    handle: &AioContextHandle,
    file: &File,
    start: u64,
    from: u64,
    len: usize,
    payload: &[Bytes],
) -> io::Result<()> {
    let mut buffer = handle.buffers().get_or_map(len).map_err(io::Error::other)?;
    copy(payload, from, &mut buffer);
    let none = WriteFlags::empty();
    let (written, _) = file.write_all_owned_at(handle, start, buffer, none).await;
    Ok(written?)
}

/// Allocates a range, and makes the file at least that long: direct writes that extend a file wait for each
/// other.
fn allocate(staged: &StagedObject, range: &Range<u64>) -> Result<(), StoreFault> {
    let len = range.end - range.start;
    match fallocate(staged.file(), FallocateFlags::empty(), range.start, len) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(StoreFault::of(
            "allocate space for",
            &staged.target,
            error.into(),
        )),
    }
}

/// Fills `memory` from `payload`, from byte `from`.
fn copy(payload: &[Bytes], mut from: u64, mut memory: &mut [u8]) {
    for bytes in payload {
        let len = bytes.len() as u64;
        if from >= len {
            from -= len;
            continue;
        }
        let rest = &bytes[from as usize..];
        let count = rest.len().min(memory.len());
        memory[..count].copy_from_slice(&rest[..count]);
        memory = &mut memory[count..];
        from = 0;
    }
}

fn total(payload: &[Bytes]) -> u64 {
    payload.iter().map(|bytes| bytes.len() as u64).sum()
}
