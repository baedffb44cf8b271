//! Owned buffers: every kind of buffer comes back with the result. The buffer of a dropped
//! operation is dropped at the completion, not before.
#![allow(unsafe_code)] // a buffer of one's own

use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::*;
use crate::interposer::{Gate, poll_until_at_gate};
use futures::poll;
use tempfile::TempDir;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, AlignedBuf, BufferPool, File, IoBuf,
    IoBufMut, LockedBuf, ReadFlags, WriteFlags,
};

const READ: ReadFlags = ReadFlags::empty();
const WRITE: WriteFlags = WriteFlags::empty();

/// A file that accepts memory at any address.
fn buffered(dir: &TempDir, len: usize) -> File {
    let path = dir.path().join("data");
    fs::write(&path, content(len)).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let file = File::from_std(file.unwrap()).unwrap();
    // SAFETY: changes the flags of a file that is open.
    let code = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) };
    assert_eq!(code, 0);
    file
}

/// A vector that is aligned after its first bytes and has room for `len` more; and the number of
/// these first bytes.
fn aligned_vec(len: usize) -> (Vec<u8>, usize) {
    let mut vector: Vec<u8> = Vec::with_capacity(len + BLOCK);
    let before = vector.as_ptr().align_offset(BLOCK);
    vector.resize(before, 0xaa);
    (vector, before)
}

/// A buffer that reports when it is dropped.
#[derive(Default)]
struct Own {
    memory: AlignedBuf,
    /// `None` in a buffer that comes back in place of one in flight.
    dropped: Option<Arc<AtomicBool>>,
}

impl Own {
    fn new() -> (Own, Arc<AtomicBool>) {
        let dropped = Arc::new(AtomicBool::new(false));
        let own = Own {
            memory: AlignedBuf::new(BLOCK).unwrap(),
            dropped: Some(Arc::clone(&dropped)),
        };
        (own, dropped)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped.store(true, Ordering::SeqCst);
        }
    }
}

// SAFETY: the memory is a mapping that this type alone has.
unsafe impl IoBuf for Own {
    fn stable_ptr(&self) -> *const u8 {
        self.memory.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.memory.size()
    }
}

// SAFETY: as above.
unsafe impl IoBufMut for Own {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.memory.as_mut_ptr()
    }

    fn bytes_total(&self) -> usize {
        self.memory.size()
    }

    unsafe fn set_init(&mut self, _len: usize) {}
}

// ---- Every kind -------------------------------------------------------------------------------

/// Writes `source`, whose bytes are `expected`; the same buffer comes back.
async fn writes<B: IoBuf>(handle: &AioContextHandle, dir: &TempDir, file: &File, source: B) -> B {
    let (address, len) = (source.stable_ptr(), source.bytes_init());
    // SAFETY: what the trait promises.
    let bytes = unsafe { std::slice::from_raw_parts(address, len) }.to_vec();
    let (written, source) = with_hang_guard(file.write_owned_at(handle, LEN, source, WRITE)).await;
    assert_eq!(written.unwrap(), len as u64);
    assert_eq!((source.stable_ptr(), source.bytes_init()), (address, len));
    assert!(file_content(dir)[BLOCK..][..len] == bytes);
    let (written, source) =
        with_hang_guard(file.write_all_owned_at(handle, 0, source, WRITE)).await;
    written.unwrap();
    assert_eq!((source.stable_ptr(), source.bytes_init()), (address, len));
    assert!(file_content(dir)[..len] == bytes);
    source
}

/// Fills `target` by a read.
async fn reads<B: IoBufMut>(handle: &AioContextHandle, file: &File, mut target: B) -> B {
    let (address, room) = (target.stable_mut_ptr(), target.bytes_total());
    let (read, mut target) = with_hang_guard(file.read_owned_at(handle, 0, target, READ)).await;
    assert_eq!(read.unwrap(), room as u64);
    assert_eq!(target.stable_mut_ptr(), address);
    assert_eq!((target.bytes_init(), target.bytes_total()), (room, room));
    // SAFETY: what the trait promises.
    let bytes = unsafe { std::slice::from_raw_parts(target.stable_ptr(), room) };
    assert!(bytes == content(room));
    let (read, target) = with_hang_guard(file.read_exact_owned_at(handle, 0, target, READ)).await;
    read.unwrap();
    assert_eq!((target.bytes_init(), target.bytes_total()), (room, room));
    target
}

