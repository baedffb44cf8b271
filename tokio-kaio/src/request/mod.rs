//! One operation's life, from the caller's buffer to the kernel's event.

mod adapter;
mod batch;
mod bytewise;
mod drain;
mod flavour;
mod habit;
mod landing;
mod line;
mod listed;
mod loan;
mod memory;
mod open_file;
mod payload;
mod queue;
#[allow(clippy::module_inception)]
mod request;
mod table;
mod ticket;

pub use adapter::{IntrusiveAdapter, LocalRequestAdapter, SyncRequestAdapter};
pub(crate) use batch::{Batch, Parcel, submit};
pub(crate) use bytewise::{Bounce, Bytewise, Grain};
pub(crate) use flavour::{Flavour, Of};
pub(crate) use landing::Landing;
pub(crate) use line::Place;
pub(crate) use loan::{Loan, Loans};
pub(crate) use memory::{Lease, Memory};
#[cfg(test)]
pub(crate) use open_file::Class;
pub(crate) use open_file::{KnownAs, OpenFile, Stay, Way};
pub(crate) use payload::{Order, Payload};
pub use request::Request;
pub(crate) use request::{Outcome, Released};
pub(crate) use table::{Table, With};
pub(crate) use ticket::Ticket;
