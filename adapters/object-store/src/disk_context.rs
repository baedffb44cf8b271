//! [`DiskContext`]: the AIO context of the stores of this process.

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_kaio::{AioContextBuilder, AioContextHandle, SizeClassPool};

/// Most requests in flight.
const SLOTS: usize = 256;

/// Limit of the memory that reads share. Memory that was never used is not allocated by the kernel.
const BUFFERS: usize = 256 << 20;

/// An AIO context, whose completions are served by a thread of its own. It ends with its last clone.
#[derive(Debug)]
pub(crate) struct DiskContext {
    pub(crate) handle: AioContextHandle,
    /// Dropped with this: ends the thread.
    _stop: Option<oneshot::Sender<()>>,
    /// The context that this one is part of.
    _of: Option<Arc<DiskContext>>,
}

/// The context of all stores of this process that were given none.
static SHARED: Mutex<Shared> = Mutex::new(None);

/// The context, and the process that has made it.
type Shared = Option<(u32, Weak<DiskContext>)>;

/// Locks [`SHARED`]. `None`, if that takes too long: a thread that a forked child does not have has locked it.
fn lock_shared() -> Option<MutexGuard<'static, Shared>> {
    for _ in 0..500 {
        match SHARED.try_lock() {
            Ok(shared) => return Some(shared),
            Err(TryLockError::Poisoned(shared)) => return Some(shared.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}

impl DiskContext {
    /// Uses a context of the caller.
    pub(crate) fn of(handle: AioContextHandle) -> Arc<DiskContext> {
        Arc::new(DiskContext {
            handle,
            _stop: None,
            _of: None,
        })
    }

    /// The same context, with other memory for its reads.
    pub(crate) fn with_buffers(self: Arc<Self>, buffers: &SizeClassPool) -> Arc<DiskContext> {
        Arc::new(DiskContext {
            handle: self.handle.with_buffers(buffers),
            _stop: None,
            _of: Some(self),
        })
    }

    /// Returns the context that the stores of this process share. Makes it if there is none.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: no thread can be started. `EMFILE`: the limit of open files. `ENOMEM`.
    pub(crate) fn shared() -> io::Result<Arc<DiskContext>> {
        let process = std::process::id(); // a forked child can't use the context of its parent
        let Some(mut shared) = lock_shared() else {
            return DiskContext::start().map(Arc::new);
        };
        if let Some((of, context)) = &*shared {
            if let Some(context) = context.upgrade().filter(|_| *of == process) {
                return Ok(context);
            }
        }
        let context = Arc::new(DiskContext::start()?);
        *shared = Some((process, Arc::downgrade(&context)));
        Ok(context)
    }

    fn start() -> io::Result<DiskContext> {
        let buffers = SizeClassPool::new(BUFFERS).map_err(io::Error::other)?;
        let (started, start) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .thread_name("kaio-object-store")
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            runtime.block_on(async {
                let builder = AioContextBuilder::new(SLOTS);
                match builder.automatic_backend().buffers(&buffers).build() {
                    Ok((context, handle)) => {
                        let _ = started.send(Ok(handle)); // `start` waits for it
                        let _ = stopped.await; // an error: the `DiskContext` was dropped
                        context.close().await;
                    }
                    Err(error) => drop(started.send(Err(error.into()))),
                }
            });
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("kaio-object-store".into());
        thread.spawn(serve)?;
        let handle = start.recv().map_err(io::Error::other)??;
        Ok(DiskContext {
            handle,
            _stop: Some(stop),
            _of: None,
        })
    }
}