#[test]
fn every_kind_of_aligned_buffer_is_written_and_read() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .content(content(8 * BLOCK))
        .run(async |case| {
            let (dir, file, handle) = (case.dir, case.file, &case.handle);
            let pool = BufferPool::new(1, 2 * BLOCK).unwrap();
            reads(handle, &file, AlignedBuf::new(2 * BLOCK).unwrap()).await;
            reads(handle, &file, LockedBuf::with_size(BLOCK).unwrap()).await;
            reads(handle, &file, AlignedBuf::huge(2 * BLOCK).unwrap()).await;
            reads(handle, &file, pool.try_get().unwrap()).await;
            assert_eq!(pool.available(), 1);
            let slice = AlignedBuf::new(4 * BLOCK)
                .unwrap()
                .into_slice(BLOCK..3 * BLOCK);
            let whole = reads(handle, &file, slice).await.into_inner();
            assert!(whole[BLOCK..3 * BLOCK] == content(2 * BLOCK));
            assert!(
                whole[..BLOCK]
                    .iter()
                    .chain(&whole[3 * BLOCK..])
                    .all(|&byte| byte == 0)
            );
            let inner = AlignedBuf::new(4 * BLOCK).unwrap().into_slice(BLOCK..);
            let whole = reads(handle, &file, inner.into_slice(..=2 * BLOCK - 1)).await;
            assert!(whole.into_inner().into_inner()[BLOCK..3 * BLOCK] == content(2 * BLOCK));
            reads(handle, &file, Own::new().0).await;

            writes(handle, dir, &file, patterned_buffer(1, 2 * BLOCK)).await;
            writes(handle, dir, &file, pool.try_get().unwrap()).await;
            let slice = patterned_buffer(2, 4 * BLOCK).into_slice(BLOCK..3 * BLOCK);
            writes(handle, dir, &file, slice).await;
            let mut own = Own::new().0;
            pattern(3, &mut own.memory);
            writes(handle, dir, &file, own).await;
        });
}

#[test]
fn vectors_and_boxes_are_written_and_read_if_they_are_aligned() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .content(content(8 * BLOCK))
        .run(async |case| {
            let (dir, file, handle) = (case.dir, case.file, &case.handle);
            let (vector, before) = aligned_vec(2 * BLOCK);
            let room = before..before + 2 * BLOCK;
            let vector = reads(handle, &file, vector.into_slice(room.clone())).await;
            let vector = writes(handle, dir, &file, vector).await.into_inner();
            assert_eq!(vector.len(), room.end, "it has grown by what was read");
            assert!(vector[..before].iter().all(|&byte| byte == 0xaa));
            assert!(vector[room] == content(2 * BLOCK));

            let boxed: Box<[u8]> = vec![0; 3 * BLOCK].into();
            let start = boxed.as_ptr().align_offset(BLOCK);
            let boxed = reads(handle, &file, boxed.into_slice(start..start + BLOCK)).await;
            writes(handle, dir, &file, boxed).await;
        });
}

#[test]
fn every_kind_of_buffer_works_without_direct_io() {
    static BYTES: &[u8] = b"that were there all the time";
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .run(async |case| {
            let (dir, handle) = (case.dir, &case.handle);
            let file = buffered(dir, 5000);
            reads(handle, &file, vec![1_u8; 3000]).await;
            reads(handle, &file, vec![1_u8; 3000].into_boxed_slice()).await;
            let boxed = vec![1_u8; 3000].into_boxed_slice().into_slice(100..201);
            let boxed = reads(handle, &file, boxed).await.into_inner();
            assert!(
                boxed[..100]
                    .iter()
                    .chain(&boxed[201..])
                    .all(|&byte| byte == 1)
            );
            writes(handle, dir, &file, vec![5_u8; 300]).await;
            writes(handle, dir, &file, vec![6_u8; 300].into_boxed_slice()).await;
            writes(handle, dir, &file, vec![7_u8; 300].into_slice(17..=20)).await;
            writes(handle, dir, &file, BYTES).await;
            writes(handle, dir, &file, BYTES.into_slice(5..)).await;
            let none: &'static [u8] = b"";
            let (written, _) = with_hang_guard(file.write_owned_at(handle, 0, none, WRITE)).await;
            assert_eq!(written.unwrap(), 0);
        });
}

