//! Properties of each kind of request.

use std::time::Duration;

use super::device_queue::DeviceWork;
use super::disk_request::RequestKind;
use crate::simulation::fault::Operations;

impl RequestKind<'_> {
    pub(super) fn name(&self) -> &'static str {
        match self {
            RequestKind::Read { .. } => "read",
            RequestKind::Write { sync: true, .. } => "write_sync",
            RequestKind::Write { dsync: true, .. } => "write_dsync",
            RequestKind::Write { .. } => "write",
            RequestKind::Fsync => "fsync",
            RequestKind::Fdatasync => "fdatasync",
            RequestKind::SyncDir => "sync_dir",
        }
    }

    /// Offset and length.
    pub(super) fn extent(&self) -> (u64, u64) {
        match *self {
            RequestKind::Read { offset, len } => (offset, len),
            RequestKind::Write { offset, data, .. } => {
                let len = data.iter().map(|piece| piece.len() as u64).sum();
                (offset, len)
            }
            RequestKind::Fsync | RequestKind::Fdatasync | RequestKind::SyncDir => (0, 0),
        }
    }

    pub(super) fn has_range(&self) -> bool {
        matches!(self, RequestKind::Read { .. } | RequestKind::Write { .. })
    }

    pub(super) fn syncs(&self) -> bool {
        matches!(
            self,
            RequestKind::Fsync | RequestKind::Fdatasync | RequestKind::SyncDir
        )
    }

    pub(super) fn flushes(&self) -> bool {
        let is_synced = matches!(
            self,
            RequestKind::Write { dsync: true, .. } | RequestKind::Write { sync: true, .. }
        );
        self.syncs() || is_synced
    }

    pub(super) fn operations(&self) -> Operations {
        match self {
            RequestKind::Read { .. } => Operations::READ,
            RequestKind::Write { .. } if self.flushes() => Operations::WRITE | Operations::SYNC,
            RequestKind::Write { .. } => Operations::WRITE,
            RequestKind::Fsync | RequestKind::Fdatasync => Operations::SYNC,
            RequestKind::SyncDir => Operations::SYNC_DIR,
        }
    }

    pub(super) fn work(&self, delay: Duration) -> DeviceWork {
        let len = self.extent().1;
        DeviceWork {
            read_bytes: matches!(self, RequestKind::Read { .. }).then_some(len),
            written_bytes: matches!(self, RequestKind::Write { .. }).then_some(len),
            flushes: self.flushes(),
            delay,
        }
    }
}
