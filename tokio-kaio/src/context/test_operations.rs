//! Operations without a handle, for tests of the driver.
#![cfg_attr(kaio_loom, allow(dead_code))]

use super::op_future::OpFuture;
use super::op_options::OpOptions;
use super::transfer_progress::TransferMode;
use crate::RawCommand;
use crate::config::ContextTypes;
use crate::driver::Driver;
use crate::op::{BufferReturn, FileRef, IoRequest};
use crate::slab::SlotKey;

/// An operation for `driver`.
pub(crate) fn op_of_command<'h, 'a, T: ContextTypes>(
    driver: &'h Driver<T>,
    file: FileRef<'h>,
    command: RawCommand<'a>,
) -> OpFuture<'h, 'a, T> {
    OpFuture::new(driver, None, OpOptions::NONE, file, command)
}

/// An operation for `driver`, of any request.
pub(crate) fn op_of_request<'h, 'a, T: ContextTypes>(
    driver: &'h Driver<T>,
    file: FileRef<'h>,
    request: (IoRequest, BufferReturn<'a>, TransferMode),
) -> OpFuture<'h, 'a, T> {
    OpFuture::with_request(driver, None, OpOptions::NONE, file, request)
}

/// The request that the driver has.
pub(crate) fn key_of<T: ContextTypes>(op: &OpFuture<'_, '_, T>) -> Option<SlotKey> {
    op.key()
}

pub(crate) fn is_complete<T: ContextTypes>(op: &OpFuture<'_, '_, T>) -> bool {
    op.is_complete()
}
