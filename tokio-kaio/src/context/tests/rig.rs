//! A context over a fake kernel, polled by hand.

use std::fs::File;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use intrusive_collections::linked_list::{AtomicLink, Link};

use super::fake::{Fake, Port};
use crate::context::course::Extent;
use crate::context::descriptor::Descriptor;
use crate::context::driver::{Driver, Turn};
use crate::context::operation::Operation;
use crate::context::options::Options;
use crate::context::pool::Threads;
use crate::context::reaper::Reaper;
use crate::context::shared::Shared;
use crate::context::state::Limits;
use crate::request::{Flavour, Of, OpenFile};
use crate::{
    AioCommandError, Backend, LocalRequestAdapter, LockedBuf, NoopLock, RawCommand, ReadFlags,
    SubmitPolicy, SyncRequestAdapter, WriteFlags,
};

/// Its lock panics where it is taken twice.
pub(super) type Local = Of<NoopLock, LocalRequestAdapter, Link, Fake>;
pub(super) type Sync = Of<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink, Fake>;

pub(super) struct Rig<F: Flavour<Kernel = Fake> = Local> {
    pub(super) shared: Arc<Shared<F>>,
    pub(super) kernel: Port,
    pub(super) file: Arc<OpenFile>,
    /// For writes of no bytes.
    nothing: LockedBuf,
}

pub(super) fn limits(slots: usize) -> Limits {
    Limits {
        slots,
        waits: true,
        max_batch: Some(32),
        policy: SubmitPolicy::Inline,
        backend: Backend::KernelAio,
        measure_latency: false,
    }
}

impl Rig<Local> {
    pub(super) fn new(limits: Limits) -> Rig<Local> {
        Rig::over(limits, Reaper::at_home)
    }
}

impl Rig<Sync> {
    pub(super) fn sync(limits: Limits) -> Rig<Sync> {
        Rig::over(limits, Reaper::anywhere)
    }
}

impl<F: Flavour<Kernel = Fake> + 'static> Rig<F> {
    fn over(
        limits: Limits,
        reaper: impl FnOnce(std::sync::Weak<Shared<F>>) -> Reaper<F>,
    ) -> Rig<F> {
        let fake = Fake::new();
        let kernel = crate::sys::Kernel::port(&fake);
        Rig {
            shared: Shared::new(fake, None, limits, Threads::none(), reaper),
            kernel,
            file: Self::another_file(),
            nothing: LockedBuf::with_size(1).unwrap(),
        }
    }

    /// An operation that moves no data. `label` is how the fake kernel knows it.
    pub(super) fn op(&self, label: i64) -> Task<'_, F> {
        self.on(Descriptor::File(&self.file), label)
    }

    /// The same on another descriptor.
    pub(super) fn on<'a>(&'a self, descriptor: Descriptor<'a>, label: i64) -> Task<'a, F> {
        self.task(descriptor, write(label, &self.nothing, 0))
    }

    /// As many operations, polled once each.
    pub(super) fn started(&self, labels: impl IntoIterator<Item = i64>) -> Vec<Task<'_, F>> {
        let start = |label| {
            let mut task = self.op(label);
            assert!(task.poll().is_pending(), "{label}");
            task
        };
        labels.into_iter().map(start).collect()
    }

    /// A read of all of `buffer`.
    pub(super) fn read<'a>(&'a self, label: i64, buffer: &'a mut LockedBuf) -> Task<'a, F> {
        let command = RawCommand::Pread {
            offset: label as u64,
            len: buffer.size() as u64,
            flags: ReadFlags::empty(),
            buffer,
        };
        self.task(Descriptor::File(&self.file), command)
    }

    /// An append of no bytes to `file`.
    pub(super) fn append<'a>(&'a self, file: &'a Arc<OpenFile>, label: i64) -> Task<'a, F> {
        let command = RawCommand::Pwrite {
            offset: label as u64,
            buffer: &self.nothing,
            flags: WriteFlags::APPEND,
            len: 0,
        };
        self.task(Descriptor::File(file), command)
    }

    /// Another file than [`Rig::file`].
    pub(super) fn another_file() -> Arc<OpenFile> {
        Arc::new(OpenFile::new(File::open("/dev/null").unwrap()))
    }

    /// A write of all of `buffer`.
    pub(super) fn write<'a>(&'a self, label: i64, buffer: &'a LockedBuf) -> Task<'a, F> {
        let command = write(label, buffer, buffer.size());
        self.task(Descriptor::File(&self.file), command)
    }

    /// A write of the first `len` bytes of `buffer` that goes on until they are written.
    pub(super) fn write_all<'a>(
        &'a self,
        label: i64,
        buffer: &'a LockedBuf,
        len: usize,
    ) -> Task<'a, F> {
        let (payload, lease) = write(label, buffer, len).payload().unwrap();
        Task::new(Operation::prepared(
            &self.shared,
            None,
            Options::NONE,
            Descriptor::File(&self.file),
            (payload, lease, Extent::Exact),
        ))
    }

    fn task<'a>(&'a self, descriptor: Descriptor<'a>, command: RawCommand<'a>) -> Task<'a, F> {
        Task::new(Operation::new(
            &self.shared,
            None,
            Options::NONE,
            descriptor,
            command,
        ))
    }

    /// The background task, not polled yet.
    pub(super) fn driver(&self) -> Task<'static, F, Driver<F>> {
        Task::new(Driver::new(Arc::clone(&self.shared), Turn::Fair))
    }

    /// The background task, which has been polled: requests that come in company wait for it.
    pub(super) fn driven(&self) -> Task<'static, F, Driver<F>> {
        let mut driver = self.driver();
        assert!(driver.poll().is_pending());
        driver
    }

    /// The kernel's signal.
    pub(super) fn signal(&self) {
        self.shared.reaper.waker().wake();
    }

    /// Completes what is in flight, round by round, until nothing is; the driver runs in between.
    pub(super) fn serve_all(&self, driver: &mut Task<'_, F, Driver<F>>) -> Vec<i64> {
        let mut served = Vec::new();
        loop {
            let in_flight = self.kernel.in_flight();
            if in_flight.is_empty() {
                return served;
            }
            in_flight
                .iter()
                .for_each(|label| self.kernel.complete(*label));
            served.extend(in_flight);
            self.signal();
            let _ = driver.poll();
        }
    }

    /// Asserts that no request is queued, in flight, or left by its future.
    pub(super) fn assert_idle(&self) {
        assert_eq!(
            self.shared.census(),
            (0, 0, 0),
            "queued, in flight, claimed"
        );
    }

    pub(super) fn is_gone(&self) -> bool {
        let mut gone = self.shared.watch_gone();
        let closed = pin!(gone.changed());
        let mut cx = Context::from_waker(Waker::noop());
        matches!(closed.poll(&mut cx), Poll::Ready(Err(_)))
    }

    /// Waits for the thread that gives the context back.
    pub(super) fn wait_until_gone(&self) {
        let mut gone = self.shared.watch_gone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let closed = async move { while gone.changed().await.is_ok() {} };
        let guarded = async { tokio::time::timeout(Duration::from_secs(60), closed).await };
        runtime.block_on(guarded).expect("the context does not end");
        assert!(self.kernel.is_destroyed());
    }
}

