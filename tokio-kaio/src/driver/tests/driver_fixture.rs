//! [`Fixture`]: a driver over the fake backend, with futures that a test polls by hand.

use std::fs::File;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::backend::fake::{Call, FakeBackend, FakeControl};
use crate::backend::{Notify, OpCode, SubmitError};
use crate::buf::PathToOpen;
use crate::config::{ContextConfig, ContextTypes, Types};
use crate::context::test_operations::{is_complete, key_of, op_of_command, op_of_request};
use crate::context::{OpFuture, TransferMode};
use crate::driver::{Driver, Entered};
use crate::offload::OffloadConfig;
use crate::op::{BufferReturn, FileRef, IoBuffer, IoOp, IoRequest, OpenFile};
use crate::policy::PollOrder;
use crate::policy::{Adaptive, DefaultAdvisor, PolicyConfig, SubmitAdvisor};
use crate::runtime::{CompletionWaker, DriverTask};
use crate::slab::{SlotKey, SlotState};
use crate::teardown::wait_until_gone;
use crate::{
    AioCommandError, Backend, LockedBuf, Metrics, NoopLock, RawCommand, ReadFlags, SubmitPolicy,
    WriteFlags,
};

/// A context of one thread. Its lock panics if it is taken twice, as by code of callers that runs under
/// it.
pub(super) type LocalTypes<P = DefaultAdvisor> = Types<NoopLock, FakeBackend, P>;
/// A context that any thread may use.
pub(super) type SyncTypes<P = DefaultAdvisor> = Types<parking_lot::RawMutex, FakeBackend, P>;

/// A driver, its backend, and a file.
pub(super) struct Fixture<T: ContextTypes<Backend = FakeBackend> = LocalTypes> {
    pub(super) driver: Arc<Driver<T>>,
    pub(super) backend: FakeControl,
    pub(super) file: Arc<OpenFile>,
    completion_waker: Arc<CompletionWaker<T>>,
    /// For writes of no bytes.
    unread: LockedBuf,
}

/// A context that waits for slots and submits inline.
pub(super) fn config(capacity: usize) -> ContextConfig {
    config_with_policy(capacity, SubmitPolicy::Inline)
}

pub(super) fn config_with_policy(capacity: usize, policy: SubmitPolicy) -> ContextConfig {
    ContextConfig {
        capacity,
        wait_for_slot: true,
        policy: PolicyConfig {
            policy,
            nonblocking_submit: false,
            #[cfg(feature = "simulation")]
            simulated: false,
            max_batch: Some(32),
        },
        backend: Backend::KernelAio,
        measure_latency: false,
        registered_bytes: 0,
        file_calls: crate::backend::FileCalls::default(),
    }
}

pub(super) fn config_with_max_batch(capacity: usize, max_batch: usize) -> ContextConfig {
    let mut config = config(capacity);
    config.policy.max_batch = Some(max_batch);
    config
}

/// A context whose policy chooses the sizes of batches.
pub(super) fn config_with_default_batches(capacity: usize) -> ContextConfig {
    let mut config = config(capacity);
    config.policy.max_batch = None;
    config
}

impl Fixture {
    /// With the default advisor, which is `Plain` in one of the builds.
    pub(super) fn new(config: ContextConfig) -> Fixture {
        Fixture::local(config)
    }
}

impl Fixture<LocalTypes<Adaptive>> {
    /// For tests that depend on what the default policy decides: batches, offloading.
    pub(super) fn adaptive(config: ContextConfig) -> Self {
        Fixture::local(config)
    }
}

impl<P: SubmitAdvisor> Fixture<LocalTypes<P>> {
    pub(super) fn local(config: ContextConfig) -> Self {
        let offload = OffloadConfig::FOR_TESTS;
        Fixture::over(config, offload, CompletionWaker::for_this_thread)
    }
}

impl<P: SubmitAdvisor> Fixture<SyncTypes<P>> {
    pub(super) fn sync(config: ContextConfig) -> Self {
        Fixture::sync_with_offload(config, OffloadConfig::FOR_TESTS)
    }

    pub(super) fn sync_with_offload(config: ContextConfig, offload: OffloadConfig) -> Self {
        Fixture::over(config, offload, CompletionWaker::for_any_thread)
    }
}

impl<T: ContextTypes<Backend = FakeBackend>> Fixture<T> {
    fn over(
        config: ContextConfig,
        offload: OffloadConfig,
        completion_waker: impl FnOnce(&Arc<Driver<T>>) -> Arc<CompletionWaker<T>>,
    ) -> Fixture<T> {
        let backend = FakeBackend::new();
        let control = backend.control();
        let driver = Driver::new(backend, None, config, None, offload);
        Fixture {
            backend: control,
            file: open_file(),
            completion_waker: completion_waker(&driver),
            driver,
            unread: LockedBuf::with_size(1).unwrap(),
        }
    }

