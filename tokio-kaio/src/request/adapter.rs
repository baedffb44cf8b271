//! The adapters through which a context keeps its requests in intrusive lists.
#![allow(unsafe_code, missing_docs, missing_debug_implementations)] // of the macro's making

use std::ptr::NonNull;

use intrusive_collections::linked_list::{self, AtomicLink};
use intrusive_collections::{
    Adapter, DefaultLinkOps, DefaultPointerOps, LinkOps, intrusive_adapter,
};
use lock_api::RawMutex;

use super::Request;
use crate::NoopLock;

intrusive_adapter! {
    /// Keeps the requests of an [`AioContext`](crate::AioContext).
    pub SyncRequestAdapter = Box<Request<parking_lot::RawMutex, AtomicLink>>:
        Request<parking_lot::RawMutex, AtomicLink> { link: AtomicLink }
}

intrusive_adapter! {
    /// Keeps the requests of a [`LocalAioContext`](crate::LocalAioContext).
    pub LocalRequestAdapter = Box<Request<NoopLock, linked_list::Link>>:
        Request<NoopLock, linked_list::Link> { link: linked_list::Link }
}

/// How a context finds the links of its requests.
///
/// The adapter's link operations must be for pointers to `L` itself: the link is where they write.
///
/// For a context with a lock and a link of one's own, make an adapter with
/// [`intrusive_adapter!`](intrusive_collections::intrusive_adapter) over [`Request::link`], and
/// say here how to create it.
///
/// # Examples
///
/// A context behind a spin lock of one's own would start so; here the lock is `parking_lot`'s and
/// the link is one that only a locked list may use:
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
///
/// A link that borrows the operations of another type is refused: they would write past it.
///
/// ```compile_fail,E0271
/// use intrusive_collections::linked_list::LinkOps;
/// use intrusive_collections::{DefaultLinkOps, intrusive_adapter};
/// use parking_lot::RawMutex;
/// use tokio_kaio::{IntrusiveAdapter, Request};
///
/// #[derive(Default)]
/// pub struct Small(u8);
///
/// impl DefaultLinkOps for Small {
///     type Ops = LinkOps; // those of `Link`
///     const NEW: LinkOps = LinkOps;
/// }
///
/// intrusive_adapter!(MyAdapter = Box<Request<RawMutex, Small>>: Request<RawMutex, Small> { link: Small });
///
/// impl IntrusiveAdapter<RawMutex, Small> for MyAdapter {
///     fn new() -> Self {
///         MyAdapter::NEW
///     }
/// }
/// ```
pub trait IntrusiveAdapter<M, L>:
    Adapter<PointerOps = DefaultPointerOps<Box<Request<M, L>>>, LinkOps: LinkOps<LinkPtr = NonNull<L>>>
where
    M: RawMutex,
    L: DefaultLinkOps + Default,
{
    /// Creates the adapter of one list.
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
