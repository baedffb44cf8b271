//! What a program may do to a context, meaning harm or not: wakers that panic or come back into
//! the context, threads that are all busy or can't be had, runtimes that go under those that
//! submit, handles that stay. Nothing hangs, gets lost, or spins.
#![allow(unsafe_code)] // makes a waker, stands before `pthread_create`, asks for the CPU's clock

mod common;
#[path = "common/interposed.rs"]
mod interposed;

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

use common::*;
use futures::executor;
use futures::future::join_all;
use futures::poll;
use interposed::{Gate, Watched, random, signals};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_blocking, spawn_local, yield_now};
use tokio::time::timeout;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, Backend, File, LocalAioContextHandle,
    LockedBuf, PollEvents, ReadFlags, aio_context, local_aio_context,
};

const LEN: u64 = BLOCK as u64;
const BLOCKS: u64 = 64;

fn threads(workers: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap()
}

/// Looks at `future` once, for `waker`.
fn look<F: Future + ?Sized>(future: &mut Pin<Box<F>>, waker: &Waker) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(waker))
}

// ---- Slots ------------------------------------------------------------------------------------

/// All slots are taken, by requests that are not done for long.
async fn busy_slots(dir: &TempDir, (backend, policy): Way, waits: bool) {
    const SLOTS: usize = 3;
    let way = (backend, policy);
    let file = patterned_file(dir, BLOCKS).await;
    let before = held();
    let builder = AioContextBuilder::new(SLOTS)
        .backend(backend)
        .submit_policy(policy)
        .wait_for_slot(waits);
    let (context, handle) = builder.build().unwrap();
    let (other, other_handle) = context_by(way, SLOTS);
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
        until(|| out() == SLOTS, out).await;
        for _ in 0..200 {
            yield_now().await;
        }
        for read in &mut waiting {
            assert!(poll!(read).is_pending(), "{way:?}");
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
            let full = within(read).await;
            assert!(
                matches!(full, Err(AioCommandError::CapacityExceeded)),
                "{full:?}"
            );
        }
        assert_eq!(handle.metrics().found_full, 8);
    }
    // Whoever has slots goes on.
    let mut target = buffer(BLOCK);
    let beside = read_block(&other_handle, &file, 9 * LEN, &mut target);
    assert_eq!(within(beside).await.unwrap(), LEN);
    assert!(is_pattern(9, target.as_ref()));

    gate.open();
    for read in busy {
        within(read).await.unwrap();
    }
    for read in waiting {
        assert_eq!(within(read).await.unwrap(), LEN);
    }
    for (i, bytes) in (0..7).zip(&more) {
        assert_eq!(is_pattern(i, bytes.as_ref()), waits, "{way:?}: block {i}");
    }
    if waits {
        is_idle(&handle, SLOTS).await;
    }
    within(read_block(&handle, &file, LEN, &mut target))
        .await
        .unwrap();
    assert!(is_pattern(1, target.as_ref()));
    within(context.close()).await;
    within(other.close()).await;
    drop(gate);
    until(|| is_back(before), held).await;
}

#[test]
fn slots_that_are_busy_for_long_stall_nobody_else_and_come_back() {
    if !in_child("slots_that_are_busy_for_long_stall_nobody_else_and_come_back") {
        return;
    }
    for dir in everywhere() {
        for (way, waits) in ways().flat_map(|way| [(way, true), (way, false)]) {
            threads(2).block_on(busy_slots(&dir, way, waits));
            one_thread().block_on(busy_slots(&dir, way, waits));
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

/// Two that panic stand around one that does not, and one that waits for a slot: that takes the
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
            assert!(look(read, waker).is_pending());
        }
        let mut target = buffer(BLOCK);
        let mut waiting = Box::pin(read_block(&handle, &file, LEN, &mut target));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(handle.available_slots(), Some(0));
        until(|| gate.held().len() == 3, || gate.held()).await;

        gate.open();
        assert_eq!(within(waiting).await.unwrap(), LEN);
        assert!(is_pattern(1, target.as_ref()));
        let woken = || {
            (
                bomb.0.load(Ordering::SeqCst),
                counter.0.load(Ordering::SeqCst),
            )
        };
        until(|| woken() == (2, 1), woken).await;
        for read in &mut held {
            let Poll::Ready(done) = look(read, Waker::noop()) else {
                panic!("it was woken")
            };
            assert_eq!(done.unwrap(), 1);
        }
        all_free(&handle, 3).await;
    }
    within(context.close()).await;
}

