//! [`Teardown`]: gives back to the system what a context had.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::backend::IoBackend;
use crate::offload::OffloadPool;
use crate::op::IoBuffer;
use crate::sync::{EventFd, contain, watch};

/// What a context had of the system.
pub(crate) struct Teardown<B: IoBackend> {
    pub(crate) live: Live<B>,
    /// May be submitting to the backend.
    pub(crate) offload: Arc<OffloadPool<B>>,
    /// The kernel may use it until the backend is dropped.
    pub(crate) memory: Vec<IoBuffer>,
}

/// What a context has of the system while it lives.
pub(crate) struct Live<B> {
    pub(crate) backend: B,
    pub(crate) eventfd: Option<EventFd>,
    /// Dropped last: its receivers wait for the end.
    pub(crate) gone: watch::Sender<()>,
}

impl<B: IoBackend> Teardown<B> {
    /// Gives everything back to the system, on another thread. Where no thread can be started, on this
    /// one: that takes about 32 ms with kernel AIO, and as long as the requests in flight take, if
    /// there are any. Otherwise the share of `fs.aio-max-nr` would be lost.
    pub(crate) fn start(self: Box<Self>) {
        if cfg!(kaio_loom) {
            return self.run(); // a model has only its own threads
        }
        // `spawn` keeps the closure if it fails, so what the closure runs is not in it.
        let shared = Arc::new(Mutex::new(Some(self)));
        let run = {
            let shared = Arc::clone(&shared);
            move || {
                let teardown = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(teardown) = teardown {
                    teardown.run();
                }
            }
        };
        let thread = thread::Builder::new().name("kaio-teardown".into());
        if thread.spawn(run.clone()).is_err() {
            run();
        }
    }

    #[allow(clippy::boxed_local)] // moves one word to the thread
    fn run(self: Box<Self>) {
        let Teardown {
            live,
            offload,
            memory,
        } = *self;
        offload.close();
        drop(live.backend); // waits for requests in flight, so before their memory
        // Each by itself: two panics in one drop of all would abort the process.
        memory
            .into_iter()
            .for_each(|buffer| contain(|| drop(buffer)));
        contain(|| drop(live.eventfd));
        contain(|| drop(live.gone)); // wakes those that wait for the end
    }
}

/// Waits until a context has been torn down.
pub(crate) async fn wait_until_gone(mut gone: watch::Receiver<()>) {
    while gone.changed().await.is_ok() {}
}

impl<B: IoBackend> fmt::Debug for Teardown<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teardown")
            .field("memory", &self.memory.len())
            .finish_non_exhaustive()
    }
}
