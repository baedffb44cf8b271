//! Checks that threads can be started. tokio, indicatif and the engines of `kaio-bench` panic or hang
//! when the limit on threads is reached; the commands check first, and fail with a clear error.

use std::fs;
use std::io;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::task::spawn_blocking;

use crate::command_error::CommandError;

/// What to do when no thread can be started.
pub(crate) const THREAD_LIMIT_HINT: &str =
    "raise the limit on processes and threads (ulimit -u, or pids.max of the cgroup)";

/// Bytes of the stack of a thread that only waits.
const STACK: usize = 64 << 10;

/// Fails unless `count` more threads can run at the same time. Starts them, and ends them again.
pub(crate) fn require_threads(count: usize) -> Result<(), CommandError> {
    can_start(count).map_err(|error| {
        let threads = if count == 1 { "thread" } else { "more threads" };
        format!("can't start {count} {threads}: {error}; {THREAD_LIMIT_HINT}").into()
    })
}

/// Builds a current-thread runtime. Its blocking pool keeps one thread, which is started here: tokio's
/// `spawn_blocking` panics if it can't start the first thread of the pool, but not if it can't start
/// another.
pub(crate) fn current_thread_runtime() -> Result<Runtime, CommandError> {
    require_threads(1)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(u64::from(u32::MAX)))
        .build()
        .map_err(|error| format!("can't start the async runtime: {error}"))?;
    runtime.block_on(async { spawn_blocking(|| ()).await })?;
    Ok(runtime)
}

fn can_start(count: usize) -> io::Result<()> {
    let before = running();
    let gate = Mutex::new(());
    let started = thread::scope(|scope| {
        // The threads wait for the gate, so that all of them run at the same time.
        let closed = gate.lock();
        let start = |_| {
            let wait = || drop(gate.lock());
            let builder = thread::Builder::new().stack_size(STACK);
            builder.spawn_scoped(scope, wait)
        };
        let started: Vec<_> = (0..count).map(start).collect();
        drop(closed);
        let failed = started.into_iter().filter_map(Result::err).next();
        failed.map_or(Ok(()), Err)
    });
    // A thread counts against the limits until shortly after it was joined.
    for _ in 0..1000 {
        if running() <= before {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    started
}

/// Threads of this process that count against the limits; 0 without procfs.
fn running() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}
