//! Linux kernel AIO for tokio.
#![cfg(target_os = "linux")]

mod buf;
mod command;
mod context;
mod error;
mod eventfd;
mod flags;
mod fs;
mod request;
mod sys;

pub use buf::{LockedBuf, LockedBufError};
pub use command::RawCommand;
pub use context::{
    AioContext, AioContextBuilder, AioContextHandle, GenericAioContext, GenericAioContextHandle,
    LocalAioContext, LocalAioContextHandle, NoopLock, aio_context, generic_aio_context,
    local_aio_context,
};
pub use error::{AioCommandError, AioContextError};
pub use eventfd::{EventFd, EventFdError};
pub use flags::{ReadFlags, WriteFlags};
pub use fs::{AioOpenOptionsExt, File};
pub use intrusive_collections::linked_list::AtomicLink;
pub use request::{IntrusiveAdapter, LocalRequestAdapter, Request, SyncRequestAdapter};
