//! Where the calls of the API run: on tokio's blocking pool, or at once if their file is on a simulated disk,
//! whose calls neither wait nor depend on threads.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::blocking_pool::{no_thread, spawn_blocking};
use crate::op::OpenFile;
#[cfg(feature = "simulation")]
use crate::simulation::SimulatedPath;

/// Runs a call on an open file.
pub(super) async fn run_on_file<F, T>(
    file: Arc<F>,
    call: impl FnOnce(&F) -> io::Result<T> + Send + 'static,
) -> io::Result<T>
where
    F: AsRef<OpenFile> + Send + Sync + 'static,
    T: Send + 'static,
{
    #[cfg(feature = "simulation")]
    if (*file).as_ref().simulated().is_some() {
        return call(&file);
    }
    run_blocking(move || call(&file)).await
}

/// Runs a call on a path.
pub(super) async fn run_on_path<T: Send + 'static>(
    path: PathBuf,
    call: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    #[cfg(feature = "simulation")]
    if SimulatedPath::is_simulated(&path) {
        return call(path);
    }
    run_blocking(move || call(path)).await
}

/// Returns the current tokio runtime.
///
/// # Panics
///
/// Outside a tokio runtime.
pub(super) fn current_runtime() -> Handle {
    Handle::try_current().unwrap_or_else(|_| {
        panic!(
            "this call runs on the blocking pool of a tokio runtime, and is not called in one: await it in a \
             runtime, or call its twin with `_blocking` in the name, if it has one"
        )
    })
}

/// Runs a call that may block on tokio's blocking pool.
///
/// # Errors
///
/// The errors of the call. [`no_thread`]: no thread could be started, and the call will not run.
///
/// # Panics
///
/// Outside a tokio runtime.
pub(super) async fn run_blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    let job = move || {
        let _ = sender.send(call()); // the future may have been dropped
    };
    if spawn_blocking(&current_runtime(), job, |job| job()).is_err() {
        return Err(no_thread());
    }
    receiver.await.unwrap_or_else(|_| {
        let text = "the call did not run or did not return: its tokio runtime has shut down";
        Err(io::Error::other(text))
    })
}
