//! [`Workload`]: what is read and written, and how many at a time. The same for every engine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// What is moved between memory and disk; all of it with `O_DIRECT`.
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
    /// Writes of 4 KiB, one after another through a log that has its length already, each durable
    /// when it is done (`O_DSYNC`, `RWF_DSYNC`).
    LogAppend,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: [Pattern; 5] = [
        Pattern::RandomRead,
        Pattern::RandomWrite,
        Pattern::Mixed,
        Pattern::SequentialRead,
        Pattern::LogAppend,
    ];

    /// Bytes that one transfer moves.
    pub fn block(self) -> usize {
        match self {
            Pattern::SequentialRead => 128 * 1024,
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
    /// The file's length in bytes, a multiple of every pattern's block.
    pub len: u64,
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
    blocks: u64,
    state: u64,
    /// Where sequential patterns go on, shared by the lanes of a run.
    next_block: Arc<AtomicU64>,
}

impl Workload {
    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that one transfer moves.
    pub fn block(&self) -> usize {
        self.pattern.block()
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
                blocks: self.len / self.pattern.block() as u64,
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
                let direction = match self.draw() % 10 {
                    0..7 => Direction::Read,
                    _ => Direction::Write,
                };
                self.random(direction)
            }
            Pattern::SequentialRead => self.following(Direction::Read),
            Pattern::LogAppend => self.following(Direction::Write),
        }
    }

    fn random(&mut self, direction: Direction) -> Transfer {
        Transfer {
            direction,
            offset: self.draw() % self.blocks * self.pattern.block() as u64,
        }
    }

    fn following(&self, direction: Direction) -> Transfer {
        let block = self.next_block.fetch_add(1, Ordering::Relaxed);
        Transfer {
            direction,
            offset: block % self.blocks * self.pattern.block() as u64,
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
        Workload {
            pattern,
            shape,
            depth,
            path: "unused".into(),
            len: 1 << 20,
        }
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
    fn the_mix_is_seven_reads_to_three_writes() {
        let mut lane = workload(Pattern::Mixed, Shape::Waves, 1).lanes(1).remove(0);
        let reads = (0..100_000).filter(|_| lane.next().direction == Direction::Read);
        let reads = reads.count();
        assert!((69_000..71_000).contains(&reads), "{reads}");
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
