//! The request table and its three parties in every interleaving, as far as loom looks.
//!
//! The code under test is the crate's own: the lock's critical sections, the operations' futures,
//! the driver's, the reaper and the ring's consumer. The kernel is the [fake](super::fake) one,
//! with a thread as its device; what the threads share is loom's: see [`crate::sync`], which also
//! says how to run this.
//!
//! loom fails a model in which no thread can go on: a wake-up that is lost, or a future that never
//! resolves. Each model ends by closing its context, which then must be empty and gone.
//!
//! The search is bounded by the number of times that a thread loses its turn while it could go on:
//! `LOOM_MAX_PREEMPTIONS`, 2 unless set (1 where four threads would take too long).
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fs::File;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Waker};

use futures::stream::{FuturesUnordered, StreamExt};
use intrusive_collections::intrusive_adapter;
use intrusive_collections::linked_list::{AtomicLink, Link};
use lock_api::{GuardNoSend, RawMutex};
use loom::future::block_on;
use loom::sync::{Mutex, MutexGuard};
use loom::thread::{self, JoinHandle};

use super::fake::{FILE_BYTE, Fake, Port};
use crate::context::descriptor::Descriptor;
use crate::context::driver::{Driver, Turn};
use crate::context::operation::Operation;
use crate::context::options::Options;
use crate::context::pool::Threads;
use crate::context::reaper::Reaper;
use crate::context::shared::Shared;
use crate::context::state::Limits;
use crate::request::{Flavour, Of, OpenFile, Request};
use crate::sync::EventFd;
use crate::{
    AioCommandError, Backend, IntrusiveAdapter, LocalRequestAdapter, LockedBuf, NoopLock,
    RawCommand, ReadFlags, SubmitPolicy, WriteFlags,
};

/// loom's mutex as a raw lock. It comes to be when it is first taken, because loom's can't be made
/// in a constant.
struct LoomLock {
    mutex: UnsafeCell<Option<Box<Mutex<()>>>>,
    guard: UnsafeCell<Option<MutexGuard<'static, ()>>>,
}

// SAFETY: loom runs one thread of a model at a time, and changes threads only inside its own
// functions.
unsafe impl Send for LoomLock {}
// SAFETY: as above.
unsafe impl Sync for LoomLock {}

impl LoomLock {
    fn mutex(&self) -> &'static Mutex<()> {
        // SAFETY: no other thread is between here and the end of this function, in which nothing
        // of loom's changes threads.
        let mutex = unsafe { &mut *self.mutex.get() };
        let mutex: *const Mutex<()> = &raw const **mutex.get_or_insert_with(Box::default);
        // SAFETY: boxed, so it stays where it is until `self` is dropped, which a guard precedes.
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

intrusive_adapter!(
    Adapter = Box<Request<LoomLock, AtomicLink>>: Request<LoomLock, AtomicLink> { link: AtomicLink }
);

impl IntrusiveAdapter<LoomLock, AtomicLink> for Adapter {
    fn new() -> Self {
        Adapter::NEW
    }
}

type Anywhere = Of<LoomLock, Adapter, AtomicLink, Fake>;
type Local = Of<NoopLock, LocalRequestAdapter, Link, Fake>;

/// A context, its kernel and the line between the two.
struct Rig<F: Flavour<Kernel = Fake>> {
    shared: Arc<Shared<F>>,
    kernel: Port,
    signal: EventFd,
    /// For writes of no bytes.
    nothing: Arc<LockedBuf>,
}

// By hand: `F` itself is never made.
impl<F: Flavour<Kernel = Fake>> Clone for Rig<F> {
    fn clone(&self) -> Self {
        Rig {
            shared: Arc::clone(&self.shared),
            kernel: self.kernel.clone(),
            signal: self.signal.clone(),
            nothing: Arc::clone(&self.nothing),
        }
    }
}

impl Rig<Anywhere> {
    fn new(slots: usize) -> Self {
        Rig::over(slots, Reaper::anywhere)
    }
}

impl<F: Flavour<Kernel = Fake> + 'static> Rig<F> {
    fn over(slots: usize, reaper: impl FnOnce(Weak<Shared<F>>) -> Reaper<F>) -> Self {
        let limits = Limits {
            slots,
            waits: true,
            max_batch: Some(32),
            policy: SubmitPolicy::Inline,
            backend: Backend::KernelAio,
            measure_latency: false,
        };
        let fake = Fake::new();
        let kernel = crate::sys::Kernel::port(&fake);
        let signal = EventFd::new(0, false).unwrap();
        let shared = Shared::new(fake, Some(signal.clone()), limits, Threads::none(), reaper);
        shared.signalled(&shared.reaper.waker());
        Rig {
            shared,
            kernel,
            signal,
            nothing: Arc::new(LockedBuf::with_size(1).unwrap()),
        }
    }

