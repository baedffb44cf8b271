//! The `RWF_*` flags of a single operation, and what a poll waits for.

use bitflags::bitflags;

use crate::sys::abi;

bitflags! {
    /// Flags of one read: `RWF_*` of
    /// [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html).
    ///
    /// Bits that are not named here ([`ReadFlags::from_bits_retain`]) reach the kernel too; one
    /// that it does not know is `EOPNOTSUPP`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ReadFlags: isize {
        /// High priority. Accepted for compatibility; the kernel polls for no AIO request.
        const HIPRI = abi::RWF_HIPRI as isize;

        /// Fail with `EAGAIN` instead of waiting inside the submission, for a lock or a request of
        /// the block device's. Where the file system can't promise that: `EOPNOTSUPP`.
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
    /// Bits that are not named here ([`WriteFlags::from_bits_retain`]) reach the kernel too; one
    /// that it does not know is `EOPNOTSUPP`.
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
        /// Write at the end of the file as it is then, as `O_APPEND` does; the offset is ignored.
        /// With direct I/O the end must be aligned as an offset must be.
        ///
        /// On XFS the end of the file moves when a write completes: of several appends in flight, all but
        /// one are lost. So [`File::write_at`](crate::File::write_at) keeps one append per file and
        /// context in flight. The caller has to serialize the appends of several contexts or processes,
        /// and those made with [`submit_request`](crate::GenericAioContextHandle::submit_request). An
        /// append may take several requests (more than 1024 parts, more than 2 GiB, or resumed after a
        /// short write); other appends may come between them.
        const APPEND = abi::RWF_APPEND as isize;

        /// All of the write or, after a crash or a loss of power, nothing of it. Since Linux 6.11, with
        /// direct I/O, on devices and file systems that can do it, for a length that is a power of two
        /// within limits of the file, at an offset that is a multiple of the length: `EINVAL` for
        /// others, `EOPNOTSUPP` where the file can't. See
        /// [`File::atomic_writes`](crate::File::atomic_writes).
        const ATOMIC = abi::RWF_ATOMIC as isize;

        /// Drop the pages of this transfer from the page cache afterwards, except those that were cached
        /// before. Since Linux 6.14, on file systems that support it; `EOPNOTSUPP` elsewhere. Without
        /// effect on direct I/O, which bypasses the page cache.
        const DONTCACHE = abi::RWF_DONTCACHE as isize;

        /// Complete when the data is durable, as `O_DSYNC` does: a `fdatasync` of this write.
        const DSYNC = abi::RWF_DSYNC as isize;

        /// High priority. Accepted for compatibility; the kernel polls for no AIO request.
        const HIPRI = abi::RWF_HIPRI as isize;

        /// Write at the offset, also where the file was opened with `O_APPEND`. Since Linux 6.9; with
        /// `APPEND`: `EINVAL`. On overlayfs it is appended all the same (Linux 6.18), in silence.
        const NOAPPEND = abi::RWF_NOAPPEND as isize;

        /// Fail with `EAGAIN` instead of waiting inside the submission: for block allocation (so
        /// for every write that extends the file or fills a hole), for pages of the file in the
        /// page cache, for a change of the file's time stamp (on XFS the first write within each
        /// tick of the kernel's clock), for a lock, for a request of the block device's. Trying
        /// again with the flag may never succeed: submit it again without. Where the file system
        /// can't promise not to wait: `EOPNOTSUPP`.
        const NOWAIT = abi::RWF_NOWAIT as isize;

        /// Complete when data and metadata are durable, as `O_SYNC` does: a `fsync` of this write.
        const SYNC = abi::RWF_SYNC as isize;
    }
}

bitflags! {
    /// What a [poll](crate::RawCommand::Poll) waits for, and finds: `POLL*` of
    /// [`poll(2)`](https://man7.org/linux/man-pages/man2/poll.2.html).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PollEvents: u16 {
        /// There is something to read.
        const IN = libc::POLLIN as u16;

        /// There is something exceptional: out-of-band data of a socket.
        const PRI = libc::POLLPRI as u16;

        /// There is room to write.
        const OUT = libc::POLLOUT as u16;

        /// An error; of a pipe, that nobody reads. Found also if it is not asked for.
        const ERR = libc::POLLERR as u16;

        /// The other side has hung up. Found also if it is not asked for.
        const HUP = libc::POLLHUP as u16;

        /// The other side of a socket writes no more.
        const RDHUP = libc::POLLRDHUP as u16;
    }
}
