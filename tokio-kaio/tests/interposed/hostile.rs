//! What a program may do to a context: wakers that panic or reenter the context, pools without a
//! free thread, runtimes that shut down under others' requests, handles that stay. Nothing hangs,
//! gets lost, or spins.
#![allow(unsafe_code)] // makes a waker, stands before `pthread_create`, asks for the CPU's clock

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::fs;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::interposer::{Gate, WatchedFile, random, signals};
use futures::executor;
use futures::future::join_all;
use futures::poll;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_blocking, spawn_local, yield_now};
use tokio::time::timeout;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, Backend, File, LocalAioContextHandle,
    LockedBuf, PollEvents, ReadFlags, aio_context, local_aio_context,
};

const BLOCKS: u64 = 64;

fn threads(workers: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap()
}

/// Polls `future` once with `waker`.
fn poll_once<F: Future + ?Sized>(future: &mut Pin<Box<F>>, waker: &Waker) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(waker))
}

// ---- Slots ------------------------------------------------------------------------------------

/// All slots are occupied, by requests that take long.
async fn busy_slots(dir: &TempDir, (backend, policy): Mode, waits: bool) {
    const SLOTS: usize = 3;
    let mode = (backend, policy);
    let file = patterned_file(dir, BLOCKS).await;
    let before = open_resources();
    let builder = AioContextBuilder::new(SLOTS)
        .backend(backend)
        .submit_policy(policy)
        .wait_for_slot(waits);
    let (context, handle) = builder.build().unwrap();
    let (other, other_handle) = context_in(mode, SLOTS);
    yield_now().await;

    let gate = Gate::closed();
    let mut targets = [(); SLOTS].map(|()| buffer(BLOCK));
    let mut busy: Vec<_> = targets
        .iter_mut()
        .map(|target| Box::pin(read_block(&handle, &file, gate.offset(), target)))
        .collect();
    for read in &mut busy {
        assert!(poll!(read).is_pending());
    }
    let mut more: Vec<_> = (0..8).map(|_| buffer(BLOCK)).collect();
    let mut waiting: Vec<_> = (0..)
        .zip(&mut more)
        .map(|(i, target)| Box::pin(read_block(&handle, &file, i * LEN, target)))
        .collect();
    if waits {
        for read in &mut waiting {
            assert!(poll!(read).is_pending());
        }
        drop(waiting.pop()); // gives up
        let out = || handle.metrics().in_flight;
        wait_until(|| out() == SLOTS, out).await;
        for _ in 0..200 {
            yield_now().await;
        }
        for read in &mut waiting {
            assert!(poll!(read).is_pending(), "{mode:?}");
        }
        assert_eq!(handle.available_slots(), Some(0));
        let metrics = handle.metrics();
        assert_eq!(
            (metrics.in_flight, metrics.queued),
            (SLOTS, 7),
            "{metrics:?}"
        );
        assert_eq!(metrics.found_full, 8);
    } else {
        for read in waiting.drain(..) {
            let full = with_hang_guard(read).await;
            assert!(
                matches!(full, Err(AioCommandError::CapacityExceeded)),
                "{full:?}"
            );
        }
        assert_eq!(handle.metrics().found_full, 8);
    }
    // A context with free slots goes on.
    let mut target = buffer(BLOCK);
    let beside = read_block(&other_handle, &file, 9 * LEN, &mut target);
    assert_eq!(with_hang_guard(beside).await.unwrap(), LEN);
    assert!(is_pattern(9, target.as_ref()));

    gate.open();
    for read in busy {
        with_hang_guard(read).await.unwrap();
    }
    for read in waiting {
        assert_eq!(with_hang_guard(read).await.unwrap(), LEN);
    }
    for (i, bytes) in (0..7).zip(&more) {
        assert_eq!(is_pattern(i, bytes.as_ref()), waits, "{mode:?}: block {i}");
    }
    if waits {
        assert_idle(&handle, SLOTS).await;
    }
    with_hang_guard(read_block(&handle, &file, LEN, &mut target))
        .await
        .unwrap();
    assert!(is_pattern(1, target.as_ref()));
    with_hang_guard(context.close()).await;
    with_hang_guard(other.close()).await;
    drop(gate);
    wait_until(|| is_released(before), open_resources).await;
}

#[test]
fn slots_held_for_long_block_no_other_context_and_come_back() {
    if !in_child!() {
        return;
    }
    for dir in test_dirs() {
        for (mode, waits) in modes().flat_map(|mode| [(mode, true), (mode, false)]) {
            threads(2).block_on(busy_slots(&dir, mode, waits));
            current_thread().block_on(busy_slots(&dir, mode, waits));
        }
    }
}

// ---- Wakers -----------------------------------------------------------------------------------

