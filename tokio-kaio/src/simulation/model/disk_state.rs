//! [`DiskState`]: the whole state of a simulated disk.

use std::collections::BTreeMap;
use std::time::Duration;

use super::device_queue::DeviceQueue;
use super::disk_config::DiskConfig;
use super::disk_image::DiskImage;
use super::disk_request::{AllocateKind, Errno, Inode, Now, OpenMode, Rename, Stat};
use super::disk_trace::{DiskTrace, TraceKind};
use super::fault_injector::{FaultInjector, Operation};
use super::file_tree::FileTree;
use super::flight::Flight;
use crate::simulation::fault::{Fault, FaultEffect, Operations};
use crate::simulation::seeded_rng::{RandomUse, SeededRng};

/// The state of a disk: its files, what of them is durable, and the requests in flight.
///
/// Paths are relative to the root of the disk, with or without a `/` before them. The root is `""`. They have no
/// `.` and no `..`.
///
/// Calls count as one *event* each, and requests as two: they begin, and they finish or are cancelled. An event
/// is a point at which the power can be cut.
#[derive(Debug)]
pub(crate) struct DiskState {
    pub(super) config: DiskConfig,
    pub(super) tree: FileTree,
    pub(super) faults: FaultInjector,
    pub(super) queue: DeviceQueue,
    pub(super) trace: DiskTrace,
    /// Requests in flight, by number.
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) last_request: u64,
    /// The number of the last change of a file.
    pub(super) last_change: u64,
    /// For the effects of faults.
    pub(super) effects: SeededRng,
    pub(super) cuts: SeededRng,
    /// The event after which the power is cut.
    pub(super) cut_after: Option<u64>,
    pub(super) is_off: bool,
    /// What the power cut has left.
    pub(super) image: Option<DiskImage>,
}

/// Bytes of the smallest block: what a file allocates.
const MIN_BLOCK: u32 = 4096;

impl DiskState {
    /// An empty disk.
    pub(crate) fn new(config: DiskConfig) -> DiskState {
        let tree = FileTree::new(block_size(&config), config.sector as usize, config.names);
        DiskState::with_tree(config, tree)
    }

    /// A disk with the content of `image`, all of it durable. `config` has the atomic unit of the disk before.
    pub(crate) fn boot(config: DiskConfig, image: &DiskImage) -> DiskState {
        let tree = FileTree::boot(config.sector as usize, config.names, image);
        DiskState::with_tree(config, tree)
    }

    fn with_tree(config: DiskConfig, tree: FileTree) -> DiskState {
        let seed = config.seed;
        DiskState {
            tree,
            faults: FaultInjector::new(seed, &config.faults),
            queue: DeviceQueue::new(seed),
            trace: DiskTrace::default(),
            flights: BTreeMap::new(),
            last_request: 0,
            last_change: 0,
            effects: SeededRng::new(seed, RandomUse::Effects),
            cuts: SeededRng::new(seed, RandomUse::PowerCut),
            cut_after: None,
            is_off: false,
            image: None,
            config,
        }
    }

    pub(crate) fn config(&self) -> &DiskConfig {
        &self.config
    }

