//! The `RWF_*` flags of reads and writes, and the events of polls.

use bitflags::bitflags;

use crate::sys::abi;

bitflags! {
    /// Flags of one read: `RWF_*` of
    /// [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html).
    ///
    /// Bits without a name here ([`ReadFlags::from_bits_retain`]) reach the kernel too. Bits that the
    /// kernel does not know fail with `EOPNOTSUPP`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ReadFlags: isize {
        /// High priority. Accepted for compatibility; the kernel polls for no AIO request.
        const HIPRI = abi::RWF_HIPRI as isize;

        /// Fail with `EAGAIN` where the submission would block, for a lock or a request of the block
        /// device; with `EOPNOTSUPP` if the file system can't promise not to block.
        const NOWAIT = abi::RWF_NOWAIT as isize;

        /// Drop the pages of this transfer from the page cache afterwards, except those that were cached
        /// before. Since Linux 6.14, on file systems that support it; `EOPNOTSUPP` elsewhere. Without
        /// effect on direct I/O, which bypasses the page cache.
        const DONTCACHE = abi::RWF_DONTCACHE as isize;
    }
}

bitflags! {
    /// Flags of one write: `RWF_*` of
    /// [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html).
    ///
    /// Bits without a name here ([`WriteFlags::from_bits_retain`]) reach the kernel too. Bits that the
    /// kernel does not know fail with `EOPNOTSUPP`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::WriteFlags;
    ///
    /// let record = WriteFlags::APPEND | WriteFlags::DSYNC;
    /// assert!(record.contains(WriteFlags::DSYNC));
    /// assert!(WriteFlags::empty().is_empty());
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct WriteFlags: isize {
        /// Write at the current end of the file, as `O_APPEND` does. The offset is ignored. With direct
        /// I/O the end must be aligned like an offset.
        ///
        /// On XFS the end of the file moves when a write completes: of several appends in flight, all but
        /// one are lost. So [`File::write_at`](crate::File::write_at) keeps one append per file and
        /// context in flight. The caller has to serialize the appends of several contexts or processes,
        /// and those made with [`submit_request`](crate::GenericAioContextHandle::submit_request). An
        /// append may take several requests (more than 1024 parts, more than 2 GiB, or resumed after a
        /// short write); other appends may come between them.
        const APPEND = abi::RWF_APPEND as isize;

        /// A crash or a loss of power leaves all of the write or nothing. Since Linux 6.11, with direct
        /// I/O, on devices and file systems that support it. The length must be a power of two within the
        /// limits of the file, and the offset a multiple of the length: otherwise `EINVAL`. `EOPNOTSUPP` if
        /// the file does not support it. See [`File::atomic_writes`](crate::File::atomic_writes).
        const ATOMIC = abi::RWF_ATOMIC as isize;

        /// Drop the pages of this transfer from the page cache afterwards, except those that were cached
        /// before. Since Linux 6.14, on file systems that support it; `EOPNOTSUPP` elsewhere. Without
        /// effect on direct I/O, which bypasses the page cache.
        const DONTCACHE = abi::RWF_DONTCACHE as isize;

        /// Complete when the data is durable, as `O_DSYNC` does: a `fdatasync` of this write.
        const DSYNC = abi::RWF_DSYNC as isize;

        /// High priority. Accepted for compatibility; the kernel polls for no AIO request.
        const HIPRI = abi::RWF_HIPRI as isize;

        /// Write at the offset although the file was opened with `O_APPEND`. Since Linux 6.9. `EINVAL`
        /// with `APPEND`. overlayfs silently appends all the same (Linux 6.18).
        const NOAPPEND = abi::RWF_NOAPPEND as isize;

        /// Fail with `EAGAIN` where the submission would block: for block allocation (every write that
        /// extends the file or fills a hole), for pages of the file in the page cache, for a change of
        /// the file's time stamp (on XFS the first write in each tick of the kernel's clock), for a lock,
        /// for a request of the block device. Submit it again without the flag: with the flag, it may
        /// never succeed. `EOPNOTSUPP` if the file system can't promise not to block.
        const NOWAIT = abi::RWF_NOWAIT as isize;

        /// Complete when data and metadata are durable, as `O_SYNC` does: a `fsync` of this write.
        const SYNC = abi::RWF_SYNC as isize;
    }
}

bitflags! {
    /// The events that a [poll](crate::RawCommand::Poll) waits for and returns: `POLL*` of
    /// [`poll(2)`](https://man7.org/linux/man-pages/man2/poll.2.html).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PollEvents: u16 {
        /// There is something to read.
        const IN = libc::POLLIN as u16;

        /// There is an exceptional condition, such as out-of-band data of a socket.
        const PRI = libc::POLLPRI as u16;

        /// There is room to write.
        const OUT = libc::POLLOUT as u16;

        /// There is an error, or nobody reads the pipe. Returned even if not asked for.
        const ERR = libc::POLLERR as u16;

        /// The other side has hung up. Returned even if not asked for.
        const HUP = libc::POLLHUP as u16;

        /// The other side of the socket has stopped writing.
        const RDHUP = libc::POLLRDHUP as u16;
    }
}