/// Counts, and panics.
#[derive(Default)]
struct Bomb(AtomicUsize);

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a waker panics, as it is meant to");
    }
}

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Two panicking wakers around one that does not panic, and one queued request, which needs the
/// driver.
async fn bombs(dir: &TempDir) {
    let file = patterned_file(dir, BLOCKS).await;
    let (context, handle) = aio_context(3, true).unwrap();
    yield_now().await;
    for _ in 0..20 {
        let gate = Gate::closed();
        let (bomb, counter) = (Arc::new(Bomb::default()), Arc::new(Counter::default()));
        let bombed = Waker::from(Arc::clone(&bomb));
        let counted = Waker::from(Arc::clone(&counter));
        let mut targets = [(); 3].map(|()| buffer(BLOCK));
        let mut held: Vec<_> = targets
            .iter_mut()
            .map(|target| Box::pin(read_block(&handle, &file, gate.offset(), target)))
            .collect();
        for (read, waker) in held.iter_mut().zip([&bombed, &counted, &bombed]) {
            assert!(poll_once(read, waker).is_pending());
        }
        let mut target = buffer(BLOCK);
        let mut waiting = Box::pin(read_block(&handle, &file, LEN, &mut target));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(handle.available_slots(), Some(0));
        wait_until(|| gate.waiting().len() == 3, || gate.waiting()).await;

        gate.open();
        assert_eq!(with_hang_guard(waiting).await.unwrap(), LEN);
        assert!(is_pattern(1, target.as_ref()));
        let woken = || {
            (
                bomb.0.load(Ordering::SeqCst),
                counter.0.load(Ordering::SeqCst),
            )
        };
        wait_until(|| woken() == (2, 1), woken).await;
        for read in &mut held {
            let Poll::Ready(done) = poll_once(read, Waker::noop()) else {
                panic!("it was woken")
            };
            assert_eq!(done.unwrap(), 1);
        }
        wait_all_free(&handle, 3).await;
    }
    with_hang_guard(context.close()).await;
}

#[test]
fn a_panicking_waker_harms_only_its_own_request() {
    let dir = disk_dir();
    current_thread().block_on(bombs(&dir));
    threads(2).block_on(bombs(&dir));
}

/// Its clone is what panics.
fn unclonable() -> Waker {
    fn panics(_: *const ()) -> RawWaker {
        panic!("a clone panics, as it is meant to");
    }
    fn nothing(_: *const ()) {}
    static VTABLE: RawWakerVTable = RawWakerVTable::new(panics, nothing, nothing, nothing);
    // SAFETY: the functions do nothing with the pointer.
    unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &VTABLE)) }
}

#[test]
fn a_poll_whose_waker_panics_on_clone_is_cancelled() {
    for mode in modes() {
        threads(2).block_on(async {
            let (context, handle) = context_in(mode, 1);
            let (reader, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
            let mut waiting = Box::pin(handle.poll(&reader, PollEvents::IN));
            assert!(poll!(&mut waiting).is_pending());
            let bad = unclonable();
            let looked = catch_unwind(AssertUnwindSafe(|| poll_once(&mut waiting, &bad)));
            assert!(looked.is_err(), "{mode:?}");
            drop(waiting);
            wait_all_free(&handle, 1).await;
            with_hang_guard(context.close()).await;
        });
    }
}

thread_local! {
    /// Clones that are left to the wakers of this thread.
    static CLONES: Cell<usize> = const { Cell::new(0) };
}

/// Can be cloned as long as there are clones left. Wakes what no other of them wakes.
fn clonable_for_now(number: usize) -> Waker {
    fn clones(number: *const ()) -> RawWaker {
        let left = CLONES.get();
        assert!(left > 0, "a clone panics, as it is meant to");
        CLONES.set(left - 1);
        RawWaker::new(number, &VTABLE)
    }
    fn nothing(_: *const ()) {}
    static VTABLE: RawWakerVTable = RawWakerVTable::new(clones, nothing, nothing, nothing);
    let number = std::ptr::without_provenance(number);
    // SAFETY: the functions do nothing with the pointer.
    unsafe { Waker::from_raw(RawWaker::new(number, &VTABLE)) }
}

type Reading<'a> = Pin<Box<dyn Future<Output = Result<(), AioCommandError>> + 'a>>;
/// A read of a file, at an offset, into one or both of two buffers.
type Reads = for<'a> fn(&'a AioContextHandle, &'a File, u64, &'a mut [LockedBuf; 2]) -> Reading<'a>;