    /// A thread that completes requests until the context is gone. It plays the I/O driver too: a
    /// thread less for models that are not about signals.
    fn device(&self) -> JoinHandle<()> {
        let (kernel, signal) = (self.kernel.clone(), self.signal.clone());
        thread::spawn(move || {
            while let Some(signals) = kernel.complete_next() {
                if signals {
                    signal.dispatch();
                }
            }
        })
    }

    /// The same with a thread of its own for the I/O driver, so that requests complete while it
    /// looks at the ones before.
    fn device_and_io_driver(&self) -> [JoinHandle<()>; 2] {
        let (kernel, signal) = (self.kernel.clone(), self.signal.clone());
        let device = thread::spawn(move || {
            while let Some(signals) = kernel.complete_next() {
                if signals {
                    signal.signal();
                }
            }
            signal.close();
        });
        let signal = self.signal.clone();
        [device, thread::spawn(move || signal.dispatch_all())]
    }

    /// A thread that completes so many requests, one signal each.
    fn device_for(&self, requests: usize) -> JoinHandle<()> {
        let (kernel, signal) = (self.kernel.clone(), self.signal.clone());
        thread::spawn(move || {
            for _ in 0..requests {
                if kernel.complete_next().unwrap() {
                    signal.dispatch();
                }
            }
        })
    }

    /// The background task, which has run once: from now on requests may wait for it.
    fn driver(&self) -> Pin<Box<Driver<F>>> {
        let mut driver = Box::pin(Driver::new(Arc::clone(&self.shared), Turn::Fair));
        poll_once(driver.as_mut());
        driver
    }

    /// The background task on a thread of its own.
    fn drive(&self) -> JoinHandle<()> {
        let driver = self.driver();
        thread::spawn(move || block_on(driver).unwrap())
    }

    fn op(&self, label: i64) -> Operation<'_, '_, F> {
        let command = RawCommand::Pwrite {
            offset: label as u64,
            buffer: &self.nothing,
            flags: WriteFlags::empty(),
            len: 0,
        };
        Operation::new(
            &self.shared,
            None,
            Options::NONE,
            Descriptor::File(file()),
            command,
        )
    }

    fn read<'a>(&'a self, label: i64, buffer: &'a mut LockedBuf) -> Operation<'a, 'a, F> {
        let command = RawCommand::Pread {
            offset: label as u64,
            len: buffer.size() as u64,
            flags: ReadFlags::empty(),
            buffer,
        };
        Operation::new(
            &self.shared,
            None,
            Options::NONE,
            Descriptor::File(file()),
            command,
        )
    }

    /// What closing a context is: no new requests, and wait until everything is given back. Then
    /// the `others` end too, and nothing is left.
    fn close(&self, others: impl IntoIterator<Item = JoinHandle<()>>) {
        self.shared.stop();
        self.end(others);
    }

    /// As [`Rig::close`] of a context that ends by itself.
    fn end(&self, others: impl IntoIterator<Item = JoinHandle<()>>) {
        self.wait_until_gone();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(self.shared.has_ended());
        assert_eq!(
            self.shared.census(),
            (0, 0, 0),
            "queued, in flight, claimed"
        );
    }

    fn wait_until_gone(&self) {
        let mut gone = self.shared.watch_gone();
        block_on(async { while gone.changed().await.is_ok() {} });
        assert!(self.kernel.is_destroyed());
    }
}

fn file() -> &'static Arc<OpenFile> {
    static FILE: OnceLock<Arc<OpenFile>> = OnceLock::new();
    FILE.get_or_init(|| Arc::new(OpenFile::new(File::open("/dev/null").unwrap())))
}

/// The first poll of a future that nobody will be woken for.
fn poll_once<T: Future>(future: Pin<&mut T>) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.poll(&mut cx).is_pending());
}

fn stopped(result: &Result<u64, AioCommandError>) -> bool {
    matches!(result, Err(AioCommandError::AioStopped))
}

fn model(body: impl Fn() + Send + Sync + 'static) {
    model_within(2, body);
}

/// With a bound of its own, for a model that takes too long otherwise.
fn model_within(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(body);
}

#[test]
fn a_request_is_served_and_its_context_closes() {
    model(|| {
        let rig = Rig::new(2);
        let driver = rig.drive();
        let device = rig.device();
        assert_eq!(block_on(rig.op(1)).unwrap(), 0);
        assert_eq!(rig.shared.free_slots(), Some(2));
        rig.close([driver, device]);
    });
}

