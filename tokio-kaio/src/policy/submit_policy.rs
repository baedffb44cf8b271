//! [`SubmitPolicy`]: chooses the thread that submits a request.

/// Chooses the thread that submits a request, and whether that thread may block.
///
/// [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html) is only as asynchronous as the
/// file system. Where the file system has to allocate blocks, read metadata, or wait for a lock, the
/// journal or a request of the block device, the calling thread blocks. If that is a worker of the
/// runtime, its other tasks wait.
///
/// A context has a policy for all of its files
/// ([`AioContextBuilder::submit_policy`](crate::AioContextBuilder::submit_policy)). A
/// [`File`](crate::File) can have a different one
/// ([`File::set_submit_policy`](crate::File::set_submit_policy)). The policy does not change how requests
/// are awaited, cancelled and counted. [`Metrics`](crate::Metrics) shows its effect. The repository's
/// `docs/submission.md` helps to choose.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{AioContextBuilder, AioOpenOptionsExt, LockedBuf, SubmitPolicy, WriteFlags};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let (table_path, log_path) = (dir.path().join("table"), dir.path().join("log"));
/// // The table is read and overwritten. The log grows with each write.
/// let (context, handle) = AioContextBuilder::new(64)
///     .submit_policy(SubmitPolicy::NoWaitFirst)
///     .build()?;
/// let mut options = std::fs::OpenOptions::new();
/// options.read(true).write(true).create(true);
/// let table = options.clone().aio_open(table_path, false).await?;
/// let log = options.aio_open(log_path, false).await?;
/// log.set_submit_policy(Some(SubmitPolicy::Offload));
/// # table.set_submit_policy(Some(SubmitPolicy::Inline));
///
/// let block = LockedBuf::with_size(4096)?;
/// log.write_at(&handle, 0, &block, 4096, WriteFlags::empty()).await?;
/// # table.write_at(&handle, 0, &block, 4096, WriteFlags::empty()).await?;
/// assert_eq!(handle.metrics().offloads, 1);
/// context.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum SubmitPolicy {
    /// Submits on the thread that makes the request or runs the context's background task. The thread
    /// blocks if the kernel blocks. Takes the least CPU. Use it for files with allocated blocks, on file
    /// systems that overwrite asynchronously.
    ///
    /// A request that completes inside its submission is ready at once. A task that makes many such requests
    /// in a row yields only when tokio's [budget](tokio::task::coop) is used up, after 128 requests. So other
    /// tasks may wait for 128 submissions.
    Inline = 1,

    /// Submits inline with `RWF_NOWAIT`: the kernel refuses a request that would block (`EAGAIN`), and the
    /// request is submitted again from tokio's blocking pool. The default.
    ///
    /// Each file learns from the results, separately for reads, overwrites, and writes to ranges not known
    /// to have data:
    ///
    /// - After a few refusals in a row the file skips the attempt, and probes it again occasionally.
    /// - Some file systems don't know the flag (`EOPNOTSUPP`: tmpfs, overlayfs), or refuse requests that
    ///   would not block (XFS: writes that set a time stamp or allocate). If submissions from the pool
    ///   turn out not to sleep, later requests are submitted inline without the flag, as with
    ///   [`Inline`](SubmitPolicy::Inline). Sampled submissions are measured: if one sleeps, or takes more
    ///   than a millisecond of CPU, later requests go to the pool again.
    /// - If the page cache holds part of a transfer (a buffered file of
    ///   [`aio_open_or_buffered`](crate::AioOpenOptionsExt::aio_open_or_buffered), ext4 that journals
    ///   data), an attempt moves only that part. The whole transfer is then repeated from the pool. So is
    ///   a read past the end of a file of whole pages, which looks the same.
    /// - Appends always extend the file. The file learns about them separately, and offloads them at first,
    ///   without an attempt.
    ///
    /// Syncs go to a work queue of the kernel, and polls never block: both are submitted inline. So are
    /// operations with the flag `NOWAIT`, whose `EAGAIN` is returned to the caller.
    #[default]
    NoWaitFirst = 2,

    /// Submits all requests except polls from tokio's blocking pool. No submission can block a worker.
    /// Each costs a switch to another thread and back.
    Offload = 3,
}

impl SubmitPolicy {
    /// The policy as a number other than 0.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The policy with this [`code`](SubmitPolicy::code).
    pub(crate) fn from_code(code: u8) -> Option<SubmitPolicy> {
        use SubmitPolicy::{Inline, NoWaitFirst, Offload};
        [Inline, NoWaitFirst, Offload]
            .into_iter()
            .find(|policy| policy.code() == code)
    }
}