/// Whichever clone of its waker panics.
#[test]
fn a_read_whose_waker_panics_on_clone_leaves_the_buffers_their_size() {
    const SIZE: usize = 3 * BLOCK;
    const READ: ReadFlags = ReadFlags::empty();
    let reads: [Reads; 3] = [
        |handle, file, at, [first, _]| {
            let read = file.read_at(handle, at, first, SIZE as u64, READ);
            Box::pin(async { read.await.map(drop) })
        },
        |handle, file, at, [first, _]| {
            Box::pin(file.read_exact_at(handle, at, first, SIZE as u64, READ))
        },
        |handle, file, at, both| {
            Box::pin(async move {
                let mut parts = both.each_mut().map(|buffer| buffer.part_mut(..));
                let read = file.read_vectored_at(handle, at, &mut parts, READ);
                read.await.map(drop)
            })
        },
    ];
    let dir = disk_dir();
    for (mode, read) in modes().flat_map(|mode| reads.map(|read| (mode, read))) {
        threads(2).block_on(with_hang_guard(async {
            let (context, handle) = context_in(mode, 1);
            let file = patterned_file(&dir, BLOCKS).await;
            let watched = WatchedFile::new(&file);
            watched.shorten_to(BLOCK); // what has to be whole takes several requests
            // In flight for certain, and done soon.
            for held in [true, false] {
                for clones in 0.. {
                    let gate = Gate::closed();
                    let offset = if held { gate.offset() } else { 0 };
                    let mut buffers = [buffer(SIZE), buffer(SIZE)];
                    let mut reading = read(&handle, &file, offset, &mut buffers);
                    CLONES.set(clones);
                    let mut polls = 0;
                    let panicked = loop {
                        polls += 1;
                        let waker = clonable_for_now(polls);
                        match catch_unwind(AssertUnwindSafe(|| poll_once(&mut reading, &waker))) {
                            Err(_) => break true,
                            Ok(Poll::Ready(done)) => {
                                done.unwrap();
                                break false;
                            }
                            Ok(Poll::Pending) if polls % 2 == 0 => {
                                tokio::time::sleep(Duration::from_millis(1)).await;
                            }
                            Ok(Poll::Pending) => {}
                        }
                    };
                    drop(reading);
                    let sizes = buffers.each_ref().map(LockedBuf::size);
                    assert_eq!(sizes, [SIZE; 2], "{mode:?}, after {clones} clones");
                    drop(gate);
                    wait_all_free(&handle, 1).await;
                    if !panicked || (held && clones == 3) {
                        break;
                    }
                }
            }
            with_hang_guard(context.close()).await;
        }));
    }
}

/// Completions are reaped by a poll of another request, by `available_slots`, by a drop.
#[test]
fn a_panicking_waker_does_not_harm_the_poll_that_reaps_its_completion() {
    Fixture::new(4)
        .blocks(BLOCKS)
        .start_driver()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            type Other<'a> = Pin<Box<dyn Future<Output = u64> + 'a>>;
            let finders: [fn(&AioContextHandle, &mut Other<'_>); 2] = [
                |handle, _| assert!(handle.available_slots().is_some()),
                |_, other| {
                    assert!(
                        other
                            .as_mut()
                            .poll(&mut Context::from_waker(Waker::noop()))
                            .is_pending()
                    )
                },
            ];
            for find in finders {
                let (gate, other_gate) = (Gate::closed(), Gate::closed());
                let mut targets = [buffer(BLOCK), buffer(BLOCK)];
                let [target, other_target] = &mut targets;
                let mut bombed = Box::pin(read_block(&handle, &file, gate.offset(), target));
                let bomb = Arc::new(Bomb::default());
                assert!(poll_once(&mut bombed, &Waker::from(Arc::clone(&bomb))).is_pending());
                let mut other: Other<'_> = Box::pin(async {
                    read_block(&handle, &file, other_gate.offset(), other_target)
                        .await
                        .unwrap()
                });
                assert!(poll!(&mut other).is_pending());
                let went = || gate.waiting().len() + other_gate.waiting().len();
                wait_until(|| went() == 2, went).await;
                gate.open();
                // The runtime gets no turn in between: its I/O driver would reap the completion
                // first.
                let start = Instant::now();
                while bomb.0.load(Ordering::SeqCst) == 0 {
                    let found = catch_unwind(AssertUnwindSafe(|| find(&handle, &mut other)));
                    assert!(found.is_ok(), "the panic is the waker's own");
                    assert!(start.elapsed() < HANG, "not woken");
                }
                assert!(matches!(
                    poll_once(&mut bombed, Waker::noop()),
                    Poll::Ready(Ok(1))
                ));
                other_gate.open();
                assert_eq!(other.await, 1);
                wait_all_free(&handle, 4).await;
            }
        });
}

