//! [`Pair`]: ways to do the same thing with tokio-kaio, first the one that the others are compared with.
//!
//! Each is an [`Engine`] that knows its workload, so that [`measure`](crate::measure) has them run by
//! turns, and all that is said of engines holds: a round each, ratios within a round, system calls and
//! allocations counted one by one. All are on the current-thread runtime, in one task, with one context.
//!
//! A pair is added by a [`Way`](way::Way) for each of its ways, in a file of its own here, and an entry in
//! [`all`]; `--help` (`cli/explained.rs`) tells what it is about. A way may be in several pairs, as those
//! of `pool` are.

mod batch;
mod owned;
mod pool;
mod report;
mod text;
mod unaligned;
mod vectored;
mod way;

use std::path::Path;

use crate::{Engine, Pattern, Shape, Workload};
use way::engine;

pub use report::{PairReport, PairSet};
pub use text::{PairTable, PairTables};

/// Ways to do the same thing.
pub struct Pair {
    /// Its name on the command line and in tables: `batch`.
    pub name: &'static str,
    /// What is read and written.
    pub pattern: Pattern,
    /// Transfers that make up one turn: those of a batch; else one.
    pub depth: usize,
    /// The ways. Ratios are to the first.
    pub ways: Vec<Box<dyn Engine>>,
}

impl Pair {
    /// The workload of its ways, with the file at `path`, of `len` bytes.
    pub fn workload(&self, path: &Path, len: u64) -> Workload {
        Workload::new(self.pattern, Shape::Waves, self.depth, path, len)
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ways: Vec<_> = self.ways.iter().map(|way| way.name()).collect();
        f.debug_struct("Pair")
            .field("name", &self.name)
            .field("ways", &ways)
            .finish_non_exhaustive()
    }
}

/// Every pair.
pub fn all() -> Vec<Pair> {
    let pair = |name, pattern, depth, ways| Pair {
        name,
        pattern,
        depth,
        ways,
    };
    let from_pool = || {
        vec![
            engine::<pool::Pooled>(),
            engine::<pool::Fresh>(),
            engine::<pool::Kept>(),
        ]
    };
    vec![
        pair("pool-4k", Pattern::RandomRead, 1, from_pool()),
        pair("pool-128k", Pattern::SequentialRead, 1, from_pool()),
        pair(
            "batch",
            Pattern::RandomRead,
            batch::READS,
            vec![
                engine::<batch::Batch>(),
                engine::<batch::OneByOne>(),
                engine::<batch::JoinAll>(),
                engine::<batch::Tasks>(),
            ],
        ),
        pair(
            "vectored-read",
            Pattern::RandomRead,
            1,
            vec![
                engine::<vectored::ReadParts>(),
                engine::<vectored::ReadAndCopy>(),
                engine::<vectored::ReadList>(),
            ],
        ),
        pair(
            "vectored-write",
            Pattern::RandomWrite,
            1,
            vec![
                engine::<vectored::WriteParts>(),
                engine::<vectored::CopyAndWrite>(),
                engine::<vectored::WriteList>(),
            ],
        ),
        pair(
            "owned",
            Pattern::RandomRead,
            1,
            vec![
                engine::<owned::Owned>(),
                engine::<owned::Borrowed>(),
                engine::<owned::OwnedVec>(),
            ],
        ),
        pair(
            "unaligned-read",
            Pattern::RandomRead,
            1,
            vec![
                engine::<unaligned::ReadUnaligned>(),
                engine::<unaligned::ReadAligned>(),
                engine::<unaligned::ReadCopied>(),
            ],
        ),
        pair(
            "unaligned-write",
            Pattern::RandomWrite,
            1,
            vec![
                engine::<unaligned::WriteUnaligned>(),
                engine::<unaligned::WriteAligned>(),
                engine::<unaligned::WriteCopied>(),
            ],
        ),
    ]
}
