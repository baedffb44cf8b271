//! Buffers that are handed over: every kind of them comes back with the result, and one whose
//! operation is given up is dropped when the kernel is done with it, and not before.
#![allow(unsafe_code)] // a buffer of one's own

mod common;
#[path = "common/interposed.rs"]
mod interposed;

use std::fmt::Debug;
use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use futures::poll;
use interposed::Gate;
use tempfile::TempDir;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, AlignedBuf, BufferPool, File, IoBuf,
    IoBufMut, LockedBuf, ReadFlags, WriteFlags,
};

const LEN: u64 = BLOCK as u64;
const READ: ReadFlags = ReadFlags::empty();
const WRITE: WriteFlags = WriteFlags::empty();

fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pattern(7, &mut bytes);
    bytes
}

fn on_file(dir: &TempDir) -> Vec<u8> {
    fs::read(dir.path().join("data")).unwrap()
}

async fn direct(dir: &TempDir, len: usize) -> File {
    fs::write(dir.path().join("data"), content(len)).unwrap();
    open_rw(dir, "data").await
}

/// One that takes memory at any address.
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

/// A vector that starts with as many bytes as it takes to be aligned after them, with room for `len`
/// more. Gives their number, too.
fn aligned_vec(len: usize) -> (Vec<u8>, usize) {
    let mut vector: Vec<u8> = Vec::with_capacity(len + BLOCK);
    let before = vector.as_ptr().align_offset(BLOCK);
    vector.resize(before, 0xaa);
    (vector, before)
}

