//! [`DiskContext`]: the AIO context of the stores of this process.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use tokio_kaio::{AioContextBuilder, AioContextHandle, SizeClassPool};

/// Most requests in flight.
const SLOTS: usize = 256;

/// Limit of the memory that reads share. Memory that was never used is not allocated by the kernel.
const BUFFERS: usize = 256 << 20;

/// An AIO context of stores.
#[derive(Debug)]
pub(crate) struct DiskContext {
    pub(crate) handle: AioContextHandle,
    /// The context that this one is part of.
    _of: Option<Arc<DiskContext>>,
}

/// The context of all stores of this process that were given none.
static SHARED: Mutex<Shared> = Mutex::new(None);

/// The context, and the process that has made it.
type Shared = Option<(u32, Weak<DiskContext>)>;

/// Locks [`SHARED`]. `None`, if that takes too long: a thread that a forked child does not have has locked
/// it.
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
        Arc::new(DiskContext { handle, _of: None })
    }

    /// The same context, with other memory for its reads.
    pub(crate) fn with_buffers(self: Arc<Self>, buffers: &SizeClassPool) -> Arc<DiskContext> {
        Arc::new(DiskContext {
            handle: self.handle.with_buffers(buffers),
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

    /// Makes a context with a thread of its own, which ends with the last clone of the handle.
    fn start() -> io::Result<DiskContext> {
        let buffers = SizeClassPool::new(BUFFERS).map_err(io::Error::other)?;
        let builder = AioContextBuilder::new(SLOTS).automatic_backend();
        let handle = builder.own_thread().buffers(&buffers).build_detached()?;
        Ok(DiskContext { handle, _of: None })
    }
}
