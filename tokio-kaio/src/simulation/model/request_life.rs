//! Requests: how they begin, and what they do when they finish.

use super::data_block::Durability;
use super::disk_config::NameDurability;
use super::disk_request::{
    AllocateKind, Begun, Errno, Inode, Now, Request, RequestId, RequestKind,
};
use super::disk_state::DiskState;
use super::disk_trace::TraceKind;
use super::fault_injector::{InjectedFaults, Operation};
use super::file_content::{BlockPart, FileContent};
use super::flight::{Action, Flight, MAX_LEN, WriteAction, WriteData, WriteDurability};
use super::write_faults::{clip, flip_bit, shortened, tear};
use crate::simulation::fault::FaultEffect;

impl DiskState {
    /// Begins a request. The caller calls [`finish`](DiskState::finish) when it is due.
    pub(crate) fn begin(&mut self, now: Now, request: Request<'_>) -> Begun {
        self.last_request += 1;
        let id = self.last_request;
        let Request {
            inode,
            direct,
            kind,
        } = request;
        let (offset, len) = kind.extent();
        let mut action = match self.check(request) {
            Ok(()) => self.action(inode, direct, kind),
            Err(errno) => Action::Fail(errno),
        };
        let mut injected = InjectedFaults::default();
        if !self.faults.is_empty() && !matches!(action, Action::Fail(_)) {
            let operation = Operation {
                kinds: kind.operations(),
                at: now.0,
                range: kind.has_range().then(|| offset..offset.saturating_add(len)),
            };
            injected = self.faults.decide(&operation, || self.tree.path(inode));
        }
        if let Some(FaultEffect::Error(errno)) = injected.effect {
            action = Action::Fail(errno);
        }
        let due = self
            .queue
            .due(&self.config, now.0, kind.work(injected.delay));
        let data = match &action {
            Action::Write(write) => write.digest(),
            _ => 0,
        };
        let effect = injected.effect;
        let flight = Flight {
            inode,
            action,
            effect,
        };
        self.flights.insert(id, flight);
        let event = TraceKind::Begin {
            id,
            name: kind.name(),
            inode: inode.0,
            offset,
            len,
            data,
        };
        self.event(now.0, event);
        Begun {
            id: RequestId(id),
            due: (!injected.is_stuck).then_some(due),
        }
    }

