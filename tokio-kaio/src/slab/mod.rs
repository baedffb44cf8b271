//! The slab: the requests of a context, one per slot.
//!
//! [`Slots`] stores the requests and changes their states. It does not depend on the lock, the backend or
//! the policy: the [driver](crate::driver) calls it under the driver's lock. [`SlotState`] has a diagram of
//! the states. [`Drains`] are the futures that wait for the requests on a file.

mod drains;
mod slot;
mod slots;

pub(crate) use drains::Drains;
pub(crate) use slot::{Admission, SlotKey, SlotState};
pub(crate) use slots::Slots;
