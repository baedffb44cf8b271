//! [`spawn_blocking`]: tokio's blocking pool, with an error where no thread can be started.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::runtime::Handle;

/// Runs `run(job)` on the blocking pool of `runtime`. Gives `job` back if no thread can be started
/// for it; `run` is not called then.
///
/// A runtime that shuts down drops `job`.
//
// tokio's `spawn_blocking` panics if it needs a thread, the system refuses to start one, and the pool
// has none that could take the task later. tokio 1.54 has no variant that returns this as an error.
// To ask first is no way out: what the pool has idle is not public, and the limit can be reached
// between a thread that is started to try and tokio's own. So the panic is caught. tokio holds no
// lock when it panics, and stays usable.
//
// The panic hook still prints its message, and a program that is built with `panic = "abort"` ends.
// The documentation of `File` says so.
pub(crate) fn spawn_blocking<J: Send + 'static>(
    runtime: &Handle,
    job: J,
    run: impl FnOnce(J) + Send + 'static,
) -> Result<(), J> {
    // tokio leaves the task in its queue when it panics, where a later thread finds it. Whoever takes
    // the job first has it.
    let offer = Arc::new(Mutex::new(Some(job)));
    let offered = Arc::clone(&offer);
    let task = move || {
        if let Some(job) = take(&offered) {
            run(job);
        }
    };
    let spawn = AssertUnwindSafe(|| drop(runtime.spawn_blocking(task)));
    match panic::catch_unwind(spawn) {
        Ok(()) => Ok(()),
        Err(_) => take(&offer).map_or(Ok(()), Err),
    }
}

/// Nothing panics while the lock is held.
fn take<J>(offer: &Mutex<Option<J>>) -> Option<J> {
    offer.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The error of a call for which [`spawn_blocking`] found no thread: `EAGAIN`.
pub(crate) fn no_thread() -> io::Error {
    let error = io::Error::from_raw_os_error(libc::EAGAIN);
    io::Error::new(error.kind(), NoThread { error })
}

#[derive(Debug, Error)]
#[error(
    "no thread of tokio's blocking pool could be started: {error}: the user or the container is at its \
     limit of threads (ulimit -u, pids.max of the cgroup), or there is no memory for one; try again \
     when others have ended, or raise the limit"
)]
struct NoThread {
    #[source]
    error: io::Error,
}
