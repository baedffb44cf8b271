//! [`SubmitPolicy`]: on which thread requests are submitted.

/// On which thread a request is submitted, and whether that thread may have to wait there.
///
/// [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html) is asynchronous as far
/// as the file system is. Where it has to allocate blocks, read metadata, or wait for a lock, the
/// journal or a request of the block device, it does so on the thread that calls it, and a worker of
/// the runtime stands still for as long.
///
/// A context has one for all of its files
/// ([`AioContextBuilder::submit_policy`](crate::AioContextBuilder::submit_policy)); a
/// [`File`](crate::File) can have one of its own
/// ([`File::set_submit_policy`](crate::File::set_submit_policy)). Whatever it is, a request is
/// waited for, cancelled and counted in the same way. What was done is in
/// [`Metrics`](crate::Metrics).
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
/// // What is there is read and overwritten; the log grows with each write.
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
    /// On the thread that makes the request or runs the context's background task, which waits
    /// where the kernel does. The least CPU, for files whose blocks are allocated, on file systems
    /// that overwrite them asynchronously; and for programs that would rather wait.
    ///
    /// A request that is done inside its submission is ready at once. A task that makes one after
    /// another gives way when tokio's [budget](tokio::task::coop) is used up, after 128: that is how
    /// many submissions in a row others may have to wait for.
    Inline = 1,

    /// There too, but with `RWF_NOWAIT`, so that the kernel refuses what would have to wait
    /// (`EAGAIN`), and from tokio's blocking pool what was refused. The default.
    ///
    /// Each file learns from that, separately for reads, for overwrites, and for writes to where it
    /// is not known to have data:
    ///
    /// - After some refusals in a row the attempt is left out, and made again now and then.
    /// - A file system that does not know the flag (`EOPNOTSUPP`: tmpfs, overlayfs), or refuses what
    ///   it would not have waited for (XFS: what sets a time stamp or allocates), costs nothing for
    ///   long: where submissions from the pool are seen not to sleep, further ones are made here
    ///   without the flag, as with [`Inline`](SubmitPolicy::Inline). Some are watched. The first one
    ///   that sleeps, or runs for more than a millisecond, sends those after it to the pool again.
    /// - What the page cache has a part of, where it is not passed by (a file of
    ///   [`aio_open_or_buffered`](crate::AioOpenOptionsExt::aio_open_or_buffered), ext4 that journals
    ///   data), is served in part by an attempt: it is made once more, as a whole, from the pool. So is
    ///   a read that passes the end of a file of whole pages, which looks the same.
    /// - Appends, which always extend the file, are learned of apart and make no attempt: they start
    ///   in the pool.
    ///
    /// Syncs go to a work queue of the kernel's and are submitted inline; so are operations with
    /// `NOWAIT` of their own, whose `EAGAIN` is the caller's.
    #[default]
    NoWaitFirst = 2,

    /// From tokio's blocking pool, always. No submission can hold up a worker; each costs a switch
    /// to another thread and back.
    Offload = 3,
}

impl SubmitPolicy {
    /// As a number that is not 0.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The one of that [`code`](SubmitPolicy::code).
    pub(crate) fn from_code(code: u8) -> Option<SubmitPolicy> {
        use SubmitPolicy::{Inline, NoWaitFirst, Offload};
        [Inline, NoWaitFirst, Offload]
            .into_iter()
            .find(|policy| policy.code() == code)
    }
}
