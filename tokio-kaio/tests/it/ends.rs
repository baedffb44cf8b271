//! Futures, contexts and runtimes end in every order, with requests at every stage: queued, in the
//! blocking pool, in flight, complete; in every mode. Nothing waits for ever, and nothing leaks.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::Poll;

use crate::common::*;
use futures::poll;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextHandle, File, LockedBuf, ReadFlags, WriteFlags,
};

const SLOTS: usize = 4;
const REQUESTS: usize = 7; // more than there are slots

/// What ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    FuturesDropped,
    FuturesForgotten,
    ContextDropped,
    ContextClosed,
    RuntimeDropped,
}

const ENDS: [End; 5] = [
    End::FuturesDropped,
    End::FuturesForgotten,
    End::ContextDropped,
    End::ContextClosed,
    End::RuntimeDropped,
];

#[derive(Clone, Copy, Debug)]
struct Case {
    mode: Mode,
    /// Workers of the runtime; 0: it has none.
    workers: usize,
    /// The only thread of the blocking pool is occupied until the first end.
    busy: bool,
    /// Turns of the runtime between the first poll and the first end.
    turns: usize,
    first: End,
    second: End,
}

fn runtime(workers: usize) -> Runtime {
    let mut builder = match workers {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder
        .worker_threads(workers.max(1))
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

type Request<'a> = Pin<Box<dyn Future<Output = Result<(), AioCommandError>> + 'a>>;

/// Reads, overwrites, extending writes, appends, syncs.
fn requests<'a>(
    handle: &'a AioContextHandle,
    file: &'a File,
    buffers: &'a mut [LockedBuf],
) -> Vec<Request<'a>> {
    let request = |(nth, buffer): (usize, &'a mut LockedBuf)| -> Request<'a> {
        Box::pin(async move {
            let (append, plain) = (WriteFlags::APPEND, WriteFlags::empty());
            match nth {
                0 | 1 => {
                    file.read_at(handle, 0, buffer, LEN, ReadFlags::empty())
                        .await
                }
                2 => file.write_at(handle, LEN, buffer, LEN, plain).await,
                3 => file.write_at(handle, 64 * LEN, buffer, LEN, plain).await,
                4 | 5 => file.write_at(handle, 0, buffer, LEN, append).await,
                _ => return file.sync_data(handle).await,
            }
            .map(|moved| assert_eq!(moved, LEN))
        })
    };
    buffers.iter_mut().enumerate().map(request).collect()
}

/// What a test owns, and drops piece by piece.
struct Scene<'a> {
    runtime: Option<Runtime>,
    context: Option<AioContext>,
    requests: Vec<Request<'a>>,
}

impl Scene<'_> {
    fn end(&mut self, what: End) {
        match what {
            End::FuturesDropped => self.requests.clear(),
            End::FuturesForgotten => self.requests.drain(..).for_each(mem::forget),
            End::ContextDropped => drop(self.context.take()),
            End::ContextClosed => {
                let (Some(context), Some(runtime)) = (self.context.take(), &self.runtime) else {
                    return;
                };
                let mut close = Box::pin(context.close());
                runtime.block_on(async {
                    if poll!(close.as_mut()).is_pending() {
                        yield_now().await;
                        let _ = poll!(close.as_mut());
                    }
                });
            }
            End::RuntimeDropped => {
                if let Some(runtime) = self.runtime.take() {
                    runtime.shutdown_background();
                }
            }
        }
    }
}

fn play(dir: &TempDir, case: Case) {
    let runtime = runtime(case.workers);
    let file = runtime.block_on(async {
        let file = patterned_file(dir, 8).await;
        file.set_len(8 * LEN).await.unwrap();
        file
    });
    let mut buffers: Vec<_> = (0..REQUESTS as u64)
        .map(|i| patterned_buffer(i, BLOCK))
        .collect();
    let (context, handle) = runtime.block_on(async { context_in(case.mode, SLOTS) });
    let busy = case
        .busy
        .then(|| runtime.block_on(occupy_blocking_thread()));
    let mut scene = Scene {
        requests: requests(&handle, &file, &mut buffers),
        context: Some(context),
        runtime: Some(runtime),
    };
    let runtime = scene.runtime.as_ref().unwrap();
    let started = async {
        if case.turns > 1 {
            yield_now().await; // the driver has run
        }
        let mut out = Vec::new();
        for mut request in mem::take(&mut scene.requests) {
            match poll!(request.as_mut()) {
                Poll::Ready(done) => done.unwrap(),
                Poll::Pending => out.push(request),
            }
        }
        for _ in 0..case.turns {
            yield_now().await;
        }
        scene.requests = out;
    };
    runtime.block_on(started);
    scene.end(case.first);
    drop(busy);
    scene.end(case.second);

    // What remains ends in any case.
    let (requests, runtime) = (mem::take(&mut scene.requests), scene.runtime.take());
    let rest = async {
        for request in requests {
            match with_hang_guard(request).await {
                Ok(()) | Err(AioCommandError::AioStopped) => {}
                Err(error) => panic!("{case:?}: {error}"),
            }
        }
        if let Some(context) = scene.context.take() {
            with_hang_guard(context.close()).await;
        }
    };
    match runtime {
        Some(runtime) => runtime.block_on(rest),
        None => current_thread().block_on(rest),
    }
}

fn cases(mode: Mode, first: End, second: End) -> impl Iterator<Item = Case> {
    let threads = [(0, false), (0, true), (2, true)];
    threads.into_iter().flat_map(move |(workers, busy)| {
        [0, 2].map(|turns| Case {
            mode,
            workers,
            busy,
            turns,
            first,
            second,
        })
    })
}

#[test]
fn context_handle_runtime_and_operations_may_end_in_any_order() {
    if !in_child!() {
        return;
    }
    drop(runtime(1)); // the first one makes what all of a process share
    let before = open_resources();
    let pairs = ENDS.map(|first| ENDS.map(|second| (first, second)));
    for (first, second) in pairs.into_iter().flatten().filter(|(a, b)| a != b) {
        for dir in test_dirs() {
            for mode in modes() {
                cases(mode, first, second).for_each(|case| play(&dir, case));
                let what_is_left = || (mode, first, second, open_resources());
                block_until(|| open_resources() == before, what_is_left);
            }
        }
    }
}
