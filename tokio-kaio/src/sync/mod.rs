//! What threads share and wait by, in one place so that loom can take its place.
//!
//! The models are built and run with
//!
//! ```text
//! RUSTFLAGS="--cfg kaio_loom" cargo test -p tokio-kaio --lib --release --target-dir target/loom loom_
//! ```
//!
//! The cfg has a name of its own because `--cfg loom` would change tokio too. A library built with
//! it works inside `loom::model` alone. `LOOM_MAX_PREEMPTIONS` widens or narrows the search: see
//! `context/tests/loom_models.rs`.
//!
//! What is not here is not loom's: `Arc` and `Weak` (loom has no `Weak`), and whatever of the
//! standard library's a model's own code holds. Those count as atomic steps that go with the step
//! before them.

use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::task::Waker;

mod driver_waker;
#[cfg(kaio_loom)]
mod model;

#[cfg(not(kaio_loom))]
mod real {
    pub(crate) use std::sync::atomic::AtomicBool;
    pub(crate) use std::thread;

    pub(crate) use atomic_waker::AtomicWaker;
    pub(crate) use tokio::sync::watch;

    pub(crate) use crate::EventFd;
}

pub(crate) use driver_waker::DriverWaker;
#[cfg(kaio_loom)]
pub(crate) use model::*;
#[cfg(not(kaio_loom))]
pub(crate) use real::*;

/// Runs code of others, such as their wakers', where a panic would take something with it that it
/// has nothing to do with. The panic hook tells of it; it goes no further.
pub(crate) fn contain(others: impl FnOnce()) {
    if cfg!(kaio_loom) {
        return others(); // a model's panics are loom's
    }
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(others)) {
        mem::forget(payload); // which could panic when it is dropped
    }
}

/// Drops a waker. A panic in its code goes no further.
#[inline]
pub(crate) fn drop_contained(waker: Option<Waker>) {
    if let Some(waker) = waker {
        contain(|| drop(waker));
    }
}
