//! Linux kernel AIO for tokio: `O_DIRECT` reads and writes that the kernel schedules itself, awaited
//! from ordinary tasks.
//!
//! No thread pool stands behind an operation: it goes to the block layer with
//! [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html), and its future wakes
//! when the kernel is done. That works under the multi-threaded runtime, the current-thread runtime
//! and a `LocalSet`, and also where io_uring is forbidden, as by the default profiles of Docker and
//! Podman.
//!
//! # When to use it, and when not
//!
//! It is for programs that keep many reads and writes in flight on local disks and do their own
//! caching: storage engines, logs, queues, object stores. It is not for
//!
//! - files that should go through the page cache, which `O_DIRECT` passes by: without it the kernel
//!   does all of an AIO request inside the submission. Use `tokio::fs`.
//! - small files, and offsets or lengths that mostly are no multiples of the file's block: direct I/O
//!   refuses them. [`File::read_bytes_at`] and [`File::write_bytes_at`] take any, and copy.
//! - network file systems, pipes, sockets.
//! - operations that AIO does not have (open, stat, allocate, truncate, rename; here they run on
//!   tokio's blocking pool, or not at all), and programs that have io_uring and want its features.
//! - other systems than Linux, where the crate is empty.
//!
//! A submission can *block* its thread: on ext4 for a write that extends the file, on btrfs for any
//! write. Unless told, such requests are submitted from tokio's blocking pool instead: see
//! [`SubmitPolicy`]. The README has a table of what file systems do.
//!
//! # First steps
//!
//! A context takes requests through its handle; a [`File`] is opened for direct I/O; a
//! [`LockedBuf`] is memory that is aligned for it.
//!
//! ```
//! use tokio_kaio::{AioOpenOptionsExt, LockedBuf, ReadFlags, WriteFlags, aio_context};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Up to 128 requests in flight; further ones wait.
//!     let (context, handle) = aio_context(128, true)?;
//!
//!     let mut options = std::fs::OpenOptions::new();
//!     options.read(true).write(true).create(true);
//! #   let dir = tempfile::tempdir()?;
//! #   let path = dir.path().join("table");
//!     let file = options.aio_open(path, false).await?;
//!
//!     // Offsets and lengths are multiples of the file's block.
//!     let mut buffer = LockedBuf::with_size(4096)?;
//!     buffer.as_mut()[..5].copy_from_slice(b"hello");
//!     file.write_at(&handle, 8192, &buffer, 4096, WriteFlags::DSYNC).await?;
//!
//!     let read = file.read_at(&handle, 8192, &mut buffer, 4096, ReadFlags::empty()).await?;
//!     assert_eq!(read, 4096);
//!     assert_eq!(&buffer.as_ref()[..5], b"hello");
//!
//!     context.close().await;
//!     Ok(())
//! }
//! ```
//!
//! A handle is cheap to clone, and any number of operations may run on a file at once: give each
//! task a handle, an `Arc` of the file and a buffer of its own. The repository's
//! `examples/quickstart.rs` does so, `examples/wal.rs` is a log with group commit.
//!
//! [`aio_context`] is for any runtime. [`local_aio_context`] saves the lock where everything stays
//! on one thread. [`AioContextBuilder`] offers more choices: where requests are submitted
//! ([`SubmitPolicy`]), what runs them ([`Backend`]), how many share a system call.
//!
//! # How it works
//!
//! The life of a read:
//!
//! 1. Its future is polled. The buffer's memory *moves* into the request; a slot of the context is
//!    taken, or waited for.
//! 2. A request that comes alone goes to the kernel there and then. Requests that come together, in
//!    the same turn of the runtime, are queued, and the context's background task submits them with
//!    one system call, up to 16 ([`AioContextBuilder::max_batch`]) at a time.
//!    It carries `RWF_NOWAIT`, where that is worth a try: what the kernel refuses, because it would
//!    have to wait inside the submission, is submitted once more without, from tokio's blocking pool
//!    ([`SubmitPolicy`]).
//! 3. What completes inside the submission, as on tmpfs, is found right after it. Otherwise the
//!    kernel writes an event to a ring that it shares with the process, and signals an eventfd
//!    among those that tokio's I/O driver waits for. The events are taken out of the ring without a
//!    system call, the slots are free again, and the futures are woken. (Where requests have long
//!    been done when their submission returned, the kernel is not asked to signal.)
//! 4. The future is polled again, and the memory moves back to the buffer.
//!
//! A write is the same, but that it shares the memory, which nobody can change meanwhile. In steady
//! state, nothing is allocated on the way, unless a thread of the blocking pool has to be called.
//!
//! A context ends on a thread of its own, because
//! [`io_destroy(2)`](https://man7.org/linux/man-pages/man2/io_destroy.2.html) sleeps:
//! [`close`](GenericAioContext::close) waits for that, dropping the context does not.
//!
//! # Buffers
//!
//! Memory that the kernel is to write to can't just be borrowed: a future may be forgotten, and the
//! borrow with it. There are three ways to give it:
//!
//! - An [`AlignedBuf`], borrowed. Its memory moves into the request and back. ([`LockedBuf`] is its
//!   other name; [`BufferPool`] has such by the number.)
//! - Any buffer ([`IoBuf`], [`IoBufMut`]), handed over; it comes back with the result:
//!   [`File::read_owned_at`].
//! - A plain slice, by way of a copy: [`File::read_bytes_at`].
//!
//! # Priority, deadline
//!
//! Both are the handle's: [`with_priority`](GenericAioContextHandle::with_priority),
//! [`with_deadline`](GenericAioContextHandle::with_deadline) and
//! [`with_timeout`](GenericAioContextHandle::with_timeout) give handles on the same context, whose
//! operations have them.
//!
//! # Cancellation
//!
//! Any future may be dropped, forgotten or aborted at any time: memory stays sound. What the kernel
//! has can't be recalled, so *cancelled* means *abandoned*: the read or write goes on, on memory
//! that the request keeps, and holds its slot until the kernel is done. The buffer of a dropped
//! read gets other memory then; [`AlignedBuf`](AlignedBuf#while-an-operation-runs) has the details. A
//! dropped write may still land, even after one that was submitted later: before you
//! write the same place again, wait for [`File::drain`].
//!
//! # What it does, seen
//!
//! [`GenericAioContextHandle::metrics`] gives a snapshot of what a context has done and is doing:
//! requests, batches, what found their events, refusals, what went from the blocking pool, slow
//! submissions; latencies if asked for.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `bytes`: [`bytes::Bytes`](https://docs.rs/bytes) out of an [`AlignedBuf`] without a copy; `Bytes`
//!   and `BytesMut` as buffers.
//! - `metrics`: the same counters through the facade of the crate
//!   [`metrics`](https://docs.rs/metrics), by `Metrics::publish`, or by
//!   `GenericAioContextHandle::report_metrics` again and again.
//! - `tracing`: a span of [`tracing`](https://docs.rs/tracing) for each operation, and events where
//!   something is slower than it could be; target `tokio_kaio`.
//!
//! # Errors
//!
//! An operation fails with [`AioCommandError`], which fails nothing else: its context, its file and
//! the requests beside it go on. [`AioContextError`] and [`LockedBufError`] say which limit is in
//! the way, and how to raise it. All become [`std::io::Error`]s by `?`. A `len` larger than the buffer is
//! a panic, before anything is submitted.
//!
//! # Forked children
//!
//! A child that [`fork(2)`](https://man7.org/linux/man-pages/man2/fork.2.html) makes has neither
//! the completion rings nor the memory of its parent's buffers. Operations that it starts on an
//! inherited context fail with `EINVAL`; touching an inherited buffer is a segmentation fault. A
//! child that goes on to `exec`, as [`std::process::Command`]'s does, is not concerned.
#![cfg(target_os = "linux")]

