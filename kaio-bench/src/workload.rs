//! [`Workload`]: what is read and written, and how many at a time. The same for every engine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// What is moved between memory and disk, in blocks of [`Pattern::block`] unless the workload says
/// otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Reads of 4 KiB at random offsets.
    RandomRead,
    /// Overwrites of 4 KiB at random offsets.
    RandomWrite,
    /// Seven random reads to three random overwrites, 4 KiB each.
    Mixed,
    /// Reads of 128 KiB, one after another through the file.
    SequentialRead,
    /// Overwrites of 128 KiB, one after another through the file.
    SequentialWrite,
    /// Writes of 4 KiB, one after another through a log that has its length already, each durable
    /// when it is done (`O_DSYNC`, `RWF_DSYNC`).
    LogAppend,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: [Pattern; 6] = [
        Pattern::RandomRead,
        Pattern::RandomWrite,
        Pattern::Mixed,
        Pattern::SequentialRead,
        Pattern::SequentialWrite,
        Pattern::LogAppend,
    ];

    /// Bytes that one transfer moves, unless a workload says otherwise.
    pub fn block(self) -> usize {
        match self {
            Pattern::SequentialRead | Pattern::SequentialWrite => 128 * 1024,
            _ => 4096,
        }
    }

    /// Whether the file is opened for writing.
    pub fn writes(self) -> bool {
        !matches!(self, Pattern::RandomRead | Pattern::SequentialRead)
    }

    /// Whether each write is durable when it is done.
    pub fn durable(self) -> bool {
        self == Pattern::LogAppend
    }

    /// The pattern's name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::RandomRead => "random-read",
            Pattern::RandomWrite => "random-write",
            Pattern::Mixed => "mixed",
            Pattern::SequentialRead => "sequential-read",
            Pattern::SequentialWrite => "sequential-write",
            Pattern::LogAppend => "log-append",
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Who keeps transfers in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// As many tasks as the depth, each with one transfer at a time.
    Tasks,
    /// One task that starts as many transfers as the depth at once and waits for all of them.
    Waves,
}

impl Shape {
    /// Both shapes.
    pub const ALL: [Shape; 2] = [Shape::Tasks, Shape::Waves];

    /// The shape's name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Tasks => "tasks",
            Shape::Waves => "waves",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A pattern, a shape, a depth and the file that they are for.
///
/// What is rarely anything else than [`Workload::new`] makes it has fields to be set.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What is moved.
    pub pattern: Pattern,
    /// Who keeps it in flight.
    pub shape: Shape,
    /// Most transfers in flight.
    pub depth: usize,
    /// The file; it exists, and has [`Workload::len`] bytes.
    pub path: PathBuf,
    /// Bytes of the file that are used, from its start: a multiple of the block.
    pub len: u64,
    /// Bytes that one transfer moves. Set to [`Pattern::block`].
    pub block: usize,
    /// How many of a hundred transfers of [`Pattern::Mixed`] are reads. Set to 70.
    pub reads: u8,
    /// Direct I/O, past the page cache, but for engines that can't. Set to `true`.
    pub direct: bool,
    /// The file is the measurement's own, and disk space enough for a copy of it. Set to `true`.
    pub scratch: bool,
}

/// Whether a transfer reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file.
    Read,
    /// To the file.
    Write,
}

/// One transfer of [`Pattern::block`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Whether it reads or writes.
    pub direction: Direction,
    /// Where in the file, in bytes.
    pub offset: u64,
}

/// The transfers of one task, without end.
#[derive(Clone, Debug)]
pub struct Lane {
    pattern: Pattern,
    block: u64,
    blocks: u64,
    reads: u64,
    state: u64,
    /// Where sequential patterns go on, shared by the lanes of a run.
    next_block: Arc<AtomicU64>,
}

