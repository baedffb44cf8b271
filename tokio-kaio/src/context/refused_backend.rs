//! [`RefusedBackend`]: a backend that is not available, and why.

use std::fmt;
use std::sync::Arc;

use crate::{AioContextError, Backend};

/// A backend that a context should have used before the one that it runs on, and the error of its setup.
///
/// See [`AioContextBuilder::backends`](crate::AioContextBuilder::backends). Its text names the backend, the
/// error, and what to do about it.
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

    /// The backend that is not available.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Why it is not available.
    pub fn error(&self) -> &AioContextError {
        &self.error
    }
}

impl fmt::Display for RefusedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not available: {}", self.backend, self.error)
    }
}