#[test]
fn a_vector_grows_by_the_bytes_read_into_its_spare_capacity() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .run(async |case| {
            let (dir, handle, mode) = (case.dir, &case.handle, case.mode);
            let file = buffered(dir, 5000);
            let read = async |offset, vector| {
                let (read, vector) = file.read_owned_at(handle, offset, vector, READ).await;
                (read.unwrap(), vector)
            };
            let mut empty = Vec::new();
            empty.reserve_exact(3000);
            let room = empty.capacity();
            let (moved, vector) = read(0, empty).await;
            assert_eq!((moved, vector.len()), (room as u64, room), "{mode:?}");
            assert!(vector == content(room));
            // Initialized bytes stay, though less was read.
            let (moved, vector) = read(4990, vector).await;
            assert_eq!((moved, vector.len()), (10, room));
            assert!(vector[..10] == content(5000)[4990..] && vector[10..] == content(room)[10..]);
            // Short, and nothing at all.
            let (moved, vector) = read(4990, Vec::with_capacity(3000)).await;
            assert_eq!((moved, vector.len()), (10, 10));
            let (moved, vector) = read(5000, Vec::with_capacity(3000)).await;
            assert_eq!((moved, vector.len()), (0, 0));
            let (moved, vector) = read(0, Vec::new()).await;
            assert_eq!((moved, vector.len()), (0, 0));
            // Into a range of a range.
            let nested = Vec::with_capacity(3000).into_slice(..200).into_slice(..100);
            let (read, nested) = file.read_owned_at(handle, 0, nested, READ).await;
            assert_eq!(read.unwrap(), 100, "{mode:?}");
            let nested = nested
                .into_inner()
                .into_inner()
                .into_slice(50..)
                .into_slice(50..80);
            let (read, nested) = file.read_owned_at(handle, 100, nested, READ).await;
            assert_eq!(read.unwrap(), 30, "{mode:?}");
            let vector: Vec<u8> = nested.into_inner().into_inner();
            assert!(vector.len() == 130 && vector == content(5000)[..130]);
            // After the initialized bytes.
            let mut vector = b"before".to_vec();
            vector.reserve(1000);
            let (read, slice) = file
                .read_owned_at(handle, 0, vector.into_slice(6..500), READ)
                .await;
            assert_eq!(read.unwrap(), 494);
            let vector = slice.into_inner();
            assert_eq!(vector.len(), 500);
            assert!(vector.starts_with(b"before") && vector[6..] == content(5000)[..494]);
        });
}

#[cfg(feature = "bytes")]
#[test]
fn bytes_are_written_and_read() {
    use bytes::{Bytes, BytesMut};

    Fixture::new(8)
        .everywhere()
        .start_driver()
        .run(async |case| {
            let (dir, handle) = (case.dir, &case.handle);
            let file = buffered(dir, 5000);
            let source = Bytes::from(content(1000));
            let same = writes(handle, dir, &file, Bytes::slice(&source, 100..)).await;
            assert_eq!(same.as_ptr(), source[100..].as_ptr());
            let mut room = BytesMut::with_capacity(1000);
            room.extend_from_slice(b"ab");
            let file = buffered(dir, 5000);
            let mut filled = reads(handle, &file, room).await;
            assert!(filled.len() >= 1000);
            // A part of a shared allocation.
            let rest = filled.split_off(500);
            let first = writes(handle, dir, &file, filled).await;
            writes(handle, dir, &file, rest).await;
            assert_eq!(first.len(), 500);
            let room = BytesMut::with_capacity(1000);
            let (read, short) =
                with_hang_guard(file.read_owned_at(handle, 4000 - 8, room.into_slice(..10), READ))
                    .await;
            assert_eq!((read.unwrap(), short.into_inner().len()), (10, 10));

            let file = file_with_content(dir, 8 * BLOCK).await;
            let pool = BufferPool::new(1, 2 * BLOCK).unwrap();
            let target = pool.try_get().unwrap();
            let (read, target) = with_hang_guard(file.read_owned_at(handle, 0, target, READ)).await;
            assert_eq!(read.unwrap(), 2 * LEN);
            let bytes = Bytes::from(target);
            let second = Bytes::slice(&bytes, BLOCK..);
            drop(bytes);
            let second = writes(handle, dir, &file, second).await;
            assert_eq!(pool.available(), 0);
            drop(second);
            assert_eq!(pool.available(), 1);
        });
}

