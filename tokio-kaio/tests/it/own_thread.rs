//! Contexts with a thread of their own: they work from any executor, and outlive every runtime.

use std::fs;
use std::future::Future;
use std::io::SeekFrom;
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use crate::common::*;
use futures::StreamExt;
use futures::executor::block_on;
use futures::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextError, AioContextHandle, Allocate, Backend, File,
    PollEvents, ReadFlags, SizeClassPool, SubmitPolicy, SyncRange, WriteFlags,
};

const READS: u64 = 40; // more than there are slots
const SLOTS: usize = 16;

fn builder() -> AioContextBuilder {
    AioContextBuilder::new(SLOTS).own_thread()
}

/// A file of [`READS`] blocks, opened without a runtime. `None`, with a line that says so, if the directory
/// has no direct I/O.
fn file(dir: &TempDir) -> File {
    let path = dir.path().join("data");
    write_patterned(&path, READS as usize);
    let file = fs::File::options().read(true).write(true).open(path);
    File::from_std(file.unwrap()).unwrap()
}

async fn read_block_of(handle: &AioContextHandle, file: &File, block: u64) {
    let mut bytes = buffer(BLOCK);
    let read = file.read_at(handle, block * LEN, &mut bytes, LEN, ReadFlags::empty());
    assert_eq!(read.await.unwrap(), LEN);
    assert!(is_pattern(block, &bytes));
}

async fn read_all(handle: &AioContextHandle, file: &File) {
    join_all((0..READS).map(|block| read_block_of(handle, file, block))).await;
}

/// A poll of a socket on which nothing ever arrives.
async fn endless(handle: &AioContextHandle) -> Result<PollEvents, AioCommandError> {
    let (reader, _writer) = UnixStream::pair().unwrap();
    handle.poll(&reader, PollEvents::IN).await
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    poll_with(future, Waker::noop())
}

fn poll_with<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

/// Names of the threads of this process.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| {
        let name = fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
        Some(name.trim().to_string())
    };
    tasks.filter_map(name).collect()
}

fn driver_threads() -> usize {
    let names = threads();
    names.iter().filter(|name| *name == "kaio-driver").count()
}

// ---- Files -------------------------------------------------------------------------------------

#[test]
fn calls_through_a_handle_need_no_runtime() {
    let has_uring = cfg!(feature = "io-uring") && BACKENDS.len() > 1;
    let uring = has_uring.then_some(Backend::IoUring);
    for backend in BACKENDS.iter().copied().chain(uring) {
        let dir = disk_dir();
        let (context, handle) = match builder().backend(backend).build() {
            Err(error) if backend == Backend::IoUring => {
                eprintln!("skipped for io_uring: {error}");
                continue;
            }
            made => made.unwrap(),
        };
        let created = bounded(move || {
            block_on(async {
                let file = handle.create(dir.path().join("data"), false).await?;
                file.allocate(Allocate::Extend, 0, 4 * LEN).await?;
                file.set_len(2 * LEN).await?;
                file.sync_range(0, 0, SyncRange::all()).await?;
                let read = handle.open(dir.path().join("data"), false).await?;
                assert_eq!(read.file().metadata_at_open().len(), 2 * LEN);
                Ok::<_, std::io::Error>(())
            })
        });
        created.unwrap();
        bounded(move || block_on(context.close()));
    }
}

// ---- Executors ---------------------------------------------------------------------------------

#[test]
fn operations_complete_under_block_on_of_futures_in_every_mode() {
    for dir in test_dirs() {
        let file = file(&dir);
        for (backend, policy) in modes() {
            let builder = builder().backend(backend).submit_policy(policy);
            let (context, handle) = builder.build().unwrap();
            bounded({
                let file = file.clone();
                move || {
                    block_on(async {
                        read_all(&handle, &file).await;
                        let bytes = patterned_buffer(3, BLOCK);
                        let write = file.write_at(&handle, 3 * LEN, &bytes, LEN, WriteFlags::DSYNC);
                        assert_eq!(write.await.unwrap(), LEN);
                        file.sync_all(&handle).await.unwrap();
                        file.drain(&handle).await;
                        assert_eq!(context.available_slots(), Some(SLOTS));
                        context.close().await;
                    });
                }
            });
        }
    }
}

/// A task of an executor that polls on whatever thread takes its tasks from a channel.
struct ChannelTask {
    future: std::sync::Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    ready: mpsc::Sender<Arc<ChannelTask>>,
    queued: AtomicBool,
}

