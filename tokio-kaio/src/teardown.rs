//! [`Teardown`]: releases the system resources of a context.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::backend::IoBackend;
use crate::offload::OffloadPool;
use crate::op::IoBuffer;
use crate::sync::{EventFd, contain, watch};

/// The system resources of a context that has ended.
pub(crate) struct Teardown<B: IoBackend> {
    pub(crate) live: Live<B>,
    /// May still be submitting to the backend.
    pub(crate) offload: Arc<OffloadPool<B>>,
    /// Buffers that the kernel may use until the backend is dropped.
    pub(crate) memory: Vec<IoBuffer>,
}

/// The system resources of a live context.
pub(crate) struct Live<B> {
    pub(crate) backend: B,
    pub(crate) eventfd: Option<EventFd>,
    /// Dropped last: its receivers wait until the context has been torn down.
    pub(crate) gone: watch::Sender<()>,
}

impl<B: IoBackend> Teardown<B> {
    /// Releases the resources on a new thread, or on the current thread if no thread can be started.
    /// Without that fallback, the context's share of `fs.aio-max-nr` would be lost. With kernel AIO the
    /// teardown blocks for about 32 ms, and until the requests in flight complete.
    pub(crate) fn start(self: Box<Self>) {
        if cfg!(kaio_loom) {
            return self.run(); // a model has only its own threads
        }
        #[cfg(feature = "simulation")]
        if !self.live.backend.drop_waits() {
            return self.run(); // a thread would make the end of the context depend on the scheduler
        }
        // A failed `spawn` drops the closure, so the closure does not own the teardown.
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
        drop(live.backend); // before `memory`: waits until the requests in flight have completed
        // One at a time: two panics in one drop of all buffers would abort the process.
        let buffers = memory.into_iter();
        buffers.for_each(|buffer| contain(|| drop(buffer)));
        contain(|| drop(live.eventfd));
        contain(|| drop(live.gone)); // wakes its receivers
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