fn write(label: i64, buffer: &LockedBuf, len: usize) -> RawCommand<'_> {
    RawCommand::Pwrite {
        offset: label as u64,
        buffer,
        flags: WriteFlags::empty(),
        len: len as u64,
    }
}

/// A future with a waker that counts.
pub(super) struct Task<'a, F: Flavour, T = Operation<'a, 'a, F>> {
    future: Pin<Box<T>>,
    woken: Arc<Count>,
    _of: std::marker::PhantomData<&'a F>,
}

#[derive(Default)]
pub(super) struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<F: Flavour, T: Future> Task<'_, F, T> {
    fn new(future: T) -> Self {
        Task {
            future: Box::pin(future),
            woken: Arc::default(),
            _of: std::marker::PhantomData,
        }
    }

    pub(super) fn poll(&mut self) -> Poll<T::Output> {
        self.poll_with(&self.waker())
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.woken))
    }

    pub(super) fn poll_with(&mut self, waker: &Waker) -> Poll<T::Output> {
        self.future.as_mut().poll(&mut Context::from_waker(waker))
    }

    /// How often it was woken since this was last asked.
    pub(super) fn woken(&self) -> usize {
        self.woken.0.swap(0, Ordering::Relaxed)
    }

    /// The result of a future that is ready.
    pub(super) fn ready(mut self) -> T::Output {
        match self.poll() {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("not ready"),
        }
    }
}

/// Says what an operation came to, in short.
pub(super) fn outcome(result: Result<u64, AioCommandError>) -> Result<u64, String> {
    result.map_err(|error| match error {
        AioCommandError::AioStopped => "stopped".into(),
        AioCommandError::CapacityExceeded => "full".into(),
        AioCommandError::IoSubmit(e) => format!("submit {}", e.raw_os_error().unwrap()),
        AioCommandError::BadResult(e) => format!("result {}", e.raw_os_error().unwrap()),
        other => format!("{other:?}"),
    })
}
