//! [`Workload`]: the transfers that every engine makes, and how many are in flight.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::SteadyWindow;

/// The access pattern. The transfer size is [`Pattern::block`] unless the workload overrides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Reads of 4 KiB at random offsets.
    RandomRead,
    /// Overwrites of 4 KiB at random offsets.
    RandomWrite,
    /// 70 % random reads, 30 % random overwrites, 4 KiB each.
    Mixed,
    /// Sequential reads of 128 KiB.
    SequentialRead,
    /// Sequential overwrites of 128 KiB.
    SequentialWrite,
    /// Sequential writes of 4 KiB within a preallocated log, each durable on completion (`O_DSYNC`,
    /// `RWF_DSYNC`).
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

    /// Default transfer size in bytes.
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

    /// Whether each write is durable on completion.
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

/// How transfers are kept in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// One task per unit of depth, each with one transfer in flight.
    Tasks,
    /// One task that starts `depth` transfers at once and waits for all of them.
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

/// A pattern, a shape, a depth and the file they apply to.
///
/// [`Workload::new`] sets the usual values; the fields override them.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The access pattern.
    pub pattern: Pattern,
    /// How transfers are kept in flight.
    pub shape: Shape,
    /// Queue depth: maximum transfers in flight.
    pub depth: usize,
    /// Path of the file, which has at least [`Workload::len`] bytes.
    pub path: PathBuf,
    /// Bytes used, from the start of the file. A multiple of the block.
    pub len: u64,
    /// Transfer size in bytes. Default: [`Pattern::block`].
    pub block: usize,
    /// Percentage of reads in [`Pattern::Mixed`]. Default: 70.
    pub reads: u8,
    /// Use direct I/O, except in engines that can't. Default: `true`.
    pub direct: bool,
    /// The file belongs to the measurement, so an engine may copy it. Default: `true`.
    pub scratch: bool,
    /// How often the file is opened. The tasks use the descriptors in turn. Default: 1.
    pub files: usize,
    /// Number of contexts (kernel contexts or rings). The tasks use them in turn. Default: 1.
    pub contexts: usize,
    /// Maximum requests in flight in each context; the other tasks wait for a slot. An engine without such a
    /// limit ignores it. Default: the depth.
    pub slots: usize,
    /// Measures the part of a run in which all tasks are active. Default: `None`.
    pub window: Option<Arc<SteadyWindow>>,
}

/// Whether a transfer reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file.
    Read,
    /// To the file.
    Write,
}

/// One transfer of [`Workload::block`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Whether it reads or writes.
    pub direction: Direction,
    /// Byte offset in the file.
    pub offset: u64,
}

/// Generates the transfers of one task, endlessly.
#[derive(Clone, Debug)]
pub struct TransferGenerator {
    pattern: Pattern,
    block: u64,
    blocks: u64,
    reads: u64,
    state: u64,
    /// Next block of a sequential pattern, shared by the generators of a run.
    next_block: Arc<AtomicU64>,
    window: Option<Arc<SteadyWindow>>,
}

impl Workload {
    /// Creates a workload of direct I/O with the pattern's transfer size, on a scratch file.
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
            files: 1,
            contexts: 1,
            slots: depth,
            window: None,
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Transfer size in bytes.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Returns the generators of one run, one for each task. `seed` selects the random offsets.
    pub fn generators(&self, seed: u64) -> Vec<TransferGenerator> {
        let tasks = match self.shape {
            Shape::Tasks => self.depth,
            Shape::Waves => 1,
        };
        let next_block = Arc::new(AtomicU64::new(0));
        (0..tasks as u64)
            .map(|task| TransferGenerator {
                pattern: self.pattern,
                block: self.block as u64,
                blocks: self.len / self.block as u64,
                reads: self.reads.into(),
                state: (seed << 16) ^ task,
                next_block: Arc::clone(&next_block),
                window: self.window.clone(),
            })
            .collect()
    }

    /// Whether a scale is set: several descriptors or contexts, or fewer slots than tasks. Only engines that
    /// [say so](crate::Engine::max_contexts) respect it.
    pub fn is_scaled(&self) -> bool {
        self.files > 1 || self.contexts > 1 || self.slots < self.depth
    }
}