#[test]
fn a_waker_that_panics_harms_only_itself() {
    let dir = on_disk();
    one_thread().block_on(bombs(&dir));
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
fn a_poll_whose_waker_panics_when_it_is_cloned_is_cancelled() {
    for way in ways() {
        threads(2).block_on(async {
            let (context, handle) = context_by(way, 1);
            let (reader, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
            let mut waiting = Box::pin(handle.poll(&reader, PollEvents::IN));
            assert!(poll!(&mut waiting).is_pending());
            let bad = unclonable();
            let looked = catch_unwind(AssertUnwindSafe(|| look(&mut waiting, &bad)));
            assert!(looked.is_err(), "{way:?}");
            drop(waiting);
            all_free(&handle, 1).await;
            within(context.close()).await;
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
/// Of a file, at an offset, into both of two buffers or the first of them.
type Reads = for<'a> fn(&'a AioContextHandle, &'a File, u64, &'a mut [LockedBuf; 2]) -> Reading<'a>;

/// Whichever of a read's clones of its waker it is.
#[test]
fn a_read_whose_waker_panics_when_it_is_cloned_leaves_buffers_of_their_size() {
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
    let dir = on_disk();
    for (way, read) in ways().flat_map(|way| reads.map(|read| (way, read))) {
        threads(2).block_on(within(async {
            let (context, handle) = context_by(way, 1);
            let file = patterned_file(&dir, BLOCKS).await;
            let watched = Watched::file(&file);
            watched.cut_to(BLOCK); // what has to be whole takes several requests
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
                        match catch_unwind(AssertUnwindSafe(|| look(&mut reading, &waker))) {
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
                    assert_eq!(sizes, [SIZE; 2], "{way:?}, after {clones} clones");
                    drop(gate);
                    all_free(&handle, 1).await;
                    if !panicked || (held && clones == 3) {
                        break;
                    }
                }
            }
            within(context.close()).await;
        }));
    }
}

/// The kernel's events are found by a poll of another request, a look at the slots, a drop.
#[tokio::test]
async fn a_waker_that_panics_does_not_harm_who_finds_its_event() {
    let dir = on_disk();
    let file = patterned_file(&dir, BLOCKS).await;
    let (context, handle) = aio_context(4, true).unwrap();
    yield_now().await;
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
        assert!(look(&mut bombed, &Waker::from(Arc::clone(&bomb))).is_pending());
        let mut other: Other<'_> = Box::pin(async {
            read_block(&handle, &file, other_gate.offset(), other_target)
                .await
                .unwrap()
        });
        assert!(poll!(&mut other).is_pending());
        let went = || gate.held().len() + other_gate.held().len();
        until(|| went() == 2, went).await;
        gate.open();
        // No turn of the runtime in between: its I/O driver would find the event first.
        let start = Instant::now();
        while bomb.0.load(Ordering::SeqCst) == 0 {
            let found = catch_unwind(AssertUnwindSafe(|| find(&handle, &mut other)));
            assert!(found.is_ok(), "the panic is the waker's own");
            assert!(start.elapsed() < Duration::from_secs(60), "not woken");
        }
        assert!(matches!(
            look(&mut bombed, Waker::noop()),
            Poll::Ready(Ok(1))
        ));
        other_gate.open();
        assert_eq!(within(other).await, 1);
        all_free(&handle, 4).await;
    }
    within(context.close()).await;
}

thread_local! {
    static REENTERED: RefCell<Option<(LocalAioContextHandle, Rc<File>)>> =
        const { RefCell::new(None) };
    /// Times that a waker has come into the context, and out again.
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
    let _ = look(&mut read, Waker::noop());
    drop(read);
    ENTRIES.set((ENTRIES.get().0, ENTRIES.get().1 + 1));
}

/// A waker whose every function comes back into the context of [`REENTERED`].
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

/// The local context's lock refuses to be taken twice, so that nothing of a waker's runs under it
/// unnoticed.
#[test]
fn a_waker_may_come_back_into_its_context() {
    let dir = on_disk();
    let local = LocalSet::new();
    local.block_on(&one_thread(), async {
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
        /// All that went in has come out, and some did.
        fn came_back() {
            let (entered, left) = ENTRIES.replace((0, 0));
            assert_eq!(entered, left);
            assert!(entered > 0);
        }

        // Woken.
        let gate = Gate::closed();
        let mut woken = read(&gate);
        assert!(look(&mut woken, &reentrant()).is_pending());
        came_back();
        gate.open();
        until(|| free() == Some(2), free).await;
        came_back();
        assert!(matches!(look(&mut woken, &reentrant()), Poll::Ready(Ok(1))));
        came_back();

        // Replaced by another one, and replacing it.
        let gate = Gate::closed();
        let held = || gate.held().len();
        let mut replaced = read(&gate);
        assert!(look(&mut replaced, Waker::noop()).is_pending());
        until(|| held() == 1, held).await;
        for waker in [&reentrant(), Waker::noop(), &reentrant(), &reentrant()] {
            assert!(look(&mut replaced, waker).is_pending());
        }
        came_back();

        // Dropped: one in flight, one that waits for a slot.
        let mut beside = read(&gate);
        assert!(look(&mut beside, &reentrant()).is_pending());
        until(|| held() == 2, held).await;
        let mut waiting = read(&gate);
        assert!(look(&mut waiting, &reentrant()).is_pending());
        came_back();
        drop(waiting);
        came_back();
        drop(replaced);
        came_back();

        // Turned away as the context stops, and served after that.
        let mut waiting = read(&gate);
        assert!(look(&mut waiting, &reentrant()).is_pending());
        came_back();
        drop(context);
        came_back();
        let turned_away = look(&mut waiting, Waker::noop());
        assert!(matches!(
            turned_away,
            Poll::Ready(Err(AioCommandError::AioStopped))
        ));
        gate.open();
        within(background).await.unwrap().unwrap();
        came_back();
        assert!(matches!(
            look(&mut beside, Waker::noop()),
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
            assert!(look(read, &reentrant()).is_pending());
        }
        came_back();
        drop(background);
        came_back();
        for read in &mut stopped {
            assert!(matches!(
                look(read, &reentrant()),
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

/// Stands before the C library's, which fails so where a limit is met.
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

/// Enough requests that are done at once for further ones to go out without a signal. Mostly: on
/// several threads one may look as if it was not done at once.
async fn make_quiet(handle: &AioContextHandle, file: &File) {
    let gate = Gate::opened();
    let mut target = buffer(BLOCK);
    for nth in 1..=10 * FAST_ONES {
        let read = read_block(handle, file, gate.offset(), &mut target);
        assert_eq!(read.await.unwrap(), 1);
        if nth % 1000 == 0 && gate.held().last() == Some(&None) {
            return;
        }
    }
    panic!(
        "{} requests that are done at once, each with a signal",
        10 * FAST_ONES
    );
}

/// Opens `gate` when its request is with the kernel; from a thread of its own. Tells whether that
/// went out quietly.
fn open_later(gate: &Arc<Gate>) -> thread::JoinHandle<bool> {
    let gate = Arc::clone(gate);
    thread::spawn(move || {
        let start = Instant::now();
        while gate.held().is_empty() && start.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20)); // so that all who wait are at rest
        gate.open();
        gate.held() == [None]
    })
}

/// The only thread that the runtime may block waits for a request that went out quietly.
#[test]
fn a_slow_request_that_went_out_quietly_is_found_while_all_blocking_threads_wait_for_it() {
    if !on_kernel_aio() {
        return;
    }
    let dir = on_disk();
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        builder
            .worker_threads(2)
            .max_blocking_threads(1)
            .enable_all();
        builder.build().unwrap().block_on(async {
            let (context, handle) = aio_context(8, true).unwrap();
            let file = Arc::new(patterned_file(&dir, BLOCKS).await);
            yield_now().await;
            until_seen(async || {
                make_quiet(&handle, &file).await;
                let gate = Arc::new(Gate::closed());
                let opener = open_later(&gate);
                let (handle, file) = (handle.clone(), Arc::clone(&file));
                let waits = spawn_blocking(move || {
                    let mut target = buffer(BLOCK);
                    executor::block_on(read_block(&handle, &file, gate.offset(), &mut target))
                        .unwrap()
                });
                assert_eq!(within(waits).await.unwrap(), 1);
                opener.join().unwrap().then_some(())
            })
            .await;
            assert_eq!(handle.available_slots(), Some(8));
            within(context.close()).await;
        });
    }
}

#[test]
fn a_slow_request_that_went_out_quietly_is_found_where_no_thread_can_be_started() {
    let dir = on_disk();
    // By another runtime: this one is to have no idle thread that it could use.
    let file = one_thread().block_on(patterned_file(&dir, BLOCKS));
    one_thread().block_on(async {
        let (context, handle) = aio_context(8, true).unwrap();
        yield_now().await;
        until_seen(async || {
            make_quiet(&handle, &file).await;
            let gate = Arc::new(Gate::closed());
            let opener = open_later(&gate);
            NO_THREADS.set(true);
            assert!(thread::Builder::new().spawn(|| ()).is_err());
            let mut target = buffer(BLOCK);
            let result = within(read_block(&handle, &file, gate.offset(), &mut target)).await;
            NO_THREADS.set(false);
            assert_eq!(result.unwrap(), 1);
            opener.join().unwrap().then_some(())
        })
        .await;
        within(context.close()).await;
    });
}

/// Nothing of a pause hangs on the runtime in whose poll it started.
#[test]
fn a_slow_request_that_went_out_quietly_is_found_after_the_runtime_that_submitted_it_has_gone() {
    let dir = on_disk();
    let home = threads(1);
    let (context, handle) = home.block_on(async { aio_context(8, true).unwrap() });
    let file = home.block_on(patterned_file(&dir, BLOCKS));
    let quietly = || {
        home.block_on(async {
            yield_now().await;
            make_quiet(&handle, &file).await;
        });
        let gate = Arc::new(Gate::closed());
        let mut target = buffer(BLOCK);
        let mut slow = Box::pin(read_block(&handle, &file, gate.offset(), &mut target));
        let other = one_thread();
        other.block_on(async { assert!(poll!(&mut slow).is_pending()) });
        drop(other);
        let opener = open_later(&gate);
        assert_eq!(home.block_on(within(slow)).unwrap(), 1);
        opener.join().unwrap()
    };
    assert!((0..1000).any(|_| quietly()));
    home.block_on(within(context.close()));
}

#[test]
fn a_context_closed_where_no_thread_can_be_started_ends_as_soon_as_one_can() {
    // By itself: another test's thread would end it on its way.
    if !in_child("a_context_closed_where_no_thread_can_be_started_ends_as_soon_as_one_can") {
        return;
    }
    one_thread().block_on(async {
        let (context, handle) = aio_context(8, true).unwrap();
        yield_now().await;
        NO_THREADS.set(true);
        let mut close = Box::pin(context.close());
        for _ in 0..100 {
            assert!(poll!(&mut close).is_pending());
            yield_now().await;
        }
        NO_THREADS.set(false);
        within(close).await;
        assert_eq!(handle.available_slots(), None);
    });
}

/// Its background task goes where no thread can be started, and nobody polls it just then.
#[test]
fn a_close_that_waits_elsewhere_ends_though_no_thread_could_be_started_at_first() {
    let dir = on_disk();
    let home = one_thread();
    let (context, handle) = home.block_on(async {
        let made = aio_context(1, true).unwrap();
        yield_now().await;
        made
    });
    let file = home.block_on(open_rw(&dir, "gated"));
    let gate = Gate::closed();
    let mut target = buffer(BLOCK);
    let mut running = Box::pin(read_block(&handle, &file, gate.offset(), &mut target));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(running.as_mut().poll(&mut cx).is_pending());

    let (tell, told) = std::sync::mpsc::channel();
    let closing = thread::spawn(move || {
        one_thread().block_on(async {
            let mut close = Box::pin(context.close());
            assert!(poll!(&mut close).is_pending());
            tell.send(()).unwrap();
            within(close).await;
        });
    });
    told.recv().unwrap();
    NO_THREADS.set(true);
    home.shutdown_background(); // dropped, it would wait for a thread at the gate
    NO_THREADS.set(false);
    gate.open();
    drop(running);
    closing.join().unwrap();
}

/// More of them than there are threads that give contexts back.
#[test]
fn panicking_wakers_of_a_close_leave_others_able_to_close() {
    one_thread().block_on(async {
        for _ in 0..40 {
            let (context, _handle, background) = local_aio_context(1, true).unwrap();
            let mut close = Box::pin(context.close());
            let bomb = Arc::new(Bomb(AtomicUsize::new(0)));
            let waker = Waker::from(Arc::clone(&bomb));
            let polled = close.as_mut().poll(&mut Context::from_waker(&waker));
            if cfg!(kaio_force_threads) && polled.is_ready() {
                continue;
            }
            assert!(polled.is_pending(), "io_destroy takes a while");
            drop(background);
            let woken = || bomb.0.load(Ordering::SeqCst);
            until(|| woken() > 0, woken).await;
        }
        let (context, _handle) = aio_context(1, true).unwrap();
        within(context.close()).await;
    });
}

/// Threads of this process that end contexts.
fn undertakers() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .filter(|name| name.trim_end() == "kaio-teardown")
        .count()
}

#[test]
fn many_contexts_that_end_at_once_take_few_threads() {
    // By itself: other tests end contexts too.
    if !in_child("many_contexts_that_end_at_once_take_few_threads") {
        return;
    }
    one_thread().block_on(async {
        const CONTEXTS: usize = 200;
        let (contexts, handles): (Vec<_>, Vec<_>) =
            (0..CONTEXTS).map(|_| aio_context(1, true).unwrap()).unzip();
        drop(contexts);
        let mut most = 0;
        let all_ended = || {
            most = most.max(undertakers());
            undertakers() == 0
        };
        until(all_ended, undertakers).await;
        assert!(most <= CONTEXTS / 4, "{most} threads");
        drop(handles);
    });
}

/// There is one, and always a request for it.
#[test]
fn what_else_waits_for_a_blocking_thread_has_its_turn_between_requests() {
    let dir = on_disk();
    one_blocking_thread().block_on(async {
        let builder = AioContextBuilder::new(2).backend(Backend::ThreadPool);
        let (context, handle) = builder.blocking_threads(1).build().unwrap();
        let file = patterned_file(&dir, BLOCKS).await;
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
        until(|| first.held().len() == 1, || first.held()).await;
        // Behind the second read, it would wait for ever.
        let opener = Arc::clone(&second);
        let other = spawn_blocking(move || opener.open());
        tokio::time::sleep(Duration::from_millis(5)).await; // longer than a turn is
        first.open();
        let had_its_turn = timeout(Duration::from_secs(60), other).await;
        second.open();
        had_its_turn.expect("it hangs").unwrap();
        for read in within(join_all(reads)).await {
            assert_eq!(read.unwrap(), 1);
        }
        is_idle(&handle, 2).await;
        within(context.close()).await;
    });
}

// ---- Slots ------------------------------------------------------------------------------------

/// More than one reap takes out of the ring.
#[test]
fn the_free_slots_count_all_that_is_done_whoever_asks_first() {
    if !on_kernel_aio() {
        return;
    }
    const REQUESTS: usize = 200;
    let dir = on_disk();
    one_thread().block_on(async {
        let (context, handle) = aio_context(256, true).unwrap();
        let file = patterned_file(&dir, BLOCKS).await;
        yield_now().await;
        for forgotten in [false, true] {
            let gate = Gate::closed();
            let mut targets: Vec<_> = (0..REQUESTS).map(|_| buffer(BLOCK)).collect();
            let mut held: Vec<_> = targets
                .iter_mut()
                .map(|target| Box::pin(read_block(&handle, &file, gate.offset(), target)))
                .collect();
            for read in &mut held {
                assert!(look(read, Waker::noop()).is_pending());
            }
            until(|| gate.held().len() == REQUESTS, || gate.held().len()).await;
            let eventfd = gate.held()[0].expect("none of these was done at once");
            assert!(gate.held().iter().all(|&e| e == Some(eventfd)));
            if forgotten {
                held.into_iter().for_each(std::mem::forget);
                held = Vec::new();
            }
            assert_eq!(handle.available_slots(), Some(256 - REQUESTS));

            let before = signals(eventfd);
            gate.open();
            // Each event is in the ring before its signal. No turn of the runtime in between:
            // its I/O driver would take them out.
            let start = Instant::now();
            while signals(eventfd) < before + REQUESTS as u64 {
                assert!(start.elapsed() < Duration::from_secs(60), "not done");
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(handle.available_slots(), Some(256));
            for done in within(join_all(held)).await {
                assert_eq!(done.unwrap(), 1);
            }
        }
        within(context.close()).await;
    });
}

// ---- Runtimes ---------------------------------------------------------------------------------

/// What the process has open that is no file: rings, eventfds, epolls, sockets.
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
fn the_handle_of_a_closed_context_does_not_keep_its_runtimes_descriptors() {
    if !in_child("the_handle_of_a_closed_context_does_not_keep_its_runtimes_descriptors") {
        return;
    }
    // What the process makes once and keeps.
    one_thread().block_on(async { aio_context(4, true).unwrap().0.close().await });
    for make in [one_thread, || threads(1)] {
        // A thread that has given a context back wakes who waits for it, and has that waker for a
        // moment longer.
        let is_kept = |link: &String| !link.starts_with("anon_inode");
        until_here(|| open_anonymous().iter().all(is_kept), open_anonymous);
        let before = open_anonymous();
        let runtime = make();
        let (context, handle) = runtime.block_on(async { aio_context(4, true).unwrap() });
        runtime.block_on(async {
            yield_now().await;
            within(context.close()).await;
        });
        drop(runtime);
        until_here(|| open_anonymous() == before, open_anonymous);
        assert_eq!(handle.available_slots(), None);
    }
}

/// Reads until the context stops, gives some up.
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
fn runtimes_that_shut_down_under_tasks_of_others_stop_them_and_leave_nothing() {
    if !in_child("runtimes_that_shut_down_under_tasks_of_others_stop_them_and_leave_nothing") {
        return;
    }
    let client = threads(2);
    let mut turns = 0;
    for dir in everywhere() {
        let file = Arc::new(client.block_on(patterned_file(&dir, BLOCKS)));
        for round in 0..30 {
            let runtime = threads(1 + round % 2);
            let slots = if round % 3 == 0 { 2 } else { 16 };
            let (context, handle) = runtime.block_on(async {
                let builder = AioContextBuilder::new(slots).max_batch(4);
                builder.build().unwrap()
            });
            let tasks: Vec<_> = (0..12)
                .map(|task| client.spawn(read_on(task, handle.clone(), Arc::clone(&file))))
                .collect();
            thread::sleep(Duration::from_micros(random() % 3000));
            if round % 5 == 0 {
                drop(context);
                runtime.shutdown_background();
            } else {
                runtime.shutdown_background();
                drop(context);
            }
            for task in client.block_on(within(join_all(tasks))) {
                turns += task.unwrap();
            }
        }
        until_here(|| rings() == 0, rings);
    }
    assert!(turns > 0, "no task has ever read anything");
}

// ---- Spinning ---------------------------------------------------------------------------------

/// What all threads of the process have used of the CPUs.
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

/// Waits for a while in which nothing should run.
async fn rest(what: &str) {
    tokio::time::sleep(Duration::from_millis(20)).await; // until what was just started has settled
    let (wall, cpu) = (Instant::now(), cpu_time());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (wall, cpu) = (wall.elapsed(), cpu_time() - cpu);
    println!("{what}: {cpu:?} of {wall:?}");
    assert!(cpu * 10 < wall, "{what}: {cpu:?} of the CPU in {wall:?}");
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
        assert_eq!(within(read).await.unwrap(), 1);
    }

    until_seen(async || {
        make_quiet(&handle, &file).await;
        let gate = Gate::closed();
        let slow = spawn(&gate);
        rest("a request that went out quietly").await;
        gate.open();
        assert_eq!(within(slow).await.unwrap(), 1);
        (gate.held() == [None]).then_some(())
    })
    .await;

    let gate = Gate::closed();
    let slow = spawn(&gate);
    until(|| gate.held().len() == 1, || gate.held()).await;
    let close = tokio::spawn(context.close());
    rest("a context that is being closed").await;
    assert!(!close.is_finished());
    gate.open();
    assert_eq!(within(slow).await.unwrap(), 1);
    within(close).await.unwrap();
}

#[test]
fn nothing_spins_while_requests_wait_long() {
    if !in_child("nothing_spins_while_requests_wait_long") {
        return;
    }
    let dir = on_disk();
    one_thread().block_on(long_waits(&dir));
    threads(2).block_on(long_waits(&dir));
}
