//! [`RefusedBackend`]: a backend that is not available, and why.

use std::fmt;
use std::sync::Arc;

use crate::{AioContextError, Backend};

/// A backend that is not available, although a context prefers it to the one that it runs on, and the error of
/// its setup.
///
/// See [`AioContextBuilder::backends`](crate::AioContextBuilder::backends). The text names the backend, the
/// error, and what to do about it.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AioContextBuilder, Backend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tokio_kaio::AioContextError> {
/// let (context, handle) = AioContextBuilder::new(64)
///     .backends(&[Backend::IoUring, Backend::KernelAio, Backend::ThreadPool])
///     .build()?;
/// for refused in handle.refused_backends() {
///     match refused.error().raw_os_error() {
///         Some(1) => eprintln!("{} is forbidden", refused.backend()), // EPERM
///         _ => eprintln!("{refused}"),
///     }
/// }
/// # context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RefusedBackend {
    backend: Backend,
    error: Arc<AioContextError>,
}

impl RefusedBackend {
    pub(super) fn new(backend: Backend, error: AioContextError) -> RefusedBackend {
        RefusedBackend {
            backend,
            error: Arc::new(error),
        }
    }

    pub(super) fn into_parts(self) -> (Backend, Arc<AioContextError>) {
        (self.backend, self.error)
    }

    /// Returns the backend that is not available.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Returns why the backend is not available.
    pub fn error(&self) -> &AioContextError {
        &self.error
    }
}

impl fmt::Display for RefusedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.error.reason();
        write!(f, "{} is not available: {reason}", self.backend)
    }
}