thread_local! {
    static REENTERED: RefCell<Option<(LocalAioContextHandle, Rc<File>)>> =
        const { RefCell::new(None) };
    /// How often a waker has entered the context and left it.
    static ENTRIES: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// What the waker below does whenever anything is done to it.
fn reenter() {
    let Some((handle, file)) = REENTERED.with_borrow(Clone::clone) else {
        return;
    };
    ENTRIES.set((ENTRIES.get().0 + 1, ENTRIES.get().1));
    let _ = handle.available_slots();
    let mut target = buffer(BLOCK);
    let mut read = Box::pin(file.read_at(&handle, 0, &mut target, LEN, ReadFlags::empty()));
    let _ = poll_once(&mut read, Waker::noop());
    drop(read);
    ENTRIES.set((ENTRIES.get().0, ENTRIES.get().1 + 1));
}

/// A waker whose every function reenters the context of [`REENTERED`].
fn reentrant() -> Waker {
    const TABLE: &RawWakerVTable = &RawWakerVTable::new(
        |data| {
            reenter();
            RawWaker::new(data, TABLE)
        },
        |_| reenter(),
        |_| reenter(),
        |_| reenter(),
    );
    // SAFETY: there is no data, so nothing can be done to it that is wrong.
    unsafe { Waker::new(std::ptr::null(), TABLE) }
}

/// The lock of a local context panics if it is taken twice, so a waker that runs under it fails the
/// test.
#[test]
fn a_waker_may_reenter_its_context() {
    let dir = disk_dir();
    let local = LocalSet::new();
    local.block_on(&current_thread(), async {
        let (context, handle, background) = local_aio_context(2, true).unwrap();
        let background = spawn_local(background);
        let file = Rc::new(patterned_file(&dir, BLOCKS).await);
        REENTERED.set(Some((handle.clone(), Rc::clone(&file))));
        let free = || handle.available_slots();
        let read = |gate: &Gate| {
            let (handle, file, offset) = (handle.clone(), Rc::clone(&file), gate.offset());
            Box::pin(async move {
                let mut target = buffer(BLOCK);
                file.read_at(&handle, offset, &mut target, LEN, ReadFlags::empty())
                    .await
            })
        };
        /// Asserts that wakers have reentered, and that every call has returned.
        fn came_back() {
            let (entered, left) = ENTRIES.replace((0, 0));
            assert_eq!(entered, left);
            assert!(entered > 0);
        }

        // Woken.
        let gate = Gate::closed();
        let mut woken = read(&gate);
        assert!(poll_once(&mut woken, &reentrant()).is_pending());
        came_back();
        gate.open();
        wait_until(|| free() == Some(2), free).await;
        came_back();
        assert!(matches!(
            poll_once(&mut woken, &reentrant()),
            Poll::Ready(Ok(1))
        ));
        came_back();

        // Replaced by another one, and replacing it.
        let gate = Gate::closed();
        let waiting = || gate.waiting().len();
        let mut replaced = read(&gate);
        assert!(poll_once(&mut replaced, Waker::noop()).is_pending());
        wait_until(|| waiting() == 1, waiting).await;
        for waker in [&reentrant(), Waker::noop(), &reentrant(), &reentrant()] {
            assert!(poll_once(&mut replaced, waker).is_pending());
        }
        came_back();

        // Dropped: one in flight, one that waits for a slot.
        let mut beside = read(&gate);
        assert!(poll_once(&mut beside, &reentrant()).is_pending());
        wait_until(|| waiting() == 2, waiting).await;
        let mut queued = read(&gate);
        assert!(poll_once(&mut queued, &reentrant()).is_pending());
        came_back();
        drop(queued);
        came_back();
        drop(replaced);
        came_back();

        // Stopped with the context; the request in flight is served.
        let mut queued = read(&gate);
        assert!(poll_once(&mut queued, &reentrant()).is_pending());
        came_back();
        drop(context);
        came_back();
        let turned_away = poll_once(&mut queued, Waker::noop());
        assert!(matches!(
            turned_away,
            Poll::Ready(Err(AioCommandError::AioStopped))
        ));
        gate.open();
        with_hang_guard(background).await.unwrap().unwrap();
        came_back();
        assert!(matches!(
            poll_once(&mut beside, Waker::noop()),
            Poll::Ready(Ok(1))
        ));

        // Stopped with the context's future.
        let (_context, handle, background) = local_aio_context(1, true).unwrap();
        let mut background = Box::pin(background);
        assert!(poll!(&mut background).is_pending());
        REENTERED.set(Some((handle.clone(), Rc::clone(&file))));
        let gate = Gate::closed();
        let mut stopped = [(); 2].map(|()| {
            let (handle, file, offset) = (handle.clone(), Rc::clone(&file), gate.offset());
            Box::pin(async move {
                let mut target = buffer(BLOCK);
                file.read_at(&handle, offset, &mut target, LEN, ReadFlags::empty())
                    .await
            })
        });
        for read in &mut stopped {
            assert!(poll_once(read, &reentrant()).is_pending());
        }
        came_back();
        drop(background);
        came_back();
        for read in &mut stopped {
            assert!(matches!(
                poll_once(read, &reentrant()),
                Poll::Ready(Err(AioCommandError::AioStopped))
            ));
        }
        REENTERED.set(None);
    });
}

// ---- Threads ----------------------------------------------------------------------------------

thread_local! {
    /// Whether this thread can start others.
    static NO_THREADS: Cell<bool> = const { Cell::new(false) };
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;

/// Replaces the C library's function; fails as it does at a process limit.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    type Create = unsafe extern "C" fn(
        *mut libc::pthread_t,
        *const libc::pthread_attr_t,
        Start,
        *mut c_void,
    ) -> c_int;
    if NO_THREADS.get() {
        return libc::EAGAIN;
    }
    // SAFETY: what POSIX says that it takes.
    let real: Create = unsafe { real_function(c"pthread_create") };
    // SAFETY: the caller's arguments, passed on.
    unsafe { real(thread, attributes, start, argument) }
}