mod alignment;
mod backend;
mod buf;
mod command;
mod compat;
mod config;
mod context;
mod deferred;
mod driver;
mod error;
mod eventfd;
mod flags;
mod fs;
mod metrics;
mod offload;
mod op;
#[cfg_attr(
    kaio_plain_policy,
    allow(dead_code, unused_imports, reason = "`Plain` uses little of it")
)]
mod policy;
mod priority;
mod runtime;
mod slab;
mod spawn_blocking;
mod sync;
mod sys;
mod teardown;
mod trace;

pub use alignment::{Alignment, AlignmentSource, AtomicWrites};
pub use backend::Backend;
pub use buf::{
    AlignedBuf, BufferPool, BufferPoolBuilder, IoBuf, IoBufMut, LockedBuf, LockedBufError, Part,
    PartMut, Slice,
};
pub use command::RawCommand;
pub use compat::{IntrusiveAdapter, LocalRequestAdapter, NoopLock, Request, SyncRequestAdapter};
pub use context::{
    AioContext, AioContextBuilder, AioContextHandle, Batch, BatchResults, CloseTimeoutError,
    GenericAioContext, GenericAioContextHandle, LocalAioContext, LocalAioContextHandle,
    aio_context, generic_aio_context, local_aio_context,
};
pub use error::{AioCommandError, AioContextError};
pub use eventfd::{EventFd, EventFdError};
pub use flags::{PollEvents, ReadFlags, WriteFlags};
pub use fs::{Advice, AioOpenOptionsExt, Allocate, File, SyncRange};
pub use intrusive_collections::linked_list::AtomicLink;
pub use metrics::{LatencyHistogram, Metrics, Reaped};
pub use policy::SubmitPolicy;
pub use priority::{IoClass, IoPriority};

/// Compiles and runs the code of the README and the guides.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/buffers.md")]
    struct Buffers;
    #[doc = include_str!("../../docs/cancellation.md")]
    struct Cancellation;
    #[doc = include_str!("../../docs/observability.md")]
    struct Observability;
    #[doc = include_str!("../../docs/operations.md")]
    struct Operations;
    #[doc = include_str!("../../docs/submission.md")]
    struct Submission;
    #[doc = include_str!("../../docs/unaligned.md")]
    struct Unaligned;
}
