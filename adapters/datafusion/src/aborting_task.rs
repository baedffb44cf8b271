//! [`AbortingTask`]: a task that ends with its handle.

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A tokio task that is aborted when the handle is dropped.
#[derive(Debug)]
pub(crate) struct AbortingTask<T>(JoinHandle<T>);

impl<T: Send + 'static> AbortingTask<T> {
    pub(crate) fn spawn(
        runtime: &Handle,
        future: impl Future<Output = T> + Send + 'static,
    ) -> AbortingTask<T> {
        AbortingTask(runtime.spawn(future))
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the result. `None` if the task panicked, or its runtime shuts down. Must not be called again
    /// after it has returned.
    ///
    /// # Cancel safety
    ///
    /// The task goes on, and can be waited for again.
    pub(crate) async fn join(&mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }
}

impl<T> Drop for AbortingTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