#[tokio::test]
async fn a_slice_outside_its_buffer_panics_and_submits_nothing() {
    let dir = disk_dir();
    let (context, handle) = tokio_kaio::aio_context(8, true).unwrap();
    let file = Arc::new(file_with_content(&dir, BLOCK).await);
    let panics = async |read: Pin<Box<dyn Future<Output = ()> + Send>>| {
        assert!(tokio::spawn(read).await.unwrap_err().is_panic());
    };
    for range in [0..BLOCK + 1, BLOCK + 1..BLOCK + 1, usize::MAX..usize::MAX] {
        let (to, from) = (
            buffer(BLOCK).into_slice(range.clone()),
            buffer(BLOCK).into_slice(range),
        );
        let (handle_, file_) = (handle.clone(), Arc::clone(&file));
        panics(Box::pin(async move {
            drop(file_.read_owned_at(&handle_, 0, to, READ).await);
        }))
        .await;
        let (handle_, file_) = (handle.clone(), Arc::clone(&file));
        panics(Box::pin(async move {
            drop(file_.write_owned_at(&handle_, 0, from, WRITE).await);
        }))
        .await;
    }
    // It would leave a hole that is not initialized.
    let hole = Vec::<u8>::with_capacity(BLOCK).into_slice(1..);
    let (handle_, file_) = (handle.clone(), Arc::clone(&file));
    panics(Box::pin(async move {
        drop(file_.read_owned_at(&handle_, 0, hole, READ).await);
    }))
    .await;
    let hole = Vec::<u8>::with_capacity(BLOCK)
        .into_slice(..10)
        .into_slice(1..);
    let (handle_, file_) = (handle.clone(), Arc::clone(&file));
    panics(Box::pin(async move {
        drop(file_.read_owned_at(&handle_, 0, hole, READ).await);
    }))
    .await;
    assert_eq!(handle.metrics().submitted, 0);
    with_hang_guard(context.close()).await;
}

// ---- Errors -----------------------------------------------------------------------------------

#[test]
fn every_error_returns_the_buffer() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .run(async |case| {
            let (dir, handle, mode) = (case.dir, &case.handle, case.mode);
            file_with_content(dir, BLOCK).await;
            let path = dir.path().join("data");
            let reads_only = File::open(&path, false).await.unwrap();
            let writes_only = fs::OpenOptions::new().write(true).open(&path).unwrap();
            let writes_only = File::from_std(writes_only).unwrap();
            for (file, offset, flags, refusal) in [
                (&writes_only, 0, READ, libc::EBADF),
                (&reads_only, 1 << 63, READ, libc::EINVAL),
                (
                    &reads_only,
                    0,
                    ReadFlags::from_bits_retain(1 << 30),
                    libc::EOPNOTSUPP,
                ),
                (
                    &reads_only,
                    0,
                    ReadFlags::from_bits_retain(1 << 31),
                    libc::EOPNOTSUPP,
                ),
            ] {
                let target = patterned_buffer(1, BLOCK);
                let address = target.as_ptr();
                let (read, target) = file.read_owned_at(handle, offset, target, flags).await;
                assert_eq!(read.unwrap_err().raw_os_error(), Some(refusal), "{mode:?}");
                assert!(target.as_ptr() == address && is_pattern(1, &target));
                let (own, dropped) = Own::new();
                let (read, own) = file.read_exact_owned_at(handle, offset, own, flags).await;
                assert_eq!(read.unwrap_err().raw_os_error(), Some(refusal), "{mode:?}");
                assert!(own.memory.size() == BLOCK && !dropped.load(Ordering::SeqCst));
                let mut vector = vec![7; 100];
                vector.reserve(1000);
                let (read, vector) = file.read_owned_at(handle, offset, vector, flags).await;
                assert_eq!(read.unwrap_err().raw_os_error(), Some(refusal), "{mode:?}");
                assert_eq!(vector, [7; 100], "nothing more is initialized");
            }
            let unknown = WriteFlags::from_bits_retain;
            for (file, flags, refusal) in [
                (&reads_only, WRITE, libc::EBADF),
                (&writes_only, unknown(1 << 30), libc::EOPNOTSUPP),
                (&writes_only, unknown(1 << 31), libc::EOPNOTSUPP),
            ] {
                let (own, dropped) = Own::new();
                let (written, own) = file.write_owned_at(handle, 0, own, flags).await;
                assert_eq!(
                    written.unwrap_err().raw_os_error(),
                    Some(refusal),
                    "{mode:?}"
                );
                assert!(own.memory.size() == BLOCK && !dropped.load(Ordering::SeqCst));
                let source = patterned_buffer(1, BLOCK);
                let (written, source) = file.write_all_owned_at(handle, 0, source, flags).await;
                assert_eq!(
                    written.unwrap_err().raw_os_error(),
                    Some(refusal),
                    "{mode:?}"
                );
                assert!(is_pattern(1, &source));
            }
        });
}

