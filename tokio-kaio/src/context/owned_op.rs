//! [`OwnedOp`]: the future of one operation, which owns its file and its handle ([`OpOwner`]).
//!
//! Why: an [`OpFuture`](super::OpFuture) borrows both, so that an operation that is awaited at once counts no
//! references. A stream keeps its operations in flight across calls, and outlives the caller's borrows.
#![allow(unsafe_code)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use lock_api::RawMutex;

use super::TransferMode;
use super::handle::{GenericAioContextHandle, Operation};
use crate::AioCommandError;
use crate::config::Types;
use crate::op::{BufferReturn, FileRef, IoBuffer, IoRequest, OpenFile};

/// The file and the handle of operations that own both.
pub(crate) struct OpOwner<M: RawMutex, A, L> {
    file: Arc<OpenFile>,
    handle: GenericAioContextHandle<M, A, L>,
}

/// One operation. If it is dropped in flight, its request is abandoned, as that of every operation.
pub(crate) struct OwnedOp<M: RawMutex + 'static, A: 'static, L: 'static> {
    /// Borrows from `owner`, so it is the first field, which is dropped first.
    operation: Operation<'static, 'static, Types<M>>,
    _owner: Arc<OpOwner<M, A, L>>,
}

impl<M: RawMutex + 'static, A: 'static, L: 'static> OpOwner<M, A, L> {
    pub(crate) fn new(
        file: Arc<OpenFile>,
        handle: GenericAioContextHandle<M, A, L>,
    ) -> Arc<OpOwner<M, A, L>> {
        Arc::new(OpOwner { file, handle })
    }

    pub(crate) fn handle(&self) -> &GenericAioContextHandle<M, A, L> {
        &self.handle
    }

    /// Creates an operation, which is submitted by its first poll.
    pub(crate) fn start(
        self: &Arc<Self>,
        request: IoRequest,
        mode: TransferMode,
    ) -> OwnedOp<M, A, L> {
        let owner = Arc::clone(self);
        // SAFETY: the `Arc` in the same `OwnedOp` keeps the owner alive at this address, and nothing changes
        // or moves the owner. The reference is only in `operation`, which is dropped before the `Arc`. If the
        // `OwnedOp` is forgotten, the `Arc` is too, and the owner lives for ever.
        let borrowed: &'static OpOwner<M, A, L> = unsafe { &*Arc::as_ptr(&owner) };
        let request = (request, BufferReturn::Caller, mode);
        let file = FileRef::Open(&borrowed.file);
        OwnedOp {
            operation: borrowed.handle.request_operation(file, request),
            _owner: owner,
        }
    }
}

/// Resolves to the result and the memory of the request: `None` or a replacement if the kernel still uses
/// the memory.
impl<M: RawMutex + 'static, A: 'static, L: 'static> Future for OwnedOp<M, A, L> {
    type Output = (Result<u64, AioCommandError>, Option<IoBuffer>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.operation).poll(cx));
        Poll::Ready((result, this.operation.as_mut().take_buffer()))
    }
}