impl Wake for ChannelTask {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let _ = self.ready.clone().send(self);
        }
    }
}

#[test]
fn operations_complete_on_a_hand_made_executor_of_two_threads() {
    let dir = disk_dir();
    let file = file(&dir);
    let (context, handle) = builder().build().unwrap();
    let (ready, tasks) = mpsc::channel::<Arc<ChannelTask>>();
    let (done, all_done) = mpsc::channel();
    for block in 0..READS {
        let (handle, file, done) = (handle.clone(), file.clone(), done.clone());
        let future = async move {
            read_block_of(&handle, &file, block).await;
            done.send(block).unwrap();
        };
        Arc::new(ChannelTask {
            future: std::sync::Mutex::new(Some(Box::pin(future))),
            ready: ready.clone(),
            queued: AtomicBool::new(false),
        })
        .wake();
    }
    drop((ready, done));
    let tasks = Arc::new(std::sync::Mutex::new(tasks));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let tasks = Arc::clone(&tasks);
            thread::spawn(move || {
                loop {
                    let next = tasks.lock().unwrap().recv_timeout(HANG);
                    let Ok(task) = next else {
                        return; // every task is done, so no sender is left
                    };
                    task.queued.store(false, Ordering::Release);
                    let waker = Waker::from(Arc::clone(&task));
                    let mut future = task.future.lock().unwrap();
                    if let Some(running) = &mut *future {
                        let polled = running.as_mut().poll(&mut Context::from_waker(&waker));
                        if polled.is_ready() {
                            *future = None;
                        }
                    }
                }
            })
        })
        .collect();
    let mut blocks: Vec<u64> = all_done.iter().collect();
    blocks.sort_unstable();
    assert!(blocks.into_iter().eq(0..READS));
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
    block_on(context.close());
}

static SHARED: LazyLock<AioContextHandle> = LazyLock::new(|| builder().build_detached().unwrap());

async fn use_the_static_handle() {
    let dir = disk_dir();
    let file = open_rw(&dir, "data").await;
    let bytes = patterned_buffer(7, BLOCK);
    let write = file.write_at(&SHARED, 0, &bytes, LEN, WriteFlags::empty());
    assert_eq!(with_hang_guard(write).await.unwrap(), LEN);
    let mut bytes = buffer(BLOCK);
    let read = file.read_at(&SHARED, 0, &mut bytes, LEN, ReadFlags::empty());
    assert_eq!(with_hang_guard(read).await.unwrap(), LEN);
    assert!(is_pattern(7, &bytes));
}

#[tokio::test]
async fn a_static_handle_works_in_a_test_on_a_current_thread_runtime() {
    use_the_static_handle().await;
}

#[tokio::test]
async fn a_static_handle_works_in_a_second_test_on_a_current_thread_runtime() {
    use_the_static_handle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_handle_works_in_a_test_on_a_multi_thread_runtime() {
    tokio::spawn(use_the_static_handle()).await.unwrap();
}

#[test]
fn a_handle_outlives_the_runtime_that_made_it() {
    let dir = disk_dir();
    let file = file(&dir);
    let first = current_thread();
    let (context, handle) = first.block_on(async { builder().build() }).unwrap();
    first.block_on(read_all(&handle, &file));
    // A request that is in flight when its runtime ends.
    let mut poll = Box::pin(endless(&handle));
    first.block_on(async {
        assert!(futures::poll!(poll.as_mut()).is_pending());
    });
    drop(first);
    assert_eq!(handle.available_slots(), Some(SLOTS - 1));
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(with_hang_guard(read_all(&handle, &file)));
    }
    drop(poll);
    bounded(move || block_on(context.close()));
    assert_eq!(handle.available_slots(), None);
}

#[test]
fn operations_complete_on_every_shard_of_one_thread() {
    let dir = disk_dir();
    let file = file(&dir);
    bounded(move || {
        let (context, handle) = builder().shards(3).build().unwrap();
        block_on(read_all(&handle, &file));
        assert_eq!(handle.metrics().completed, READS);
        assert_eq!(handle.available_slots(), Some(SLOTS));
        block_on(context.close());
    });
}