/// Direct I/O needs aligned memory, which the allocator does not guarantee.
#[test]
fn a_misaligned_vector_is_an_error_that_explains_the_alignment() {
    Fixture::new(8)
        .every_mode()
        .content(content(2 * BLOCK))
        .run(async |case| {
            let (dir, file, handle, mode) = (case.dir, case.file, case.handle, case.mode);
            let alignment = file.alignment().await.unwrap().memory;
            if alignment == 1 {
                eprintln!("skipped: memory at any address will do");
                return;
            }
            let odd = vec![1; 2 * BLOCK + 2];
            let start = odd.as_ptr().align_offset(BLOCK) + 1; // wherever it is, this is not aligned
            let slice = odd.into_slice(start..start + BLOCK);
            let (read, slice) = file.read_owned_at(&handle, 0, slice, READ).await;
            let explains = |error: AioCommandError| {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{mode:?}");
                let message = error.to_string();
                assert!(
                    message.contains(&format!("memory aligned to {alignment}")),
                    "{message}"
                );
                assert!(
                    message.contains("the memory is not aligned: use an AlignedBuf"),
                    "{message}"
                );
            };
            explains(read.unwrap_err());
            let (written, slice) = file.write_owned_at(&handle, 0, slice, WRITE).await;
            explains(written.unwrap_err());
            assert!(slice.into_inner().iter().all(|&byte| byte == 1));
            assert!(file_content(dir) == content(2 * BLOCK));
        });
}

#[test]
fn an_end_of_file_in_an_exact_read_returns_the_buffer() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .run(async |case| {
            let (dir, handle, mode) = (case.dir, &case.handle, case.mode);
            let file = buffered(dir, 5000);
            let vector = Vec::with_capacity(6000);
            let (read, vector) = file.read_exact_owned_at(handle, 0, vector, READ).await;
            match read.unwrap_err() {
                AioCommandError::BadResult(error) => {
                    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{mode:?}");
                }
                other => panic!("{other:?}"),
            }
            assert!(vector.capacity() >= 6000);
        });
}

// ---- Given up ---------------------------------------------------------------------------------

/// The result without the buffer, which may have no `Debug`.
fn moved<B>((result, _): (Result<u64, AioCommandError>, B)) -> Result<u64, AioCommandError> {
    result
}

#[test]
fn the_buffer_of_a_dropped_operation_is_dropped_at_its_completion() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .content(content(BLOCK))
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            for writes in [false, true] {
                let gate = Gate::closed();
                let (own, dropped) = Own::new();
                let (file, offset) = (&file, gate.offset());
                let mut operation = Box::pin(async move {
                    moved(match writes {
                        false => file.read_owned_at(handle, offset, own, READ).await,
                        true => file.write_owned_at(handle, offset, own, WRITE).await,
                    })
                });
                poll_until_at_gate(&gate, &mut operation).await;
                drop(operation);
                for _ in 0..100 {
                    yield_now().await;
                }
                assert!(
                    !dropped.load(Ordering::SeqCst),
                    "{mode:?}: the kernel has it"
                );
                assert_eq!(handle.metrics().abandoned_in_flight, 1);
                gate.open();
                let is_dropped = || dropped.load(Ordering::SeqCst);
                wait_until(is_dropped, is_dropped).await;
            }
        });
}