impl Workload {
    /// Direct I/O of the pattern's blocks, on a file of the measurement's own.
    pub fn new(
        pattern: Pattern,
        shape: Shape,
        depth: usize,
        path: impl Into<PathBuf>,
        len: u64,
    ) -> Workload {
        Workload {
            pattern,
            shape,
            depth,
            path: path.into(),
            len,
            block: pattern.block(),
            reads: 70,
            direct: true,
            scratch: true,
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that one transfer moves.
    pub fn block(&self) -> usize {
        self.block
    }

    /// The lanes of one run: one for each task. `seed` makes random ones differ from run to run.
    pub fn lanes(&self, seed: u64) -> Vec<Lane> {
        let tasks = match self.shape {
            Shape::Tasks => self.depth,
            Shape::Waves => 1,
        };
        let next_block = Arc::new(AtomicU64::new(0));
        (0..tasks as u64)
            .map(|task| Lane {
                pattern: self.pattern,
                block: self.block as u64,
                blocks: self.len / self.block as u64,
                reads: self.reads.into(),
                state: (seed << 16) ^ task,
                next_block: Arc::clone(&next_block),
            })
            .collect()
    }
}

impl Lane {
    /// The next transfer. (A method, not an iterator: there is always one.)
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Transfer {
        match self.pattern {
            Pattern::RandomRead => self.random(Direction::Read),
            Pattern::RandomWrite => self.random(Direction::Write),
            Pattern::Mixed => {
                let direction = match self.draw() % 100 < self.reads {
                    true => Direction::Read,
                    false => Direction::Write,
                };
                self.random(direction)
            }
            Pattern::SequentialRead => self.following(Direction::Read),
            Pattern::SequentialWrite | Pattern::LogAppend => self.following(Direction::Write),
        }
    }

    fn random(&mut self, direction: Direction) -> Transfer {
        Transfer {
            direction,
            offset: self.draw() % self.blocks * self.block,
        }
    }

    fn following(&self, direction: Direction) -> Transfer {
        let block = self.next_block.fetch_add(1, Ordering::Relaxed);
        Transfer {
            direction,
            offset: block % self.blocks * self.block,
        }
    }

    /// A linear congruential generator: two instructions, so that what is drawn costs every engine
    /// next to nothing.
    fn draw(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(pattern: Pattern, shape: Shape, depth: usize) -> Workload {
        Workload::new(pattern, shape, depth, "unused", 1 << 20)
    }

    #[test]
    fn transfers_are_blocks_within_the_file() {
        for pattern in Pattern::ALL {
            let workload = workload(pattern, Shape::Waves, 8);
            let mut lane = workload.lanes(3).remove(0);
            for _ in 0..1000 {
                let transfer = lane.next();
                let block = workload.block() as u64;
                assert_eq!(transfer.offset % block, 0);
                assert!(transfer.offset + block <= workload.len);
                assert!(pattern.writes() || transfer.direction == Direction::Read);
            }
        }
    }

    #[test]
    fn the_mix_is_seven_reads_to_three_writes_unless_it_is_set() {
        let reads = |workload: Workload| {
            let mut lane = workload.lanes(1).remove(0);
            let reads = (0..100_000).filter(|_| lane.next().direction == Direction::Read);
            reads.count()
        };
        let mixed = workload(Pattern::Mixed, Shape::Waves, 1);
        let of = |share| {
            reads(Workload {
                reads: share,
                ..mixed.clone()
            })
        };
        assert!((69_000..71_000).contains(&reads(mixed.clone())));
        assert!((9_000..11_000).contains(&of(10)));
        assert_eq!((of(0), of(100)), (0, 100_000));
    }

    #[test]
    fn a_workload_has_blocks_of_its_own_size() {
        let mut workload = workload(Pattern::SequentialWrite, Shape::Waves, 1);
        workload.block = 512;
        let mut lane = workload.lanes(0).remove(0);
        assert_eq!([lane.next(), lane.next()].map(|t| t.offset), [0, 512]);
    }

    #[test]
    fn tasks_have_lanes_of_their_own_and_a_wave_has_one() {
        assert_eq!(
            workload(Pattern::Mixed, Shape::Tasks, 32).lanes(0).len(),
            32
        );
        assert_eq!(workload(Pattern::Mixed, Shape::Waves, 32).lanes(0).len(), 1);
    }

    #[test]
    fn sequential_lanes_share_one_position() {
        let mut lanes = workload(Pattern::LogAppend, Shape::Tasks, 2).lanes(0);
        let offsets = [lanes[0].next(), lanes[1].next(), lanes[0].next()].map(|t| t.offset);
        assert_eq!(offsets, [0, 4096, 8192]);
    }

    #[test]
    fn random_lanes_differ_from_each_other_and_from_run_to_run() {
        let workload = workload(Pattern::RandomRead, Shape::Tasks, 2);
        let first = |lanes: Vec<Lane>| -> Vec<Vec<u64>> {
            let mut lanes = lanes;
            let row = |lane: &mut Lane| (0..8).map(|_| lane.next().offset).collect();
            lanes.iter_mut().map(row).collect()
        };
        let (one, two) = (first(workload.lanes(1)), first(workload.lanes(2)));
        assert_ne!(one[0], one[1]);
        assert_ne!(one, two);
    }
}
