//! Synchronization primitives, in one place so that loom can replace them.
//!
//! This command runs the models:
//!
//! ```text
//! RUSTFLAGS="--cfg kaio_loom" cargo test -p tokio-kaio --features io-uring --lib --release \
//!     --target-dir target/loom loom_
//! ```
//!
//! The cfg is not named `loom`, because `--cfg loom` would change tokio too. A library built with it works
//! only inside `loom::model`. `LOOM_MAX_PREEMPTIONS` widens or narrows the search: see
//! `driver/tests/loom_models.rs`.
//!
//! loom does not see other primitives: `Arc` and `Weak` (loom has no `Weak`), and those of the standard
//! library in the code of a model. Their operations count as part of the atomic step before them.

use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::task::Waker;

mod driver_waker;
#[cfg(kaio_loom)]
mod model;
mod own_thread;

#[cfg(not(kaio_loom))]
mod real {
    pub(crate) use std::sync::atomic::AtomicBool;
    pub(crate) use std::thread;

    pub(crate) use atomic_waker::AtomicWaker;
    #[cfg(feature = "io-uring")]
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use tokio::sync::watch;

    pub(crate) use crate::EventFd;
}

pub(crate) use driver_waker::DriverWaker;
#[cfg(kaio_loom)]
pub(crate) use model::*;
pub(crate) use own_thread::{OwnRuntime, OwnThread, UnstartedThread};
#[cfg(not(kaio_loom))]
pub(crate) use real::*;

/// Runs callers' code, such as a waker, and catches its panics, which would otherwise unwind through
/// unrelated code. The panic hook reports them.
pub(crate) fn contain(others: impl FnOnce()) {
    if cfg!(kaio_loom) {
        return others(); // loom reports the panics of a model
    }
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(others)) {
        mem::forget(payload); // dropping it could panic
    }
}

/// Drops a waker, and catches panics of its code.
#[inline]
pub(crate) fn drop_contained(waker: Option<Waker>) {
    if let Some(waker) = waker {
        contain(|| drop(waker));
    }
}