#[test]
fn unaligned_transfers_use_the_blocking_pool_of_the_context_outside_a_runtime() {
    for dir in test_dirs() {
        let file = file(&dir);
        for &backend in BACKENDS {
            let (context, handle) = builder().backend(backend).build().unwrap();
            let file = file.clone();
            bounded(move || {
                block_on(async {
                    // A new `File`: nothing is known about its alignment.
                    let file = File::from_std(file.into_std().unwrap()).unwrap();
                    let handle = handle.with_timeout(HANG);
                    let none = WriteFlags::empty();
                    let at = READS * LEN + 5; // past the end: through the page cache
                    file.write_bytes_at(&handle, at, b"hello", none)
                        .await
                        .unwrap();
                    file.write_bytes_at(&handle, 3, b"there", none)
                        .await
                        .unwrap();
                    for (at, expected) in [(at, b"hello"), (3, b"there")] {
                        let mut bytes = [0; 5];
                        let read = file.read_bytes_at(&handle, at, &mut bytes, ReadFlags::empty());
                        assert_eq!(read.await.unwrap(), 5);
                        assert_eq!(&bytes, expected);
                    }
                    context.close().await;
                    let file = File::from_std(file.into_std().unwrap()).unwrap();
                    let late = file.write_bytes_at(&handle, 3, b"there", none).await;
                    assert!(matches!(late, Err(AioCommandError::AioStopped)), "{late:?}");
                });
            });
        }
    }
}

// ---- Deadlines ---------------------------------------------------------------------------------

#[test]
fn an_operation_times_out_outside_a_runtime() {
    for &backend in BACKENDS {
        let (context, handle) = builder().backend(backend).build().unwrap();
        bounded(move || {
            let limited = handle.with_timeout(Duration::from_millis(5));
            let timed_out = block_on(endless(&limited));
            assert!(
                matches!(timed_out, Err(AioCommandError::TimedOut)),
                "{timed_out:?}"
            );
            let limited = handle.with_deadline(Instant::now() + Duration::from_millis(5));
            let timed_out = block_on(endless(&limited));
            assert!(
                matches!(timed_out, Err(AioCommandError::TimedOut)),
                "{timed_out:?}"
            );
            block_on(context.close());
        });
    }
}

#[test]
fn an_operation_times_out_in_a_runtime_without_a_timer() {
    let (context, handle) = builder().build().unwrap();
    bounded(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let limited = handle.with_timeout(Duration::from_millis(5));
        let timed_out = runtime.block_on(endless(&limited));
        assert!(
            matches!(timed_out, Err(AioCommandError::TimedOut)),
            "{timed_out:?}"
        );
        runtime.block_on(context.close());
    });
}

#[test]
fn a_paused_clock_does_not_time_out_a_read() {
    let dir = disk_dir();
    let file = file(&dir);
    let (context, handle) = builder().build().unwrap();
    bounded(move || {
        current_thread().block_on(async {
            tokio::time::pause();
            let handle = handle.with_timeout(Duration::from_secs(3600));
            let mut bytes = buffer(READS as usize * BLOCK);
            let len = READS * LEN;
            let read = file.read_exact_at(&handle, 0, &mut bytes, len, ReadFlags::empty());
            read.await.unwrap();
            context.close().await;
        });
    });
}

#[test]
fn a_paused_clock_that_was_advanced_changes_no_timeout() {
    let dir = disk_dir();
    let file = file(&dir);
    let (context, handle) = builder().build().unwrap();
    bounded(move || {
        current_thread().block_on(async {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(7200)).await;
            let limited = handle.with_timeout(Duration::from_millis(5));
            let (reader, _writer) = UnixStream::pair().unwrap();
            let mut batch = limited.batch();
            let events = PollEvents::IN;
            batch.push_fd(&reader, tokio_kaio::RawCommand::Poll { events });
            let timed_out = &batch.all().await[0];
            assert!(
                matches!(timed_out, Err(AioCommandError::TimedOut)),
                "{timed_out:?}"
            );
            // Takes two requests, and looks at the clock before the second.
            let patient = handle.with_timeout(Duration::from_secs(3600));
            file.set_len(1100 * LEN).await.unwrap();
            let buffers: Vec<_> = (0..1100).map(|_| buffer(BLOCK)).collect();
            let flags = ReadFlags::empty();
            let read = file.read_vectored_owned_at(&patient, 0, buffers, flags);
            assert_eq!(read.await.0.unwrap(), 1100 * LEN);
            context.close().await;
        });
    });
}

