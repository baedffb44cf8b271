//! [`spawn_blocking`]: runs a job on tokio's blocking pool; returns an error if no thread can be started.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::runtime::Handle;

/// Runs `run(job)` on the blocking pool of `runtime`.
///
/// A runtime that shuts down drops `job`.
///
/// # Errors
///
/// `job`, if no thread can be started for it. `run` is not called then.
//
// tokio's `spawn_blocking` panics if it needs a thread, the system refuses to start one, and the pool has no
// thread that could run the task later. tokio 1.54 has no variant that returns this as an error. A check
// beforehand does not help: the number of idle threads in the pool is not public, and others can reach the
// limit between the check and the start of the thread. So the panic is caught. tokio holds no lock when it
// panics, and stays usable.
//
// The panic hook still prints its message, and a program that is built with `panic = "abort"` ends. The
// documentation of `File` describes this.
pub(crate) fn spawn_blocking<J: Send + 'static>(
    runtime: &Handle,
    job: J,
    run: impl FnOnce(J) + Send + 'static,
) -> Result<(), J> {
    // When tokio panics, it leaves the task in its queue, where a thread may find it later. The task and the
    // panic handler below both try to take the job; only one of them gets it.
    let shared_job = Arc::new(Mutex::new(Some(job)));
    let job_of_task = Arc::clone(&shared_job);
    let task = move || {
        if let Some(job) = take(&job_of_task) {
            run(job);
        }
    };
    let spawn = AssertUnwindSafe(|| drop(runtime.spawn_blocking(task)));
    match panic::catch_unwind(spawn) {
        Ok(()) => Ok(()),
        Err(_) => take(&shared_job).map_or(Ok(()), Err),
    }
}

/// Takes the job, if it is still there. Nothing panics while the lock is held.
fn take<J>(shared_job: &Mutex<Option<J>>) -> Option<J> {
    shared_job
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
}

/// The error of a call for which [`spawn_blocking`] could not start a thread: `EAGAIN`.
pub(crate) fn no_thread() -> io::Error {
    let error = io::Error::from_raw_os_error(libc::EAGAIN);
    io::Error::new(error.kind(), NoThread { error })
}

#[derive(Debug, Error)]
#[error(
    "no thread of tokio's blocking pool could be started: {error}: the user or the container has reached \
     its limit of threads (ulimit -u, pids.max of the cgroup), or there is not enough memory for a thread; \
     retry when other threads have ended, or raise the limit"
)]
struct NoThread {
    #[source]
    error: io::Error,
}
