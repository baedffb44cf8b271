//! The driver in every interleaving of its threads, as far as loom searches.
//!
//! The code under test is that of the crate: what runs under the lock, the futures of operations, the
//! driver task, the completion waker and the consumer of the ring. The kernel is a
//! [fake backend](crate::backend::fake), with a thread as its device. The threads share what
//! [`crate::sync`] replaces by loom's; it also says how to run this.
//!
//! loom fails a model in which no thread can continue: a lost wake-up, or a future that never resolves.
//! Each model ends by closing its context, which must be idle and gone then.
//!
//! The search is bounded by the number of times that a thread is preempted while it could continue:
//! `LOOM_MAX_PREEMPTIONS`, by default the bound of the model.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use futures::stream::{FuturesUnordered, StreamExt};
use lock_api::{GuardNoSend, RawMutex};
use loom::future::block_on;
use loom::sync::{Mutex, MutexGuard};
use loom::thread::{self, JoinHandle};

use crate::backend::fake::{FILE_BYTE, FakeBackend, FakeControl};
use crate::config::{ContextConfig, ContextTypes, Types};
use crate::context::OpFuture;
use crate::context::test_operations::op_of_command;
use crate::driver::core::Phase;
use crate::driver::{Driver, Entered};
use crate::offload::OffloadConfig;
use crate::op::{FileRef, OpenFile};
use crate::policy::PollOrder;
use crate::policy::{Adaptive, PolicyConfig};
use crate::runtime::{CompletionWaker, DriverTask};
use crate::slab::SlotState;
use crate::sync::EventFd;
use crate::teardown::wait_until_gone;
use crate::{
    AioCommandError, Backend, LockedBuf, NoopLock, RawCommand, ReadFlags, SubmitPolicy, WriteFlags,
};

/// loom's mutex as a raw lock. It is created when it is first taken, because loom's can't be created in
/// a constant.
struct LoomLock {
    mutex: UnsafeCell<Option<Box<Mutex<()>>>>,
    guard: UnsafeCell<Option<MutexGuard<'static, ()>>>,
}

// SAFETY: loom runs one thread of a model at a time, and changes threads only inside its own functions.
unsafe impl Send for LoomLock {}
// SAFETY: as above.
unsafe impl Sync for LoomLock {}

impl LoomLock {
    fn mutex(&self) -> &'static Mutex<()> {
        // SAFETY: no other thread is between here and the end of this function, in which nothing of
        // loom's changes threads.
        let mutex = unsafe { &mut *self.mutex.get() };
        let mutex: *const Mutex<()> = &raw const **mutex.get_or_insert_with(Box::default);
        // SAFETY: boxed, so it stays where it is until `self` is dropped, after every guard.
        unsafe { &*mutex }
    }
}

// SAFETY: loom's mutex is held exactly between `lock` and `unlock`.
unsafe impl RawMutex for LoomLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: LoomLock = LoomLock {
        mutex: UnsafeCell::new(None),
        guard: UnsafeCell::new(None),
    };

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let guard = self.mutex().lock().unwrap();
        // SAFETY: only the holder of the lock is here.
        unsafe { *self.guard.get() = Some(guard) };
    }

    fn try_lock(&self) -> bool {
        let Ok(guard) = self.mutex().try_lock() else {
            return false;
        };
        // SAFETY: only the holder of the lock is here.
        unsafe { *self.guard.get() = Some(guard) };
        true
    }

    unsafe fn unlock(&self) {
        // SAFETY: only the holder of the lock is here.
        let guard = unsafe { (*self.guard.get()).take() };
        drop(guard);
    }
}

type AnyThread = Types<LoomLock, FakeBackend, Adaptive>;
type OneThread = Types<NoopLock, FakeBackend, Adaptive>;

