//! [`Flight`]: a request in flight.

use super::data_block::Durability;
use super::disk_request::{Errno, Inode};
use super::disk_trace::digest;
use super::file_content::{BlockPart, FileContent};
use crate::simulation::fault::FaultEffect;

/// The largest length of a file.
pub(super) const MAX_LEN: u64 = i64::MAX as u64;

/// A request in flight.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) inode: Inode,
    pub(super) action: Action,
    pub(super) effect: Option<FaultEffect>,
}

/// What a request does when it finishes.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Fail(Errno),
    Read {
        offset: u64,
        len: u64,
    },
    Write(WriteAction),
    /// Changes that were complete when it began become durable.
    Sync {
        change: u64,
        /// The length of the file then.
        len: u64,
        /// The operation that gave or took a name, with the journal's durability of names.
        name_operation: Option<u64>,
    },
    SyncDir {
        /// The last operation on names that was complete when it began.
        last: u64,
    },
}

#[derive(Clone, Debug)]
pub(super) struct WriteAction {
    /// `None`: at the end of the file.
    pub(super) offset: Option<u64>,
    pub(super) data: WriteData,
    pub(super) len: u64,
    /// Whether it goes past the page cache.
    pub(super) direct: bool,
    pub(super) durability: WriteDurability,
}

#[derive(Clone, Debug)]
pub(super) enum WriteData {
    Divided(Vec<BlockPart>),
    /// Of an append: its place is known at the end only.
    Whole(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteDurability {
    None,
    Dsync,
    Sync,
}

impl Flight {
    /// Performs the request on the content of its file, as one that the power cut has interrupted: nothing of it
    /// is durable.
    pub(super) fn interrupt(self, content: &mut FileContent, change: u64, block_size: usize) {
        if let Action::Write(write) = self.action {
            if write.len == 0 {
                return;
            }
            let offset = write.offset.unwrap_or(content.len());
            let end = offset.saturating_add(write.len);
            let parts = write.into_parts(block_size, offset);
            content.write(change, parts, Durability::Volatile);
            content.extend(change, end.min(MAX_LEN));
        }
    }

    /// Whether the request changes its file.
    pub(super) fn changes_file(&self) -> bool {
        matches!(self.action, Action::Write(_)) && self.effect != Some(FaultEffect::LostWrite)
    }
}

impl WriteAction {
    /// The data, at its place in the file.
    pub(super) fn into_parts(self, block_size: usize, offset: u64) -> Vec<BlockPart> {
        match self.data {
            WriteData::Divided(parts) => parts,
            WriteData::Whole(data) => FileContent::divide(block_size, offset, &[&data]),
        }
    }

    pub(super) fn digest(&self) -> u64 {
        match &self.data {
            WriteData::Divided(parts) => {
                parts.iter().fold(0, |seed, part| digest(seed, &part.data))
            }
            WriteData::Whole(data) => digest(0, data),
        }
    }
}
