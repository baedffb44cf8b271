//! The slab: the requests of a context, by slot.
//!
//! [`Slots`] keeps them and changes their states. It knows no lock, no backend and no policy; the
//! [driver](crate::driver) calls it under its lock. `Slot` has a diagram of the states. [`Drains`] are
//! the futures that wait for the requests of a file.

mod drains;
mod slot;
mod slots;

pub(crate) use drains::Drains;
pub(crate) use slot::{Admission, SlotKey, SlotState};
pub(crate) use slots::Slots;