    /// Finishes a request: performs it, and returns its bytes. A read passes its data to `read_into`: the
    /// distance from the start of the read, and the bytes there, in order.
    ///
    /// Fails with `EIO` after a power cut, and with `EINVAL` if no such request is in flight.
    pub(crate) fn finish(
        &mut self,
        now: Now,
        id: RequestId,
        read_into: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<usize, Errno> {
        self.check_power()?;
        let flight = self.flights.remove(&id.0).ok_or(libc::EINVAL)?;
        let result = self.perform(flight, read_into);
        let event = TraceKind::Finish {
            id: id.0,
            result: result.map(|len| len as u64),
        };
        self.event(now.0, event);
        result
    }

    /// Ends a request in flight without a result. `false`: it is not in flight. A cancelled write may have
    /// written any of its atomic units.
    pub(crate) fn cancel(&mut self, now: Now, id: RequestId) -> bool {
        let Some(flight) = self.flights.remove(&id.0) else {
            return false;
        };
        if let Action::Write(write) = flight.action {
            if self.effects.chance(8) {
                // It has failed anyway.
                let _ = self.write(flight.inode, write, Some(FaultEffect::TornWrite));
            }
        }
        self.event(now.0, TraceKind::Cancel { id: id.0 });
        true
    }

    /// Whether the request can be performed at all.
    fn check(&self, request: Request<'_>) -> Result<(), Errno> {
        self.check_power()?;
        let (offset, len) = request.kind.extent();
        let stat = self.tree.stat(request.inode)?;
        let sector = u64::from(self.config.sector);
        let is_aligned = |number: u64| number % sector == 0;
        match request.kind {
            RequestKind::SyncDir if !stat.is_dir => return Err(libc::ENOTDIR),
            RequestKind::SyncDir | RequestKind::Fsync | RequestKind::Fdatasync => return Ok(()),
            _ if stat.is_dir => return Err(libc::EISDIR),
            RequestKind::Read { .. } => {}
            RequestKind::Write { append: true, .. } => {
                if request.direct && !is_aligned(stat.len) {
                    return Err(libc::EINVAL);
                }
            }
            RequestKind::Write { .. } => {
                if offset.checked_add(len).is_none_or(|end| end > MAX_LEN) {
                    return Err(libc::EFBIG);
                }
            }
        }
        if request.direct && !(is_aligned(offset) && is_aligned(len)) {
            return Err(libc::EINVAL);
        }
        Ok(())
    }

    fn action(&self, inode: Inode, direct: bool, kind: RequestKind<'_>) -> Action {
        match kind {
            RequestKind::Read { offset, len } => Action::Read { offset, len },
            RequestKind::Write {
                offset,
                data,
                append,
                dsync,
                sync,
            } => {
                let block_size = self.tree.block_size();
                Action::Write(WriteAction {
                    offset: (!append).then_some(offset),
                    data: match append {
                        true => WriteData::Whole(data.concat()),
                        false => WriteData::Divided(FileContent::divide(block_size, offset, data)),
                    },
                    len: kind.extent().1,
                    direct,
                    durability: match (sync, dsync) {
                        (true, _) => WriteDurability::Sync,
                        (false, true) => WriteDurability::Dsync,
                        (false, false) => WriteDurability::None,
                    },
                })
            }
            _ if kind.syncs() && self.tree.is_dir(inode) => Action::SyncDir {
                last: self.tree.last_operation(),
            },
            RequestKind::Fsync | RequestKind::Fdatasync | RequestKind::SyncDir => Action::Sync {
                change: self.last_change,
                len: self.tree.stat(inode).map_or(0, |stat| stat.len),
                name_operation: self.name_operation(inode, matches!(kind, RequestKind::Fdatasync)),
            },
        }
    }

    /// The operation on names that a sync of a file makes durable, with the journal's durability. A sync of the
    /// data alone commits the creation of the file, and no rename.
    fn name_operation(&self, inode: Inode, data_only: bool) -> Option<u64> {
        if self.config.names != NameDurability::Journal {
            return None;
        }
        let (first, last) = self.tree.operations_of(inode);
        Some(if data_only { first } else { last })
    }

    fn perform(
        &mut self,
        flight: Flight,
        read_into: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<usize, Errno> {
        let Flight {
            inode,
            action,
            effect,
        } = flight;
        match action {
            Action::Fail(errno) => Err(errno),
            Action::Read { offset, len } => self.read(inode, offset, len, effect, read_into),
            Action::Write(write) => self.write(inode, write, effect),
            _ if effect == Some(FaultEffect::IgnoredFlush) => Ok(0),
            Action::Sync { change, .. } if effect == Some(FaultEffect::FailedSync) => {
                self.change(inode, |content| content.lose(change))?;
                Err(libc::EIO)
            }
            Action::Sync {
                change,
                len,
                name_operation,
            } => {
                self.change(inode, |content| content.sync(change, len))?;
                self.tree.make_durable(name_operation);
                Ok(0)
            }
            Action::SyncDir { last } => self.tree.sync_dir(inode, last).map(|()| 0),
        }
    }

    fn read(
        &mut self,
        inode: Inode,
        offset: u64,
        mut len: u64,
        effect: Option<FaultEffect>,
        read_into: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<usize, Errno> {
        let content = self.tree.content(inode)?;
        if effect == Some(FaultEffect::Short) {
            len = shortened(len, self.config.sector, &mut self.effects);
        }
        let available = len.min(content.len().saturating_sub(offset)) as usize;
        if effect != Some(FaultEffect::BitFlip) || available == 0 {
            return Ok(content.read(offset, len, read_into));
        }
        let bit = self.effects.below(available as u64 * 8) as usize;
        let flip = |start: usize, bytes: &[u8]| match (bit / 8).checked_sub(start) {
            Some(at) if at < bytes.len() => {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << (bit % 8);
                read_into(start, &flipped);
            }
            _ => read_into(start, bytes),
        };
        let mut flip = flip;
        Ok(content.read(offset, len, &mut flip))
    }

    fn write(
        &mut self,
        inode: Inode,
        write: WriteAction,
        effect: Option<FaultEffect>,
    ) -> Result<usize, Errno> {
        let block_size = self.tree.block_size();
        let end_of_file = self.tree.content(inode)?.len();
        let offset = write.offset.unwrap_or(end_of_file);
        let (mut len, direct, durability) = (write.len, write.direct, write.durability);
        let mut parts = write.into_parts(block_size, offset);
        if len == 0 {
            return Ok(0);
        }
        if offset.checked_add(len).is_none_or(|end| end > MAX_LEN) {
            return Err(libc::EFBIG);
        }
        if effect == Some(FaultEffect::Short) {
            len = shortened(len, self.config.sector, &mut self.effects);
        }
        len = self.limit_to_space(inode, offset, len)?;
        clip(&mut parts, block_size, offset + len);
        self.last_change += 1;
        let change = self.last_change;
        match effect {
            Some(FaultEffect::TornWrite) => {
                clip(&mut parts, block_size, end_of_file);
                let unit = self.config.atomic_unit as usize;
                let parts = tear(&parts, unit, &mut self.effects);
                self.change(inode, |content| {
                    content.write(change, parts, Durability::Volatile);
                })?;
                return Err(libc::EIO);
            }
            Some(FaultEffect::BitFlip) => {
                let bit = self.effects.below(len * 8) as usize;
                flip_bit(&mut parts, bit);
            }
            _ => {}
        }
        let flush_fails = effect == Some(FaultEffect::FailedSync);
        let flushes = durability != WriteDurability::None
            && !flush_fails
            && effect != Some(FaultEffect::IgnoredFlush);
        let is_on_disk = direct && !self.config.volatile_cache;
        let piece_durability = match flushes || is_on_disk {
            true => Durability::Durable,
            false => Durability::Volatile,
        };
        let target = match effect {
            Some(FaultEffect::LostWrite) => None,
            Some(FaultEffect::MisdirectedWrite) => self.misdirect(inode, &mut parts),
            _ => Some(inode),
        };
        if let Some(target) = target {
            self.change(target, |content| {
                content.write(change, parts, piece_durability)
            })?;
        }
        self.change(inode, |content| {
            content.extend(change, offset + len);
            if flushes && content.shortest_len() < offset + len {
                content.sync_len(change);
            }
            if flush_fails {
                content.lose(change);
            }
        })?;
        if flushes {
            let data_only = durability == WriteDurability::Dsync;
            let operation = self.name_operation(inode, data_only);
            self.tree.make_durable(operation);
        }
        if flush_fails {
            return Err(libc::EIO);
        }
        Ok(len as usize)
    }

    /// Changes the content of a file. If changes survive in order, and the file has written one back, writes the
    /// earlier ones of all files back too.
    fn change<R>(
        &mut self,
        inode: Inode,
        change: impl FnOnce(&mut FileContent) -> R,
    ) -> Result<R, Errno> {
        let result = self.tree.change(inode, change)?;
        if !self.config.reorder {
            self.tree.write_back_in_order(inode);
        }
        Ok(result)
    }

    /// The part of a write that fits on the disk.
    fn limit_to_space(&self, inode: Inode, offset: u64, len: u64) -> Result<u64, Errno> {
        let block_size = self.tree.block_size() as u64;
        let content = self.tree.content(inode)?;
        let mut free = (self.config.size / block_size).saturating_sub(self.tree.used());
        // Most disks have room for all of it.
        if len / block_size + 2 <= free {
            return Ok(len);
        }
        let (first, last) = (offset / block_size, (offset + len - 1) / block_size);
        for block in first..=last {
            if content.is_allocated(block) {
                continue;
            }
            if free == 0 {
                return match block == first {
                    true => Err(libc::ENOSPC),
                    false => Ok(block * block_size - offset),
                };
            }
            free -= 1;
        }
        Ok(len)
    }

    /// Chooses where a misdirected write goes. `None`: there is no other block.
    fn misdirect(&mut self, inode: Inode, parts: &mut [BlockPart]) -> Option<Inode> {
        let written = |content: &FileContent| content.written_blocks().next().is_some();
        let files = self.tree.files().filter(|(_, content)| written(content));
        let files: Vec<Inode> = files.map(|(inode, _)| inode).collect();
        let count = (!files.is_empty()).then_some(files.len() as u64)?;
        let target = files[self.effects.below(count) as usize];
        let blocks: Vec<u64> = self.tree.content(target).ok()?.written_blocks().collect();
        let mut block = blocks[self.effects.below(blocks.len() as u64) as usize];
        let first = parts.first()?.block;
        if target == inode && block == first {
            block = *blocks.iter().find(|&&block| block != first)?;
        }
        for (distance, part) in parts.iter_mut().enumerate() {
            part.block = block + distance as u64;
        }
        Some(target)
    }

    pub(super) fn perform_set_len(&mut self, inode: Inode, len: u64) -> Result<(), Errno> {
        if len > MAX_LEN {
            return Err(libc::EFBIG);
        }
        self.last_change += 1;
        let change = self.last_change;
        self.change(inode, |content| content.set_len(change, len))
    }

    pub(super) fn perform_allocate(
        &mut self,
        inode: Inode,
        kind: AllocateKind,
        offset: u64,
        len: u64,
    ) -> Result<(), Errno> {
        if len == 0 {
            return Err(libc::EINVAL);
        }
        let end = offset.checked_add(len).filter(|&end| end <= MAX_LEN);
        let range = offset..end.ok_or(libc::EFBIG)?;
        let block_size = self.tree.block_size() as u64;
        let free = (self.config.size / block_size).saturating_sub(self.tree.used());
        let missing = self.tree.content(inode)?.missing(range.clone());
        if kind != AllocateKind::PunchHole && missing > free {
            return Err(libc::ENOSPC);
        }
        self.last_change += 1;
        let change = self.last_change;
        self.change(inode, |content| content.allocate(change, kind, range))
    }
}
