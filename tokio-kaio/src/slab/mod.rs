//! The slab: the requests of a context, one per slot.
//!
//! [`Slots`] stores the requests and changes their states. It takes no lock, calls no backend and
//! asks no policy: the [driver](crate::driver) calls it under the driver's lock. [`SlotState`] has a diagram
//! of the states. [`AppendOrder`] holds appends back. [`Drains`] are the futures that wait for the requests
//! on a file.

mod append_order;
mod drains;
mod slot;
mod slots;

pub(crate) use append_order::AppendOrder;
pub(crate) use drains::Drains;
pub(crate) use slot::{Admission, SlotKey, SlotState};
pub(crate) use slots::Slots;