/// A driver, its backend and its eventfd.
struct Model<T: ContextTypes<Backend = FakeBackend>> {
    driver: Arc<Driver<T>>,
    completion_waker: Arc<CompletionWaker<T>>,
    backend: FakeControl,
    eventfd: EventFd,
    /// For writes of no bytes.
    unread: Arc<LockedBuf>,
}

// By hand: a `T` is never made.
impl<T: ContextTypes<Backend = FakeBackend>> Clone for Model<T> {
    fn clone(&self) -> Self {
        Model {
            driver: Arc::clone(&self.driver),
            completion_waker: Arc::clone(&self.completion_waker),
            backend: self.backend.clone(),
            eventfd: self.eventfd.clone(),
            unread: Arc::clone(&self.unread),
        }
    }
}

impl Model<AnyThread> {
    fn new(capacity: usize) -> Self {
        Model::over(capacity, CompletionWaker::for_any_thread)
    }
}

impl Model<OneThread> {
    fn of_this_thread(capacity: usize) -> Self {
        Model::over(capacity, CompletionWaker::for_this_thread)
    }
}

impl<T> Model<T>
where
    T: ContextTypes<Backend = FakeBackend, Advisor = Adaptive> + 'static,
{
    fn over(
        capacity: usize,
        completion_waker: impl FnOnce(&Arc<Driver<T>>) -> Arc<CompletionWaker<T>>,
    ) -> Self {
        let config = ContextConfig {
            capacity,
            wait_for_slot: true,
            policy: PolicyConfig {
                policy: SubmitPolicy::Inline,
                nonblocking_submit: false,
                #[cfg(feature = "simulation")]
                simulated: false,
                max_batch: Some(32),
            },
            backend: Backend::KernelAio,
            measure_latency: false,
            registered_bytes: 0,
            file_calls: crate::backend::FileCalls::default(),
        };
        let backend = FakeBackend::new();
        let control = backend.control();
        let eventfd = EventFd::new(0, false).unwrap();
        let line = Some(eventfd.clone());
        let driver = Driver::new(backend, line, config, None, OffloadConfig::FOR_TESTS);
        let completion_waker = completion_waker(&driver);
        completion_waker.arm();
        Model {
            driver,
            completion_waker,
            backend: control,
            eventfd,
            unread: Arc::new(LockedBuf::with_size(1).unwrap()),
        }
    }

    /// A thread that completes requests until the context is gone. It is tokio's I/O driver too: a
    /// thread less for models that are not about signals.
    fn device(&self) -> JoinHandle<()> {
        let (backend, eventfd) = (self.backend.clone(), self.eventfd.clone());
        thread::spawn(move || {
            while let Some(signals) = backend.complete_next() {
                if signals {
                    eventfd.dispatch();
                }
            }
        })
    }

    /// The same with a thread of its own for tokio's I/O driver, so that requests complete while earlier
    /// ones are reaped.
    fn device_and_io_driver(&self) -> [JoinHandle<()>; 2] {
        let (backend, eventfd) = (self.backend.clone(), self.eventfd.clone());
        let device = thread::spawn(move || {
            while let Some(signals) = backend.complete_next() {
                if signals {
                    eventfd.signal();
                }
            }
            eventfd.close();
        });
        let eventfd = self.eventfd.clone();
        [device, thread::spawn(move || eventfd.dispatch_all())]
    }

    /// A thread that completes this many requests, one signal each.
    fn device_for(&self, requests: usize) -> JoinHandle<()> {
        let (backend, eventfd) = (self.backend.clone(), self.eventfd.clone());
        thread::spawn(move || {
            for _ in 0..requests {
                if backend.complete_next().unwrap() {
                    eventfd.dispatch();
                }
            }
        })
    }

    /// The driver task, which has run once: from now on requests may wait for it.
    fn driver_task(&self) -> Pin<Box<DriverTask<T>>> {
        let (driver, waker) = (&self.driver, &self.completion_waker);
        let task = DriverTask::new(Arc::clone(driver), Arc::clone(waker), PollOrder::Fair);
        let mut task = Box::pin(task);
        poll_once(task.as_mut());
        task
    }

    /// The driver task on a thread of its own.
    fn drive(&self) -> JoinHandle<()> {
        let task = self.driver_task();
        thread::spawn(move || block_on(task).unwrap())
    }

    fn entered(&self) -> Entered<'_, T> {
        self.driver.enter().unwrap()
    }

    /// Submits without signals from now on.
    fn suppress_signals(&self) {
        self.entered().lock().advisor.suppress_signals();
    }

    fn op(&self, label: i64) -> OpFuture<'_, '_, T> {
        let command = RawCommand::Pwrite {
            offset: label as u64,
            buffer: &self.unread,
            flags: WriteFlags::empty(),
            len: 0,
        };
        op_of_command(&self.driver, FileRef::Open(file()), command)
    }

    fn read<'a>(&'a self, label: i64, buffer: &'a mut LockedBuf) -> OpFuture<'a, 'a, T> {
        let command = RawCommand::Pread {
            offset: label as u64,
            len: buffer.size() as u64,
            flags: ReadFlags::empty(),
            buffer,
        };
        op_of_command(&self.driver, FileRef::Open(file()), command)
    }

    fn free_capacity(&self) -> Option<usize> {
        self.entered().free_capacity()
    }

    fn stop(&self) {
        self.entered().stop();
    }

    /// Closes the context: no new requests, and waits until everything is given back. Then the
    /// `threads` end too, and nothing is left.
    fn close(&self, threads: impl IntoIterator<Item = JoinHandle<()>>) {
        self.stop();
        self.end(threads);
    }

    /// As [`Model::close`], for a context that ends by itself.
    fn end(&self, threads: impl IntoIterator<Item = JoinHandle<()>>) {
        self.wait_until_gone();
        for thread in threads {
            thread.join().unwrap();
        }
        let entered = self.entered();
        let core = entered.lock();
        assert!(matches!(core.phase, Phase::Gone));
        assert_eq!((core.waiting(), core.slots.in_flight()), (0, 0));
        let all_free = core
            .slots
            .iter()
            .all(|(_, slot)| slot.state == SlotState::Free);
        assert!(all_free, "a slot has lost its future");
    }

    fn wait_until_gone(&self) {
        block_on(wait_until_gone(self.driver.gone()));
        assert!(self.backend.is_dropped());
    }
}

