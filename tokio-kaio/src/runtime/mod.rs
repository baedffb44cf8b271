//! Connects a [driver](crate::driver) to tokio: its background task, and the waker of its eventfd.

mod completion_waker;
mod driver_task;

pub(crate) use completion_waker::CompletionWaker;
pub(crate) use driver_task::{DriverTask, poll_order};
