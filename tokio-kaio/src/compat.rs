//! Type parameters of `linux-aio-tokio`: adapters, links, [`Request`] and [`NoopLock`].
//!
//! A generic context is `GenericAioContext<M, A, L>`: behind lock `M`, with its requests in lists by adapter
//! `A` and link `L`. Here the requests are in a slab, and only the lock is used.
#![allow(unsafe_code)] // of `RawMutex`, and of the macro
#![allow(missing_docs, missing_debug_implementations)] // of what the macro makes

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use intrusive_collections::linked_list::{self, AtomicLink};
use intrusive_collections::{
    Adapter, DefaultLinkOps, DefaultPointerOps, LinkOps, intrusive_adapter,
};
use lock_api::{GuardNoSend, RawMutex};

/// A request, as an adapter names it. Not made by this crate: see [`IntrusiveAdapter`].
pub struct Request<M: RawMutex, L: DefaultLinkOps + Default> {
    /// The link of an intrusive list.
    pub link: L,
    lock: PhantomData<fn() -> M>,
}

impl<M: RawMutex, L: DefaultLinkOps + Default> fmt::Debug for Request<M, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

intrusive_adapter! {
    /// Adapter of an [`AioContext`](crate::AioContext). A type parameter only.
    pub SyncRequestAdapter = Box<Request<parking_lot::RawMutex, AtomicLink>>:
        Request<parking_lot::RawMutex, AtomicLink> { link: AtomicLink }
}

intrusive_adapter! {
    /// Adapter of a [`LocalAioContext`](crate::LocalAioContext). A type parameter only.
    pub LocalRequestAdapter = Box<Request<NoopLock, linked_list::Link>>:
        Request<NoopLock, linked_list::Link> { link: linked_list::Link }
}

/// An adapter of a generic context: `linux-aio-tokio` keeps its requests in intrusive lists by it.
///
/// Here, requests are kept in a slab, and adapter and link are type parameters only: no adapter is
/// created, and no link is used. Code that names them compiles and works as before.
///
/// # Examples
///
/// A context behind a lock of one's own starts like this; here the lock is that of `parking_lot`.
///
/// ```
/// use intrusive_collections::{intrusive_adapter, linked_list::Link};
/// use parking_lot::RawMutex;
/// use tokio_kaio::{IntrusiveAdapter, Request, generic_aio_context};
///
/// intrusive_adapter!(MyAdapter = Box<Request<RawMutex, Link>>: Request<RawMutex, Link> { link: Link });
///
/// impl IntrusiveAdapter<RawMutex, Link> for MyAdapter {
///     fn new() -> Self {
///         MyAdapter::NEW
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (context, handle, background) = generic_aio_context::<RawMutex, MyAdapter, Link>(8, true)?;
/// tokio::spawn(background);
/// assert_eq!(handle.available_slots(), Some(8));
/// context.close().await;
/// # Ok(())
/// # }
/// ```
pub trait IntrusiveAdapter<M, L>:
    Adapter<PointerOps = DefaultPointerOps<Box<Request<M, L>>>, LinkOps: LinkOps<LinkPtr = NonNull<L>>>
where
    M: RawMutex,
    L: DefaultLinkOps + Default,
{
    /// Creates an adapter. Not called by this crate.
    fn new() -> Self;
}

impl IntrusiveAdapter<parking_lot::RawMutex, AtomicLink> for SyncRequestAdapter {
    fn new() -> Self {
        SyncRequestAdapter::NEW
    }
}

impl IntrusiveAdapter<NoopLock, linked_list::Link> for LocalRequestAdapter {
    fn new() -> Self {
        LocalRequestAdapter::NEW
    }
}

/// A lock for one thread: it costs a flag, and refuses to be taken twice.
///
/// Neither `Send` nor `Sync`, and so is everything behind it. Made by [`RawMutex::INIT`].
pub struct NoopLock {
    taken: Cell<bool>,
    _one_thread: PhantomData<*mut ()>,
}

// SAFETY: the flag is true exactly between `lock` and `unlock`, and the type is neither `Send` nor
// `Sync`, so that no other thread looks at it.
unsafe impl RawMutex for NoopLock {
    #[allow(clippy::declare_interior_mutable_const)] // how `RawMutex` wants it
    const INIT: NoopLock = NoopLock {
        taken: Cell::new(false),
        _one_thread: PhantomData,
    };

    type GuardMarker = GuardNoSend;

    /// # Panics
    ///
    /// If the lock is taken: waiting for oneself would never end.
    fn lock(&self) {
        assert!(
            self.try_lock(),
            "a NoopLock was taken twice: the operation was started from within another one"
        );
    }

    fn try_lock(&self) -> bool {
        !self.taken.replace(true)
    }

    unsafe fn unlock(&self) {
        self.taken.set(false);
    }
}

impl fmt::Debug for NoopLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoopLock")
            .field("taken", &self.taken.get())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_free_again_after_the_guard() {
        let lock = lock_api::Mutex::<NoopLock, i32>::new(1);
        *lock.lock() += 1;
        assert_eq!(*lock.lock(), 2);
    }

    #[test]
    #[should_panic = "taken twice"]
    fn it_refuses_to_be_taken_twice() {
        let lock = lock_api::Mutex::<NoopLock, i32>::new(1);
        let _first = lock.lock();
        let _second = lock.lock();
    }
}