#[test]
fn requests_that_come_in_company_are_all_sent() {
    model(|| {
        let rig = Rig::new(4);
        let driver = rig.drive();
        let device = rig.device();
        let (mut first, mut second) = (pin!(rig.op(1)), pin!(rig.op(2)));
        // Both are polled before either is waited for: the second may wait for the driver.
        let mut done = [false; 2];
        block_on(std::future::poll_fn(|cx| {
            done[0] = done[0] || first.as_mut().poll(cx).is_ready();
            done[1] = done[1] || second.as_mut().poll(cx).is_ready();
            if done == [true; 2] {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        }));
        rig.close([driver, device]);
    });
}

#[test]
fn two_threads_share_one_slot() {
    model_within(3, || {
        let rig = Rig::new(1);
        let device = rig.device_for(2);
        let other = {
            let rig = rig.clone();
            thread::spawn(move || assert_eq!(block_on(rig.op(1)).unwrap(), 0))
        };
        assert_eq!(block_on(rig.op(2)).unwrap(), 0);
        other.join().unwrap();
        device.join().unwrap();
        assert_eq!(rig.shared.free_slots(), Some(1));
        rig.close([]);
    });
}

#[test]
fn two_threads_share_one_slot_and_a_driver() {
    model_within(1, || {
        let rig = Rig::new(1);
        let driver = rig.drive();
        let device = rig.device();
        let other = {
            let rig = rig.clone();
            thread::spawn(move || assert_eq!(block_on(rig.op(1)).unwrap(), 0))
        };
        assert_eq!(block_on(rig.op(2)).unwrap(), 0);
        other.join().unwrap();
        rig.close([driver, device]);
    });
}

#[test]
fn a_dropped_request_keeps_its_slot_and_memory_until_its_event() {
    model_within(3, || {
        let rig = Rig::new(1);
        let device = rig.device_for(1);
        let mut buffer = LockedBuf::with_size(64).unwrap();
        let old = buffer.as_ref().as_ptr();
        {
            let mut read = pin!(rig.read(1, &mut buffer));
            let mut cx = Context::from_waker(Waker::noop());
            let _ = read.as_mut().poll(&mut cx);
        }
        // All or nothing: filled before it was given back, or never seen by the kernel.
        let byte = if buffer.as_ref().as_ptr() == old {
            FILE_BYTE
        } else {
            0
        };
        assert!(buffer.as_ref().iter().all(|&b| b == byte));
        device.join().unwrap();
        assert!(buffer.as_ref().iter().all(|&b| b == byte));
        assert_eq!(rig.shared.free_slots(), Some(1));
        rig.close([]);
    });
}

#[test]
fn a_request_that_is_dropped_while_it_waits_leaves_its_turn_to_the_next() {
    model(|| {
        let rig = Rig::new(1);
        let driver = rig.drive();
        let mut first = Box::pin(rig.op(1));
        let mut second = Box::pin(rig.op(2));
        poll_once(first.as_mut());
        poll_once(second.as_mut());
        let device = rig.device();
        let other = {
            let rig = rig.clone();
            thread::spawn(move || assert_eq!(block_on(rig.op(3)).unwrap(), 0))
        };
        drop(second);
        drop(first);
        other.join().unwrap();
        rig.close([driver, device]);
    });
}

#[test]
fn a_context_that_loses_its_driver_stops_its_requests() {
    model_within(3, || {
        let rig = Rig::new(1);
        let driver = rig.driver();
        let device = rig.device();
        let other = {
            let rig = rig.clone();
            thread::spawn(move || {
                let result = block_on(rig.op(1));
                assert!(stopped(&result) || matches!(result, Ok(0)), "{result:?}");
            })
        };
        drop(driver);
        assert!(stopped(&block_on(rig.op(2))));
        rig.end([other, device]);
    });
}

#[test]
fn memory_outlives_a_context_that_loses_its_driver() {
    model_within(3, || {
        let rig = Rig::new(2);
        let driver = rig.driver();
        let device = rig.device();
        let other = {
            let rig = rig.clone();
            thread::spawn(move || {
                let mut buffer = LockedBuf::with_size(64).unwrap();
                let result = block_on(rig.read(1, &mut buffer));
                let byte = if stopped(&result) { 0 } else { FILE_BYTE };
                assert!(buffer.as_ref().iter().all(|&b| b == byte), "{result:?}");
                rig.wait_until_gone();
                assert!(buffer.as_ref().iter().all(|&b| b == byte), "{result:?}");
            })
        };
        drop(driver);
        other.join().unwrap();
        device.join().unwrap();
    });
}

#[test]
fn a_batch_may_be_on_its_way_when_the_driver_goes() {
    model_within(3, || {
        let rig = Rig::new(4);
        let driver = rig.driver();
        let mut ops = [1, 2, 3].map(|label| Box::pin(rig.op(label)));
        for op in &mut ops {
            poll_once(op.as_mut());
        }
        assert_eq!(rig.shared.census(), (2, 1, 3));
        rig.kernel.take_at_most([1]);
        let flushing = {
            let rig = rig.clone();
            thread::spawn(move || rig.shared.flush())
        };
        let dropping = thread::spawn(move || drop(driver));
        for op in ops {
            assert!(stopped(&block_on(op)));
        }
        rig.end([flushing, dropping]);
    });
}

#[test]
fn a_context_may_be_closed_while_requests_come() {
    model(|| {
        let rig = Rig::new(1);
        let driver = rig.drive();
        let device = rig.device();
        let other = {
            let rig = rig.clone();
            thread::spawn(move || {
                let result = block_on(rig.op(1));
                assert!(stopped(&result) || matches!(result, Ok(0)), "{result:?}");
            })
        };
        rig.close([other, driver, device]);
    });
}

#[test]
fn a_context_may_be_closed_with_requests_queued_in_flight_and_waiting() {
    model(|| {
        let rig = Rig::new(2);
        let driver = rig.drive();
        let mut ops = [1, 2, 3].map(|label| Box::pin(rig.op(label)));
        for op in &mut ops {
            poll_once(op.as_mut());
        }
        rig.shared.stop();
        let device = rig.device();
        let [first, second, third] = ops;
        assert!(stopped(&block_on(third)), "it had no slot");
        assert_eq!(block_on(second).unwrap(), 0);
        drop(first);
        rig.close([driver, device]);
    });
}

#[test]
fn short_submits_and_refusals_leave_nobody_behind() {
    model(|| {
        let rig = Rig::new(4);
        let driver = rig.drive();
        rig.kernel.take_at_most([1, 1]);
        rig.kernel.refuse(3, libc::EBADF);
        let mut ops = [1, 2, 3, 4].map(|label| Box::pin(rig.op(label)));
        poll_once(ops[0].as_mut());
        poll_once(ops[1].as_mut());
        let device = rig.device();
        let [first, second, third, fourth] = ops;
        assert_eq!(block_on(fourth).unwrap(), 0);
        assert!(matches!(block_on(third), Err(AioCommandError::IoSubmit(_))));
        assert_eq!(block_on(second).unwrap(), 0);
        drop(first);
        rig.close([driver, device]);
    });
}

#[test]
fn a_queued_request_that_the_kernel_has_no_room_for_is_sent_later() {
    model(|| {
        let rig = Rig::new(2);
        let driver = rig.drive();
        rig.kernel.set_room(1);
        let mut ops = [1, 2].map(|label| Box::pin(rig.op(label)));
        for op in &mut ops {
            poll_once(op.as_mut());
        }
        let device = rig.device();
        for op in ops {
            assert_eq!(block_on(op).unwrap(), 0);
        }
        rig.close([driver, device]);
    });
}

#[test]
fn a_lone_request_that_the_kernel_has_no_room_for_is_sent_later() {
    model_within(3, || {
        let rig = Rig::new(2);
        rig.kernel.set_room(1);
        let device = rig.device_for(2);
        let other = {
            let rig = rig.clone();
            thread::spawn(move || assert_eq!(block_on(rig.op(1)).unwrap(), 0))
        };
        assert_eq!(block_on(rig.op(2)).unwrap(), 0);
        other.join().unwrap();
        rig.close([device]);
    });
}

#[test]
fn a_request_that_is_dropped_on_its_way_into_the_kernel_is_done_with() {
    model(|| {
        let rig = Rig::new(3);
        let driver = rig.drive();
        rig.kernel.set_room(1);
        let mut ops = [1, 2, 3].map(|label| Box::pin(rig.op(label)));
        for op in &mut ops {
            poll_once(op.as_mut());
        }
        let device = rig.device();
        let [first, second, third] = ops;
        drop(second);
        assert_eq!(block_on(third).unwrap(), 0);
        assert_eq!(block_on(first).unwrap(), 0);
        rig.close([driver, device]);
    });
}

#[test]
fn a_future_that_moves_to_another_task_is_woken_there() {
    model_within(3, || {
        let rig = Rig::new(1);
        let mut op = Box::pin(rig.op(1));
        poll_once(op.as_mut()); // its waker is nobody's
        let device = rig.device_for(1);
        assert_eq!(block_on(op).unwrap(), 0);
        device.join().unwrap();
        rig.close([]);
    });
}

#[test]
fn requests_that_complete_while_others_are_reaped_are_not_left() {
    model_within(3, || {
        let rig = Rig::new(2);
        let mut ops = [1, 2].map(|label| Box::pin(rig.op(label)));
        for op in &mut ops {
            poll_once(op.as_mut());
        }
        let threads = rig.device_and_io_driver();
        let [first, second] = ops;
        assert_eq!(block_on(second).unwrap(), 0);
        assert_eq!(block_on(first).unwrap(), 0);
        rig.close(threads);
    });
}

#[test]
fn a_signal_on_another_thread_reaches_a_context_that_stays_at_home() {
    model(|| {
        let rig: Rig<Local> = Rig::over(2, Reaper::at_home);
        let [device, io_driver] = rig.device_and_io_driver();
        let mut ops = [1, 2].map(|label| Box::pin(rig.op(label)));
        for op in &mut ops {
            poll_once(op.as_mut());
        }
        // Polls only what was woken.
        let mut tasks = FuturesUnordered::<Pin<Box<dyn Future<Output = bool>>>>::new();
        let driver = Driver::new(Arc::clone(&rig.shared), Turn::Fair);
        tasks.push(Box::pin(async { driver.await.is_err() }));
        for op in ops {
            tasks.push(Box::pin(async { op.await.unwrap() == 0 }));
        }
        assert_eq!(block_on(tasks.next()), Some(true));
        assert_eq!(block_on(tasks.next()), Some(true));
        rig.shared.stop();
        assert_eq!(block_on(tasks.next()), Some(false), "the driver's end");
        rig.end([device, io_driver]);
    });
}

#[test]
fn the_last_handle_may_go_while_the_kernel_signals() {
    model_within(3, || {
        let rig = Rig::new(1);
        let mut op = Box::pin(rig.op(1));
        poll_once(op.as_mut());
        drop(op);
        let mut gone = rig.shared.watch_gone();
        let (kernel, signal) = (rig.kernel.clone(), rig.signal.clone());
        let device = thread::spawn(move || {
            while let Some(signals) = kernel.complete_next() {
                if signals {
                    signal.dispatch();
                }
            }
        });
        drop(rig);
        block_on(async { while gone.changed().await.is_ok() {} });
        device.join().unwrap();
    });
}

#[test]
fn two_threads_requests_that_went_out_quietly_are_found() {
    model_within(1, || {
        let rig = Rig::new(2);
        let driver = rig.drive();
        rig.shared.go_quiet();
        let device = rig.device();
        let other = {
            let rig = rig.clone();
            thread::spawn(move || assert_eq!(block_on(rig.op(1)).unwrap(), 0))
        };
        assert_eq!(block_on(rig.op(2)).unwrap(), 0);
        other.join().unwrap();
        rig.close([driver, device]);
    });
}

#[test]
fn a_batch_that_went_out_quietly_is_found() {
    model_within(1, || {
        let rig = Rig::new(4);
        let driver = rig.drive();
        rig.shared.go_quiet();
        let mut ops = [1, 2, 3].map(|label| Box::pin(rig.op(label)));
        for op in &mut ops {
            poll_once(op.as_mut());
        }
        let device = rig.device();
        for op in ops {
            assert_eq!(block_on(op).unwrap(), 0);
        }
        rig.close([driver, device]);
    });
}

#[test]
fn a_request_that_waits_for_room_is_sent_when_a_quiet_one_is_done() {
    model_within(1, || {
        let rig = Rig::new(3);
        rig.kernel.set_room(1);
        let driver = rig.drive();
        rig.shared.go_quiet();
        let device = rig.device();
        let other = {
            let rig = rig.clone();
            thread::spawn(move || assert_eq!(block_on(rig.op(1)).unwrap(), 0))
        };
        assert_eq!(block_on(rig.op(2)).unwrap(), 0);
        other.join().unwrap();
        rig.close([driver, device]);
    });
}

#[test]
fn a_context_may_be_closed_over_an_abandoned_request_that_went_out_quietly() {
    model(|| {
        let rig = Rig::new(2);
        let driver = rig.drive();
        rig.shared.go_quiet();
        let mut op = Box::pin(rig.op(1));
        poll_once(op.as_mut());
        let device = rig.device();
        drop(op);
        rig.close([driver, device]);
    });
}
