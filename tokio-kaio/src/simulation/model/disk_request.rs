//! The interface of [`DiskState`](super::DiskState): requests, and the parameters and results of calls.

use std::time::Duration;

/// An error number of Linux, positive.
pub(crate) type Errno = i32;

/// The time since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Now(pub(crate) Duration);

/// The number of a file or a directory. The disk never uses one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Inode(pub(crate) u64);

/// How to open a file: the flags of `open(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenMode {
    /// With `write`: the modes in which a file may be opened. Neither: a directory.
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) create: bool,
    /// Fails with `EEXIST` if the name exists. Implies `create`.
    pub(crate) create_new: bool,
    pub(crate) truncate: bool,
    /// Fails with `ENOTDIR` if it is no directory.
    pub(crate) directory: bool,
}

/// What `rename` does if the new name exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rename {
    /// Replaces it.
    #[default]
    Replace,
    /// Fails with `EEXIST` (`RENAME_NOREPLACE`).
    NoReplace,
}

/// The mode of `fallocate(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllocateKind {
    Extend,
    KeepSize,
    PunchHole,
    ZeroRange,
    ZeroRangeKeepSize,
}

/// Facts about a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) inode: Inode,
    /// Bytes. 0 of a directory.
    pub(crate) len: u64,
    pub(crate) is_dir: bool,
    /// Names of a file; 1 of a directory that exists.
    pub(crate) links: u32,
    /// Bytes that are allocated.
    pub(crate) allocated: u64,
}

/// A request on an open file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) inode: Inode,
    /// Whether the file was opened with `O_DIRECT`: a transfer that is not aligned to the sector fails with
    /// `EINVAL`.
    pub(crate) direct: bool,
    pub(crate) kind: RequestKind<'a>,
}

/// What a request does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestKind<'a> {
    Read {
        offset: u64,
        len: u64,
    },
    Write {
        offset: u64,
        /// The pieces of the data, in order. The disk copies them.
        data: &'a [&'a [u8]],
        /// Writes at the end of the file, at the time of completion. `offset` is ignored.
        append: bool,
        /// `O_DSYNC`, `RWF_DSYNC`: the data is durable on completion. So is the length of the file.
        dsync: bool,
        /// `O_SYNC`, `RWF_SYNC`: like `dsync`, and what `fsync` makes durable beyond `fdatasync`.
        sync: bool,
    },
    Fsync,
    Fdatasync,
    /// `fsync(2)` of a directory.
    SyncDir,
}

/// Names a request in flight. The disk never uses one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub(crate) u64);

/// A request that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) id: RequestId,
    /// When to finish the request, on the clock of [`Now`]. `None`: never, it is stuck until it is cancelled.
    pub(crate) due: Option<Duration>,
}
