//! [`Pair`]: variants of the same job with tokio-kaio, compared with the first of them.
//!
//! Each variant is an [`Engine`], so [`measure`](crate::measure) measures variants as it does engines: in
//! interleaved rounds, with ratios within a round, and with counted system calls and allocations. All run
//! on the current-thread runtime, in one task (except `batch/tasks`, `extend` and `log`), with one
//! context.
//!
//! To add a pair, implement [`Variant`](variant::Variant) for each of its variants in a file `*_pair.rs`,
//! add an entry to [`all`], and describe it in `--help` (`cli/help_text.rs`). Several pairs may share a
//! variant, as the two `pool` pairs do.

mod batch_pair;
mod group_pair;
mod growing_file_pair;
mod owned_pair;
mod pair_report;
mod pair_tables;
mod pool_pair;
mod range_pair;
mod stream_pair;
mod unaligned_pair;
mod variant;
mod vectored_pair;

use std::path::Path;

use crate::{Engine, Pattern, Shape, Workload};
use variant::engine;

pub use pair_report::{PairReport, PairSet};
pub use pair_tables::{PairTable, PairTables};

/// A comparison of variants of the same job; mostly three or four.
pub struct Pair {
    /// Name on the command line and in tables: `batch`.
    pub name: &'static str,
    /// The access pattern.
    pub pattern: Pattern,
    /// Transfers of one iteration: those of a batch, else 1.
    pub depth: usize,
    /// Transfer size in bytes.
    pub block: usize,
    /// The variants. Ratios are relative to the first.
    pub variants: Vec<Box<dyn Engine>>,
}

impl Pair {
    /// Returns the workload of the variants, for the file at `path` with `len` bytes.
    pub fn workload(&self, path: &Path, len: u64) -> Workload {
        Workload {
            block: self.block,
            ..Workload::new(self.pattern, Shape::Waves, self.depth, path, len)
        }
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let variants: Vec<_> = self.variants.iter().map(|variant| variant.name()).collect();
        f.debug_struct("Pair")
            .field("name", &self.name)
            .field("variants", &variants)
            .finish_non_exhaustive()
    }
}

/// Returns every pair.
pub fn all() -> Vec<Pair> {
    let pair = |name, pattern, depth, variants| Pair {
        name,
        pattern,
        depth,
        block: Pattern::block(pattern),
        variants,
    };
    let from_pool = || {
        vec![
            engine::<pool_pair::Pooled>(),
            engine::<pool_pair::SizeClasses>(),
            engine::<pool_pair::Fresh>(),
            engine::<pool_pair::Kept>(),
        ]
    };
    vec![
        pair("pool-4k", Pattern::RandomRead, 1, from_pool()),
        pair("pool-128k", Pattern::SequentialRead, 1, from_pool()),
        pair(
            "batch",
            Pattern::RandomRead,
            batch_pair::READS,
            vec![
                engine::<batch_pair::Batch>(),
                engine::<batch_pair::OneByOne>(),
                engine::<batch_pair::JoinAll>(),
                engine::<batch_pair::Tasks>(),
            ],
        ),
        pair(
            "vectored-read",
            Pattern::RandomRead,
            1,
            vec![
                engine::<vectored_pair::ReadParts>(),
                engine::<vectored_pair::ReadAndCopy>(),
                engine::<vectored_pair::ReadList>(),
            ],
        ),
        pair(
            "vectored-write",
            Pattern::RandomWrite,
            1,
            vec![
                engine::<vectored_pair::WriteParts>(),
                engine::<vectored_pair::CopyAndWrite>(),
                engine::<vectored_pair::WriteList>(),
            ],
        ),
        pair(
            "owned",
            Pattern::RandomRead,
            1,
            vec![
                engine::<owned_pair::Owned>(),
                engine::<owned_pair::Borrowed>(),
                engine::<owned_pair::OwnedVec>(),
            ],
        ),
        pair(
            "group",
            Pattern::RandomRead,
            1,
            vec![
                engine::<group_pair::Ungrouped>(),
                engine::<group_pair::Grouped>(),
                engine::<group_pair::Limited>(),
            ],
        ),
        pair(
            "unaligned-read",
            Pattern::RandomRead,
            1,
            vec![
                engine::<unaligned_pair::ReadUnaligned>(),
                engine::<unaligned_pair::ReadAligned>(),
                engine::<unaligned_pair::ReadCopied>(),
            ],
        ),
        pair(
            "unaligned-write",
            Pattern::RandomWrite,
            1,
            vec![
                engine::<unaligned_pair::WriteUnaligned>(),
                engine::<unaligned_pair::WriteAligned>(),
                engine::<unaligned_pair::WriteCopied>(),
            ],
        ),
        pair(
            "read-range",
            Pattern::RandomRead,
            range_pair::UNALIGNED,
            vec![
                engine::<range_pair::ReadRange>(),
                engine::<range_pair::ReadAtPool>(),
                engine::<range_pair::ReadBytesAt>(),
            ],
        ),
        Pair {
            block: range_pair::RANGE_LEN,
            ..pair(
                "read-ranges",
                Pattern::RandomRead,
                range_pair::RANGES,
                vec![
                    engine::<range_pair::ReadRanges>(),
                    engine::<range_pair::JoinedRanges>(),
                    engine::<range_pair::PreadLoop>(),
                ],
            )
        },
        pair(
            "stream-read",
            Pattern::SequentialRead,
            stream_pair::TRANSFERS,
            vec![
                engine::<stream_pair::Reader>(),
                engine::<stream_pair::Lent>(),
                engine::<stream_pair::Pread>(),
                engine::<stream_pair::TokioReader>(),
            ],
        ),
        pair(
            "stream-write",
            Pattern::SequentialWrite,
            stream_pair::TRANSFERS,
            vec![
                engine::<stream_pair::Writer>(),
                engine::<stream_pair::Pwrite>(),
                engine::<stream_pair::TokioWriter>(),
            ],
        ),
        growing_file::<8, false>("extend"),
        growing_file::<8, true>("log"),
        growing_file::<1, true>("log-one"),
    ]
}

/// A pair whose file grows: by `TASKS` tasks, each write durable if `DSYNC`.
fn growing_file<const TASKS: usize, const DSYNC: bool>(name: &'static str) -> Pair {
    use growing_file_pair::{Kaio, SpawnBlocking, WRITES};
    Pair {
        name,
        pattern: Pattern::SequentialWrite,
        depth: WRITES,
        block: 4096,
        variants: vec![
            engine::<SpawnBlocking<TASKS, DSYNC>>(),
            engine::<Kaio<TASKS, DSYNC, false>>(),
            engine::<Kaio<TASKS, DSYNC, true>>(),
        ],
    }
}