impl Model<AnyThread> {
    /// A thread that waits for an operation, which succeeds.
    fn spawn_op(&self, label: i64) -> JoinHandle<()> {
        let model = self.clone();
        thread::spawn(move || assert_eq!(block_on(model.op(label)).unwrap(), 0))
    }

    /// A thread that waits for an operation, which succeeds or is stopped.
    fn spawn_op_that_may_be_stopped(&self, label: i64) -> JoinHandle<()> {
        let model = self.clone();
        thread::spawn(move || {
            let result = block_on(model.op(label));
            assert!(is_stopped(&result) || matches!(result, Ok(0)), "{result:?}");
        })
    }

    /// Operations that have been polled once.
    fn start<const N: usize>(
        &self,
        labels: [i64; N],
    ) -> [Pin<Box<OpFuture<'_, '_, AnyThread>>>; N] {
        labels.map(|label| {
            let mut op = Box::pin(self.op(label));
            poll_once(op.as_mut());
            op
        })
    }
}

fn file() -> &'static Arc<OpenFile> {
    static FILE: OnceLock<Arc<OpenFile>> = OnceLock::new();
    FILE.get_or_init(|| Arc::new(OpenFile::new(File::open("/dev/null").unwrap())))
}

/// Polls a future that is not ready, with a waker of nobody.
fn poll_once<F: Future>(future: Pin<&mut F>) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.poll(&mut cx).is_pending());
}

