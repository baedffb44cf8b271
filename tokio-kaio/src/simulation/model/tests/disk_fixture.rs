//! [`Disk`]: a disk whose requests finish at once.

use std::time::Duration;

use crate::simulation::model::{
    DiskConfig, DiskImage, DiskState, Errno, Inode, NameDurability, Now, OpenMode, Rename, Request,
    RequestId, RequestKind,
};

pub(super) const NOW: Now = Now(Duration::ZERO);

pub(super) const CREATE: OpenMode = OpenMode {
    read: true,
    write: true,
    create: true,
    create_new: false,
    truncate: false,
    directory: false,
};

/// Sectors of 512 bytes, which are atomic units too: small files have many.
pub(super) fn small_sectors() -> DiskConfig {
    DiskConfig {
        sector: 512,
        atomic_unit: 512,
        ..DiskConfig::default()
    }
}

pub(super) fn journal() -> DiskConfig {
    DiskConfig {
        names: NameDurability::Journal,
        ..small_sectors()
    }
}

/// A disk whose requests finish at once, and fail the test if they fail.
pub(super) struct Disk(pub(super) DiskState);

impl Disk {
    pub(super) fn new(config: DiskConfig) -> Disk {
        Disk(DiskState::new(config))
    }

    pub(super) fn create(&mut self, path: &str) -> Inode {
        self.0.open(NOW, path, CREATE).unwrap()
    }

    pub(super) fn begin(&mut self, inode: Inode, kind: RequestKind<'_>) -> RequestId {
        let request = Request {
            inode,
            direct: false,
            kind,
        };
        self.0.begin(NOW, request).id
    }

    pub(super) fn run(&mut self, inode: Inode, kind: RequestKind<'_>) -> Result<usize, Errno> {
        let id = self.begin(inode, kind);
        self.0.finish(NOW, id, &mut |_, _| {})
    }

    pub(super) fn begin_write(&mut self, inode: Inode, offset: u64, data: &[u8]) -> RequestId {
        self.begin(inode, write(offset, &[data]))
    }

    pub(super) fn write(&mut self, inode: Inode, offset: u64, data: &[u8]) {
        let written = self.run(inode, write(offset, &[data]));
        assert_eq!(written, Ok(data.len()));
    }

    /// Writes past the page cache.
    pub(super) fn write_direct(&mut self, inode: Inode, offset: u64, data: &[u8]) {
        let pieces = [data];
        let request = Request {
            inode,
            direct: true,
            kind: write(offset, &pieces),
        };
        let id = self.0.begin(NOW, request).id;
        let written = self.0.finish(NOW, id, &mut |_, _| {});
        assert_eq!(written, Ok(data.len()));
    }

    pub(super) fn write_dsync(&mut self, inode: Inode, offset: u64, data: &[u8]) {
        let kind = RequestKind::Write {
            offset,
            data: &[data],
            append: false,
            dsync: true,
            sync: false,
        };
        assert_eq!(self.run(inode, kind), Ok(data.len()));
    }

    pub(super) fn fsync(&mut self, inode: Inode) {
        assert_eq!(self.run(inode, RequestKind::Fsync), Ok(0));
    }

    pub(super) fn sync_dir(&mut self, path: &str) {
        let directory = OpenMode {
            read: true,
            directory: true,
            ..OpenMode::default()
        };
        let inode = self.0.open(NOW, path, directory).unwrap();
        assert_eq!(self.run(inode, RequestKind::SyncDir), Ok(0));
        self.0.close(NOW, inode);
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        self.0.rename(NOW, from, to, Rename::Replace).unwrap();
    }

    pub(super) fn read_inode(&mut self, inode: Inode) -> Vec<u8> {
        let len = self.0.stat_inode(inode).unwrap().len;
        let mut data = Vec::new();
        let id = self.begin(inode, RequestKind::Read { offset: 0, len });
        let read = self.0.finish(NOW, id, &mut |start, bytes| {
            assert_eq!(start, data.len());
            data.extend_from_slice(bytes);
        });
        assert_eq!(read, Ok(len as usize));
        data
    }

    /// The content of a file. `None`: it does not exist.
    pub(super) fn read(&mut self, path: &str) -> Option<Vec<u8>> {
        let mode = OpenMode {
            read: true,
            ..OpenMode::default()
        };
        let inode = match self.0.open(NOW, path, mode) {
            Err(libc::ENOENT) => return None,
            opened => opened.unwrap(),
        };
        let data = self.read_inode(inode);
        self.0.close(NOW, inode);
        Some(data)
    }

    /// A disk that has booted from what a power cut could leave now.
    pub(super) fn cut(&self, seed: u64) -> Disk {
        boot(&self.0.image(seed))
    }
}

pub(super) fn boot(image: &DiskImage) -> Disk {
    Disk(DiskState::boot(image.config(), image))
}

pub(super) fn write<'a>(offset: u64, data: &'a [&'a [u8]]) -> RequestKind<'a> {
    RequestKind::Write {
        offset,
        data,
        append: false,
        dsync: false,
        sync: false,
    }
}
