//! [`DiskState`]: the whole state of a simulated disk.

use super::{
    AllocateKind, Begun, DiskConfig, DiskImage, DiskTrace, Errno, Inode, Now, OpenMode, Rename,
    Request, RequestId, Stat,
};

/// The state of a disk: its files, what of them is durable, and the requests in flight.
///
/// Paths are relative to the root of the disk, without a leading `/`. The root is `""`.
#[derive(Debug)]
pub(crate) struct DiskState {
    config: DiskConfig,
}

#[allow(unused_variables)]
impl DiskState {
    /// An empty disk.
    pub(crate) fn new(config: DiskConfig) -> DiskState {
        DiskState { config }
    }

    /// A disk with the content of `image`. `config` may differ from that of the disk before.
    pub(crate) fn boot(config: DiskConfig, image: &DiskImage) -> DiskState {
        DiskState { config }
    }

    pub(crate) fn config(&self) -> &DiskConfig {
        &self.config
    }

    /// Opens a file or a directory. Every open needs a [`close`](DiskState::close).
    pub(crate) fn open(&mut self, now: Now, path: &str, mode: OpenMode) -> Result<Inode, Errno> {
        Err(libc::ENOSYS)
    }

    /// Makes and opens a file without a name, in the file system of `dir` (`O_TMPFILE`).
    pub(crate) fn open_unnamed(&mut self, now: Now, dir: &str) -> Result<Inode, Errno> {
        Err(libc::ENOSYS)
    }

    /// Counts another opener of an open file, as `dup(2)` does.
    pub(crate) fn reopen(&mut self, inode: Inode) {}

    pub(crate) fn close(&mut self, now: Now, inode: Inode) {}

    /// Gives an open file another name (`linkat(2)` by descriptor).
    pub(crate) fn link(&mut self, now: Now, inode: Inode, to: &str) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }

    pub(crate) fn hard_link(&mut self, now: Now, from: &str, to: &str) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }

    pub(crate) fn rename(
        &mut self,
        now: Now,
        from: &str,
        to: &str,
        how: Rename,
    ) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }

    pub(crate) fn unlink(&mut self, now: Now, path: &str) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }

    pub(crate) fn create_dir(&mut self, now: Now, path: &str) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }

    pub(crate) fn remove_dir(&mut self, now: Now, path: &str) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }

    /// The names in a directory, sorted.
    pub(crate) fn read_dir(&mut self, now: Now, path: &str) -> Result<Vec<String>, Errno> {
        Err(libc::ENOSYS)
    }

    pub(crate) fn stat(&self, path: &str) -> Result<Stat, Errno> {
        Err(libc::ENOSYS)
    }

    pub(crate) fn stat_inode(&self, inode: Inode) -> Result<Stat, Errno> {
        Err(libc::ENOSYS)
    }

    /// Changes the length of a file at once. [`RequestKind::SetLen`](super::RequestKind::SetLen) does it as a
    /// request.
    pub(crate) fn set_len(&mut self, now: Now, inode: Inode, len: u64) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }

    /// Changes the allocation of a file at once.
    pub(crate) fn allocate(
        &mut self,
        now: Now,
        inode: Inode,
        kind: AllocateKind,
        offset: u64,
        len: u64,
    ) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }

    /// Begins a request. The caller calls [`finish`](DiskState::finish) when it is due.
    pub(crate) fn begin(&mut self, now: Now, request: Request<'_>) -> Begun {
        Begun {
            id: RequestId(0),
            due: Some(now.0),
        }
    }

    /// Finishes a request: performs it, and returns its bytes. A read passes its data to `read_into`: the
    /// offset from the start of the read, and the bytes there, in order.
    pub(crate) fn finish(
        &mut self,
        now: Now,
        id: RequestId,
        read_into: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<usize, Errno> {
        Err(libc::ENOSYS)
    }

    /// Ends a request in flight without a result. `false`: it is not in flight. A cancelled write may have
    /// written any of its atomic units.
    pub(crate) fn cancel(&mut self, now: Now, id: RequestId) -> bool {
        false
    }

    /// Cuts the power. All later calls fail with `EIO`.
    pub(crate) fn power_cut(&mut self, now: Now) -> DiskImage {
        DiskImage::default()
    }

    /// What a power cut now could leave, by `seed`. The disk goes on.
    pub(crate) fn image(&self, seed: u64) -> DiskImage {
        DiskImage::default()
    }

    /// The calls and requests so far.
    pub(crate) fn trace(&self) -> DiskTrace {
        DiskTrace::default()
    }

    /// A hash of the trace from the start.
    pub(crate) fn trace_hash(&self) -> u64 {
        0
    }

    /// Requests that have begun so far: the number of the next power cut point.
    pub(crate) fn requests(&self) -> u64 {
        0
    }
}