#[test]
fn the_buffer_of_a_queued_operation_is_dropped_with_it() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .content(content(BLOCK))
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let (own, dropped) = Own::new();
            drop(file.read_owned_at(handle, 0, own, READ)); // never polled
            assert!(dropped.load(Ordering::SeqCst), "{mode:?}");

            // Waits for a slot.
            let gate = Gate::closed();
            let mut targets = [(); 8].map(|()| buffer(BLOCK));
            let mut busy: Vec<_> = targets
                .iter_mut()
                .map(|target| Box::pin(read_block(handle, &file, gate.offset(), target)))
                .collect();
            for read in &mut busy {
                assert!(poll!(read).is_pending());
            }
            let (own, dropped) = Own::new();
            let mut waiting =
                Box::pin(async { moved(file.read_owned_at(handle, 0, own, READ).await) });
            assert!(poll!(waiting.as_mut()).is_pending());
            assert!(!dropped.load(Ordering::SeqCst), "{mode:?}");
            drop(waiting);
            assert!(dropped.load(Ordering::SeqCst), "{mode:?}");
            gate.open();
            for read in busy {
                assert_eq!(read.await.unwrap(), 1);
            }
        });
}

#[test]
fn a_pooled_buffer_returns_to_its_pool_at_the_completion() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .content(content(BLOCK))
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let pool = BufferPool::new(1, BLOCK).unwrap();
            for writes in [false, true] {
                for sliced in [false, true] {
                    let gate = Gate::closed();
                    let buffer = pool.try_get().unwrap();
                    let (file, offset) = (&file, gate.offset());
                    let mut operation = Box::pin(async move {
                        match (writes, sliced) {
                            (false, false) => {
                                moved(file.read_owned_at(handle, offset, buffer, READ).await)
                            }
                            (false, true) => moved(
                                file.read_owned_at(handle, offset, buffer.into_slice(..512), READ)
                                    .await,
                            ),
                            (true, false) => {
                                moved(file.write_owned_at(handle, offset, buffer, WRITE).await)
                            }
                            (true, true) => moved(
                                file.write_owned_at(
                                    handle,
                                    offset,
                                    buffer.into_slice(512..),
                                    WRITE,
                                )
                                .await,
                            ),
                        }
                    });
                    poll_until_at_gate(&gate, &mut operation).await;
                    drop(operation);
                    for _ in 0..100 {
                        yield_now().await;
                    }
                    assert_eq!(pool.available(), 0, "{mode:?}");
                    gate.open();
                    wait_until(|| pool.available() == 1, || pool.available()).await;
                }
            }
        });
}

const SECOND: Duration = Duration::from_secs(1);

/// Runs an operation with a timeout of a second, on a clock that stands still: the operation reaches
/// the gate, then its time passes.
async fn past_deadline<T>(gate: &Gate, operation: impl Future<Output = T>) -> T {
    let mut operation = Box::pin(operation);
    let before = gate.waiting().len();
    while gate.waiting().len() == before {
        assert!(poll!(operation.as_mut()).is_pending());
        yield_now().await;
    }
    tokio::time::advance(2 * SECOND).await;
    operation.await
}

