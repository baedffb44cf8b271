//! A forked child can neither take the parent's completions nor touch its buffers, and using or
//! dropping what it inherited does not harm the parent.
//!
//! Each test runs in a process of its own, on one runtime thread.

use std::fs;
use std::future::Future;
use std::io::SeekFrom;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::common::{locked_buffer as buffer, *};
use futures::future::{MaybeDone, join_all, maybe_done};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::yield_now;
use tokio_kaio::{
    AioCommandError, AioContextHandle, Backend, File, IoGroup, LockedBuf, Process, ReadFlags,
    aio_context,
};

const READS: usize = 16;

/// Exit codes of the child.
const RING_IS_THERE: i32 = 2;
const BUFFER_IS_THERE: i32 = 4;
const WRONG_RESULT: i32 = 8;

fn maps() -> String {
    fs::read_to_string("/proc/self/maps").unwrap()
}

fn rings(maps: &str) -> usize {
    let is_ring = |line: &&str| line.contains("/[aio]") || line.contains("[io_uring]");
    maps.lines().filter(is_ring).count()
}

/// Whether `address` is mapped.
fn is_mapped(maps: &str, address: usize) -> bool {
    maps.lines().any(|line| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let at = |hex| usize::from_str_radix(hex, 16).unwrap();
        (at(start)..at(end)).contains(&address)
    })
}

async fn file(dir: &TempDir) -> File {
    write_patterned(&dir.path().join("file"), READS);
    open_rw(dir, "file").await
}

async fn read_all(file: &File, handle: &AioContextHandle) {
    let read = async |i: usize| {
        let mut buffer = buffer(BLOCK);
        let read = file.read_at(handle, i as u64 * LEN, &mut buffer, LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), LEN);
        assert!(is_pattern(i as u64, buffer.as_ref()));
    };
    with_hang_guard(join_all((0..READS).map(read))).await;
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_forked_child_has_neither_the_ring_nor_the_buffers() {
    if !in_child!() {
        return;
    }
    run(async {
        let dir = disk_dir();
        let file = file(&dir).await;
        let (context, handle) = aio_context(READS, true).unwrap();
        let large = aio_context(4096, true).unwrap(); // a ring of many pages
        let (mut buffer, mut dropped) = (buffer(BLOCK), buffer(BLOCK));
        // Memory that stands in for that of a dropped read is not inherited either.
        let read = file.read_at(&handle, 0, &mut dropped, LEN, ReadFlags::empty());
        let _ = poll_once(Box::pin(read).as_mut());
        let addresses = [
            buffer.as_ref().as_ptr().addr(),
            dropped.as_ref().as_ptr().addr(),
        ];
        let here = maps();
        let mappings = match handle.backend() {
            Backend::ThreadPool => 0,
            Backend::IoUring => 6, // each context has one of its queues, one of a tail, and one of its entries
            _ => 2,
        };
        assert_eq!(rings(&here), mappings);
        assert!(addresses.iter().all(|&address| is_mapped(&here, address)));
        let code = forked(|| {
            let there = maps();
            let mut code = 0;
            if rings(&there) != 0 {
                code |= RING_IS_THERE;
            }
            if addresses.iter().any(|&address| is_mapped(&there, address)) {
                code |= BUFFER_IS_THERE;
            }
            code
        });
        assert_eq!(code, 0);
        let read = file.read_at(&handle, 0, &mut buffer, LEN, ReadFlags::empty());
        assert_eq!(with_hang_guard(read).await.unwrap(), LEN);
        with_hang_guard(context.close()).await;
        with_hang_guard(large.0.close()).await;
    });
}

#[test]
fn a_forked_child_is_another_process() {
    if !in_child!() {
        return;
    }
    let parent = Process::current();
    assert_eq!(parent, Process::current());
    let code = forked(|| {
        let is_other = Process::current() != parent;
        let is_itself = Process::current() == Process::current();
        i32::from(!is_other || !is_itself)
    });
    assert_eq!(code, 0);
    assert_eq!(parent, Process::current());
}

/// Reads in flight, or waiting where `slots` are few.
type Reads<'a> = Vec<Pin<Box<MaybeDone<Pin<Box<dyn Future<Output = Read> + 'a>>>>>>;
type Read = Result<u64, AioCommandError>;

