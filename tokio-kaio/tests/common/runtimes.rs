//! Runtimes.

use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

/// A current-thread runtime.
pub fn current_thread() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// A multi-thread runtime with two workers.
pub fn multi_thread() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// A current-thread runtime with a single blocking thread.
pub fn one_blocking_thread() -> Runtime {
    Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Keeps the only thread of a blocking pool occupied until dropped.
pub struct OccupiedThread(pub mpsc::Sender<()>);

/// Occupies the only thread of the runtime's blocking pool.
pub async fn occupy_blocking_thread() -> OccupiedThread {
    let (release, released) = mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        began.send(()).unwrap();
        released.recv().unwrap_err();
    });
    begun.await.unwrap();
    OccupiedThread(release)
}
