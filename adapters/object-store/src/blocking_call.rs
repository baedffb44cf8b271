//! [`run_blocking`]: calls that may block.

use tokio::runtime::Handle;

use crate::store_fault::StoreFault;

/// Runs a call that may block: on the blocking pool of the current tokio runtime, or on this thread if there
/// is no runtime.
///
/// # Errors
///
/// The errors of the call. [`StoreFault::Task`] if the runtime has shut down before the call ran.
///
/// # Cancel safety
///
/// A call that has started runs to its end, and its result is dropped.
pub(crate) async fn run_blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreFault> + Send + 'static,
) -> Result<T, StoreFault> {
    match Handle::try_current() {
        Ok(runtime) => match runtime.spawn_blocking(call).await {
            Ok(result) => result,
            Err(error) => Err(StoreFault::Task(error)),
        },
        Err(_) => call(),
    }
}

/// Drops a value whose drop may block, such as the last descriptor of a deleted file, on the blocking pool.
/// The value is dropped also if the pool does not run the call any more.
pub(crate) fn drop_blocking(value: impl Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
        Err(_) => drop(value),
    }
}
