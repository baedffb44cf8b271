//! [`OwnThread`]: the thread of a context that no other runtime serves.

use std::future::Future;
use std::io;
use std::mem;
use std::sync::{Arc, Weak};

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

use super::watch;
use crate::sys::Process;

/// A thread that runs the driver tasks of one context on a runtime of its own, and ends with them.
#[derive(Clone, Debug)]
pub(crate) struct OwnThread {
    runtime: Weak<OwnRuntime>,
    ended: watch::Receiver<()>,
}

/// A current-thread runtime with I/O and timers.
///
/// Shared by its thread and by the timers that were made in it, because tokio panics if a timer is polled
/// after its runtime was shut down. Shut down without waiting: the last owner may be a task of any executor.
#[derive(Debug)]
pub(crate) struct OwnRuntime {
    /// `None` once `drop` has taken it.
    runtime: Option<Runtime>,
    handle: Handle,
    owner: Process,
}

/// The runtime of an [`OwnThread`] that was not started yet.
pub(crate) struct UnstartedThread {
    runtime: Arc<OwnRuntime>,
    ended: watch::Sender<()>,
    thread: OwnThread,
}

impl OwnThread {
    /// Creates the runtime of a thread.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`: no descriptor is left.
    pub(crate) fn prepare() -> io::Result<UnstartedThread> {
        let mut builder = Builder::new_current_thread();
        builder.enable_io().enable_time();
        let runtime = builder.thread_name("kaio-blocking").build()?;
        let runtime = Arc::new(OwnRuntime {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            owner: Process::current(),
        });
        let (sender, ended) = watch::channel(());
        Ok(UnstartedThread {
            thread: OwnThread {
                runtime: Arc::downgrade(&runtime),
                ended,
            },
            runtime,
            ended: sender,
        })
    }

    /// Returns the runtime of the thread, or `None` if the thread has ended.
    pub(crate) fn runtime(&self) -> Option<Arc<OwnRuntime>> {
        self.runtime.upgrade()
    }

    /// Returns a channel that closes when the thread ends.
    pub(crate) fn ended(&self) -> watch::Receiver<()> {
        self.ended.clone()
    }
}

impl UnstartedThread {
    /// Makes the runtime the current one, until the guard is dropped.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    pub(crate) fn thread(&self) -> &OwnThread {
        &self.thread
    }

    /// Starts the thread, which runs `tasks` and ends with the last of them.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: the system starts no more threads. The tasks are dropped.
    pub(crate) fn start<F>(self, tasks: Vec<F>) -> io::Result<()>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let UnstartedThread { runtime, ended, .. } = self;
        // Spawned, and not passed to `block_on`: a spawned task is woken on its own thread without a system
        // call.
        let spawn = |task| runtime.handle.spawn(task);
        let tasks: Vec<_> = tasks.into_iter().map(spawn).collect();
        let runtime_of_thread = Arc::clone(&runtime);
        let run = move || {
            if let Some(runtime) = &runtime_of_thread.runtime {
                runtime.block_on(async {
                    for task in tasks {
                        let _ = task.await; // a panic of the task was reported by the panic hook
                    }
                });
            }
            drop(runtime_of_thread); // before `ended`: closes descriptors
            drop(ended);
        };
        let thread = std::thread::Builder::new().name("kaio-driver".into());
        thread.spawn(run).map(drop)
    }
}

impl OwnRuntime {
    /// Makes the runtime the current one, until the guard is dropped.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(self.handle.spawn(task));
    }

    /// Whether this process made the runtime. If not, another thread of the parent may have held any lock
    /// of the runtime at the fork.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner == Process::current()
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        let runtime = self.runtime.take();
        if !self.is_ours() {
            mem::forget(runtime); // the parent uses the same epoll instance
        } else if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}