#[test]
fn the_polls_of_a_batch_time_out_outside_a_runtime() {
    let (context, handle) = builder().build().unwrap();
    bounded(move || {
        let limited = handle.with_timeout(Duration::from_millis(5));
        let (reader, _writer) = UnixStream::pair().unwrap();
        let mut batch = limited.batch();
        for _ in 0..3 {
            let events = PollEvents::IN;
            batch.push_fd(&reader, tokio_kaio::RawCommand::Poll { events });
        }
        for timed_out in block_on(batch.all()) {
            assert!(
                matches!(timed_out, Err(AioCommandError::TimedOut)),
                "{timed_out:?}"
            );
        }
        block_on(context.close());
    });
}

#[test]
fn a_timer_outlives_the_thread_of_its_context() {
    let (context, handle) = builder().build().unwrap();
    bounded(move || {
        let limited = handle.with_timeout(Duration::from_secs(3600));
        let mut poll = pin!(endless(&limited));
        assert!(poll_once(poll.as_mut()).is_pending(), "it has a timer now");
        block_on(context.close());
        assert!(matches!(block_on(poll), Err(AioCommandError::AioStopped)));
    });
}

#[test]
fn streams_need_no_runtime() {
    let dir = disk_dir();
    let file = file(&dir);
    let (context, handle) = builder().build().unwrap();
    bounded(move || {
        block_on(async {
            let mut reader = file.reader(&handle);
            assert_eq!(
                reader.seek(SeekFrom::End(-1)).await.unwrap(),
                READS * LEN - 1
            );
            reader.rewind().await.unwrap();
            let copy = File::create_blocking(dir.path().join("copy"), false).unwrap();
            let mut writer = copy.writer(&handle).with_allocation(2 * READS * LEN);
            let copied = tokio::io::copy_buf(&mut reader, &mut writer).await.unwrap();
            writer.write_all(b"an edge").await.unwrap();
            assert_eq!(writer.finish().await.unwrap(), copied + 7);
            context.close().await;
        });
        let read = |name| fs::read(dir.path().join(name)).unwrap();
        assert!(read("copy").starts_with(&read("data")) && read("copy").ends_with(b"an edge"));
    });
}

#[test]
fn a_stream_outside_a_runtime_fails_once_the_context_has_ended() {
    let dir = disk_dir();
    let file = file(&dir);
    let (context, handle) = builder().build().unwrap();
    bounded(move || {
        block_on(context.close());
        let error = block_on(file.reader(&handle).read_u8()).unwrap_err();
        assert!(
            error.to_string().contains("the AIO context has ended"),
            "{error}"
        );
        let error = block_on(file.writer(&handle).write_all(&[0; 4096])).unwrap_err();
        assert!(
            error.to_string().contains("the AIO context has ended"),
            "{error}"
        );
    });
}

// ---- The end -----------------------------------------------------------------------------------

#[test]
fn closing_outside_a_runtime_releases_the_thread_and_all_descriptors() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let file = file(&dir);
    let first = builder().build_detached().unwrap(); // what a process keeps of its first runtime
    bounded(move || block_on(first.closed())); // the thread has its name now
    block_until(|| driver_threads() == 0, threads);
    let before = open_resources();
    for &backend in BACKENDS {
        for round in 0..20 {
            let (context, handle) = builder().backend(backend).shards(2).build().unwrap();
            block_until(|| driver_threads() == 1, threads); // it takes its name when it runs
            let policy = [SubmitPolicy::Offload, SubmitPolicy::Inline][round % 2];
            file.set_submit_policy(Some(policy));
            block_on(read_all(&handle, &file));
            block_on(context.close());
            // The descriptors are closed before `close` returns, except that of a thread that still hands
            // over its result.
            block_until(|| is_released(before), open_resources);
        }
    }
    block_until(|| driver_threads() == 0, threads);
}

#[test]
fn dropping_the_context_stops_its_polls_and_ends_the_thread() {
    if !in_child!() {
        return;
    }
    let before = open_resources();
    let (context, handle) = builder().build().unwrap();
    let waiting = {
        let handle = handle.clone();
        thread::spawn(move || block_on(endless(&handle)))
    };
    block_until(|| handle.metrics().in_flight == 1, || handle.metrics());
    drop(context);
    let stopped = waiting.join().unwrap();
    assert!(
        matches!(stopped, Err(AioCommandError::AioStopped)),
        "{stopped:?}"
    );
    bounded(move || block_on(handle.closed()));
    block_until(|| driver_threads() == 0 && is_released(before), threads);
}

