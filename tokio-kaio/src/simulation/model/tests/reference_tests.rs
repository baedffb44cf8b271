//! Random operations, compared with a model that is too simple to be wrong: bytes, and sets of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::disk_fixture::{Disk, NOW, small_sectors, write};
use crate::simulation::model::{AllocateKind, DiskConfig, Inode, NameDurability, RequestKind};

/// An operation on a disk with a few files in one directory.
#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Write {
        file: usize,
        offset: u64,
        len: usize,
        dsync: bool,
    },
    Append {
        file: usize,
        len: usize,
    },
    SetLen {
        file: usize,
        len: u64,
    },
    Allocate {
        file: usize,
        kind: AllocateKind,
        offset: u64,
        len: u64,
    },
    Sync(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Unlink(usize),
    SyncDir,
    Boot,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Larger than a block, so that files have several.
const MAX_OFFSET: u64 = 9000;

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let kind = prop_oneof![
        Just(AllocateKind::Extend),
        Just(AllocateKind::KeepSize),
        Just(AllocateKind::PunchHole),
        Just(AllocateKind::ZeroRange),
        Just(AllocateKind::ZeroRangeKeepSize),
    ];
    prop_oneof![
        4 => name().prop_map(Step::Create),
        8 => (name(), 0..MAX_OFFSET, 1..5000usize, prop::bool::weighted(0.2))
            .prop_map(|(file, offset, len, dsync)| Step::Write { file, offset, len, dsync }),
        2 => (name(), 1..2000usize).prop_map(|(file, len)| Step::Append { file, len }),
        2 => (name(), 0..MAX_OFFSET).prop_map(|(file, len)| Step::SetLen { file, len }),
        2 => (name(), kind, 0..MAX_OFFSET, 1..6000u64)
            .prop_map(|(file, kind, offset, len)| Step::Allocate { file, kind, offset, len }),
        3 => name().prop_map(Step::Sync),
        2 => (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (name(), name()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => name().prop_map(Step::Unlink),
        2 => Just(Step::SyncDir),
        1 => Just(Step::Boot),
    ]
}

/// A file: what reads return, and what a power cut may leave.
#[derive(Clone, Debug, Default)]
struct NaiveFile {
    data: Vec<u8>,
    /// Of each byte that was ever written.
    possible: Vec<BTreeSet<u8>>,
    lengths: BTreeSet<usize>,
}

impl NaiveFile {
    fn new() -> NaiveFile {
        NaiveFile {
            lengths: BTreeSet::from([0]),
            ..NaiveFile::default()
        }
    }

    fn durable(data: Vec<u8>) -> NaiveFile {
        let mut file = NaiveFile::new();
        file.data = data;
        file.sync();
        file
    }

    fn set(&mut self, range: std::ops::Range<usize>, value: u8) {
        if self.possible.len() < range.end {
            self.possible.resize(range.end, BTreeSet::from([0]));
        }
        for at in range {
            self.possible[at].insert(value);
            if at < self.data.len() {
                self.data[at] = value;
            }
        }
    }

    fn set_len(&mut self, len: usize) {
        let written = self.possible.len();
        if len < written {
            self.set(len..written, 0);
        }
        self.data.resize(len, 0);
        self.lengths.insert(len);
    }

    fn write(&mut self, offset: usize, len: usize, value: u8) {
        if self.data.len() < offset + len {
            self.set_len(offset + len);
        }
        self.set(offset..offset + len, value);
    }

    fn sync(&mut self) {
        self.possible = self
            .data
            .iter()
            .map(|&byte| BTreeSet::from([byte]))
            .collect();
        self.lengths = BTreeSet::from([self.data.len()]);
    }

    /// Whether a power cut may leave this.
    fn check(&self, data: &[u8]) {
        let lengths = self.lengths.first().unwrap()..=self.lengths.last().unwrap();
        assert!(
            lengths.contains(&&data.len()),
            "{} of {lengths:?}",
            data.len()
        );
        for (at, byte) in data.iter().enumerate() {
            match self.possible.get(at) {
                Some(possible) => assert!(possible.contains(byte), "{byte} of {possible:?}"),
                None => assert_eq!(*byte, 0, "never written"),
            }
        }
    }
}

type Names = BTreeMap<usize, Inode>;

/// The names, and the changes since the last sync of the directory.
#[derive(Clone, Debug, Default)]
struct NaiveNames {
    durable: Names,
    pending: Vec<Vec<(usize, Option<Inode>)>>,
}

impl NaiveNames {
    fn current(&self) -> Names {
        self.after(&(0..self.pending.len()).collect())
    }

    fn after(&self, kept: &BTreeSet<usize>) -> Names {
        let mut names = self.durable.clone();
        for &operation in kept {
            for &(name, inode) in &self.pending[operation] {
                match inode {
                    Some(inode) => names.insert(name, inode),
                    None => names.remove(&name),
                };
            }
        }
        names
    }

    /// All that a power cut may leave.
    fn possible(&self, order: NameDurability) -> BTreeSet<Vec<(usize, Inode)>> {
        let count = self.pending.len();
        let touches = |operation: usize, name: usize| {
            self.pending[operation]
                .iter()
                .any(|change| change.0 == name)
        };
        let depends = |later: usize, earlier: usize| {
            order == NameDurability::Journal
                || self.pending[later]
                    .iter()
                    .any(|change| touches(earlier, change.0))
        };
        let subsets = (0..1usize << count).map(|bits| -> BTreeSet<usize> {
            (0..count)
                .filter(|operation| bits >> operation & 1 == 1)
                .collect()
        });
        let closed = subsets.filter(|kept| {
            kept.iter().all(|&later| {
                (0..later).all(|earlier| kept.contains(&earlier) || !depends(later, earlier))
            })
        });
        closed
            .map(|kept| self.after(&kept).into_iter().collect())
            .collect()
    }
}

/// A disk and what is known about it.
struct Pair {
    disk: Disk,
    config: DiskConfig,
    files: BTreeMap<Inode, NaiveFile>,
    names: NaiveNames,
    /// The last byte that was written. Each write has another one.
    version: u8,
}

impl Pair {
    fn new(config: DiskConfig) -> Pair {
        Pair {
            disk: Disk::new(config.clone()),
            config,
            files: BTreeMap::new(),
            names: NaiveNames::default(),
            version: 0,
        }
    }

    fn file(&self, name: usize) -> Option<Inode> {
        self.names.current().get(&name).copied()
    }

    fn next_version(&mut self) -> u8 {
        self.version = self.version % 250 + 1;
        self.version
    }

    fn change_names(&mut self, change: Vec<(usize, Option<Inode>)>) {
        self.names.pending.push(change);
        // Subsets of many operations are too many.
        if self.names.pending.len() > 6 {
            self.sync_dir();
        }
    }

    fn sync_dir(&mut self) {
        self.disk.sync_dir("");
        self.names.durable = self.names.current();
        self.names.pending.clear();
    }

    fn step(&mut self, step: Step, seed: u64) {
        match step {
            Step::Create(name) => {
                let inode = self.disk.create(NAMES[name]);
                if self.file(name).is_none() {
                    self.files.insert(inode, NaiveFile::new());
                    self.change_names(vec![(name, Some(inode))]);
                } else {
                    assert_eq!(self.file(name), Some(inode));
                }
                self.disk.0.close(NOW, inode);
            }
            Step::Write {
                file,
                offset,
                len,
                dsync,
            } => {
                let version = self.next_version();
                let Some(inode) = self.file(file) else { return };
                let data = vec![version; len];
                let (head, tail) = data.split_at(len / 3);
                let mut kind = write(offset, &[]);
                let pieces = [head, &[], tail];
                if let RequestKind::Write {
                    data, dsync: flag, ..
                } = &mut kind
                {
                    *data = &pieces;
                    *flag = dsync;
                }
                assert_eq!(self.disk.run(inode, kind), Ok(len));
                let naive = self.files.get_mut(&inode).unwrap();
                let offset = offset as usize;
                naive.write(offset, len, version);
                if dsync {
                    for possible in &mut naive.possible[offset..offset + len] {
                        *possible = BTreeSet::from([version]);
                    }
                    // Whether the length becomes durable depends on the durable one.
                    naive.lengths.retain(|&length| length >= offset + len);
                    naive.lengths.insert(naive.data.len());
                }
            }
            Step::Append { file, len } => {
                let version = self.next_version();
                let Some(inode) = self.file(file) else { return };
                let kind = RequestKind::Write {
                    offset: 1 << 40, // ignored
                    data: &[&vec![version; len]],
                    append: true,
                    dsync: false,
                    sync: false,
                };
                assert_eq!(self.disk.run(inode, kind), Ok(len));
                let naive = self.files.get_mut(&inode).unwrap();
                naive.write(naive.data.len(), len, version);
            }
            Step::SetLen { file, len } => {
                let Some(inode) = self.file(file) else { return };
                self.disk.0.set_len(NOW, inode, len).unwrap();
                self.files.get_mut(&inode).unwrap().set_len(len as usize);
            }
            Step::Allocate {
                file,
                kind,
                offset,
                len,
            } => {
                let Some(inode) = self.file(file) else { return };
                self.disk.0.allocate(NOW, inode, kind, offset, len).unwrap();
                let naive = self.files.get_mut(&inode).unwrap();
                let (start, end) = (offset as usize, (offset + len) as usize);
                let extends = matches!(kind, AllocateKind::Extend | AllocateKind::ZeroRange);
                if !matches!(kind, AllocateKind::Extend | AllocateKind::KeepSize) {
                    naive.set(start..end, 0);
                }
                if extends && naive.data.len() < end {
                    naive.set_len(end);
                }
            }
            Step::Sync(name) => {
                let Some(inode) = self.file(name) else { return };
                self.disk.fsync(inode);
                self.files.get_mut(&inode).unwrap().sync();
                if self.config.names == NameDurability::Journal {
                    let pending = &mut self.names.pending;
                    let touches = |change: &&(usize, Option<Inode>)| change.1 == Some(inode);
                    let last = pending
                        .iter()
                        .rposition(|operation| operation.iter().any(|change| touches(&change)));
                    // Also the operations that took a name of the file: the sync may commit more than that.
                    let last = last.map_or(0, |last| last + 1);
                    let rest = pending.split_off(last);
                    self.names.durable = self.names.current();
                    self.names.pending = rest;
                }
            }
            Step::Rename(from, to) => {
                let Some(inode) = self.file(from) else { return };
                let replaced = self.file(to);
                self.disk.rename(NAMES[from], NAMES[to]);
                if replaced != Some(inode) {
                    self.change_names(vec![(from, None), (to, Some(inode))]);
                }
            }
            Step::Link(from, to) => {
                let (Some(inode), None) = (self.file(from), self.file(to)) else {
                    return;
                };
                self.disk.0.hard_link(NOW, NAMES[from], NAMES[to]).unwrap();
                self.change_names(vec![(to, Some(inode))]);
            }
            Step::Unlink(name) => {
                if self.file(name).is_none() {
                    assert_eq!(self.disk.0.unlink(NOW, NAMES[name]), Err(libc::ENOENT));
                    return;
                }
                self.disk.0.unlink(NOW, NAMES[name]).unwrap();
                self.change_names(vec![(name, None)]);
            }
            Step::SyncDir => self.sync_dir(),
            Step::Boot => {
                self.disk = self.disk.cut(seed);
                let names = names(&mut self.disk);
                self.names = NaiveNames {
                    durable: names.clone(),
                    pending: Vec::new(),
                };
                let names = names.values().copied().collect();
                let mut files = BTreeMap::new();
                for inode in BTreeSet::<Inode>::from_iter::<Vec<Inode>>(names) {
                    files.insert(inode, NaiveFile::durable(self.disk.read_inode(inode)));
                }
                self.files = files;
            }
        }
    }

    fn check(&mut self, seed: u64) {
        assert_eq!(names(&mut self.disk), self.names.current());
        for inode in self.names.current().into_values() {
            assert_eq!(
                self.disk.read_inode(inode),
                self.files[&inode].data,
                "{inode:?}"
            );
        }
        let possible = self.names.possible(self.config.names);
        for seed in seed..seed + 3 {
            let mut booted = self.disk.cut(seed);
            let names = names(&mut booted);
            let entries: Vec<(usize, Inode)> = names.clone().into_iter().collect();
            assert!(possible.contains(&entries), "{names:?} of {possible:?}");
            for inode in names.into_values() {
                self.files[&inode].check(&booted.read_inode(inode));
            }
        }
    }
}

fn names(disk: &mut Disk) -> Names {
    let names = disk.0.read_dir(NOW, "").unwrap();
    let name = |name: &String| NAMES.iter().position(|known| known == name).unwrap();
    let names = names
        .iter()
        .map(|path| (name(path), disk.0.stat(path).unwrap().inode));
    names.collect()
}

fn configs() -> impl Strategy<Value = DiskConfig> {
    let names = prop_oneof![
        Just(NameDurability::DirectorySync),
        Just(NameDurability::Journal),
    ];
    let unit = prop_oneof![Just(512), Just(4096), Just(16384)];
    (names, unit, any::<bool>(), any::<bool>()).prop_map(
        |(names, atomic_unit, reorder, volatile_cache)| DiskConfig {
            names,
            atomic_unit,
            reorder,
            volatile_cache,
            ..small_sectors()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 40 },
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_disk_reads_and_forgets_like_a_naive_one(
        config in configs(),
        steps in prop::collection::vec(step(), 1..40),
        seed in any::<u32>(),
    ) {
        let mut pair = Pair::new(config);
        for (number, step) in steps.into_iter().enumerate() {
            let seed = u64::from(seed) + 100 * number as u64;
            pair.step(step, seed);
            pair.check(seed);
        }
    }

    #[test]
    fn every_possible_set_of_names_survives_some_cut(
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let mut pair = Pair::new(small_sectors());
        for name in NAMES {
            let inode = pair.disk.create(name);
            pair.disk.0.close(NOW, inode);
        }
        pair.disk.sync_dir("");
        pair.names.durable = names(&mut pair.disk);
        for inode in pair.names.durable.values() {
            pair.files.insert(*inode, NaiveFile::new());
        }
        for step in steps {
            if pair.names.pending.len() < 3 && !matches!(step, Step::Boot) {
                pair.step(step, 0);
            }
        }
        let possible = pair.names.possible(NameDurability::DirectorySync);
        let survived: BTreeSet<Vec<(usize, Inode)>> = (0..400)
            .map(|seed| names(&mut pair.disk.cut(seed)).into_iter().collect())
            .collect();
        prop_assert_eq!(survived, possible);
    }
}

#[test]
fn memory_is_in_proportion_to_what_was_written() {
    let mut disk = Disk::new(small_sectors());
    let file = disk.create("sparse");
    disk.0.set_len(NOW, file, 1 << 40).unwrap();
    disk.0
        .allocate(NOW, file, AllocateKind::KeepSize, 0, 1 << 39)
        .unwrap();
    for gibibyte in 0..64 {
        disk.write(file, gibibyte << 30, b"data");
    }
    let (blocks, ranges) = disk.0.memory();
    assert_eq!(blocks, 64, "blocks with data");
    assert!(ranges <= 65, "{ranges} ranges of unwritten blocks");
    // A block that was overwritten and synced has one version.
    disk.fsync(file);
    for _ in 0..100 {
        disk.write(file, 0, b"DATA");
    }
    disk.fsync(file);
    assert_eq!(disk.0.memory().0, 64);
    disk.0.set_len(NOW, file, 0).unwrap();
    disk.fsync(file);
    assert_eq!(disk.0.memory(), (0, 0));
    assert_eq!(disk.0.stat_inode(file).unwrap().allocated, 0);
}