fn is_stopped(result: &Result<u64, AioCommandError>) -> bool {
    matches!(result, Err(AioCommandError::AioStopped))
}

/// Searches with at most this many preemptions.
fn explore(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(body);
}

#[test]
fn a_request_completes_and_its_context_closes() {
    explore(2, || {
        let model = Model::new(2);
        let driver = model.drive();
        let device = model.device();
        assert_eq!(block_on(model.op(1)).unwrap(), 0);
        assert_eq!(model.free_capacity(), Some(2));
        model.close([driver, device]);
    });
}

#[test]
fn requests_that_are_deferred_are_all_submitted() {
    explore(2, || {
        let model = Model::new(4);
        let driver = model.drive();
        let device = model.device();
        let (mut first, mut second) = (pin!(model.op(1)), pin!(model.op(2)));
        // Both are polled before either is waited for: the second may wait for the driver task.
        let mut done = [false; 2];
        block_on(poll_fn(|cx| {
            done[0] = done[0] || first.as_mut().poll(cx).is_ready();
            done[1] = done[1] || second.as_mut().poll(cx).is_ready();
            match done {
                [true, true] => Poll::Ready(()),
                _ => Poll::Pending,
            }
        }));
        model.close([driver, device]);
    });
}

#[test]
fn two_threads_share_one_slot() {
    explore(3, || {
        let model = Model::new(1);
        let device = model.device_for(2);
        let other = model.spawn_op(1);
        assert_eq!(block_on(model.op(2)).unwrap(), 0);
        other.join().unwrap();
        device.join().unwrap();
        assert_eq!(model.free_capacity(), Some(1));
        model.close([]);
    });
}

#[test]
fn two_threads_share_one_slot_and_a_driver_task() {
    explore(1, || {
        let model = Model::new(1);
        let driver = model.drive();
        let device = model.device();
        let other = model.spawn_op(1);
        assert_eq!(block_on(model.op(2)).unwrap(), 0);
        other.join().unwrap();
        model.close([driver, device]);
    });
}

#[test]
fn a_dropped_request_keeps_its_slot_and_memory_until_its_completion() {
    explore(3, || {
        let model = Model::new(1);
        let device = model.device_for(1);
        let mut buffer = LockedBuf::with_size(64).unwrap();
        let old = buffer.as_ref().as_ptr();
        {
            let mut read = pin!(model.read(1, &mut buffer));
            let mut cx = Context::from_waker(Waker::noop());
            let _ = read.as_mut().poll(&mut cx);
        }
        // All or nothing: filled before it was given back, or never seen by the kernel.
        let byte = match buffer.as_ref().as_ptr() == old {
            true => FILE_BYTE,
            false => 0,
        };
        assert!(buffer.as_ref().iter().all(|&b| b == byte));
        device.join().unwrap();
        assert!(buffer.as_ref().iter().all(|&b| b == byte));
        assert_eq!(model.free_capacity(), Some(1));
        model.close([]);
    });
}

#[test]
fn a_queued_request_that_is_dropped_lets_the_next_one_be_submitted() {
    explore(2, || {
        let model = Model::new(1);
        let driver = model.drive();
        let [first, second, third] = model.start([1, 2, 3]);
        let device = model.device();
        drop(second);
        drop(first);
        assert_eq!(block_on(third).unwrap(), 0);
        model.close([driver, device]);
    });
}

#[test]
fn a_context_that_loses_its_driver_task_stops_its_requests() {
    explore(3, || {
        let model = Model::new(1);
        let driver_task = model.driver_task();
        let device = model.device();
        let other = model.spawn_op_that_may_be_stopped(1);
        drop(driver_task);
        assert!(is_stopped(&block_on(model.op(2))));
        model.end([other, device]);
    });
}