#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "Plain submits a read of an empty pipe inline, where it blocks"
)]
fn closing_gives_up_after_its_time_limit_outside_a_runtime() {
    if !is_kernel_aio_build() {
        return; // preadv2 refuses pipes
    }
    let (reader, mut writer) = pipe();
    let builder = builder().submit_policy(SubmitPolicy::Offload);
    let (context, handle) = builder.build().unwrap();
    bounded(move || {
        // A read of an empty pipe occupies its thread until something is written.
        let mut bytes = buffer(BLOCK);
        let command = tokio_kaio::RawCommand::Pread {
            offset: 0,
            buffer: &mut bytes,
            flags: ReadFlags::empty(),
            len: 1,
        };
        let mut read = pin!(handle.submit_request(&reader, command));
        assert!(poll_once(read.as_mut()).is_pending());
        block_until(
            || handle.metrics().waiting_for_thread == 0,
            || handle.metrics(),
        );
        let error = block_on(context.close_timeout(Duration::from_millis(5))).unwrap_err();
        assert_eq!(error.in_flight(), 1);
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        assert_eq!(block_on(read).unwrap(), 1);
        block_on(handle.clone().closed());
    });
}

#[test]
fn a_panicking_waker_does_not_end_the_thread() {
    struct Panics(AtomicBool);
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
            panic!("a waker of the test");
        }
    }
    let (context, handle) = builder().build().unwrap();
    bounded(move || {
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let mut poll = pin!(handle.poll(&reader, PollEvents::IN));
        let panics = Arc::new(Panics(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&panics));
        assert!(poll_with(poll.as_mut(), &waker).is_pending());
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        block_until(|| panics.0.load(Ordering::Acquire), || "not woken"); // on the context's thread
        let mut second = pin!(handle.poll(&reader, PollEvents::IN));
        assert_eq!(block_on(second.as_mut()).unwrap(), PollEvents::IN);
        assert_eq!(block_on(poll).unwrap(), PollEvents::IN);
        block_on(context.close());
    });
}

#[test]
fn a_waker_that_panics_at_its_deadline_does_not_end_the_thread() {
    struct Panics(AtomicBool);
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
            panic!("a waker that panics, on purpose");
        }
    }
    let dir = disk_dir();
    let file = file(&dir);
    let (context, handle) = builder().build().unwrap();
    let panics = Arc::new(Panics(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&panics));
    let limited = handle.with_timeout(Duration::from_millis(5));
    let start = Instant::now();
    let _waits = loop {
        let mut poll = Box::pin(endless(&limited));
        match poll_with(poll.as_mut(), &waker) {
            Poll::Pending => break poll,
            // This thread was delayed: the operation has timed out in its first poll.
            Poll::Ready(result) => {
                assert!(
                    matches!(result, Err(AioCommandError::TimedOut)),
                    "{result:?}"
                );
                assert!(
                    start.elapsed() < HANG,
                    "each operation times out in its first poll"
                );
            }
        }
    };
    block_until(|| panics.0.load(Ordering::SeqCst), threads);
    bounded(move || {
        block_on(read_all(&handle, &file));
        block_on(context.close());
    });
}

#[test]
fn a_forked_child_gets_errors_and_does_not_harm_the_parent() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let file = file(&dir);
    let handle = builder().build_detached().unwrap();
    block_on(read_all(&handle, &file));
    let limited = handle.with_timeout(Duration::from_secs(3600));
    let mut poll = Some(Box::pin(endless(&limited)));
    assert!(poll_once(poll.as_mut().unwrap().as_mut()).is_pending());
    let code = forked(|| {
        let mut bytes = [0; 3];
        let read = block_on(file.read_bytes_at(&limited, 0, &mut bytes, ReadFlags::empty()));
        let refused = read.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL));
        let stopped = handle.available_slots().is_none();
        drop(poll.take()); // with its timer
        let last = handle.clone();
        drop(last);
        i32::from(!(refused && stopped))
    });
    assert_eq!(code, 0, "the child got another result");
    drop(poll);
    drop(limited);
    bounded(move || {
        block_on(read_all(&handle, &file));
        block_on(handle.closed());
    });
}

