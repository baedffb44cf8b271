//! `bare-tokio/…`: kernel AIO from tokio tasks with as little code as possible. It shows which part of the cost
//! of an engine is tokio's.
//!
//! A task waits for the eventfd, reaps all completions with one `io_getevents`, and wakes the tasks that made
//! the transfers. The last task that it has woken submits the next transfers of all of them with one
//! `io_submit`, as the bare loop does. So a transfer costs what it costs in `bare-epoll`, and in addition one
//! wake of its task by tokio, two uses of a lock, and its part of a wake of the task that reaps.
//!
//! It lacks what a library needs: a future can't be dropped before its transfer completes, and a transfer waits
//! for those of all other tasks that were woken with it.
#![allow(unsafe_code)]

use std::error::Error;
use std::fs::File;
use std::future::poll_fn;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;

use super::epoll_eventfd::new_eventfd;
use super::kernel_aio::{Event, Iocb, IocbTarget, KernelContext, transferred};
use super::{open_file, setup_error};
use crate::task_runner::AsyncIo;
use crate::{
    Engine, PageBuffer, Prepared, Result, Run, RunStats, RuntimeFlavor, Transfer, Workload,
    run_tasks,
};

pub(super) struct BareTokio {
    flavor: RuntimeFlavor,
    name: String,
}

impl BareTokio {
    pub(super) fn new(flavor: RuntimeFlavor) -> BareTokio {
        BareTokio {
            flavor,
            name: format!("bare-tokio/{flavor}"),
        }
    }
}

impl Engine for BareTokio {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let runtime = self.flavor.runtime()?;
        let eventfd = new_eventfd().map_err(|error| setup_error("eventfd", &error))?;
        let mut buffers: Vec<_> = (0..workload.depth)
            .map(|_| PageBuffer::new(workload.block()))
            .collect();
        let file = open_file(workload, false)?;
        let targets = buffers.iter_mut().map(|buffer| IocbTarget {
            fd: file.as_raw_fd(),
            buffer: buffer.as_mut_ptr() as u64,
            eventfd: Some(eventfd.as_raw_fd()),
        });
        let shared = Arc::new(Shared {
            context: KernelContext::new(workload.depth)?,
            state: Mutex::new(State::new(workload.depth)),
            targets: targets.collect(),
            _buffers: buffers,
            _file: file,
            workload: workload.clone(),
        });
        let eventfd = {
            let _guard = runtime.enter();
            // SAFETY: the descriptor is owned, and never replaced by another.
            unsafe { AsyncFd::register_with_interest(eventfd, Interest::READABLE) }
                .map_err(std::io::Error::from)?
        };
        runtime.spawn(reap(Arc::clone(&shared), eventfd));
        Ok(Box::new(PreparedBareTokio {
            runtime,
            shared,
            slots: (0..workload.depth).collect(),
        }))
    }
}

struct PreparedBareTokio {
    runtime: Runtime,
    shared: Arc<Shared>,
    slots: Vec<usize>,
}

impl Prepared for PreparedBareTokio {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        let (shared, slots) = (&self.shared, &mut self.slots);
        shared.state().expected = shared.workload.depth;
        self.runtime.block_on(async {
            let ios = [BareTokioIo(Arc::clone(shared))];
            run_tasks!(tokio::spawn, &shared.workload, run, ios, slots)
        })
    }
}

/// The state that the tasks share.
struct Shared {
    /// Declared before the buffers, so that it is destroyed before they are freed.
    context: KernelContext,
    state: Mutex<State>,
    /// Those of each slot.
    targets: Vec<IocbTarget>,
    _buffers: Vec<PageBuffer>,
    _file: File,
    workload: Workload,
}

struct State {
    /// The requests to submit next.
    queue: Vec<Iocb>,
    /// An empty queue, to take the place of the one that is submitted.
    spare: Vec<Iocb>,
    /// Transfers that will be queued: those of tasks that were started or woken. With the last of them the queue
    /// is submitted.
    expected: usize,
    slots: Vec<SlotState>,
    /// A submission or a reap has failed, so that transfers of other tasks may not complete.
    has_failed: bool,
}

#[derive(Clone, Default)]
struct SlotState {
    waker: Option<Waker>,
    /// The result of the transfer, once it has completed.
    result: Option<i64>,
}

impl State {
    fn new(depth: usize) -> State {
        State {
            queue: Vec::with_capacity(depth),
            spare: Vec::with_capacity(depth),
            expected: depth,
            slots: vec![SlotState::default(); depth],
            has_failed: false,
        }
    }

