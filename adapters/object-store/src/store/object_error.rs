//! Errors of the store as errors of `object_store`.

use super::version::object_store::Error;
use crate::store_fault::StoreFault;

/// The name of the store in errors.
const STORE: &str = "KaioFileSystem";

impl From<StoreFault> for Error {
    fn from(fault: StoreFault) -> Error {
        match fault {
            StoreFault::NotFound { path, source } => Error::NotFound {
                path: path.display().to_string(),
                source: source.into(),
            },
            StoreFault::AlreadyExists { path, source } => Error::AlreadyExists {
                path: path.display().to_string(),
                source: source.into(),
            },
            StoreFault::PermissionDenied { path, source } => Error::PermissionDenied {
                path: path.display().to_string(),
                source: source.into(),
            },
            StoreFault::Task(source) => Error::JoinError { source },
            other => generic(other),
        }
    }
}

/// An error that has no variant of its own.
pub(super) fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic {
        store: STORE,
        source: Box::new(source),
    }
}
