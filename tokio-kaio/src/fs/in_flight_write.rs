//! [`InFlight`]: a write of a `FileWriter` in flight.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lock_api::RawMutex;

use super::edge_write::EdgeWrite;
use super::read_write_op::WriteOp;
use crate::context::OwnedOp;
use crate::{AioCommandError, AlignedBuf};

/// A write in flight.
pub(super) struct InFlight<M: RawMutex + 'static, A: 'static, L: 'static> {
    pub(super) range: Range<u64>,
    pub(super) write: Write<M, A, L>,
}

#[allow(clippy::large_enum_variant)] // the large one is the usual one
pub(super) enum Write<M: RawMutex + 'static, A: 'static, L: 'static> {
    Blocks(WriteOp<M, A, L>),
    Edge(EdgeWrite<M, A, L>),
    /// The write of `Bytes` where they are.
    #[cfg(feature = "bytes")]
    InPlace(OwnedOp<M, A, L>),
    Sync(OwnedOp<M, A, L>),
}

/// Resolves to the buffer, for further writes; an empty one if there is none.
impl<M: RawMutex + 'static, A: 'static, L: 'static> Future for InFlight<M, A, L> {
    type Output = Result<AlignedBuf, AioCommandError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let without_buffer = |result: Result<(), AioCommandError>| {
            Poll::Ready(result.map(|()| AlignedBuf::default()))
        };
        match &mut self.write {
            Write::Blocks(write) => {
                let (result, buffer) = ready!(Pin::new(write).poll(cx));
                Poll::Ready(result.map(|_| buffer))
            }
            Write::Edge(write) => without_buffer(ready!(Pin::new(write).poll(cx))),
            #[cfg(feature = "bytes")]
            Write::InPlace(write) => {
                let (result, _memory) = ready!(Pin::new(write).poll(cx));
                without_buffer(result.map(drop))
            }
            Write::Sync(sync) => {
                let (result, _memory) = ready!(Pin::new(sync).poll(cx));
                without_buffer(match result {
                    Ok(0) => Ok(()),
                    Ok(_) => Err(AioCommandError::NonZeroCode),
                    Err(error) => Err(error),
                })
            }
        }
    }
}