#[test]
fn a_timed_out_operation_returns_an_empty_buffer_in_place_of_the_one_in_flight() {
    Fixture::new(8)
        .everywhere()
        .pause_clock()
        .content(content(BLOCK))
        .run(async |case| {
            let (file, handle, mode) = (case.file, &case.handle, case.mode);
            let hurried = handle.with_timeout(SECOND);
            let gate = Gate::closed();
            let offset = gate.offset();
            let pool = BufferPool::new(1, BLOCK).unwrap();

            let (own, dropped) = Own::new();
            let (read, own) =
                past_deadline(&gate, file.read_owned_at(&hurried, offset, own, READ)).await;
            assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
            assert!(own.memory.size() == 0 && own.dropped.is_none());
            let target = pool.try_get().unwrap();
            let (read, empty) = past_deadline(
                &gate,
                file.read_exact_owned_at(&hurried, offset, target, READ),
            )
            .await;
            assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
            assert_eq!((empty.size(), empty.len()), (0, 0));
            let vector = vec![1; BLOCK];
            let (read, vector) =
                past_deadline(&gate, file.read_owned_at(&hurried, offset, vector, READ)).await;
            assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
            assert!(vector.is_empty());
            let (written, own) = past_deadline(
                &gate,
                file.write_owned_at(&hurried, offset, Own::new().0, WRITE),
            )
            .await;
            assert!(
                matches!(written, Err(AioCommandError::TimedOut)),
                "{written:?}"
            );
            assert!(own.dropped.is_none());
            let buffers = vec![
                AlignedBuf::new(BLOCK).unwrap(),
                AlignedBuf::new(BLOCK).unwrap(),
            ];
            let read = file.read_vectored_owned_at(&hurried, offset, buffers, READ);
            let (read, none) = past_deadline(&gate, read).await;
            assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
            assert!(none.is_empty());

            assert!(!dropped.load(Ordering::SeqCst), "{mode:?}: it is in flight");
            assert_eq!(pool.available(), 0);
            gate.open();
            wait_all_free(handle, 8).await;
            // A slot is free a moment before its buffer is dropped.
            let back = || (dropped.load(Ordering::SeqCst), pool.available());
            wait_until(|| back() == (true, 1), back).await;
            // An empty buffer can be used.
            let (read, _) = file.read_owned_at(handle, 0, empty, READ).await;
            assert_eq!(read.unwrap(), 0);
        });
}

#[test]
fn a_timed_out_write_returns_an_aligned_buf_and_an_empty_one_for_other_buffers() {
    Fixture::new(8)
        .everywhere()
        .pause_clock()
        .content(content(BLOCK))
        .run(async |case| {
            let (dir, file, handle) = (case.dir, case.file, &case.handle);
            let hurried = handle.with_timeout(SECOND);
            let gate = Gate::closed();
            let offset = gate.offset();
            let filled = || {
                let mut buffer = AlignedBuf::new(BLOCK).unwrap();
                buffer.fill(9);
                buffer
            };
            let timed_out = |error| matches!(error, AioCommandError::TimedOut);

            let (written, whole) = past_deadline(
                &gate,
                file.write_all_owned_at(&hurried, offset, filled(), WRITE),
            )
            .await;
            assert!(written.is_err_and(timed_out));
            assert!(whole.len() == BLOCK && whole.iter().all(|&byte| byte == 9));
            let slice = filled().into_slice(..);
            let (written, slice) = past_deadline(
                &gate,
                file.write_all_owned_at(&hurried, offset, slice, WRITE),
            )
            .await;
            assert!(written.is_err_and(timed_out));
            assert!(slice.get_ref().is_empty());
            let boxed: Box<[u8]> = vec![9; BLOCK].into();
            let (written, boxed) = past_deadline(
                &gate,
                file.write_all_owned_at(&hurried, offset, boxed, WRITE),
            )
            .await;
            assert!(written.is_err_and(timed_out));
            assert!(boxed.is_empty());
            let list = file.write_vectored_owned_at(&hurried, offset, vec![filled()], WRITE);
            let (written, list) = past_deadline(&gate, list).await;
            assert!(written.is_err_and(timed_out));
            assert!(list.is_empty());

            gate.open();
            wait_all_free(handle, 8).await;
            // Writing an empty buffer writes nothing, and is no error.
            let before = file_content(dir);
            let (written, _) = file.write_all_owned_at(handle, 0, slice, WRITE).await;
            written.unwrap();
            let (written, _) = file.write_all_owned_at(handle, 0, boxed, WRITE).await;
            written.unwrap();
            let (written, _) = file.write_vectored_owned_at(handle, 0, list, WRITE).await;
            assert_eq!(written.unwrap(), 0);
            assert!(file_content(dir) == before);
            let (written, _) = file.write_all_owned_at(handle, 0, whole, WRITE).await;
            written.unwrap();
            assert!(file_content(dir)[..BLOCK].iter().all(|&byte| byte == 9));
        });
}

// ---- Runtimes that end ------------------------------------------------------------------------

