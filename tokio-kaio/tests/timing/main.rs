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

/// Repeats `attempt` until it succeeds, at most ten times: other load on the machine disturbs some attempts, a
/// fault of the library all of them.
async fn undisturbed(mut attempt: impl AsyncFnMut() -> Result<(), String>) {
    let mut errors = Vec::new();
    while errors.len() < 10 {
        match attempt().await {
            Ok(()) => return,
            Err(error) => {
                eprintln!("attempt {}: {error}", errors.len() + 1);
                errors.push(error);
            }
        }
    }
    panic!("ten times: {}", errors.join("; "));
}

/// `Ok`, or what is wrong.
fn holds(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    match condition {
        true => Ok(()),
        false => Err(otherwise()),
    }
}
