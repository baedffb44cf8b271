//! Tests of what depends on measured times: those of the test, or those of the library. They are a
//! program of their own, and run one after the other, so that no other test is in their way.

#[path = "../common/mod.rs"]
mod common;
mod learning;
mod responsiveness;
mod stall;

use std::sync::{Mutex, MutexGuard};

static ALONE: Mutex<()> = Mutex::new(());

/// Held by a test while it measures.
fn alone() -> MutexGuard<'static, ()> {
    ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