fn start_all<'a>(
    file: &'a File,
    handle: &'a AioContextHandle,
    buffers: &'a mut [LockedBuf],
) -> Reads<'a> {
    let mut offset = 0;
    let mut reads: Reads<'a> = buffers
        .iter_mut()
        .map(|buffer| {
            let read = file.read_at(handle, offset, buffer, LEN, ReadFlags::empty());
            offset += LEN;
            Box::pin(maybe_done(
                Box::pin(read) as Pin<Box<dyn Future<Output = Read>>>
            ))
        })
        .collect();
    for read in &mut reads {
        let _ = poll_once(read.as_mut());
    }
    reads
}

/// Runs `child` while the parent's reads are in flight; checks that these reads and later ones are
/// served.
fn attacked(slots: usize, child: fn(Reads<'_>, &AioContextHandle, &File) -> i32) {
    run(async {
        let dir = disk_dir();
        let file = file(&dir).await;
        let (context, handle) = aio_context(slots, true).unwrap();
        yield_now().await;
        for _ in 0..4 {
            let mut buffers: Vec<_> = (0..READS).map(|_| buffer(BLOCK)).collect();
            let mut reads = start_all(&file, &handle, &mut buffers);
            let mut for_child = Some(&mut reads);
            let code = forked(|| {
                let reads = std::mem::take(for_child.take().unwrap());
                child(reads, &handle, &file)
            });
            assert_eq!(code, 0);
            for read in &mut reads {
                with_hang_guard(read.as_mut()).await;
                assert_eq!(read.as_mut().take_output().unwrap().unwrap(), LEN);
            }
            drop(reads);
            for (i, buffer) in buffers.iter().enumerate() {
                assert!(is_pattern(i as u64, buffer.as_ref()));
            }
            read_all(&file, &handle).await;
            let free = || handle.available_slots();
            wait_until(|| free() == Some(slots), free).await;
        }
        with_hang_guard(context.close()).await;
    });
}

#[test]
fn a_forked_child_that_polls_inherited_reads_takes_no_completion() {
    if !in_child!() {
        return;
    }
    for slots in [READS, 2] {
        attacked(slots, |mut reads, handle, _| {
            for _ in 0..100 {
                for read in &mut reads {
                    let _ = poll_once(read.as_mut());
                }
                let _ = handle.available_slots();
                std::thread::sleep(Duration::from_micros(100));
            }
            0
        });
    }
}

#[test]
fn a_forked_child_that_drops_inherited_reads_does_not_affect_the_parent() {
    if !in_child!() {
        return;
    }
    for slots in [READS, 2] {
        attacked(slots, |reads, _, _| {
            drop(reads);
            0
        });
    }
}

#[test]
fn a_forked_child_that_uses_inherited_groups_does_not_affect_the_parent() {
    if !in_child!() {
        return;
    }
    run(async {
        let dir = disk_dir();
        let file = file(&dir).await;
        let (context, handle) = aio_context(2, true).unwrap();
        let group = IoGroup::new("inherited").with_max_iops(1_000_000);
        let grouped = handle.with_group(&group);
        let mut buffers: Vec<_> = (0..READS).map(|_| buffer(BLOCK)).collect();
        let mut reads = start_all(&file, &grouped, &mut buffers);
        let mut for_child = Some(&mut reads);
        let code = forked(|| {
            let mut reads = std::mem::take(for_child.take().unwrap());
            for read in &mut reads {
                let _ = poll_once(read.as_mut());
            }
            drop(reads);
            group.set_max_bandwidth(1);
            let other = handle.with_group(&IoGroup::new("of the child"));
            for handle in [&grouped, &other] {
                let mut buffer = buffer(BLOCK);
                let read = file.read_at(handle, 0, &mut buffer, LEN, ReadFlags::empty());
                if !matches!(poll_once(Box::pin(read).as_mut()), Poll::Ready(Err(_))) {
                    return WRONG_RESULT;
                }
            }
            drop((grouped.clone(), other));
            0
        });
        assert_eq!((code, group.max_bandwidth()), (0, None));
        for read in &mut reads {
            with_hang_guard(read.as_mut()).await;
            assert_eq!(read.as_mut().take_output().unwrap().unwrap(), LEN);
        }
        drop(reads);
        read_all(&file, &grouped).await;
        assert_eq!(group.metrics().requests, 2 * READS as u64);
        with_hang_guard(context.close()).await;
    });
}

#[test]
fn a_forked_child_can_submit_nothing() {
    if !in_child!() {
        return;
    }
    attacked(READS + 2, |_reads, handle, file| {
        let mut buffer = buffer(BLOCK);
        let read = file.read_at(handle, 0, &mut buffer, LEN, ReadFlags::empty());
        let read = poll_once(Box::pin(read).as_mut());
        // In the child, the runtime has no threads that could open a file.
        let open = poll_once(Box::pin(handle.open("/dev/null", false)).as_mut());
        match (read, open) {
            (Poll::Ready(Err(_)) | Poll::Pending, Poll::Ready(Err(_))) => 0,
            _ => WRONG_RESULT,
        }
    });
}

/// Dropping something in the child releases nothing of the parent's.
fn dropped_in_a_child(busy: bool) {
    run(async {
        let dir = disk_dir();
        let file = file(&dir).await;
        let (context, handle) = aio_context(READS, true).unwrap();
        let mut kept = patterned_buffer(1, BLOCK);
        read_all(&file, &handle).await;

        let mut buffers: Vec<_> = (0..READS).map(|_| buffer(BLOCK)).collect();
        let mut reads = Vec::new();
        if busy {
            reads = start_all(&file, &handle, &mut buffers);
        }
        let mut inherited = Some((context, kept));
        let before = fs::read_dir("/proc/self/fd").unwrap().count();
        let code = forked(|| {
            drop(inherited.take());
            drop(std::mem::take(&mut reads));
            // A thread of the child may be closing descriptors: wait until it has, or for long
            // enough.
            for _ in 0..100 {
                if fs::read_dir("/proc/self/fd").unwrap().count() < before {
                    break;
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            std::thread::sleep(Duration::from_millis(10));
            0
        });
        assert_eq!(code, 0);
        let context;
        (context, kept) = inherited.unwrap();
        assert!(is_pattern(1, kept.as_ref()));
        kept.as_mut().fill(1);
        for read in &mut reads {
            with_hang_guard(read.as_mut()).await;
            assert_eq!(read.as_mut().take_output().unwrap().unwrap(), LEN);
        }
        drop(reads);
        read_all(&file, &handle).await;
        with_hang_guard(context.close()).await;
        assert_eq!(rings(&maps()), 0);
    });
}

#[test]
fn a_forked_child_may_drop_an_idle_context() {
    if !in_child!() {
        return;
    }
    dropped_in_a_child(false);
}

#[test]
fn a_forked_child_may_drop_a_busy_context() {
    if !in_child!() {
        return;
    }
    dropped_in_a_child(true);
}

#[test]
fn a_forked_child_can_use_a_context_of_its_own() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let waker = BlockingWaker::new();
    let held = waker.held.lock().unwrap();
    // The end of the runtime waits for its blocking threads, and ends the context.
    let (context, handle, file, ended) = run(async {
        let file = file(&dir).await;
        let (context, handle) = aio_context(READS, true).unwrap();
        let ended = waker.end_of(&handle);
        read_all(&file, &handle).await;
        (context, handle, file, ended)
    });
    let blocked = || waker.blocked.load(Ordering::SeqCst);
    block_until(|| blocked() == 1, blocked);
    let code = forked(|| {
        run(async {
            let (context, handle) = aio_context(READS, true).unwrap();
            read_all(&file, &handle).await;
            with_hang_guard(context.close()).await;
        });
        0
    });
    drop((ended, held));
    assert_eq!(code, 0);
    drop((context, handle));
}

/// Blocks each thread that wakes it, except the test's, while `held` is locked.
struct BlockingWaker {
    test: ThreadId,
    /// Threads that were blocked.
    blocked: AtomicUsize,
    held: Mutex<()>,
}

impl BlockingWaker {
    fn new() -> Arc<BlockingWaker> {
        Arc::new(BlockingWaker {
            test: thread::current().id(),
            blocked: AtomicUsize::new(0),
            held: Mutex::new(()),
        })
    }

    /// Waits for the end of the context of `handle`, so that the thread that destroys it is blocked.
    fn end_of(self: &Arc<Self>, handle: &AioContextHandle) -> Pin<Box<dyn Future<Output = ()>>> {
        let mut ended = Box::pin(handle.clone().closed());
        let waker = Waker::from(Arc::clone(self));
        let polled = ended.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        ended
    }
}

impl Wake for BlockingWaker {
    fn wake(self: Arc<Self>) {
        if thread::current().id() != self.test {
            self.blocked.fetch_add(1, Ordering::SeqCst);
            drop(self.held.lock());
        }
    }
}

/// The child does not have the threads that destroy the parent's contexts. A waker blocks them, so that none starts
/// or ends during the fork.
#[test]
fn a_child_forked_while_contexts_end_can_end_its_own() {
    if !in_child!() {
        return;
    }
    const CONTEXTS: usize = 80;
    let waker = BlockingWaker::new();
    let held = waker.held.lock().unwrap();
    let code = run(async {
        let contexts: Vec<_> = (0..CONTEXTS)
            .map(|_| aio_context(1, true).unwrap())
            .collect();
        let ended: Vec<_> = contexts
            .iter()
            .map(|(_, handle)| waker.end_of(handle))
            .collect();
        yield_now().await;
        drop(contexts);
        let blocked = || waker.blocked.load(Ordering::SeqCst);
        wait_until(|| blocked() == CONTEXTS, blocked).await;
        let code = forked(|| {
            thread::spawn(|| {
                run(async {
                    let (context, _handle) = aio_context(READS, true).unwrap();
                    with_hang_guard(context.close()).await;
                });
            })
            .join()
            .map_or(1, |()| 0)
        });
        drop(ended);
        code
    });
    drop(held);
    assert_eq!(code, 0);
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(test)
}

#[tokio::test]
async fn a_child_can_neither_use_nor_harm_the_readers_and_writers_of_its_parent() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let file = file(&dir).await;
    let target = open_rw(&dir, "target").await;
    let (context, handle) = aio_context(8, true).unwrap();
    let mut reader = file.reader(&handle).with_chunk_size(BLOCK);
    let mut writer = target.writer(&handle).with_chunk_size(BLOCK).with_offset(1);
    assert_eq!(reader.read(&mut [0; 100]).await.unwrap(), 100);
    writer.write_all(&[7; 3 * BLOCK]).await.unwrap();
    if futures::poll!(Box::pin(writer.flush())).is_ready() {
        println!("no edge is in flight: the submission has waited for the disk");
    }
    let (mut readers, mut writers) = (vec![reader], vec![writer]);
    let code = forked(|| {
        let mut cx = Context::from_waker(Waker::noop());
        let mut is_refused = |polled: Poll<std::io::Result<()>>| match polled {
            Poll::Ready(Err(error)) => error.kind() == std::io::ErrorKind::InvalidInput,
            _ => false,
        };
        let mut bytes = [0; 100];
        let mut bytes = ReadBuf::new(&mut bytes);
        let read = Pin::new(&mut readers[0]).poll_read(&mut cx, &mut bytes);
        let started = Pin::new(&mut readers[0]).start_seek(SeekFrom::End(0));
        let sought = Pin::new(&mut readers[0]).poll_complete(&mut cx);
        let written = Pin::new(&mut writers[0]).poll_write(&mut cx, b"x");
        let flushed = Pin::new(&mut writers[0]).poll_flush(&mut cx);
        let polled = [read, sought.map_ok(drop), written.map_ok(drop), flushed];
        let all_refused = started.is_ok() && polled.into_iter().all(&mut is_refused);
        readers.clear();
        writers.clear();
        i32::from(!all_refused) * WRONG_RESULT
    });
    assert_eq!(code, 0);
    let mut rest = Vec::new();
    readers[0].read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest.len(), READS * BLOCK - 100);
    let writer = writers.pop().unwrap();
    assert_eq!(writer.finish().await.unwrap(), 3 * LEN + 1);
    assert_eq!(
        fs::read(dir.path().join("target")).unwrap()[1..],
        [7; 3 * BLOCK]
    );
    assert_eq!(handle.metrics().unfinished_writers, 0);
    drop(readers);
    context.close().await;
}