/// Makes enough inline requests for further ones to be submitted without an eventfd. That does not
/// always succeed: on several threads a request may seem not to complete inline.
async fn make_unsignalled(handle: &AioContextHandle, file: &File) {
    let gate = Gate::opened();
    let mut target = buffer(BLOCK);
    for nth in 1..=10 * FAST_REQUESTS {
        let read = read_block(handle, file, gate.offset(), &mut target);
        assert_eq!(read.await.unwrap(), 1);
        if nth % 1000 == 0 && gate.waiting().last() == Some(&None) {
            return;
        }
    }
    panic!(
        "{} requests that are done at once, each with a signal",
        10 * FAST_REQUESTS
    );
}

/// Opens `gate` from another thread, once its request is in flight. The thread returns whether the
/// request was submitted without an eventfd.
fn open_later(gate: &Arc<Gate>) -> thread::JoinHandle<bool> {
    let gate = Arc::clone(gate);
    thread::spawn(move || {
        let start = Instant::now();
        while gate.waiting().is_empty() && start.elapsed() < HANG {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20)); // so that all who wait are at rest
        gate.open();
        gate.waiting() == [None]
    })
}

/// The only blocking thread of the runtime waits for a request without an eventfd.
#[test]
#[cfg_attr(
    kaio_plain_policy,
    ignore = "needs a request without an eventfd; Plain signals each"
)]
fn an_unsignalled_slow_request_is_reaped_while_all_blocking_threads_wait_for_it() {
    if !is_kernel_aio_build() {
        return;
    }
    let dir = disk_dir();
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        builder
            .worker_threads(2)
            .max_blocking_threads(1)
            .enable_all();
        builder.build().unwrap().block_on(async {
            // Inline: offloaded, the request would need the thread that waits for it.
            let (context, handle) = inline_context(8);
            let file = Arc::new(patterned_file(&dir, BLOCKS).await);
            yield_now().await;
            retry_until(async || {
                make_unsignalled(&handle, &file).await;
                let gate = Arc::new(Gate::closed());
                let opener = open_later(&gate);
                let (handle, file) = (handle.clone(), Arc::clone(&file));
                let waits = spawn_blocking(move || {
                    let mut target = buffer(BLOCK);
                    executor::block_on(read_block(&handle, &file, gate.offset(), &mut target))
                        .unwrap()
                });
                assert_eq!(with_hang_guard(waits).await.unwrap(), 1);
                opener.join().unwrap().then_some(())
            })
            .await;
            assert_eq!(handle.available_slots(), Some(8));
            with_hang_guard(context.close()).await;
        });
    }
}

#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs a request without an eventfd; Plain and io_uring signal each"
)]
fn an_unsignalled_slow_request_is_reaped_when_no_thread_can_be_started() {
    let dir = disk_dir();
    // On another runtime: this one must have no idle blocking thread.
    let file = current_thread().block_on(patterned_file(&dir, BLOCKS));
    current_thread().block_on(async {
        let (context, handle) = inline_context(8); // offloaded, the request would need a thread
        yield_now().await;
        retry_until(async || {
            make_unsignalled(&handle, &file).await;
            let gate = Arc::new(Gate::closed());
            let opener = open_later(&gate);
            NO_THREADS.set(true);
            assert!(thread::Builder::new().spawn(|| ()).is_err());
            let mut target = buffer(BLOCK);
            let result =
                with_hang_guard(read_block(&handle, &file, gate.offset(), &mut target)).await;
            NO_THREADS.set(false);
            assert_eq!(result.unwrap(), 1);
            opener.join().unwrap().then_some(())
        })
        .await;
        with_hang_guard(context.close()).await;
    });
}

/// The wait for an unsignalled request does not depend on the runtime in whose poll it started.
#[test]
#[cfg_attr(
    any(kaio_plain_policy, kaio_force_uring),
    ignore = "needs a request without an eventfd; Plain and io_uring signal each"
)]
fn an_unsignalled_slow_request_is_reaped_after_the_submitting_runtime_is_gone() {
    let dir = disk_dir();
    let home = threads(1);
    let (context, handle) = home.block_on(async { inline_context(8) });
    let file = home.block_on(patterned_file(&dir, BLOCKS));
    let unsignalled = || {
        home.block_on(async {
            yield_now().await;
            make_unsignalled(&handle, &file).await;
        });
        let gate = Arc::new(Gate::closed());
        let mut target = buffer(BLOCK);
        let mut slow = Box::pin(read_block(&handle, &file, gate.offset(), &mut target));
        let other = current_thread();
        other.block_on(async { assert!(poll!(&mut slow).is_pending()) });
        drop(other);
        let opener = open_later(&gate);
        assert_eq!(home.block_on(with_hang_guard(slow)).unwrap(), 1);
        opener.join().unwrap()
    };
    executor::block_on(retry_until(async || unsignalled().then_some(())));
    home.block_on(with_hang_guard(context.close()));
}

