//! Every way in which a context, a buffer or a request can fail: the exact variant and errno, and
//! that nothing else is affected.
#![allow(unsafe_code)]

mod as_io_errors;
mod buffers;
mod contexts;
mod disks;
mod later;
mod pool;
mod requests;
mod stopped;

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use crate::common::*;
use futures::future::join_all;
use futures::{FutureExt, poll};
use tokio::task::JoinSet;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextError, AioContextHandle, AioOpenOptionsExt, EventFd,
    EventFdError, File, LockedBuf, LockedBufError, RawCommand, ReadFlags, WriteFlags, aio_context,
    local_aio_context,
};

/// For tests that change their process before there is a runtime.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(with_hang_guard(test))
}

fn setup_error<T>(made: Result<T, AioContextError>) -> io::Error {
    match made {
        Err(AioContextError::IoSetup(error)) => error,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a context was made"),
    }
}

fn submit_errno<T: std::fmt::Debug>(result: Result<T, AioCommandError>) -> Option<i32> {
    match &result {
        Err(error @ AioCommandError::IoSubmit(_)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    }
}

fn result_errno<T: std::fmt::Debug>(result: Result<T, AioCommandError>) -> Option<i32> {
    match &result {
        Err(error @ AioCommandError::BadResult(_)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    }
}

fn sysctl(name: &str) -> usize {
    let text = fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap();
    text.trim().parse().unwrap()
}

/// Memory and offset alignment that direct I/O on `file` requires, if `statx` reports it.
fn wanted_alignment(file: &impl AsRawFd) -> Option<(u32, u32)> {
    // SAFETY: all zeroes is a valid value.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to a structure of ours.
    let code = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut status,
        )
    };
    let reported = code == 0 && status.stx_mask & libc::STATX_DIOALIGN != 0;
    reported.then_some((status.stx_dio_mem_align, status.stx_dio_offset_align))
}

async fn read(
    handle: &AioContextHandle,
    file: &File,
    block: u64,
    bytes: &mut LockedBuf,
) -> Result<u64, AioCommandError> {
    file.read_at(
        handle,
        block * LEN,
        bytes,
        bytes.size() as u64,
        ReadFlags::empty(),
    )
    .await
}

/// Asserts that a context on which `failed` requests have failed is idle, and closes it; then
/// nothing that was opened after `before` is left.
async fn nothing_is_left(
    context: AioContext,
    handle: AioContextHandle,
    failed: u64,
    before: (usize, usize),
) {
    let slots = context.available_slots().unwrap();
    assert_idle(&handle, slots).await;
    assert_eq!(handle.metrics().failed, failed);
    with_hang_guard(context.close()).await;
    assert_eq!(handle.available_slots(), None);
    // A thread that has freed a slot closes its file a moment later.
    let state = || (before, open_resources());
    wait_until(|| is_released(before), state).await;
}

/// Reads block `i`, which must hold pattern `i`.
async fn read_is_served(handle: &AioContextHandle, file: &File, block: u64) {
    let mut bytes = buffer(BLOCK);
    assert_eq!(read(handle, file, block, &mut bytes).await.unwrap(), LEN);
    assert!(is_pattern(block, bytes.as_ref()));
}
