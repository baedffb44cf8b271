//! Linux kernel AIO for tokio: `O_DIRECT` reads and writes that the kernel runs asynchronously, awaited
//! from ordinary tasks.
//!
//! An operation needs no thread of its own: it is submitted to the block layer with
//! [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html), and its future wakes when
//! the kernel is done. This works under the multi-threaded runtime, the current-thread runtime and a
//! `LocalSet`. It also works where io_uring is forbidden, as by the default profiles of Docker and
//! Podman. Where io_uring is allowed, the same API can run on it ([`Backend`]).
//!
//! # When to use it
//!
//! Use it for programs that keep many reads and writes in flight on local disks and do their own
//! caching: storage engines, logs, queues, object stores. Don't use it for
//!
//! - files that should go through the page cache. `O_DIRECT` bypasses it, and without `O_DIRECT` the
//!   kernel does the whole of an AIO request inside the submission. Use `tokio::fs`.
//! - small files, and offsets or lengths that are mostly not multiples of the file's block: direct I/O
//!   refuses them. [`File::read_bytes_at`] and [`File::write_bytes_at`] accept any, and copy.
//! - network file systems, pipes, sockets.
//! - operations that AIO does not have: open, stat, allocate, truncate and rename run on tokio's blocking
//!   pool. (On io_uring, opening by a handle, [`BoundFile::allocate`] and [`BoundFile::set_len`] do not.)
//! - systems other than Linux, where the crate is empty.
//!
//! A submission can *block* its thread: on ext4 for a write that extends the file, on btrfs for any
//! write. By default such requests are submitted from tokio's blocking pool instead: see
//! [`SubmitPolicy`]. The repository's `docs/file-systems.md` has a table of what file systems do.
//!
//! # First steps
//!
//! A context runs requests. A handle submits requests to it. A [`File`] is open for direct I/O. A
//! [`LockedBuf`] is memory that is aligned for it.
//!
//! ```
//! use tokio_kaio::{AioOpenOptionsExt, LockedBuf, ReadFlags, WriteFlags, aio_context};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Up to 128 requests in flight. Further requests wait for a slot.
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
//! A handle and a file are cheap to clone, and any number of operations may run on a file at once. Give each
//! task clones of both and its own buffer, as the repository's README does. `examples/wal.rs` is a log with
//! group commit.
//!
//! [`aio_context`] works in any runtime. [`local_aio_context`] saves the lock where everything stays on
//! one thread. [`AioContextBuilder`] has more settings: where requests are submitted ([`SubmitPolicy`]),
//! which [`Backend`] runs them, how many share a system call, whether the context has a thread of its own
//! and so works from any executor ([`AioContextBuilder::own_thread`]).
//!
//! # How it works
//!
//! The life of a read:
//!
//! 1. Its future is polled. The request takes a slot of the context, or waits for one, and the buffer's
//!    memory *moves* into the request.
//! 2. A request that comes alone is submitted at once. Requests that are made in the same turn of the
//!    runtime are queued, and share system calls: an idle device gets two requests first, and each further
//!    call submits as many as are in flight, up to 64 ([`AioContextBuilder::max_batch`]). Requests carry
//!    `RWF_NOWAIT` where an attempt is worthwhile: the kernel refuses a request whose submission would block,
//!    and the request is submitted again from tokio's blocking pool, without the flag ([`SubmitPolicy`]).
//! 3. A request that completes inside its submission, as on tmpfs, is reaped right after it. For other
//!    requests the kernel writes a completion to a ring that it shares with the process, and signals an
//!    eventfd that tokio's I/O driver waits for. Completions are reaped without a system call: their
//!    slots are free again, and the futures wake. (Where requests keep completing inside their
//!    submission, the kernel is not asked to signal.)
//! 4. The future is polled again, and the memory moves back to the buffer.
//!
//! A write works in the same way, except that it shares the buffer's memory, which nobody can change
//! meanwhile. In steady state, reads and writes allocate nothing, except when they call a thread of the
//! blocking pool.
//!
//! [`io_destroy(2)`](https://man7.org/linux/man-pages/man2/io_destroy.2.html) sleeps, so a context is
//! torn down on a short-lived thread, or on the current thread if none can be started.
//! [`close`](GenericAioContext::close) waits for that; dropping the context does not.
//!
//! # Buffers
//!
//! The kernel may use a buffer after its future was forgotten, so a plain borrow would be unsound. There
//! are three ways to pass memory:
//!
//! - Borrow an [`AlignedBuf`]. Its memory moves into the request and back. [`LockedBuf`] is another name
//!   for it. A [`BufferPool`] holds a fixed number of them, and a
//!   [`SizeClassPool`] has them in many sizes.
//! - Hand over any buffer ([`IoBuf`], [`IoBufMut`]). It comes back with the result:
//!   [`File::read_owned_at`].
//! - Copy from or to a plain slice: [`File::read_bytes_at`].
//!
//! `File::read_range` and `File::read_ranges` (feature `bytes`) take memory from the pool of the handle,
//! [`buffers`](GenericAioContextHandle::buffers), and return slices of it.
//!
//! # Priority and deadline
//!
//! [`with_priority`](GenericAioContextHandle::with_priority),
//! [`with_deadline`](GenericAioContextHandle::with_deadline) and
//! [`with_timeout`](GenericAioContextHandle::with_timeout) return handles on the same context, whose
//! operations have that priority or deadline.
//!
//! # Shares and limits
//!
//! An [`IoGroup`] has a weight and limits.
//! [`with_group`](GenericAioContextHandle::with_group) returns a handle whose operations belong to it, so that
//! a compaction or a tenant does not take the disk from everybody else.
//!
//! # Cancellation
//!
//! Any future may be dropped, forgotten or aborted at any time: memory stays sound. Kernel AIO can't
//! recall a read or write, so *cancelled* means *abandoned*: the request goes on, on memory that it
//! owns, and holds its slot until the kernel is done. (On io_uring, the kernel cancels reads that have not
//! reached the disk.) The buffer of a dropped read gets other memory
//! ([details](AlignedBuf#while-an-operation-runs)). A forgotten operation keeps its memory until the
//! context has ended and its last handle is dropped. A dropped write may still land, even after a write
//! that was submitted later: before you write the same place again, wait for [`File::drain`].
//!
//! # Streams and whole files
//!
//! [`File::reader`] reads a file from one end to the other, ahead of its caller; [`File::writer`] writes one,
//! behind its caller. They are tokio's `AsyncRead` and `AsyncWrite`, and more.
//!
//! [`StagedFile`] is a file that appears under its name when it is whole, and replaces another one or not.
//! [`sync_dir`] makes the names of files durable. [`rename`], [`remove_file`], [`create_dir`], [`read_dir`] and
//! others do what their namesakes of `tokio::fs` do, also on the paths of a simulated disk.
//!
//! # Metrics
//!
//! [`GenericAioContextHandle::metrics`] returns a snapshot: requests, system calls, completions,
//! refusals, offloads, slow submissions, and latencies if they are measured.
//!
//! # Features
//!
//! All are off by default.
//!
//! - `bytes`: makes [`bytes::Bytes`](https://docs.rs/bytes) from an [`AlignedBuf`] without a copy, and
//!   accepts `Bytes` and `BytesMut` as buffers. Adds `File::read_range`, `File::read_ranges` and
//!   `File::stream_ranges`: byte ranges of any offset and length, read without a copy.
//! - `io-uring`: adds [`Backend::IoUring`].
//! - `metrics`: publishes the metrics through the facade of the crate
//!   [`metrics`](https://docs.rs/metrics): once by `Metrics::publish`, or at an interval by
//!   `GenericAioContextHandle::report_metrics`.
//! - `simulation`: adds a [simulated disk](crate::simulation) behind the same API, with faults and power cuts.
//! - `tracing`: adds a [`tracing`](https://docs.rs/tracing) span for each operation, and events for slow
//!   submissions and their reasons. The target is `tokio_kaio`.
//!
//! # Errors
//!
//! An operation fails with [`AioCommandError`]. Its context, its file and other operations go on.
//! [`AioContextError`] and [`LockedBufError`] say which limit was reached, and how to raise it. All errors
//! convert to [`std::io::Error`] with `?`. A `len` larger than the buffer panics before anything is
//! submitted.
//!
//! # Forked children
//!
//! A child made by [`fork(2)`](https://man7.org/linux/man-pages/man2/fork.2.html) inherits neither the
//! completion rings nor the buffer memory of its parent. Its operations on an inherited context fail
//! with `EINVAL`, before any lock is taken. Touching an inherited buffer causes a segmentation fault. A
//! child that goes on to `exec`, as [`std::process::Command`]'s does, is not affected.
#![cfg(target_os = "linux")]

