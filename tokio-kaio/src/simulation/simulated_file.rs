//! [`SimulatedFile`]: an open file of a simulated disk.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::disk::{Access, Descriptor, Disk};
use super::mount_points;
use super::{AllocateKind, DiskState, Errno, Inode, Now, RequestKind};
use crate::AtomicWrites;
use crate::sys::{self, NewPlaceholder, Process};

/// An open file of a simulated disk. It is closed when dropped.
///
/// Its descriptor is a placeholder, on which the kernel refuses every read, write and sync with `EBADF`. The
/// disk knows its number, so it is dropped before the descriptor.
#[derive(Debug)]
pub(crate) struct SimulatedFile {
    disk: Arc<Disk>,
    inode: Inode,
    fd: i32,
    access: Access,
    owner: Process,
}

/// A file that was just opened, and its descriptor.
#[derive(Debug)]
pub(crate) struct OpenedFile {
    pub(crate) simulated: SimulatedFile,
    pub(crate) placeholder: File,
}

impl SimulatedFile {
    /// Makes a file of the inode that `open` opens. `name`: the name of the placeholder.
    ///
    /// As on Linux, nothing is opened, created or truncated if no descriptor is left.
    pub(super) fn open(
        disk: Arc<Disk>,
        access: Access,
        name: &str,
        open: impl FnOnce(&mut DiskState, Now) -> Result<Inode, Errno>,
    ) -> io::Result<OpenedFile> {
        let placeholder = NewPlaceholder::create(name)?;
        let inode = disk.call(open)?;
        let mut simulated = SimulatedFile {
            disk,
            inode,
            fd: -1,
            access,
            owner: Process::current(),
        };
        let placeholder = placeholder.with_len(simulated.len()?)?;
        simulated.register(placeholder.as_raw_fd());
        Ok(OpenedFile {
            simulated,
            placeholder,
        })
    }

    /// Opens the file of a descriptor again: a duplicate of the descriptor. `None`: it is not the descriptor of
    /// a file of a simulated disk.
    pub(crate) fn duplicate_borrowed(fd: i32) -> Option<io::Result<OpenedFile>> {
        let found = mount_points::disks().into_iter().find_map(|disk| {
            let descriptor = disk.lock().descriptor(fd)?;
            Some((disk, descriptor))
        });
        let (disk, Descriptor { inode, access }) = found?;
        Some(SimulatedFile::reopen(disk, inode, access))
    }

    /// Opens the file again for I/O through the page cache.
    pub(crate) fn buffered(&self) -> io::Result<OpenedFile> {
        let access = Access {
            direct: false,
            ..self.access
        };
        SimulatedFile::reopen(Arc::clone(&self.disk), self.inode, access)
    }

    fn reopen(disk: Arc<Disk>, inode: Inode, access: Access) -> io::Result<OpenedFile> {
        SimulatedFile::open(disk, access, "simulated file", |state, _| {
            state.reopen(inode);
            Ok(inode)
        })
    }

    fn register(&mut self, fd: i32) {
        self.fd = fd;
        let (inode, access) = (self.inode, self.access);
        let descriptor = Descriptor { inode, access };
        self.disk.lock().set_descriptor(fd, Some(descriptor));
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn inode(&self) -> Inode {
        self.inode
    }

    pub(super) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Returns the current length in bytes.
    fn len(&self) -> io::Result<u64> {
        let stat = self.disk.lock().state.stat_inode(self.inode);
        Ok(stat.map_err(io::Error::from_raw_os_error)?.len)
    }

    /// Returns the metadata of the placeholder, after it got the current length.
    pub(crate) fn metadata(&self, placeholder: &File) -> io::Result<Metadata> {
        let len = self.len()?;
        let metadata = placeholder.metadata()?;
        if metadata.len() == len {
            return Ok(metadata);
        }
        sys::resize_placeholder(placeholder, len)?;
        placeholder.metadata()
    }

    /// Sets the permissions of the placeholder: the disk has none.
    pub(crate) fn set_permissions(
        &self,
        placeholder: &File,
        permissions: Permissions,
    ) -> io::Result<()> {
        sys::set_placeholder_permissions(placeholder, permissions)
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable(libc::EINVAL)?;
        let inode = self.inode;
        self.disk.call(|state, now| state.set_len(now, inode, len))
    }

    /// Does what `fallocate(2)` does. `mode`: `FALLOC_FL_*`.
    pub(crate) fn allocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        self.check_writable(libc::EBADF)?;
        let kind = match mode {
            0 => AllocateKind::Extend,
            KEEP => AllocateKind::KeepSize,
            PUNCH => AllocateKind::PunchHole,
            ZERO => AllocateKind::ZeroRange,
            ZERO_KEEP => AllocateKind::ZeroRangeKeepSize,
            _ => return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        };
        let inode = self.inode;
        self.disk
            .call(|state, now| state.allocate(now, inode, kind, offset, len))
    }

    fn check_writable(&self, errno: i32) -> io::Result<()> {
        match self.access.write {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.disk.perform_blocking(self.inode, RequestKind::Fsync)
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.disk
            .perform_blocking(self.inode, RequestKind::Fdatasync)
    }

    /// Does what [`sync_all`](SimulatedFile::sync_all) does, and waits until the disk has completed it.
    pub(crate) async fn sync_all_async(&self) -> io::Result<()> {
        self.disk.perform(self.inode, RequestKind::Fsync).await
    }

    /// Returns the sizes of atomic writes. `None`: only single sectors are atomic.
    pub(crate) fn atomic_writes(&self) -> Option<AtomicWrites> {
        let core = self.disk.lock();
        let config = core.state.config();
        (config.atomic_unit > config.sector).then_some(AtomicWrites {
            unit_min: config.sector,
            unit_max: config.atomic_unit,
            unit_max_opt: None,
            segments_max: 1,
        })
    }

    /// Returns the alignment of direct I/O in bytes.
    pub(crate) fn sector(&self) -> u32 {
        self.disk.lock().state.config().sector
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        if self.owner != Process::current() {
            return self.disk.keep(); // a thread of the parent may have held the lock at the fork
        }
        let mut core = self.disk.lock();
        core.set_descriptor(self.fd, None);
        let now = core.now();
        core.state.close(now, self.inode);
    }
}