#[test]
fn memory_outlives_a_context_that_loses_its_driver_task() {
    explore(3, || {
        let model = Model::new(2);
        let driver_task = model.driver_task();
        let device = model.device();
        let other = {
            let model = model.clone();
            thread::spawn(move || {
                let mut buffer = LockedBuf::with_size(64).unwrap();
                let result = block_on(model.read(1, &mut buffer));
                let byte = if is_stopped(&result) { 0 } else { FILE_BYTE };
                assert!(buffer.as_ref().iter().all(|&b| b == byte), "{result:?}");
                model.wait_until_gone();
                assert!(buffer.as_ref().iter().all(|&b| b == byte), "{result:?}");
            })
        };
        drop(driver_task);
        other.join().unwrap();
        device.join().unwrap();
    });
}

#[test]
fn a_batch_may_be_under_way_when_the_driver_task_is_dropped() {
    explore(3, || {
        let model = Model::new(4);
        let driver_task = model.driver_task();
        let ops = model.start([1, 2, 3]);
        {
            let entered = model.entered();
            let core = entered.lock();
            assert_eq!((core.waiting(), core.slots.in_flight()), (2, 1));
        }
        model.backend.take_at_most([1]);
        let flush = {
            let model = model.clone();
            thread::spawn(move || model.entered().flush())
        };
        let dropping = thread::spawn(move || drop(driver_task));
        for op in ops {
            assert!(is_stopped(&block_on(op)));
        }
        model.end([flush, dropping]);
    });
}

#[test]
fn a_context_may_be_closed_while_requests_arrive() {
    explore(2, || {
        let model = Model::new(1);
        let driver = model.drive();
        let device = model.device();
        let other = model.spawn_op_that_may_be_stopped(1);
        model.close([other, driver, device]);
    });
}

#[test]
fn a_context_may_be_closed_with_requests_queued_in_flight_and_waiting_for_a_slot() {
    explore(2, || {
        let model = Model::new(2);
        let driver = model.drive();
        let [first, second, third] = model.start([1, 2, 3]);
        model.stop();
        let device = model.device();
        assert!(is_stopped(&block_on(third)), "it had no slot");
        assert_eq!(block_on(second).unwrap(), 0);
        drop(first);
        model.close([driver, device]);
    });
}

#[test]
fn partial_submissions_and_refusals_leave_no_request_behind() {
    explore(2, || {
        let model = Model::new(4);
        let driver = model.drive();
        model.backend.take_at_most([1, 1]);
        model.backend.refuse(3, libc::EBADF);
        let [first, second] = model.start([1, 2]);
        let [third, fourth] = [3, 4].map(|label| Box::pin(model.op(label)));
        let device = model.device();
        assert_eq!(block_on(fourth).unwrap(), 0);
        let refused = block_on(third);
        assert!(matches!(refused, Err(AioCommandError::IoSubmit(_))));
        assert_eq!(block_on(second).unwrap(), 0);
        drop(first);
        model.close([driver, device]);
    });
}

#[test]
fn a_queued_request_without_room_is_submitted_later() {
    explore(2, || {
        let model = Model::new(2);
        let driver = model.drive();
        model.backend.set_room(1);
        let ops = model.start([1, 2]);
        let device = model.device();
        for op in ops {
            assert_eq!(block_on(op).unwrap(), 0);
        }
        model.close([driver, device]);
    });
}

#[test]
fn a_single_request_without_room_is_submitted_later() {
    explore(2, || {
        let model = Model::new(2);
        model.backend.set_room(1);
        let device = model.device_for(2);
        let other = model.spawn_op(1);
        assert_eq!(block_on(model.op(2)).unwrap(), 0);
        other.join().unwrap();
        model.close([device]);
    });
}

#[test]
fn a_request_may_be_dropped_during_its_submission() {
    explore(2, || {
        let model = Model::new(3);
        let driver = model.drive();
        model.backend.set_room(1);
        let [first, second, third] = model.start([1, 2, 3]);
        let device = model.device();
        drop(second);
        assert_eq!(block_on(third).unwrap(), 0);
        assert_eq!(block_on(first).unwrap(), 0);
        model.close([driver, device]);
    });
}

