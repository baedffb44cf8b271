//! [`EdgeWrite`]: a write of a part of a block, which owns its data, its file and its handle.
#![allow(unsafe_code)]

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lock_api::RawMutex;

use super::File;
use crate::context::OpOwner;
use crate::{AioCommandError, GenericAioContextHandle, WriteFlags};

/// A [`File::write_bytes_at`] that owns what it uses. So it takes the file's lock on the blocks that it
/// covers in part, and other writers of these blocks lose nothing.
pub(super) struct EdgeWrite<M: RawMutex, A, L> {
    /// Made by [`write_edge`], of a handle with these type parameters.
    future: Pin<Box<dyn Future<Output = Result<(), AioCommandError>>>>,
    handle: PhantomData<GenericAioContextHandle<M, A, L>>,
}

// SAFETY: `future` is a `write_edge::<M, A, L>`, as `EdgeWrite::new` is the only constructor. `is_send` lets
// the compiler prove that this future is `Send` under the same bounds, which are also those under which
// `GenericAioContextHandle<M, A, L>` is.
unsafe impl<M: RawMutex + Send + Sync + 'static, A: 'static, L: 'static> Send
    for EdgeWrite<M, A, L>
{
}

/// Never called. It compiles only if the future is `Send`.
#[allow(dead_code)]
fn is_send<M: RawMutex + Send + Sync + 'static, A: 'static, L: 'static>(
    file: File,
    owner: Arc<OpOwner<M, A, L>>,
) {
    fn proven<T: Send>(_: T) {}
    proven(write_edge(file, owner, 0, Vec::new()));
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> EdgeWrite<M, A, L> {
    /// Creates a write of `data` at `offset`. It takes the lock at its first poll.
    pub(super) fn new(
        file: File,
        owner: Arc<OpOwner<M, A, L>>,
        offset: u64,
        data: Vec<u8>,
    ) -> EdgeWrite<M, A, L> {
        EdgeWrite {
            future: Box::pin(write_edge(file, owner, offset, data)),
            handle: PhantomData,
        }
    }
}

async fn write_edge<M: RawMutex + 'static, A: 'static, L: 'static>(
    file: File,
    owner: Arc<OpOwner<M, A, L>>,
    offset: u64,
    data: Vec<u8>,
) -> Result<(), AioCommandError> {
    file.write_bytes_at(owner.handle(), offset, &data, WriteFlags::empty())
        .await
}

impl<M: RawMutex, A, L> Future for EdgeWrite<M, A, L> {
    type Output = Result<(), AioCommandError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}
