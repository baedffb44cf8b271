//! [`DiskContext`]: an AIO context that the stores of this process share.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio_kaio::{AioContextBuilder, AioContextHandle, Process, SizeClassPool};

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
type Shared = Option<(Process, Weak<DiskContext>)>;

/// The contexts of tokio runtimes, which their stores share.
static OF_RUNTIMES: Mutex<Vec<(Process, Id, Weak<DiskContext>)>> = Mutex::new(Vec::new());

/// Locks a mutex. `None`, if that takes too long: a thread that a forked child does not have has locked it.
fn lock_for_a_while<T>(mutex: &'static Mutex<T>) -> Option<MutexGuard<'static, T>> {
    for _ in 0..500 {
        match mutex.try_lock() {
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
        let process = Process::current(); // a forked child can't use the context of its parent
        let Some(mut shared) = lock_for_a_while(&SHARED) else {
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

    /// Returns the context that the stores of this process share on a runtime, which is the current one.
    /// Makes it if there is none.
    ///
    /// # Errors
    ///
    /// `EMFILE`: the limit of open files. `ENOMEM`.
    ///
    /// # Panics
    ///
    /// If I/O is not enabled in the runtime.
    pub(crate) fn of_runtime(runtime: Id) -> io::Result<Arc<DiskContext>> {
        let process = Process::current();
        let start = || {
            let buffers = SizeClassPool::new(BUFFERS).map_err(io::Error::other)?;
            let handle = builder(&buffers).build_detached()?;
            Ok(Arc::new(DiskContext { handle, _of: None }))
        };
        let Some(mut contexts) = lock_for_a_while(&OF_RUNTIMES) else {
            return start();
        };
        contexts.retain(|(of, _, context)| *of == process && context.strong_count() > 0);
        let known = contexts.iter().find(|(_, id, _)| *id == runtime);
        if let Some(context) = known.and_then(|(_, _, context)| context.upgrade()) {
            return Ok(context);
        }
        let context = start()?;
        contexts.push((process, runtime, Arc::downgrade(&context)));
        Ok(context)
    }

    /// Whether the context has ended, with its runtime.
    fn has_ended(&self) -> bool {
        self.handle.available_slots().is_none()
    }

    /// Makes a context with a thread of its own, which ends with the last clone of the handle.
    fn start() -> io::Result<DiskContext> {
        let buffers = SizeClassPool::new(BUFFERS).map_err(io::Error::other)?;
        let handle = builder(&buffers).own_thread().build_detached()?;
        Ok(DiskContext { handle, _of: None })
    }
}

fn builder(buffers: &SizeClassPool) -> AioContextBuilder {
    let builder = AioContextBuilder::new(SLOTS).automatic_backend();
    builder.buffers(buffers)
}

/// The contexts of the runtimes that a store was used on.
#[derive(Debug, Default)]
pub(crate) struct RuntimeContexts {
    known: RwLock<Vec<(Id, Arc<DiskContext>)>>,
}

impl RuntimeContexts {
    /// Returns the context of the current runtime. `None` if there is no runtime or it has a single thread,
    /// or if the context can't be made.
    ///
    /// Not for a runtime of one thread: while nobody runs it, it completes nothing, but a read may be polled
    /// elsewhere.
    ///
    /// # Panics
    ///
    /// If I/O is not enabled in the runtime.
    pub(crate) fn current(&self, buffers: Option<&SizeClassPool>) -> Option<Arc<DiskContext>> {
        let runtime = Handle::try_current().ok()?;
        if runtime.runtime_flavor() != RuntimeFlavor::MultiThread {
            return None;
        }
        let id = runtime.id();
        let find = |known: &[(Id, Arc<DiskContext>)]| {
            let found = known.iter().find(|(of, _)| *of == id);
            found.map(|(_, context)| Arc::clone(context))
        };
        if let Some(context) = find(&self.known.read().unwrap_or_else(PoisonError::into_inner)) {
            return Some(context);
        }
        let context = DiskContext::of_runtime(id).ok()?;
        let context = match buffers {
            Some(buffers) => context.with_buffers(buffers),
            None => context,
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, context)| !context.has_ended());
        if let Some(context) = find(&known) {
            return Some(context); // another thread was faster
        }
        known.push((id, Arc::clone(&context)));
        Some(context)
    }

    /// Returns any of the contexts.
    pub(crate) fn any(&self) -> Option<Arc<DiskContext>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.last().map(|(_, context)| Arc::clone(context))
    }
}