#[test]
fn a_future_that_moves_to_another_task_wakes_that_task() {
    explore(3, || {
        let model = Model::new(1);
        let [op] = model.start([1]); // with a waker of nobody
        let device = model.device_for(1);
        assert_eq!(block_on(op).unwrap(), 0);
        device.join().unwrap();
        model.close([]);
    });
}

#[test]
fn completions_that_arrive_during_a_reap_are_not_missed() {
    explore(3, || {
        let model = Model::new(2);
        let [first, second] = model.start([1, 2]);
        let threads = model.device_and_io_driver();
        assert_eq!(block_on(second).unwrap(), 0);
        assert_eq!(block_on(first).unwrap(), 0);
        model.close(threads);
    });
}

#[test]
fn a_signal_on_another_thread_reaches_a_context_of_one_thread() {
    explore(2, || {
        let model = Model::of_this_thread(2);
        let [device, io_driver] = model.device_and_io_driver();
        let mut ops = [1, 2].map(|label| Box::pin(model.op(label)));
        for op in &mut ops {
            poll_once(op.as_mut());
        }
        // Polls only what was woken.
        let mut tasks = FuturesUnordered::<Pin<Box<dyn Future<Output = bool>>>>::new();
        let (driver, waker) = (&model.driver, &model.completion_waker);
        let driver_task = DriverTask::new(Arc::clone(driver), Arc::clone(waker), PollOrder::Fair);
        tasks.push(Box::pin(async { driver_task.await.is_err() }));
        for op in ops {
            tasks.push(Box::pin(async { op.await.unwrap() == 0 }));
        }
        assert_eq!(block_on(tasks.next()), Some(true));
        assert_eq!(block_on(tasks.next()), Some(true));
        model.stop();
        let driver_task_ends = block_on(tasks.next());
        assert_eq!(driver_task_ends, Some(false));
        model.end([device, io_driver]);
    });
}

#[test]
fn the_last_handle_may_be_dropped_during_a_signal() {
    explore(3, || {
        let model = Model::new(1);
        drop(model.start([1]));
        let gone = model.driver.gone();
        let device = model.device();
        drop(model);
        block_on(wait_until_gone(gone));
        device.join().unwrap();
    });
}

#[test]
fn unsignalled_completions_of_two_threads_are_found() {
    explore(1, || {
        let model = Model::new(2);
        let driver = model.drive();
        model.suppress_signals();
        let device = model.device();
        let other = model.spawn_op(1);
        assert_eq!(block_on(model.op(2)).unwrap(), 0);
        other.join().unwrap();
        model.close([driver, device]);
    });
}

#[test]
fn the_unsignalled_completions_of_a_batch_are_found() {
    explore(1, || {
        let model = Model::new(4);
        let driver = model.drive();
        model.suppress_signals();
        let ops = model.start([1, 2, 3]);
        let device = model.device();
        for op in ops {
            assert_eq!(block_on(op).unwrap(), 0);
        }
        model.close([driver, device]);
    });
}

#[test]
fn a_request_that_waits_for_room_is_submitted_after_an_unsignalled_completion() {
    explore(1, || {
        let model = Model::new(3);
        model.backend.set_room(1);
        let driver = model.drive();
        model.suppress_signals();
        let ops = model.start([1, 2]);
        let device = model.device();
        for op in ops {
            assert_eq!(block_on(op).unwrap(), 0);
        }
        model.close([driver, device]);
    });
}

#[test]
fn a_context_may_be_closed_with_an_abandoned_unsignalled_request() {
    explore(2, || {
        let model = Model::new(2);
        let driver = model.drive();
        model.suppress_signals();
        let ops = model.start([1]);
        let device = model.device();
        drop(ops);
        model.close([driver, device]);
    });
}