/// The kernel takes a while to destroy a context, so that is done on another thread. If none can be
/// started, it is done on the thread at hand: otherwise the share of `fs.aio-max-nr` would be lost.
#[test]
fn a_context_closed_when_no_thread_can_be_started_ends_on_the_current_thread() {
    // By itself: it counts the rings of the process.
    if !in_child!() {
        return;
    }
    current_thread().block_on(async {
        let rings_before = rings();
        let (context, handle) = aio_context(8, true).unwrap();
        yield_now().await;
        let rings_while_open = rings();
        NO_THREADS.set(true);
        assert!(thread::Builder::new().spawn(|| ()).is_err());
        with_hang_guard(context.close()).await;
        assert_eq!(handle.available_slots(), None);
        assert_eq!(teardown_threads(), 0);
        // `fs.aio-nr` counts all programs. A context keeps its share exactly as long as its ring.
        assert_eq!(rings(), rings_before);
        if is_kernel_aio_build() {
            assert_eq!(rings_while_open, rings_before + 1);
        }
        // A dropped context ends so too, when its background task has seen it.
        let (context, handle) = aio_context(8, true).unwrap();
        yield_now().await;
        drop(context);
        wait_until(
            || handle.available_slots().is_none() && rings() == rings_before,
            rings,
        )
        .await;
        NO_THREADS.set(false);
    });
}

/// The background task is dropped when no thread can be started, and nothing polls the close at
/// that moment.
#[test]
fn a_close_on_another_runtime_ends_although_no_thread_could_be_started_at_first() {
    let dir = disk_dir();
    let home = current_thread();
    let (context, handle) = home.block_on(async {
        let made = aio_context(1, true).unwrap();
        yield_now().await;
        made
    });
    let file = home.block_on(open_rw(&dir, "gated"));
    let gate = Arc::new(Gate::closed());
    let mut target = buffer(BLOCK);
    let mut running = Box::pin(read_block(&handle, &file, gate.offset(), &mut target));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(running.as_mut().poll(&mut cx).is_pending());
    block_until(|| !gate.waiting().is_empty(), || gate.waiting());
    let (sender, receiver) = std::sync::mpsc::channel();
    let closing = thread::spawn(move || {
        current_thread().block_on(async {
            let mut close = Box::pin(context.close());
            assert!(poll!(&mut close).is_pending());
            sender.send(()).unwrap();
            with_hang_guard(close).await;
        });
    });
    receiver.recv().unwrap();
    let opener = open_later(&gate); // the end of the context waits for the read, on this thread
    NO_THREADS.set(true);
    home.shutdown_background(); // dropped, it would wait for a thread at the gate
    NO_THREADS.set(false);
    opener.join().unwrap();
    drop(running);
    closing.join().unwrap();
}

/// A waker that panics is called by the thread that tears its context down.
#[test]
fn panicking_wakers_of_a_close_do_not_keep_others_from_closing() {
    current_thread().block_on(async {
        let mut panicked = 0;
        for _ in 0..40 {
            let (context, _handle, background) = local_aio_context(1, true).unwrap();
            let mut close = Box::pin(context.close());
            let bomb = Arc::new(Bomb(AtomicUsize::new(0)));
            let waker = Waker::from(Arc::clone(&bomb));
            let polled = close.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_ready() {
                continue; // the teardown was faster than this thread
            }
            drop(background);
            let woken = || bomb.0.load(Ordering::SeqCst);
            wait_until(|| woken() > 0, woken).await;
            panicked += 1;
        }
        // `io_destroy` takes milliseconds.
        assert!(
            panicked > 0 || !is_kernel_aio_build(),
            "no waker has panicked"
        );
        let (context, _handle) = aio_context(1, true).unwrap();
        with_hang_guard(context.close()).await;
    });
}

/// Teardown threads of this process.
fn teardown_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .filter(|name| name.trim_end() == "kaio-teardown")
        .count()
}