#[test]
fn a_context_whose_thread_cannot_be_started_says_so_and_leaks_nothing() {
    if !in_child!() {
        return;
    }
    let before = open_resources();
    if !forbid_threads() {
        return;
    }
    // Also inside a runtime, where a runtime must not be dropped in the ordinary way.
    let runtime = current_thread();
    for in_runtime in [false, true] {
        let made = match in_runtime {
            true => runtime.block_on(async { builder().build() }),
            false => builder().build(),
        };
        let error = made.unwrap_err();
        assert!(matches!(error, AioContextError::IoSetup(_)), "{error:?}");
        let text = error.to_string();
        for part in ["own thread", "os error 11", "ulimit -u", "pids.max"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("aio-max-nr"), "{text}");
    }
    drop(runtime);
    allow_threads();
    block_until(|| is_released(before), open_resources);
    let handle = builder().build_detached().unwrap();
    bounded(move || block_on(handle.closed()));
}

#[test]
fn a_context_without_a_descriptor_for_its_thread_says_how_to_get_more() {
    if !in_child!() {
        return;
    }
    set_limit(libc::RLIMIT_NOFILE, 0);
    let text = builder().build().unwrap_err().to_string();
    for part in ["own thread", "os error 24", "ulimit -n", "LimitNOFILE="] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

// ---- Detached ----------------------------------------------------------------------------------

#[test]
fn a_detached_context_ends_with_the_last_handle_of_any_kind() {
    bounded(|| {
        let handle = builder().build_detached().unwrap();
        let derived = handle.with_timeout(Duration::from_secs(60)).clone();
        let watcher = thread::spawn({
            let (context, other) = builder().build().unwrap();
            drop(context);
            move || block_on(other.closed())
        });
        drop(handle);
        assert_eq!(
            derived.available_slots(),
            Some(SLOTS),
            "a derived handle keeps it"
        );
        watcher.join().unwrap();
        block_on(derived.closed());
    });
}

#[test]
fn a_detached_context_serves_an_owned_batch_after_its_last_handle_was_dropped() {
    let dir = disk_dir();
    let file = file(&dir);
    bounded(move || {
        let handle = builder().build_detached().unwrap();
        let mut batch = handle.owned_batch();
        for block in 0..READS {
            batch.read(&file, block * LEN, buffer(BLOCK));
        }
        drop(handle);
        let results: Vec<_> = block_on(batch.stream().collect());
        assert_eq!(results.len(), READS as usize);
        for (block, read, bytes) in results {
            assert_eq!(read.unwrap(), LEN);
            assert!(is_pattern(block as u64, &bytes));
        }
    });
}

#[tokio::test]
async fn a_context_of_the_current_runtime_can_be_detached_too() {
    let dir = disk_dir();
    let file = patterned_file(&dir, READS).await;
    let handle = AioContextBuilder::new(SLOTS).build_detached().unwrap();
    let clone = handle.clone();
    with_hang_guard(read_all(&handle, &file)).await;
    drop(handle);
    with_hang_guard(read_all(&clone, &file)).await;
    with_hang_guard(clone.closed()).await;
}

#[tokio::test]
async fn a_detached_handle_has_the_buffers_of_its_builder() {
    let pool = SizeClassPool::new(1 << 20).unwrap();
    let builder = AioContextBuilder::new(SLOTS).buffers(&pool);
    let handle = builder.build_detached().unwrap();
    let held = handle.buffers().try_get(BLOCK).unwrap();
    assert!(pool.available() < 1 << 20);
    drop(held);
    with_hang_guard(handle.closed()).await;
}

#[tokio::test]
async fn a_local_context_can_be_detached_too() {
    let (context, plain, background) = tokio_kaio::local_aio_context(SLOTS, true).unwrap();
    let kept = context.detach();
    let last = kept.clone();
    drop(kept);
    assert_eq!(plain.available_slots(), Some(SLOTS));
    drop(last);
    assert_eq!(
        plain.available_slots(),
        None,
        "a handle from before does not keep it"
    );
    with_hang_guard(background).await.unwrap();
}

#[test]
fn the_last_handle_may_be_dropped_in_a_task_of_a_runtime_that_ends() {
    bounded(|| {
        let handle = builder().build_detached().unwrap();
        let watch = handle.with_timeout(Duration::from_secs(60));
        let runtime = current_thread();
        let (started, has_started) = mpsc::channel();
        runtime.spawn(async move {
            let mut poll = pin!(endless(&handle));
            assert!(futures::poll!(poll.as_mut()).is_pending());
            started.send(()).unwrap();
            let _ = poll.await;
        });
        runtime.block_on(tokio::task::yield_now());
        has_started.recv().unwrap();
        drop(runtime); // drops the task
        let free = || watch.available_slots();
        block_until(|| free() == Some(SLOTS), free); // the poll was cancelled
        block_on(watch.closed());
    });
}
