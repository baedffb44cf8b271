//! [`RuntimeFlavor`]: selects a tokio runtime.

use std::fmt;
use std::io;

use tokio::runtime::{Builder, Runtime};

/// A flavor of tokio runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeFlavor {
    /// Multi-thread, with two workers.
    MultiThread,
    /// Current-thread.
    CurrentThread,
}

impl RuntimeFlavor {
    /// Builds a runtime of this flavor.
    ///
    /// # Errors
    ///
    /// If the process has no thread or descriptor left.
    pub fn runtime(self) -> io::Result<Runtime> {
        let mut builder = match self {
            RuntimeFlavor::MultiThread => Builder::new_multi_thread(),
            RuntimeFlavor::CurrentThread => Builder::new_current_thread(),
        };
        builder.worker_threads(2).enable_all().build()
    }
}

impl fmt::Display for RuntimeFlavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RuntimeFlavor::MultiThread => "multi-thread",
            RuntimeFlavor::CurrentThread => "current-thread",
        })
    }
}
