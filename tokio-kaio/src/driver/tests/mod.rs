//! Drivers over the [fake backend](crate::backend::fake): every answer that a backend can give, in every
//! order.

#[cfg(not(kaio_loom))]
mod append_order_tests;
#[cfg(not(kaio_loom))]
mod batch_submission_tests;
#[cfg(not(kaio_loom))]
mod capacity_tests;
#[cfg(not(kaio_loom))]
mod core_invariants;
#[cfg(not(kaio_loom))]
mod driver_fixture;
#[cfg(not(kaio_loom))]
mod forgotten_future_tests;
#[cfg(not(kaio_loom))]
mod forked_child_tests;
#[cfg(kaio_loom)]
mod loom_models;
#[cfg(not(kaio_loom))]
mod no_room_tests;
#[cfg(not(kaio_loom))]
mod nowait_class_tests;
#[cfg(not(kaio_loom))]
mod offload_tests;
#[cfg(not(kaio_loom))]
mod panicking_buffer_tests;
#[cfg(not(kaio_loom))]
mod panicking_waker;
#[cfg(not(kaio_loom))]
mod panicking_waker_tests;
#[cfg(not(kaio_loom))]
mod random_operations;
#[cfg(not(kaio_loom))]
mod reentrancy;
#[cfg(not(kaio_loom))]
mod request_life_tests;
#[cfg(not(kaio_loom))]
mod shutdown_tests;
#[cfg(not(kaio_loom))]
mod slots_tests;
#[cfg(not(kaio_loom))]
mod unmatched_completion_tests;
