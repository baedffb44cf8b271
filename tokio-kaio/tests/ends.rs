//! Futures, contexts and runtimes that end in every order, with requests at every stage: queued, in
//! the blocking pool, with a thread or the kernel, done. By every policy and backend. Nobody
//! waits for ever, and nothing is left.

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::Poll;

use common::*;
use futures::poll;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextHandle, File, LockedBuf, ReadFlags, WriteFlags,
};

const LEN: u64 = BLOCK as u64;
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
    way: Way,
    /// Workers of the runtime; 0: it has none.
    workers: usize,
    /// The only thread of the blocking pool is busy until the first end has come.
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

/// Reads, writes over what is there and past the end, appends, syncs.
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

/// What a test has, and loses bit by bit.
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
    let mut buffers: Vec<_> = (0..REQUESTS as u64).map(|i| patterned(i, BLOCK)).collect();
    let (context, handle) = runtime.block_on(async { context_by(case.way, SLOTS) });
    let busy = case.busy.then(|| runtime.block_on(busy()));
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

    // What remains comes to an end, one way or the other.
    let (requests, runtime) = (mem::take(&mut scene.requests), scene.runtime.take());
    let rest = async {
        for request in requests {
            match within(request).await {
                Ok(()) | Err(AioCommandError::AioStopped) => {}
                Err(error) => panic!("{case:?}: {error}"),
            }
        }
        if let Some(context) = scene.context.take() {
            within(context.close()).await;
        }
    };
    match runtime {
        Some(runtime) => runtime.block_on(rest),
        None => one_thread().block_on(rest),
    }
}

fn cases(way: Way, first: End, second: End) -> impl Iterator<Item = Case> {
    let threads = [(0, false), (0, true), (2, true)];
    threads.into_iter().flat_map(move |(workers, busy)| {
        [0, 2].map(|turns| Case {
            way,
            workers,
            busy,
            turns,
            first,
            second,
        })
    })
}

#[test]
fn whatever_ends_first_nobody_waits_for_ever_and_nothing_is_left() {
    if !in_child("whatever_ends_first_nobody_waits_for_ever_and_nothing_is_left") {
        return;
    }
    drop(runtime(1)); // the first one makes what all of a process share
    let before = held();
    let pairs = ENDS.map(|first| ENDS.map(|second| (first, second)));
    for (first, second) in pairs.into_iter().flatten().filter(|(a, b)| a != b) {
        for dir in everywhere() {
            for way in ways() {
                cases(way, first, second).for_each(|case| play(&dir, case));
                let what_is_left = || (way, first, second, held());
                until_here(|| held() == before, what_is_left);
            }
        }
    }
}