    pub(super) fn entered(&self) -> Entered<'_, T> {
        self.driver.enter().unwrap()
    }

    /// An operation that moves no data. The fake backend knows it by `label`.
    pub(super) fn op(&self, label: i64) -> Task<'_, T> {
        self.op_on(FileRef::Open(&self.file), label)
    }

    /// The same on another file.
    pub(super) fn op_on<'a>(&'a self, file: FileRef<'a>, label: i64) -> Task<'a, T> {
        self.task(file, write(label, &self.unread, 0))
    }

    /// Operations that move no data, each polled once.
    pub(super) fn start(&self, labels: impl IntoIterator<Item = i64>) -> Vec<Task<'_, T>> {
        let start = |label| {
            let mut op = self.op(label);
            assert!(op.poll().is_pending(), "{label}");
            op
        };
        labels.into_iter().map(start).collect()
    }

    /// A read of all of `buffer`.
    pub(super) fn read<'a>(&'a self, label: i64, buffer: &'a mut LockedBuf) -> Task<'a, T> {
        let command = RawCommand::Pread {
            offset: label as u64,
            len: buffer.size() as u64,
            flags: ReadFlags::empty(),
            buffer,
        };
        self.task(FileRef::Open(&self.file), command)
    }

    /// A write of all of `buffer`.
    pub(super) fn write<'a>(&'a self, label: i64, buffer: &'a LockedBuf) -> Task<'a, T> {
        let command = write(label, buffer, buffer.size());
        self.task(FileRef::Open(&self.file), command)
    }

    /// A write of the first `len` bytes of `buffer`, in as many requests as that takes.
    pub(super) fn write_exact<'a>(
        &'a self,
        label: i64,
        buffer: &'a LockedBuf,
        len: usize,
    ) -> Task<'a, T> {
        let (request, buffer_return) = write(label, buffer, len).into_request().unwrap();
        let request = (request, buffer_return, TransferMode::Exact);
        let file = FileRef::Open(&self.file);
        Task::new(op_of_request(&self.driver, file, request))
    }

    /// An operation that might never complete: a poll, or the open of a FIFO.
    pub(super) fn wait_op(&self, opcode: OpCode, label: i64) -> Task<'_, T> {
        let (buffer, mode) = match opcode {
            OpCode::Open => {
                let path = PathToOpen::new(c"fifo".into());
                (IoBuffer::Path(path), TransferMode::Single)
            }
            _ => (IoBuffer::None, TransferMode::Poll),
        };
        let op = IoOp {
            offset: label,
            ..IoOp::new(opcode)
        };
        let request = (IoRequest::new(op, buffer), BufferReturn::None, mode);
        let file = FileRef::Open(&self.file);
        Task::new(op_of_request(&self.driver, file, request))
    }

    /// An append of no bytes to `file`.
    pub(super) fn append<'a>(&'a self, file: &'a Arc<OpenFile>, label: i64) -> Task<'a, T> {
        let command = RawCommand::Pwrite {
            offset: 0,
            buffer: &self.unread,
            flags: WriteFlags::APPEND,
            len: 0,
        };
        let (mut request, buffer_return) = command.into_request().unwrap();
        request.op.offset = label; // of the request only: commands that append have none
        let request = (request, buffer_return, TransferMode::Single);
        Task::new(op_of_request(&self.driver, FileRef::Open(file), request))
    }

    pub(super) fn task<'a>(&'a self, file: FileRef<'a>, command: RawCommand<'a>) -> Task<'a, T> {
        Task::new(op_of_command(&self.driver, file, command))
    }

    /// The driver task, not polled yet.
    pub(super) fn driver_task(&self) -> Task<'static, T, DriverTask<T>> {
        Task::new(DriverTask::new(
            Arc::clone(&self.driver),
            Arc::clone(&self.completion_waker),
            PollOrder::Fair,
        ))
    }

    /// The driver task, which has been polled: requests may wait for it.
    pub(super) fn running_driver_task(&self) -> Task<'static, T, DriverTask<T>> {
        let mut driver_task = self.driver_task();
        assert!(driver_task.poll().is_pending());
        driver_task
    }

    /// Signals the eventfd.
    pub(super) fn signal(&self) {
        self.completion_waker.waker().wake();
    }

    /// Completes what is in flight, round by round, until nothing is. The driver task runs after each
    /// round. Returns the labels.
    pub(super) fn complete_all(&self, driver_task: &mut Task<'_, T, DriverTask<T>>) -> Vec<i64> {
        let mut completed = Vec::new();
        loop {
            let in_flight = self.backend.in_flight();
            if in_flight.is_empty() {
                return completed;
            }
            for &label in &in_flight {
                self.backend.complete(label);
            }
            completed.extend(in_flight);
            self.signal();
            let _ = driver_task.poll();
        }
    }

    pub(super) fn flush(&self) {
        self.entered().flush();
    }

    pub(super) fn stop(&self) {
        self.entered().stop();
    }

    pub(super) fn orphan(&self) {
        self.entered().orphan();
    }

    pub(super) fn free_capacity(&self) -> Option<usize> {
        self.entered().free_capacity()
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.entered().metrics()
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(
            self.entered().lock().phase,
            crate::driver::core::Phase::Gone
        )
    }

    pub(super) fn census(&self) -> Census {
        let entered = self.entered();
        let core = entered.lock();
        let owned = core
            .slots
            .iter()
            .filter(|(_, slot)| !matches!(slot.state, SlotState::Free | SlotState::Abandoned));
        Census {
            waiting: core.waiting(),
            in_flight: core.slots.in_flight(),
            owned: owned.count(),
        }
    }

    /// Asserts that no request waits or is in flight, and that no future owns a slot.
    pub(super) fn assert_idle(&self) {
        assert_eq!(self.census(), census(0, 0, 0));
    }

    pub(super) fn is_gone(&self) -> bool {
        let mut gone = self.driver.gone();
        let closed = pin!(gone.changed());
        let mut cx = Context::from_waker(Waker::noop());
        matches!(closed.poll(&mut cx), Poll::Ready(Err(_)))
    }

    /// Waits for the teardown.
    pub(super) fn wait_until_gone(&self) {
        block_on(wait_until_gone(self.driver.gone()));
        assert!(self.backend.is_dropped());
    }
}

