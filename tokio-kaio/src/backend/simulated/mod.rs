//! [`SimulatedBackend`]: runs requests on a simulated disk.
//!
//! The disk says when a request is due, on tokio's clock. A task of the runtime, the [`CompletionTimer`], waits
//! for the next one, finishes it and wakes the driver task. There is no eventfd and no thread, so that on a
//! current-thread runtime with a paused clock the order of everything follows from the program and the seed.
//!
//! [`Notify`] has no effect: the timer always wakes the driver task.
#![allow(unsafe_code)]

mod completion_timer;
mod request_queue;

use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{
    Capabilities, Completions, IoBackend, Notify, Sqe, SubmitError, Submitter, refuse_in_child,
};
use crate::simulation::Disk;
use crate::sync::DriverWaker;
use crate::sys::Process;
pub(crate) use completion_timer::CompletionTimer;
use request_queue::RequestQueue;

/// The backend. Dropping it ends the requests in flight.
#[derive(Debug)]
pub(crate) struct SimulatedBackend {
    queue: Arc<RequestQueue>,
    owner: Process,
}

/// Submits to a [`SimulatedBackend`].
#[derive(Clone, Debug)]
pub(crate) struct SimulatedSubmitter {
    queue: Arc<RequestQueue>,
    owner: Process,
}

/// Starts the [`CompletionTimer`] of a backend once its driver is made.
#[derive(Debug)]
pub(crate) struct TimerSetup(Arc<RequestQueue>);

impl SimulatedBackend {
    pub(crate) fn new(disk: Arc<Disk>) -> (SimulatedBackend, TimerSetup) {
        let queue = RequestQueue::new(disk);
        let setup = TimerSetup(Arc::clone(&queue));
        let owner = Process::current();
        (SimulatedBackend { queue, owner }, setup)
    }
}

impl TimerSetup {
    /// Returns the timer, to be spawned on the current runtime. It wakes `driver` after completions.
    ///
    /// # Panics
    ///
    /// In a runtime whose timers are not enabled.
    pub(crate) fn timer(self, driver: Arc<DriverWaker>) -> CompletionTimer {
        CompletionTimer::new(self.0, driver)
    }
}

impl IoBackend for SimulatedBackend {
    type Submitter = SimulatedSubmitter;

    fn submitter(&self, _eventfd: Option<RawFd>) -> SimulatedSubmitter {
        SimulatedSubmitter {
            queue: Arc::clone(&self.queue),
            owner: self.owner,
        }
    }

    #[inline]
    fn reap(&mut self, completions: &mut Completions) -> io::Result<()> {
        self.queue.reap(completions);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            blocking_submit: false,
            nonblocking_submit: true,
            user_ring: true,
            cancels_transfers: true,
        }
    }

    fn drop_waits(&self) -> bool {
        false
    }
}

impl Drop for SimulatedBackend {
    fn drop(&mut self) {
        if self.owner == Process::current() {
            self.queue.close();
        } else {
            // A thread of the parent may have held a lock at the fork.
            mem::forget(Arc::clone(&self.queue));
        }
    }
}

impl Submitter for SimulatedSubmitter {
    #[inline]
    unsafe fn submit(&self, entries: &[Sqe], _notify: Notify) -> Result<usize, SubmitError> {
        refuse_in_child(self.owner)?;
        // SAFETY: the caller's promise, passed on.
        unsafe { self.queue.submit(entries) }
    }

    fn cancel(&self, user_data: u64) -> bool {
        self.owner == Process::current() && self.queue.cancel(user_data)
    }
}