/// Tells when it is dropped.
#[derive(Default)]
struct Own {
    memory: AlignedBuf,
    /// `None`: it is what comes back in place of one that the kernel has.
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

/// Writes `source`, whose bytes are `expected`; it is the same one that comes back.
async fn writes<B: IoBuf>(handle: &AioContextHandle, dir: &TempDir, file: &File, source: B) -> B {
    let (address, len) = (source.stable_ptr(), source.bytes_init());
    // SAFETY: what the trait promises.
    let bytes = unsafe { std::slice::from_raw_parts(address, len) }.to_vec();
    let (written, source) = within(file.write_owned_at(handle, LEN, source, WRITE)).await;
    assert_eq!(written.unwrap(), len as u64);
    assert_eq!((source.stable_ptr(), source.bytes_init()), (address, len));
    assert!(on_file(dir)[BLOCK..][..len] == bytes);
    let (written, source) = within(file.write_all_owned_at(handle, 0, source, WRITE)).await;
    written.unwrap();
    assert_eq!((source.stable_ptr(), source.bytes_init()), (address, len));
    assert!(on_file(dir)[..len] == bytes);
    source
}

/// Reads all that `target` has room for.
async fn reads<B: IoBufMut>(handle: &AioContextHandle, file: &File, mut target: B) -> B {
    let (address, room) = (target.stable_mut_ptr(), target.bytes_total());
    let (read, mut target) = within(file.read_owned_at(handle, 0, target, READ)).await;
    assert_eq!(read.unwrap(), room as u64);
    assert_eq!(target.stable_mut_ptr(), address);
    assert_eq!((target.bytes_init(), target.bytes_total()), (room, room));
    // SAFETY: what the trait promises.
    let bytes = unsafe { std::slice::from_raw_parts(target.stable_ptr(), room) };
    assert!(bytes == content(room));
    let (read, target) = within(file.read_exact_owned_at(handle, 0, target, READ)).await;
    read.unwrap();
    assert_eq!((target.bytes_init(), target.bytes_total()), (room, room));
    target
}

async fn everywhere_by_all_ways(test: impl AsyncFn(&TempDir, Way, &AioContextHandle)) {
    for dir in everywhere() {
        for way in ways() {
            let (context, handle) = context_by(way, 8);
            yield_now().await;
            test(&dir, way, &handle).await;
            is_idle(&handle, 8).await;
            within(context.close()).await;
        }
    }
}

#[tokio::test]
async fn every_kind_of_aligned_buffer_is_written_and_read() {
    everywhere_by_all_ways(async |dir, _, handle| {
        let file = direct(dir, 8 * BLOCK).await;
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

        writes(handle, dir, &file, patterned(1, 2 * BLOCK)).await;
        writes(handle, dir, &file, pool.try_get().unwrap()).await;
        let slice = patterned(2, 4 * BLOCK).into_slice(BLOCK..3 * BLOCK);
        writes(handle, dir, &file, slice).await;
        let mut own = Own::new().0;
        pattern(3, &mut own.memory);
        writes(handle, dir, &file, own).await;
    })
    .await;
}

#[tokio::test]
async fn vectors_and_boxes_are_written_and_read_where_they_are_aligned() {
    everywhere_by_all_ways(async |dir, _, handle| {
        let file = direct(dir, 8 * BLOCK).await;
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
    })
    .await;
}

#[tokio::test]
async fn every_kind_of_buffer_does_for_a_file_without_direct_io() {
    static BYTES: &[u8] = b"that were there all the time";
    everywhere_by_all_ways(async |dir, _, handle| {
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
        let (written, _) = within(file.write_owned_at(handle, 0, none, WRITE)).await;
        assert_eq!(written.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_vector_grows_by_what_is_read_into_its_spare_room() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = buffered(dir, 5000);
        let read = async |offset, vector| {
            let (read, vector) = within(file.read_owned_at(handle, offset, vector, READ)).await;
            (read.unwrap(), vector)
        };
        let mut empty = Vec::new();
        empty.reserve_exact(3000);
        let room = empty.capacity();
        let (moved, vector) = read(0, empty).await;
        assert_eq!((moved, vector.len()), (room as u64, room), "{way:?}");
        assert!(vector == content(room));
        // What is initialized stays so, though less was read.
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
        let (read, nested) = within(file.read_owned_at(handle, 0, nested, READ)).await;
        assert_eq!(read.unwrap(), 100, "{way:?}");
        let nested = nested
            .into_inner()
            .into_inner()
            .into_slice(50..)
            .into_slice(50..80);
        let (read, nested) = within(file.read_owned_at(handle, 100, nested, READ)).await;
        assert_eq!(read.unwrap(), 30, "{way:?}");
        let vector: Vec<u8> = nested.into_inner().into_inner();
        assert!(vector.len() == 130 && vector == content(5000)[..130]);
        // Behind what is there.
        let mut vector = b"before".to_vec();
        vector.reserve(1000);
        let (read, slice) =
            within(file.read_owned_at(handle, 0, vector.into_slice(6..500), READ)).await;
        assert_eq!(read.unwrap(), 494);
        let vector = slice.into_inner();
        assert_eq!(vector.len(), 500);
        assert!(vector.starts_with(b"before") && vector[6..] == content(5000)[..494]);
    })
    .await;
}

#[cfg(feature = "bytes")]
#[tokio::test]
async fn bytes_are_written_and_read() {
    use bytes::{Bytes, BytesMut};

    everywhere_by_all_ways(async |dir, _, handle| {
        let file = buffered(dir, 5000);
        let source = Bytes::from(content(1000));
        let same = writes(handle, dir, &file, Bytes::slice(&source, 100..)).await;
        assert_eq!(same.as_ptr(), source[100..].as_ptr());
        let mut room = BytesMut::with_capacity(1000);
        room.extend_from_slice(b"ab");
        let file = buffered(dir, 5000);
        let mut filled = reads(handle, &file, room).await;
        assert!(filled.len() >= 1000);
        // A part of an allocation that others have parts of.
        let rest = filled.split_off(500);
        let first = writes(handle, dir, &file, filled).await;
        writes(handle, dir, &file, rest).await;
        assert_eq!(first.len(), 500);
        let room = BytesMut::with_capacity(1000);
        let (read, short) =
            within(file.read_owned_at(handle, 4000 - 8, room.into_slice(..10), READ)).await;
        assert_eq!((read.unwrap(), short.into_inner().len()), (10, 10));

        let file = direct(dir, 8 * BLOCK).await;
        let pool = BufferPool::new(1, 2 * BLOCK).unwrap();
        let target = pool.try_get().unwrap();
        let (read, target) = within(file.read_owned_at(handle, 0, target, READ)).await;
        assert_eq!(read.unwrap(), 2 * LEN);
        let bytes = Bytes::from(target);
        let second = Bytes::slice(&bytes, BLOCK..);
        drop(bytes);
        let second = writes(handle, dir, &file, second).await;
        assert_eq!(pool.available(), 0);
        drop(second);
        assert_eq!(pool.available(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_slice_that_is_not_within_its_buffer_panics_and_submits_nothing() {
    let dir = on_disk();
    let (context, handle) = tokio_kaio::aio_context(8, true).unwrap();
    let file = Arc::new(direct(&dir, BLOCK).await);
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
    within(context.close()).await;
}

// ---- Errors -----------------------------------------------------------------------------------

#[tokio::test]
async fn the_buffer_comes_back_with_every_error() {
    everywhere_by_all_ways(async |dir, way, handle| {
        direct(dir, BLOCK).await;
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
            let target = patterned(1, BLOCK);
            let address = target.as_ptr();
            let (read, target) = within(file.read_owned_at(handle, offset, target, flags)).await;
            assert_eq!(read.unwrap_err().raw_os_error(), Some(refusal), "{way:?}");
            assert!(target.as_ptr() == address && is_pattern(1, &target));
            let (own, dropped) = Own::new();
            let (read, own) = within(file.read_exact_owned_at(handle, offset, own, flags)).await;
            assert_eq!(read.unwrap_err().raw_os_error(), Some(refusal), "{way:?}");
            assert!(own.memory.size() == BLOCK && !dropped.load(Ordering::SeqCst));
            let mut vector = vec![7; 100];
            vector.reserve(1000);
            let (read, vector) = within(file.read_owned_at(handle, offset, vector, flags)).await;
            assert_eq!(read.unwrap_err().raw_os_error(), Some(refusal), "{way:?}");
            assert_eq!(vector, [7; 100], "nothing more is initialized");
        }
        let unknown = WriteFlags::from_bits_retain;
        for (file, flags, refusal) in [
            (&reads_only, WRITE, libc::EBADF),
            (&writes_only, unknown(1 << 30), libc::EOPNOTSUPP),
            (&writes_only, unknown(1 << 31), libc::EOPNOTSUPP),
        ] {
            let (own, dropped) = Own::new();
            let (written, own) = within(file.write_owned_at(handle, 0, own, flags)).await;
            assert_eq!(
                written.unwrap_err().raw_os_error(),
                Some(refusal),
                "{way:?}"
            );
            assert!(own.memory.size() == BLOCK && !dropped.load(Ordering::SeqCst));
            let source = patterned(1, BLOCK);
            let (written, source) = within(file.write_all_owned_at(handle, 0, source, flags)).await;
            assert_eq!(
                written.unwrap_err().raw_os_error(),
                Some(refusal),
                "{way:?}"
            );
            assert!(is_pattern(1, &source));
        }
    })
    .await;
}

/// Direct I/O wants aligned memory, which the allocator does not promise.
#[tokio::test]
async fn a_vector_that_is_not_aligned_is_an_error_that_explains_it() {
    let dir = on_disk();
    for way in ways() {
        let (context, handle) = context_by(way, 8);
        let file = direct(&dir, 2 * BLOCK).await;
        let alignment = file.alignment().await.unwrap().memory;
        if alignment == 1 {
            eprintln!("skipped: memory at any address will do");
            return;
        }
        let odd = vec![1; 2 * BLOCK + 2];
        let start = odd.as_ptr().align_offset(BLOCK) + 1; // wherever it is, this is not aligned
        let slice = odd.into_slice(start..start + BLOCK);
        let (read, slice) = within(file.read_owned_at(&handle, 0, slice, READ)).await;
        let explains = |error: AioCommandError| {
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{way:?}");
            let told = error.to_string();
            assert!(
                told.contains(&format!("memory aligned to {alignment}")),
                "{told}"
            );
            assert!(
                told.contains("the memory is not: use an AlignedBuf"),
                "{told}"
            );
        };
        explains(read.unwrap_err());
        let (written, slice) = within(file.write_owned_at(&handle, 0, slice, WRITE)).await;
        explains(written.unwrap_err());
        assert!(slice.into_inner().iter().all(|&byte| byte == 1));
        assert!(on_file(&dir) == content(2 * BLOCK));
        within(context.close()).await;
    }
}

#[tokio::test]
async fn an_end_of_file_within_an_exact_read_gives_the_buffer_back() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = buffered(dir, 5000);
        let vector = Vec::with_capacity(6000);
        let (read, vector) = within(file.read_exact_owned_at(handle, 0, vector, READ)).await;
        match read.unwrap_err() {
            AioCommandError::BadResult(error) => {
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{way:?}");
            }
            other => panic!("{other:?}"),
        }
        assert!(vector.capacity() >= 6000);
    })
    .await;
}

// ---- Given up ---------------------------------------------------------------------------------

async fn until_held<T: Debug>(gate: &Gate, operation: &mut Pin<Box<impl Future<Output = T>>>) {
    while gate.held().is_empty() {
        let polled = poll!(operation.as_mut());
        assert!(polled.is_pending(), "{polled:?}");
        yield_now().await;
    }
}

/// So that results can be shown.
fn moved<B>((result, _): (Result<u64, AioCommandError>, B)) -> Result<u64, AioCommandError> {
    result
}

#[tokio::test]
async fn a_buffer_is_dropped_when_the_kernel_is_done_with_it_and_not_before() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = direct(dir, BLOCK).await;
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
            until_held(&gate, &mut operation).await;
            drop(operation);
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(
                !dropped.load(Ordering::SeqCst),
                "{way:?}: the kernel has it"
            );
            assert_eq!(handle.metrics().abandoned_in_flight, 1);
            gate.open();
            let is_dropped = || dropped.load(Ordering::SeqCst);
            until(is_dropped, is_dropped).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_buffer_that_never_got_to_the_kernel_is_dropped_at_once() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = direct(dir, BLOCK).await;
        let (own, dropped) = Own::new();
        drop(file.read_owned_at(handle, 0, own, READ)); // never polled
        assert!(dropped.load(Ordering::SeqCst), "{way:?}");

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
        let mut waiting = Box::pin(async { moved(file.read_owned_at(handle, 0, own, READ).await) });
        assert!(poll!(waiting.as_mut()).is_pending());
        assert!(!dropped.load(Ordering::SeqCst), "{way:?}");
        drop(waiting);
        assert!(dropped.load(Ordering::SeqCst), "{way:?}");
        gate.open();
        for read in busy {
            assert_eq!(within(read).await.unwrap(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_buffer_of_a_pool_returns_to_it_when_the_kernel_is_done() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = direct(dir, BLOCK).await;
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
                            file.write_owned_at(handle, offset, buffer.into_slice(512..), WRITE)
                                .await,
                        ),
                    }
                });
                until_held(&gate, &mut operation).await;
                drop(operation);
                for _ in 0..100 {
                    yield_now().await;
                }
                assert_eq!(pool.available(), 0, "{way:?}");
                gate.open();
                until(|| pool.available() == 1, || pool.available()).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_operation_that_times_out_gives_an_empty_buffer_for_what_the_kernel_has() {
    everywhere_by_all_ways(async |dir, way, handle| {
        let file = direct(dir, BLOCK).await;
        let hurried = handle.with_timeout(Duration::from_millis(50));
        let gate = Gate::closed();
        let offset = gate.offset();
        let pool = BufferPool::new(1, BLOCK).unwrap();

        let (own, dropped) = Own::new();
        let (read, own) = within(file.read_owned_at(&hurried, offset, own, READ)).await;
        assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
        assert!(own.memory.size() == 0 && own.dropped.is_none());
        let target = pool.try_get().unwrap();
        let (read, empty) = within(file.read_exact_owned_at(&hurried, offset, target, READ)).await;
        assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
        assert_eq!((empty.size(), empty.len()), (0, 0));
        let vector = vec![1; BLOCK];
        let (read, vector) = within(file.read_owned_at(&hurried, offset, vector, READ)).await;
        assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
        assert!(vector.is_empty());
        let (written, own) =
            within(file.write_owned_at(&hurried, offset, Own::new().0, WRITE)).await;
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
        let (read, none) = within(read).await;
        assert!(matches!(read, Err(AioCommandError::TimedOut)), "{read:?}");
        assert!(none.is_empty());

        if !gate.held().is_empty() {
            assert!(
                !dropped.load(Ordering::SeqCst),
                "{way:?}: the kernel has it"
            );
            assert_eq!(pool.available(), 0);
        }
        gate.open();
        all_free(handle, 8).await;
        assert!(dropped.load(Ordering::SeqCst));
        assert_eq!(pool.available(), 1);
        // An empty buffer is one that can be used.
        let (read, _) = within(file.read_owned_at(handle, 0, empty, READ)).await;
        assert_eq!(read.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn of_a_write_that_times_out_an_aligned_buf_comes_back_and_of_other_buffers_an_empty_one() {
    everywhere_by_all_ways(async |dir, _, handle| {
        let file = direct(dir, BLOCK).await;
        let hurried = handle.with_timeout(Duration::from_millis(50));
        let gate = Gate::closed();
        let offset = gate.offset();
        let filled = || {
            let mut buffer = AlignedBuf::new(BLOCK).unwrap();
            buffer.fill(9);
            buffer
        };
        let timed_out = |error| matches!(error, AioCommandError::TimedOut);

        let (written, whole) =
            within(file.write_all_owned_at(&hurried, offset, filled(), WRITE)).await;
        assert!(written.is_err_and(timed_out));
        assert!(whole.len() == BLOCK && whole.iter().all(|&byte| byte == 9));
        let slice = filled().into_slice(..);
        let (written, slice) =
            within(file.write_all_owned_at(&hurried, offset, slice, WRITE)).await;
        assert!(written.is_err_and(timed_out));
        assert!(slice.get_ref().is_empty());
        let boxed: Box<[u8]> = vec![9; BLOCK].into();
        let (written, boxed) =
            within(file.write_all_owned_at(&hurried, offset, boxed, WRITE)).await;
        assert!(written.is_err_and(timed_out));
        assert!(boxed.is_empty());
        let list = file.write_vectored_owned_at(&hurried, offset, vec![filled()], WRITE);
        let (written, list) = within(list).await;
        assert!(written.is_err_and(timed_out));
        assert!(list.is_empty());

        gate.open();
        all_free(handle, 8).await;
        // What is handed over again is written: nothing, and that is no error.
        let before = on_file(dir);
        let (written, _) = within(file.write_all_owned_at(handle, 0, slice, WRITE)).await;
        written.unwrap();
        let (written, _) = within(file.write_all_owned_at(handle, 0, boxed, WRITE)).await;
        written.unwrap();
        let (written, _) = within(file.write_vectored_owned_at(handle, 0, list, WRITE)).await;
        assert_eq!(written.unwrap(), 0);
        assert!(on_file(dir) == before);
        let (written, _) = within(file.write_all_owned_at(handle, 0, whole, WRITE)).await;
        written.unwrap();
        assert!(on_file(dir)[..BLOCK].iter().all(|&byte| byte == 9));
    })
    .await;
}

// ---- Runtimes that end ------------------------------------------------------------------------

#[test]
fn a_runtime_that_shuts_down_leaves_a_buffer_to_the_kernel_until_it_is_done() {
    for dir in everywhere() {
        for way in ways() {
            let runtime = two_workers();
            let gate = Arc::new(Gate::closed());
            let pool = BufferPool::new(1, BLOCK).unwrap();
            let (own, dropped) = Own::new();
            runtime.block_on(async {
                let (context, handle) = context_by(way, 8);
                let file = Arc::new(direct(&dir, BLOCK).await);
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
                let held = || gate.held().len();
                until(|| held() == 2, held).await;
            });
            runtime.shutdown_background();
            std::thread::sleep(Duration::from_millis(1));
            assert!(!dropped.load(Ordering::SeqCst), "{way:?}");
            assert_eq!(pool.available(), 0, "{way:?}");
            gate.open();
            let back = || (dropped.load(Ordering::SeqCst), pool.available());
            until_here(|| back() == (true, 1), back);
        }
    }
}

/// Whose runtime is gone, but whose future is not.
#[test]
fn a_future_that_outlives_its_runtime_gives_an_empty_buffer_or_its_own() {
    for dir in everywhere() {
        for way in ways() {
            let runtime = two_workers();
            let gate = Gate::closed();
            let (own, dropped) = Own::new();
            let (_context, handle, file) = runtime.block_on(async {
                let (context, handle) = context_by(way, 8);
                (context, handle, direct(&dir, BLOCK).await)
            });
            let mut read = Box::pin(file.read_owned_at(&handle, gate.offset(), own, READ));
            runtime.block_on(async {
                while gate.held().is_empty() {
                    assert!(poll!(read.as_mut()).is_pending());
                    yield_now().await;
                }
            });
            runtime.shutdown_background();
            let (read, own) = futures::executor::block_on(read);
            assert!(
                matches!(read, Err(AioCommandError::AioStopped)),
                "{way:?}: {read:?}"
            );
            assert!(own.dropped.is_none() && !dropped.load(Ordering::SeqCst));
            gate.open();
            let is_dropped = || dropped.load(Ordering::SeqCst);
            until_here(is_dropped, is_dropped);
        }
    }
}

#[test]
fn local_contexts_take_buffers_over_too() {
    for dir in everywhere() {
        for (backend, policy) in ways() {
            one_thread().block_on(LocalSet::new().run_until(async {
                let builder = AioContextBuilder::new(8).backend(backend);
                let (context, handle, background) =
                    builder.submit_policy(policy).build_local().unwrap();
                spawn_local(background);
                let file = direct(&dir, 2 * BLOCK).await;
                let target = AlignedBuf::new(BLOCK).unwrap();
                let (read, target) = within(file.read_owned_at(&handle, 0, target, READ)).await;
                assert!(read.unwrap() == LEN && target[..] == content(BLOCK));
                let (vector, before) = aligned_vec(BLOCK);
                let slice = vector.into_slice(before..before + BLOCK);
                let (read, slice) = within(file.read_exact_owned_at(&handle, 0, slice, READ)).await;
                read.unwrap();
                let (written, slice) =
                    within(file.write_owned_at(&handle, LEN, slice, WRITE)).await;
                assert_eq!(written.unwrap(), LEN);
                assert!(slice.into_inner()[before..] == content(BLOCK));

                let gate = Gate::closed();
                let (own, dropped) = Own::new();
                let mut read = Box::pin(async {
                    moved(file.read_owned_at(&handle, gate.offset(), own, READ).await)
                });
                until_held(&gate, &mut read).await;
                drop(read);
                assert!(!dropped.load(Ordering::SeqCst));
                gate.open();
                let is_dropped = || dropped.load(Ordering::SeqCst);
                until(is_dropped, is_dropped).await;
                within(context.close()).await;
            }));
        }
    }
}