impl TransferGenerator {
    /// Returns the next transfer.
    pub fn next_transfer(&mut self) -> Transfer {
        if let Some(window) = &self.window {
            window.on_transfer();
        }
        match self.pattern {
            Pattern::RandomRead => self.random(Direction::Read),
            Pattern::RandomWrite => self.random(Direction::Write),
            Pattern::Mixed => {
                let direction = match self.random_number() % 100 < self.reads {
                    true => Direction::Read,
                    false => Direction::Write,
                };
                self.random(direction)
            }
            Pattern::SequentialRead => self.sequential(Direction::Read),
            Pattern::SequentialWrite | Pattern::LogAppend => self.sequential(Direction::Write),
        }
    }

    fn random(&mut self, direction: Direction) -> Transfer {
        Transfer {
            direction,
            offset: self.random_number() % self.blocks * self.block,
        }
    }

    fn sequential(&self, direction: Direction) -> Transfer {
        let block = self.next_block.fetch_add(1, Ordering::Relaxed);
        Transfer {
            direction,
            offset: block % self.blocks * self.block,
        }
    }

    /// Linear congruential generator: two instructions, so that its cost does not matter.
    fn random_number(&mut self) -> u64 {
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
    fn transfers_are_block_aligned_and_within_the_file() {
        for pattern in Pattern::ALL {
            let workload = workload(pattern, Shape::Waves, 8);
            let mut generator = workload.generators(3).remove(0);
            for _ in 0..1000 {
                let transfer = generator.next_transfer();
                let block = workload.block() as u64;
                assert_eq!(transfer.offset % block, 0);
                assert!(transfer.offset + block <= workload.len);
                assert!(pattern.writes() || transfer.direction == Direction::Read);
            }
        }
    }

    #[test]
    fn the_share_of_reads_is_70_percent_by_default() {
        let reads = |workload: Workload| {
            let mut generator = workload.generators(1).remove(0);
            let reads =
                (0..100_000).filter(|_| generator.next_transfer().direction == Direction::Read);
            reads.count()
        };
        let mixed = workload(Pattern::Mixed, Shape::Waves, 1);
        let with_share = |share| {
            reads(Workload {
                reads: share,
                ..mixed.clone()
            })
        };
        assert!((69_000..71_000).contains(&reads(mixed.clone())));
        assert!((9_000..11_000).contains(&with_share(10)));
        assert_eq!((with_share(0), with_share(100)), (0, 100_000));
    }

    #[test]
    fn a_workload_can_override_the_block_size() {
        let mut workload = workload(Pattern::SequentialWrite, Shape::Waves, 1);
        workload.block = 512;
        let mut generator = workload.generators(0).remove(0);
        assert_eq!(
            [generator.next_transfer(), generator.next_transfer()].map(|t| t.offset),
            [0, 512]
        );
    }

    #[test]
    fn each_task_has_a_generator_and_a_wave_has_one() {
        assert_eq!(
            workload(Pattern::Mixed, Shape::Tasks, 32)
                .generators(0)
                .len(),
            32
        );
        assert_eq!(
            workload(Pattern::Mixed, Shape::Waves, 32)
                .generators(0)
                .len(),
            1
        );
    }

    #[test]
    fn sequential_generators_share_one_position() {
        let mut generators = workload(Pattern::LogAppend, Shape::Tasks, 2).generators(0);
        let offsets = [
            generators[0].next_transfer(),
            generators[1].next_transfer(),
            generators[0].next_transfer(),
        ]
        .map(|t| t.offset);
        assert_eq!(offsets, [0, 4096, 8192]);
    }

    #[test]
    fn random_generators_differ_between_tasks_and_between_seeds() {
        let workload = workload(Pattern::RandomRead, Shape::Tasks, 2);
        let first_offsets = |generators: Vec<TransferGenerator>| -> Vec<Vec<u64>> {
            let mut generators = generators;
            let row = |generator: &mut TransferGenerator| {
                (0..8).map(|_| generator.next_transfer().offset).collect()
            };
            generators.iter_mut().map(row).collect()
        };
        let (one, two) = (
            first_offsets(workload.generators(1)),
            first_offsets(workload.generators(2)),
        );
        assert_ne!(one[0], one[1]);
        assert_ne!(one, two);
    }
}