/// Each context ends on a thread of its own, which ends with it.
#[test]
fn many_contexts_ending_at_once_leave_no_thread() {
    // By itself: other tests end contexts too.
    if !in_child!() {
        return;
    }
    current_thread().block_on(async {
        const CONTEXTS: usize = 200;
        let before = open_resources();
        let (contexts, handles): (Vec<_>, Vec<_>) =
            (0..CONTEXTS).map(|_| aio_context(1, true).unwrap()).unzip();
        yield_now().await;
        drop(contexts);
        let stopped = || {
            handles
                .iter()
                .filter(|handle| handle.available_slots().is_none())
        };
        wait_until(|| stopped().count() == CONTEXTS, || stopped().count()).await;
        let left = || (teardown_threads(), open_resources());
        wait_until(|| teardown_threads() == 0 && is_released(before), left).await;
        drop(handles);
    });
}

/// The pool has one thread, and always a request for it.
#[test]
fn other_blocking_tasks_run_between_requests() {
    Fixture::new(2)
        .build(|builder| builder.backend(Backend::ThreadPool).blocking_threads(1))
        .blocks(BLOCKS)
        .runtime(one_blocking_thread)
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let (first, second) = (Gate::closed(), Arc::new(Gate::closed()));
            let mut targets = [buffer(BLOCK), buffer(BLOCK)];
            let mut reads: Vec<_> = [first.offset(), second.offset()]
                .into_iter()
                .zip(&mut targets)
                .map(|(offset, target)| Box::pin(read_block(&handle, &file, offset, target)))
                .collect();
            for read in &mut reads {
                assert!(poll!(read).is_pending());
            }
            wait_until(|| first.waiting().len() == 1, || first.waiting()).await;
            // Behind the second read, it would wait for ever.
            let opener = Arc::clone(&second);
            let other = spawn_blocking(move || opener.open());
            tokio::time::sleep(Duration::from_millis(5)).await; // longer than a turn is
            first.open();
            let had_its_turn = timeout(HANG, other).await;
            second.open();
            had_its_turn.expect("it hangs").unwrap();
            for read in join_all(reads).await {
                assert_eq!(read.unwrap(), 1);
            }
        });
}

// ---- Slots ------------------------------------------------------------------------------------

/// More completions than one reap takes from the ring.
#[test]
fn available_slots_counts_every_completion() {
    if !is_kernel_aio_build() {
        return;
    }
    const REQUESTS: usize = 200;
    Fixture::new(256)
        .blocks(BLOCKS)
        .start_driver()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            for forgotten in [false, true] {
                let gate = Gate::closed();
                let mut targets: Vec<_> = (0..REQUESTS).map(|_| buffer(BLOCK)).collect();
                let mut held: Vec<_> = targets
                    .iter_mut()
                    .map(|target| Box::pin(read_block(&handle, &file, gate.offset(), target)))
                    .collect();
                for read in &mut held {
                    assert!(poll_once(read, Waker::noop()).is_pending());
                }
                wait_until(|| gate.waiting().len() == REQUESTS, || gate.waiting().len()).await;
                let eventfd = gate.waiting()[0].expect("none of these was done at once");
                assert!(gate.waiting().iter().all(|&e| e == Some(eventfd)));
                if forgotten {
                    held.into_iter().for_each(std::mem::forget);
                    held = Vec::new();
                }
                assert_eq!(handle.available_slots(), Some(256 - REQUESTS));

                let before = signals(eventfd);
                gate.open();
                // Each completion is in the ring before its signal. The runtime gets no turn in
                // between: its I/O driver would reap them.
                let start = Instant::now();
                while signals(eventfd) < before + REQUESTS as u64 {
                    assert!(start.elapsed() < HANG, "not done");
                    thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(handle.available_slots(), Some(256));
                for done in join_all(held).await {
                    assert_eq!(done.unwrap(), 1);
                }
            }
        });
}

// ---- Runtimes ---------------------------------------------------------------------------------

/// Open descriptors that are no files: eventfds, epolls, sockets.
fn open_anonymous() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let links = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let mut anonymous: Vec<_> = links
        .map(|link| link.display().to_string())
        .filter(|link| !link.starts_with('/'))
        .collect();
    anonymous.sort();
    anonymous
}

#[test]
fn the_handle_of_a_closed_context_keeps_no_descriptors_of_its_runtime() {
    if !in_child!() {
        return;
    }
    // What the process makes once and keeps.
    current_thread().block_on(async { aio_context(4, true).unwrap().0.close().await });
    for make in [current_thread, || threads(1)] {
        // A teardown thread wakes the closing task, and keeps its waker for a moment longer.
        let is_kept = |link: &String| !link.starts_with("anon_inode");
        block_until(|| open_anonymous().iter().all(is_kept), open_anonymous);
        let before = open_anonymous();
        let runtime = make();
        let (context, handle) = runtime.block_on(async { aio_context(4, true).unwrap() });
        runtime.block_on(async {
            yield_now().await;
            with_hang_guard(context.close()).await;
        });
        drop(runtime);
        block_until(|| open_anonymous() == before, open_anonymous);
        assert_eq!(handle.available_slots(), None);
    }
}

