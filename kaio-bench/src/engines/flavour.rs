//! [`Flavour`]: which of tokio's runtimes.

use std::fmt;
use std::io;

use tokio::runtime::{Builder, Runtime};

/// One of tokio's runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// With two worker threads.
    MultiThread,
    /// On the calling thread.
    CurrentThread,
}

impl Flavour {
    /// A runtime of this flavour.
    ///
    /// # Errors
    ///
    /// Where no thread or descriptor is left.
    pub fn runtime(self) -> io::Result<Runtime> {
        let mut builder = match self {
            Flavour::MultiThread => Builder::new_multi_thread(),
            Flavour::CurrentThread => Builder::new_current_thread(),
        };
        builder.worker_threads(2).enable_all().build()
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Flavour::MultiThread => "multi-thread",
            Flavour::CurrentThread => "current-thread",
        })
    }
}