#[test]
fn a_runtime_shutdown_keeps_a_buffer_until_its_completion() {
    for dir in test_dirs() {
        for mode in modes() {
            let runtime = multi_thread();
            let gate = Arc::new(Gate::closed());
            let pool = BufferPool::new(1, BLOCK).unwrap();
            let (own, dropped) = Own::new();
            runtime.block_on(async {
                let (context, handle) = context_in(mode, 8);
                let file = Arc::new(file_with_content(&dir, BLOCK).await);
                let offset = gate.offset();
                let (handle_, file_) = (handle.clone(), Arc::clone(&file));
                tokio::spawn(async move {
                    let _ = file_.read_owned_at(&handle_, offset, own, READ).await;
                });
                let of_pool = pool.get().await;
                let handle_ = handle.clone();
                tokio::spawn(async move {
                    let _context = context;
                    let _ = file.write_owned_at(&handle_, offset, of_pool, WRITE).await;
                });
                let waiting = || gate.waiting().len();
                wait_until(|| waiting() == 2, waiting).await;
            });
            runtime.shutdown_background();
            std::thread::sleep(Duration::from_millis(1));
            assert!(!dropped.load(Ordering::SeqCst), "{mode:?}");
            assert_eq!(pool.available(), 0, "{mode:?}");
            gate.open();
            let back = || (dropped.load(Ordering::SeqCst), pool.available());
            block_until(|| back() == (true, 1), back);
        }
    }
}

/// The runtime is gone, the future is not.
#[test]
fn a_future_that_outlives_its_runtime_returns_its_buffer_or_an_empty_one() {
    for dir in test_dirs() {
        for mode in modes() {
            let runtime = multi_thread();
            let gate = Gate::closed();
            let (own, dropped) = Own::new();
            let (_context, handle, file) = runtime.block_on(async {
                let (context, handle) = context_in(mode, 8);
                (context, handle, file_with_content(&dir, BLOCK).await)
            });
            let mut read = Box::pin(file.read_owned_at(&handle, gate.offset(), own, READ));
            runtime.block_on(async {
                while gate.waiting().is_empty() {
                    assert!(poll!(read.as_mut()).is_pending());
                    yield_now().await;
                }
            });
            runtime.shutdown_background();
            let (read, own) = futures::executor::block_on(read);
            assert!(
                matches!(read, Err(AioCommandError::AioStopped)),
                "{mode:?}: {read:?}"
            );
            assert!(own.dropped.is_none() && !dropped.load(Ordering::SeqCst));
            gate.open();
            let is_dropped = || dropped.load(Ordering::SeqCst);
            block_until(is_dropped, is_dropped);
        }
    }
}

#[test]
fn local_contexts_take_owned_buffers() {
    for dir in test_dirs() {
        for (backend, policy) in modes() {
            current_thread().block_on(LocalSet::new().run_until(async {
                let builder = AioContextBuilder::new(8).backend(backend);
                let (context, handle, background) =
                    builder.submit_policy(policy).build_local().unwrap();
                spawn_local(background);
                let file = file_with_content(&dir, 2 * BLOCK).await;
                let target = AlignedBuf::new(BLOCK).unwrap();
                let (read, target) =
                    with_hang_guard(file.read_owned_at(&handle, 0, target, READ)).await;
                assert!(read.unwrap() == LEN && target[..] == content(BLOCK));
                let (vector, before) = aligned_vec(BLOCK);
                let slice = vector.into_slice(before..before + BLOCK);
                let (read, slice) =
                    with_hang_guard(file.read_exact_owned_at(&handle, 0, slice, READ)).await;
                read.unwrap();
                let (written, slice) =
                    with_hang_guard(file.write_owned_at(&handle, LEN, slice, WRITE)).await;
                assert_eq!(written.unwrap(), LEN);
                assert!(slice.into_inner()[before..] == content(BLOCK));

                let gate = Gate::closed();
                let (own, dropped) = Own::new();
                let mut read = Box::pin(async {
                    moved(file.read_owned_at(&handle, gate.offset(), own, READ).await)
                });
                poll_until_at_gate(&gate, &mut read).await;
                drop(read);
                assert!(!dropped.load(Ordering::SeqCst));
                gate.open();
                let is_dropped = || dropped.load(Ordering::SeqCst);
                wait_until(is_dropped, is_dropped).await;
                with_hang_guard(context.close()).await;
            }));
        }
    }
}