mod alignment;
mod backend;
mod blocking_pool;
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
mod group;
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
#[cfg(feature = "simulation")]
pub mod simulation;
mod slab;
mod sync;
mod sys;
mod teardown;
mod trace;

pub use alignment::{Alignment, AlignmentSource, AtomicWrites};
pub use backend::Backend;
pub use buf::{
    AlignedBuf, BufferPool, BufferPoolBuilder, IoBuf, IoBufMut, LockedBuf, LockedBufError, Part,
    PartMut, RegisteredPool, SizeClassPool, SizeClassPoolBuilder, SizeClassPoolStats, Slice,
};
pub use command::RawCommand;
pub use compat::{IntrusiveAdapter, LocalRequestAdapter, NoopLock, Request, SyncRequestAdapter};
pub use context::{
    AioContext, AioContextBuilder, AioContextHandle, Batch, BatchResults, CloseTimeoutError,
    GenericAioContext, GenericAioContextHandle, LocalAioContext, LocalAioContextHandle, OwnedBatch,
    OwnedBatchResults, RefusedBackend, aio_context, generic_aio_context, local_aio_context,
};
pub use error::{AioCommandError, AioContextError};
pub use eventfd::{EventFd, EventFdError};
pub use flags::{PollEvents, ReadFlags, WriteFlags};
#[cfg(feature = "bytes")]
pub use fs::FileStream;
pub use fs::{
    Advice, AioOpenOptionsExt, Allocate, BoundFile, File, FileReader, FileWriter, PublishError,
    PublishMode, StagedFile, StagedFileBuilder, StreamError, SyncRange, create_dir, create_dir_all,
    create_dir_all_blocking, create_dir_blocking, hard_link, hard_link_blocking, read_dir,
    read_dir_blocking, remove_dir, remove_dir_blocking, remove_file, remove_file_blocking, rename,
    rename_blocking, sync_dir, sync_dir_blocking, try_exists, try_exists_blocking,
};
#[cfg(feature = "bytes")]
pub use fs::{Coalesce, RangeStream};
pub use group::{GroupMetrics, IoGroup};
pub use intrusive_collections::linked_list::AtomicLink;
pub use metrics::{LatencyHistogram, Metrics, Reaped};
pub use policy::SubmitPolicy;
pub use priority::{IoClass, IoPriority};
pub use sys::Process;

/// Compiles and runs the code of the README and the guides.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/backends.md")]
    struct Backends;
    #[doc = include_str!("../../docs/buffers.md")]
    struct Buffers;
    #[doc = include_str!("../../docs/cancellation.md")]
    struct Cancellation;
    #[doc = include_str!("../../docs/durability.md")]
    struct Durability;
    #[doc = include_str!("../../docs/groups.md")]
    struct Groups;
    #[doc = include_str!("../../docs/observability.md")]
    struct Observability;
    #[doc = include_str!("../../docs/operations.md")]
    struct Operations;
    #[cfg(feature = "bytes")]
    #[doc = include_str!("../../docs/ranges.md")]
    struct Ranges;
    #[cfg(feature = "simulation")]
    #[doc = include_str!("../../docs/simulation.md")]
    struct Simulation;
    #[doc = include_str!("../../docs/streams.md")]
    struct Streams;
    #[doc = include_str!("../../docs/submission.md")]
    struct Submission;
    #[doc = include_str!("../../docs/unaligned.md")]
    struct Unaligned;
}