    /// Counts a transfer that was queued, or that will not be. Returns the queue if it is to be submitted.
    fn count_expected(&mut self) -> Option<Vec<Iocb>> {
        self.expected = self.expected.saturating_sub(1);
        let is_due = self.expected == 0 && !self.queue.is_empty();
        is_due.then(|| mem::replace(&mut self.queue, mem::take(&mut self.spare)))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while the lock is held")
    }

    /// Performs `transfer` in `slot`.
    async fn transfer(&self, slot: usize, transfer: Transfer) -> Result<usize> {
        let mut transfer = Some(transfer);
        poll_fn(|cx| match transfer.take() {
            Some(transfer) => self.start(slot, transfer, cx),
            None => self.poll(slot, cx),
        })
        .await
    }

    /// Queues `transfer`, and submits the queue if that was the last one expected.
    fn start(&self, slot: usize, transfer: Transfer, cx: &Context<'_>) -> Poll<Result<usize>> {
        let mut state = self.state();
        if state.has_failed {
            return Poll::Ready(Err(other_failed()));
        }
        state.slots[slot].waker = Some(cx.waker().clone());
        let target = &self.targets[slot];
        let iocb = Iocb::new(&self.workload, slot, transfer, target);
        state.queue.push(iocb);
        let queue = state.count_expected();
        drop(state);
        match queue.map_or(Ok(()), |queue| self.submit(queue)) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll(&self, slot: usize, cx: &Context<'_>) -> Poll<Result<usize>> {
        let mut state = self.state();
        let has_failed = state.has_failed;
        let slot = &mut state.slots[slot];
        match slot.result.take() {
            Some(result) => Poll::Ready(transferred(result)),
            None if has_failed => Poll::Ready(Err(other_failed())),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Submits `queue`. If that fails, all transfers fail.
    fn submit(&self, mut queue: Vec<Iocb>) -> Result<()> {
        let submitted = self.submit_all(&mut queue);
        queue.clear();
        self.state().spare = queue;
        submitted.inspect_err(|_| self.fail())
    }

    fn submit_all(&self, queue: &mut [Iocb]) -> Result<()> {
        for requests in queue.chunks_mut(64) {
            let mut pointers = [std::ptr::null_mut(); 64];
            let len = requests.len();
            for (pointer, request) in pointers.iter_mut().zip(requests) {
                *pointer = &raw mut *request;
            }
            // SAFETY: the pointers are to `queue`. The buffers live as long as the context.
            unsafe { self.context.submit(&mut pointers[..len]) }?;
        }
        Ok(())
    }

    /// Fails all transfers that have no result.
    fn fail(&self) {
        let mut state = self.state();
        state.has_failed = true;
        let wakers = state.slots.iter_mut().filter_map(|slot| slot.waker.take());
        let wakers: Vec<_> = wakers.collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Reaps completions into `events`, and wakes their tasks, whose wakers pass through `wakers`.
    fn reap(&self, events: &mut [Event], wakers: &mut Vec<Waker>) -> Result<()> {
        let reaped = self.context.events(0, events)?;
        let mut state = self.state();
        for event in &events[..reaped] {
            let slot = &mut state.slots[event.data as usize];
            slot.result = Some(event.res);
            wakers.extend(slot.waker.take());
        }
        state.expected += reaped;
        drop(state);
        wakers.drain(..).for_each(Waker::wake);
        Ok(())
    }
}

/// The error of a transfer that may never complete.
fn other_failed() -> Box<dyn Error + Send + Sync> {
    "io_submit or io_getevents has failed for several transfers".into()
}

/// Reaps whenever the eventfd is signalled. It is never read: each signal is a new edge for epoll.
async fn reap(shared: Arc<Shared>, eventfd: AsyncFd<OwnedFd>) -> Result<()> {
    let depth = shared.workload.depth;
    let mut events = vec![Event::default(); depth]; // no more are in flight
    let mut wakers = Vec::with_capacity(depth);
    loop {
        eventfd.readable().await?.clear_ready();
        let reaped = shared.reap(&mut events, &mut wakers);
        reaped.inspect_err(|_| shared.fail())?;
    }
}

struct BareTokioIo(Arc<Shared>);

impl Clone for BareTokioIo {
    fn clone(&self) -> BareTokioIo {
        BareTokioIo(Arc::clone(&self.0))
    }
}

impl Drop for BareTokioIo {
    /// The task ends, and queues no further transfer.
    fn drop(&mut self) {
        let queue = self.0.state().count_expected();
        if let Some(queue) = queue {
            let _ = self.0.submit(queue); // the transfers of other tasks, which would not complete
        }
    }
}

impl AsyncIo for BareTokioIo {
    type Slot = usize;

    async fn transfer(&self, transfer: Transfer, slot: usize) -> (usize, Result<usize>) {
        let transferred = self.0.transfer(slot, transfer).await;
        (slot, transferred)
    }
}
