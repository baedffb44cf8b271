//! One operation's life, from the caller's buffer to the kernel's event.

mod adapter;
mod batch;
mod flavour;
mod payload;
#[allow(clippy::module_inception)]
mod request;
mod table;

pub use adapter::{IntrusiveAdapter, LocalRequestAdapter, SyncRequestAdapter};
pub(crate) use batch::{Batch, submit};
pub(crate) use flavour::{Flavour, Of};
pub(crate) use payload::{Lease, Memory, Order, Payload};
pub use request::Request;
pub(crate) use request::{Outcome, Released};
pub(crate) use table::{Table, Ticket};