/// The requests of a driver.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Census {
    /// Queued, or held behind an append.
    pub(super) waiting: usize,
    pub(super) in_flight: usize,
    /// Slots of a future, which is not dropped: in any state.
    pub(super) owned: usize,
}

pub(super) fn census(waiting: usize, in_flight: usize, owned: usize) -> Census {
    Census {
        waiting,
        in_flight,
        owned,
    }
}

/// An open file that no other fixture has.
pub(super) fn open_file() -> Arc<OpenFile> {
    Arc::new(OpenFile::new(File::open("/dev/null").unwrap()))
}

/// Runs a future that other threads complete. Fails if it does not complete in a minute.
pub(super) fn block_on<R>(future: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let guarded = async { tokio::time::timeout(Duration::from_secs(300), future).await };
    runtime.block_on(guarded).expect("it does not complete")
}

fn write(label: i64, buffer: &LockedBuf, len: usize) -> RawCommand<'_> {
    RawCommand::Pwrite {
        offset: label as u64,
        buffer,
        flags: WriteFlags::empty(),
        len: len as u64,
    }
}

/// A call of `submit` that asked for signals.
pub(super) fn call(
    labels: impl IntoIterator<Item = i64>,
    answer: Result<usize, SubmitError>,
) -> Call {
    Call {
        labels: labels.into_iter().collect(),
        notify: Notify::Signal,
        answer,
    }
}

/// A future with a waker that counts.
pub(super) struct Task<'a, T: ContextTypes, F = OpFuture<'a, 'a, T>> {
    future: Pin<Box<F>>,
    wakes: Arc<Wakes>,
    types: PhantomData<fn() -> &'a T>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<T: ContextTypes, F: Future> Task<'_, T, F> {
    pub(super) fn new(future: F) -> Self {
        Task {
            future: Box::pin(future),
            wakes: Arc::default(),
            types: PhantomData,
        }
    }

    pub(super) fn poll(&mut self) -> Poll<F::Output> {
        self.poll_with(&self.waker())
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.wakes))
    }

    pub(super) fn poll_with(&mut self, waker: &Waker) -> Poll<F::Output> {
        self.future.as_mut().poll(&mut Context::from_waker(waker))
    }

    /// How often it was woken since the last call.
    pub(super) fn take_wakes(&self) -> usize {
        self.wakes.0.swap(0, Ordering::Relaxed)
    }

    /// The result of a future that is ready.
    pub(super) fn ready(mut self) -> F::Output {
        match self.poll() {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("not ready"),
        }
    }
}

impl<T: ContextTypes> Task<'_, T> {
    /// The request that the driver has.
    pub(super) fn key(&self) -> Option<SlotKey> {
        key_of(&self.future)
    }

    /// Whether it may not be polled again.
    pub(super) fn is_complete(&self) -> bool {
        is_complete(&self.future)
    }

    /// The result of an operation that is ready, errors in short.
    pub(super) fn result(self) -> Result<u64, String> {
        in_short(self.ready())
    }
}

/// A result with its error in short.
pub(super) fn in_short(result: Result<u64, AioCommandError>) -> Result<u64, String> {
    result.map_err(|error| match error {
        AioCommandError::AioStopped => "stopped".into(),
        AioCommandError::CapacityExceeded => "full".into(),
        AioCommandError::IoSubmit(e) => format!("submit {}", e.raw_os_error().unwrap()),
        AioCommandError::BadResult(e) => format!("result {}", e.raw_os_error().unwrap()),
        other => format!("{other:?}"),
    })
}

pub(super) fn stopped() -> Result<u64, String> {
    Err("stopped".into())
}

/// The submission was refused.
pub(super) fn submit_error(errno: i32) -> Result<u64, String> {
    Err(format!("submit {errno}"))
}

/// The completion had this errno.
pub(super) fn completed_with(errno: i32) -> Result<u64, String> {
    Err(format!("result {errno}"))
}