    /// Adds a fault. It counts operations from now on.
    pub(crate) fn add_fault(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    /// Removes all faults.
    pub(crate) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// The calls and requests so far.
    pub(crate) fn trace(&self) -> DiskTrace {
        self.trace.clone()
    }

    /// A hash of the trace from the start.
    pub(crate) fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// Events so far.
    pub(crate) fn events(&self) -> u64 {
        self.trace.events()
    }

    /// The blocks that have data, and the ranges of other allocated blocks: the memory of the disk is in
    /// proportion to them.
    #[cfg(test)]
    pub(super) fn memory(&self) -> (usize, usize) {
        let memory = self.tree.files().map(|(_, content)| content.memory());
        memory.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    }

    // ---- Files --------------------------------------------------------------------------------

    /// Opens a file or a directory. Every open needs a [`close`](DiskState::close).
    pub(crate) fn open(&mut self, now: Now, path: &str, mode: OpenMode) -> Result<Inode, Errno> {
        let result = self.open_at(now, path, mode);
        self.call(now, "open", &[path], result.map(|inode| inode.0))?;
        result
    }

    fn open_at(&mut self, now: Now, path: &str, mode: OpenMode) -> Result<Inode, Errno> {
        self.check_power()?;
        let creates = mode.create || mode.create_new;
        let inode = match self.tree.resolve(path) {
            Ok(_) if mode.create_new => return Err(libc::EEXIST),
            Ok(inode) => {
                self.check_call(now, Operations::OPEN, path)?;
                inode
            }
            Err(libc::ENOENT) if creates && !mode.directory => {
                self.check_call(now, Operations::NAMES, path)?;
                let entry = self.tree.entry(path)?;
                self.tree.create_file(entry)?
            }
            Err(errno) => return Err(errno),
        };
        let is_dir = self.tree.is_dir(inode);
        if mode.directory && !is_dir {
            return Err(libc::ENOTDIR);
        }
        if is_dir && (mode.write || creates || mode.truncate) {
            return Err(libc::EISDIR);
        }
        if mode.truncate && self.tree.content(inode)?.len() > 0 {
            self.check_call(now, Operations::SET_LEN, path)?;
            self.last_change += 1;
            let change = self.last_change;
            self.tree
                .change(inode, |content| content.set_len(change, 0))?;
        }
        self.tree.open(inode);
        Ok(inode)
    }

    /// Makes and opens a file without a name, in the file system of `dir` (`O_TMPFILE`).
    pub(crate) fn open_unnamed(&mut self, now: Now, dir: &str) -> Result<Inode, Errno> {
        let result = self.open_unnamed_at(now, dir);
        self.call(now, "open_unnamed", &[dir], result.map(|inode| inode.0))?;
        result
    }

    fn open_unnamed_at(&mut self, now: Now, dir: &str) -> Result<Inode, Errno> {
        self.check_power()?;
        self.check_call(now, Operations::NAMES, dir)?;
        let directory = self.tree.resolve(dir)?;
        if !self.tree.is_dir(directory) {
            return Err(libc::ENOTDIR);
        }
        let inode = self.tree.create_unnamed(directory);
        self.tree.open(inode);
        Ok(inode)
    }

    /// Counts another opener of an open file, as `dup(2)` does.
    pub(crate) fn reopen(&mut self, inode: Inode) {
        self.tree.open(inode);
    }

    /// Counts one opener less. A file without openers and names is gone.
    pub(crate) fn close(&mut self, _now: Now, inode: Inode) {
        self.tree.close(inode);
    }

    pub(crate) fn stat(&self, path: &str) -> Result<Stat, Errno> {
        self.check_power()?;
        self.tree.stat(self.tree.resolve(path)?)
    }

    pub(crate) fn stat_inode(&self, inode: Inode) -> Result<Stat, Errno> {
        self.check_power()?;
        self.tree.stat(inode)
    }

    /// Changes the length of a file at once.
    pub(crate) fn set_len(&mut self, now: Now, inode: Inode, len: u64) -> Result<(), Errno> {
        let result = self
            .check_power()
            .and_then(|()| self.check_file_call(now, Operations::SET_LEN, inode, None))
            .and_then(|()| self.perform_set_len(inode, len));
        self.file_call(now, "set_len", inode, (0, len), result)
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
        let range = Some(offset..offset.saturating_add(len));
        let result = self
            .check_power()
            .and_then(|()| self.check_file_call(now, Operations::ALLOCATE, inode, range))
            .and_then(|()| self.perform_allocate(inode, kind, offset, len));
        self.file_call(now, kind.name(), inode, (offset, len), result)
    }

    // ---- Names --------------------------------------------------------------------------------

    /// Gives an open file another name (`linkat(2)` by descriptor).
    pub(crate) fn link(&mut self, now: Now, inode: Inode, to: &str) -> Result<(), Errno> {
        let result = self
            .check_power()
            .and_then(|()| self.check_call(now, Operations::NAMES, to))
            .and_then(|()| self.tree.link(inode, self.tree.entry(to)?));
        let of = format!("inode {}", inode.0);
        self.call(now, "link", &[&of, to], result.map(|()| 0))
    }

    pub(crate) fn hard_link(&mut self, now: Now, from: &str, to: &str) -> Result<(), Errno> {
        let result = self
            .check_power()
            .and_then(|()| self.check_call(now, Operations::NAMES, to))
            .and_then(|()| {
                let inode = self.tree.resolve(from)?;
                self.tree.link(inode, self.tree.entry(to)?)
            });
        self.call(now, "hard_link", &[from, to], result.map(|()| 0))
    }

    pub(crate) fn rename(
        &mut self,
        now: Now,
        from: &str,
        to: &str,
        how: Rename,
    ) -> Result<(), Errno> {
        let result = self
            .check_power()
            .and_then(|()| self.check_call(now, Operations::NAMES, from))
            .and_then(|()| {
                let (from, to) = (self.tree.entry(from)?, self.tree.entry(to)?);
                self.tree.rename(from, to, how)
            });
        self.call(now, how.name(), &[from, to], result.map(|()| 0))
    }

    pub(crate) fn unlink(&mut self, now: Now, path: &str) -> Result<(), Errno> {
        let result = self
            .check_power()
            .and_then(|()| self.check_call(now, Operations::NAMES, path))
            .and_then(|()| self.tree.unlink(self.tree.entry(path)?));
        self.call(now, "unlink", &[path], result.map(|()| 0))
    }

    pub(crate) fn create_dir(&mut self, now: Now, path: &str) -> Result<(), Errno> {
        let result = self
            .check_power()
            .and_then(|()| self.check_call(now, Operations::NAMES, path))
            .and_then(|()| {
                if self.tree.resolve(path).is_ok() {
                    return Err(libc::EEXIST);
                }
                self.tree.create_dir(self.tree.entry(path)?)
            });
        self.call(now, "create_dir", &[path], result.map(|inode| inode.0))
    }

    pub(crate) fn remove_dir(&mut self, now: Now, path: &str) -> Result<(), Errno> {
        let result = self
            .check_power()
            .and_then(|()| self.check_call(now, Operations::NAMES, path))
            .and_then(|()| self.tree.remove_dir(self.tree.entry(path)?));
        self.call(now, "remove_dir", &[path], result.map(|()| 0))
    }

    /// The names in a directory, sorted.
    pub(crate) fn read_dir(&mut self, now: Now, path: &str) -> Result<Vec<String>, Errno> {
        let result = self
            .check_power()
            .and_then(|()| self.check_call(now, Operations::OPEN, path))
            .and_then(|()| self.tree.names(self.tree.resolve(path)?));
        let count = result.as_ref().map(|names| names.len() as u64);
        self.call(now, "read_dir", &[path], count.map_err(|&errno| errno))?;
        result
    }

    // ---- What all calls do --------------------------------------------------------------------

    pub(super) fn check_power(&self) -> Result<(), Errno> {
        if self.is_off { Err(libc::EIO) } else { Ok(()) }
    }

    /// Fails if a fault says so. Faults that take time, or change data, do not affect calls.
    fn check_call(&mut self, now: Now, kinds: Operations, path: &str) -> Result<(), Errno> {
        self.check_faults(now, kinds, None, |_| path.trim_matches('/').to_owned())
    }

    fn check_file_call(
        &mut self,
        now: Now,
        kinds: Operations,
        inode: Inode,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<(), Errno> {
        self.check_faults(now, kinds, range, |tree| tree.path(inode))
    }

    fn check_faults(
        &mut self,
        now: Now,
        kinds: Operations,
        range: Option<std::ops::Range<u64>>,
        path: impl FnOnce(&FileTree) -> String,
    ) -> Result<(), Errno> {
        if self.faults.is_empty() {
            return Ok(());
        }
        let operation = Operation {
            kinds,
            at: now.0,
            range,
        };
        let injected = self.faults.decide(&operation, || path(&self.tree));
        match injected.effect {
            Some(FaultEffect::Error(errno)) => Err(errno),
            _ => Ok(()),
        }
    }

    /// Ends a call: adds it to the trace.
    fn call(
        &mut self,
        now: Now,
        name: &'static str,
        paths: &[&str],
        result: Result<u64, Errno>,
    ) -> Result<(), Errno> {
        let arguments = paths.iter().map(|&path| path.into()).collect();
        let kind = TraceKind::Call {
            name,
            arguments,
            result,
        };
        self.event(now.0, kind);
        result.map(drop)
    }

    fn file_call(
        &mut self,
        now: Now,
        name: &'static str,
        inode: Inode,
        (offset, len): (u64, u64),
        result: Result<(), Errno>,
    ) -> Result<(), Errno> {
        let kind = TraceKind::FileCall {
            name,
            inode: inode.0,
            offset,
            len,
            result: result.map(|()| 0),
        };
        self.event(now.0, kind);
        result
    }

    /// Adds an event to the trace, and cuts the power after it if that was asked for. All changes of the event
    /// are made before.
    pub(super) fn event(&mut self, at: Duration, kind: TraceKind) {
        if self.is_off {
            return;
        }
        self.trace.push(at, kind, self.config.trace_events);
        if self.cut_after.is_some_and(|event| event <= self.events()) {
            self.cut_power(at);
        }
    }
}

fn block_size(config: &DiskConfig) -> usize {
    config.atomic_unit.max(MIN_BLOCK) as usize
}

impl AllocateKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            AllocateKind::Extend => "allocate",
            AllocateKind::KeepSize => "allocate_keep_size",
            AllocateKind::PunchHole => "punch_hole",
            AllocateKind::ZeroRange => "zero_range",
            AllocateKind::ZeroRangeKeepSize => "zero_range_keep_size",
        }
    }
}

impl Rename {
    fn name(self) -> &'static str {
        match self {
            Rename::Replace => "rename",
            Rename::NoReplace => "rename_no_replace",
        }
    }
}