/// Reads until the context stops, and drops or forgets some reads.
async fn read_on(task: u64, handle: AioContextHandle, file: Arc<File>) -> u64 {
    let mut target = buffer(BLOCK);
    for turn in 0.. {
        let block = (task * 7 + turn) % BLOCKS;
        if turn % 5 == 0 {
            let mut given_up = Box::pin(read_block(&handle, &file, block * LEN, &mut target));
            let _ = poll!(&mut given_up);
            if turn % 2 == 0 {
                std::mem::forget(given_up);
                target = buffer(BLOCK);
            }
        }
        match read_block(&handle, &file, block * LEN, &mut target).await {
            Ok(read) => assert_eq!(read, LEN),
            Err(AioCommandError::AioStopped) => {
                assert_eq!(target.size(), BLOCK);
                return turn;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(is_pattern(block, target.as_ref()));
    }
    unreachable!()
}

#[test]
fn a_runtime_shutdown_stops_requests_of_other_runtimes_and_leaks_nothing() {
    if !in_child!() {
        return;
    }
    const TASKS: u64 = 12;
    let client = threads(2);
    let mut turns = 0;
    for dir in test_dirs() {
        let file = Arc::new(client.block_on(patterned_file(&dir, BLOCKS)));
        for round in 0..30 {
            let runtime = threads(1 + round % 2);
            let slots = if round % 3 == 0 { 2 } else { 16 };
            let (context, handle) = runtime.block_on(async {
                let builder = AioContextBuilder::new(slots).max_batch(4);
                builder.build().unwrap()
            });
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| client.spawn(read_on(task, handle.clone(), Arc::clone(&file))))
                .collect();
            if round == 0 {
                // Until its first turn has ended, a task makes one read that it gives up.
                let completed = || handle.metrics().completed;
                block_until(|| completed() > TASKS, completed);
            }
            thread::sleep(Duration::from_micros(random() % 3000));
            if round % 5 == 0 {
                drop(context);
                runtime.shutdown_background();
            } else {
                runtime.shutdown_background();
                drop(context);
            }
            for task in client.block_on(with_hang_guard(join_all(tasks))) {
                turns += task.unwrap();
            }
        }
        block_until(|| rings() == 0, rings);
    }
    assert!(turns > 0, "no task has ever read anything");
}

// ---- Spinning ---------------------------------------------------------------------------------

/// CPU time of all threads of the process.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes to a structure of ours.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(code, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Waits for a while in which nothing runs. What was just started may take a while to settle; a spinning thread
/// never does.
async fn rest(what: &str) {
    const ATTEMPTS: usize = 10;
    for _ in 0..ATTEMPTS {
        let (wall, cpu) = (Instant::now(), cpu_time());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (wall, cpu) = (wall.elapsed(), cpu_time() - cpu);
        println!("{what}: {cpu:?} of {wall:?}");
        if cpu * 10 < wall {
            return;
        }
    }
    panic!("{what}: no rest in {ATTEMPTS} attempts");
}

async fn long_waits(dir: &TempDir) {
    let file = Arc::new(patterned_file(dir, BLOCKS).await);
    let (context, handle) = aio_context(2, true).unwrap();
    yield_now().await;
    let spawn = |gate: &Gate| {
        let (handle, file, offset) = (handle.clone(), Arc::clone(&file), gate.offset());
        tokio::spawn(async move {
            let mut target = buffer(BLOCK);
            read_block(&handle, &file, offset, &mut target)
                .await
                .unwrap()
        })
    };
    rest("an idle context").await;

    let gate = Gate::closed();
    let slow = spawn(&gate);
    rest("a request in flight").await;
    let others: Vec<_> = (0..8).map(|_| spawn(&gate)).collect();
    rest("requests that wait for a slot").await;
    gate.open();
    for read in others.into_iter().chain([slow]) {
        assert_eq!(with_hang_guard(read).await.unwrap(), 1);
    }

    if !cfg!(any(kaio_plain_policy, kaio_force_uring)) {
        retry_until(async || {
            make_unsignalled(&handle, &file).await;
            let gate = Gate::closed();
            let slow = spawn(&gate);
            rest("a request without an eventfd").await;
            gate.open();
            assert_eq!(with_hang_guard(slow).await.unwrap(), 1);
            (gate.waiting() == [None]).then_some(())
        })
        .await;
    }

    let gate = Gate::closed();
    let slow = spawn(&gate);
    wait_until(|| gate.waiting().len() == 1, || gate.waiting()).await;
    let close = tokio::spawn(context.close());
    rest("a context that is being closed").await;
    assert!(!close.is_finished());
    gate.open();
    assert_eq!(with_hang_guard(slow).await.unwrap(), 1);
    with_hang_guard(close).await.unwrap();
}

#[test]
fn nothing_spins_while_requests_take_long() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    current_thread().block_on(long_waits(&dir));
    threads(2).block_on(long_waits(&dir));
}
