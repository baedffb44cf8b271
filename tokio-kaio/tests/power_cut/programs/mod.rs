//! Programs that have to survive power cuts. The same code runs on a simulated disk and on a real file
//! system: a program gets a directory, a handle, and an [`Oracle`] for what it has started and what it knows
//! to be durable.
#![allow(dead_code, unreachable_pub)] // each binary uses a part

mod content;
mod copy;
mod history;
#[path = "../../../examples/wal/log.rs"]
mod log;
mod log_segments;
mod lsm_batches;
mod lsm_store;
mod objects;
mod stream;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio_kaio::AioContextHandle;

#[allow(unused_imports)]
pub use self::history::{History, Oracle};
use self::log::{LogOptions, PAGE};
pub(crate) use self::log::{Omit, Result};

/// A program, its variant and its input.
#[derive(Clone, Debug)]
pub struct Job {
    pub program: Program,
    /// The step that the program leaves out. `None`: it has to survive every power cut.
    pub omit: Option<Omit>,
    /// Decides what is written.
    pub seed: u64,
    /// After this number of operations the program ends.
    pub operations: u64,
    /// The program `kaio`, which [`Program::Copy`] calls instead of taking the steps of `kaio cp` itself.
    pub kaio: Option<PathBuf>,
}

/// A program that writes files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The log of the example `wal`: tasks append records, and discard old ones.
    Log,
    /// Objects that are created, replaced and removed: `StagedFile`.
    Objects,
    /// Records that are appended to one file: `FileWriter` with `sync`.
    Stream,
    /// Copies that replace files, as `kaio cp` makes them.
    Copy,
    /// A log-structured merge tree with tables, compaction and a manifest.
    Lsm,
}

impl Program {
    pub const ALL: [Program; 5] = [
        Program::Log,
        Program::Objects,
        Program::Stream,
        Program::Copy,
        Program::Lsm,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Program::Log => "log",
            Program::Objects => "objects",
            Program::Stream => "stream",
            Program::Copy => "copy",
            Program::Lsm => "lsm",
        }
    }
}

impl Omit {
    pub(crate) const ALL: [Omit; 3] = [Omit::Sync, Omit::Checksum, Omit::DirSync];

    pub fn name(self) -> &'static str {
        match self {
            Omit::Sync => "no-sync",
            Omit::Checksum => "no-checksum",
            Omit::DirSync => "no-dir-sync",
        }
    }

    /// Whether the variant of the program differs from the whole program.
    pub fn applies_to(self, program: Program) -> bool {
        let has_checksums = matches!(program, Program::Log | Program::Stream | Program::Lsm);
        self != Omit::Checksum || has_checksums
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Omit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Program {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Program, String> {
        let found = Program::ALL.into_iter().find(|it| it.name() == name);
        found.ok_or_else(|| {
            let names = Program::ALL.map(Program::name).join(", ");
            format!("no program {name:?}: {names}")
        })
    }
}

impl FromStr for Omit {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Omit, String> {
        let found = Omit::ALL.into_iter().find(|it| it.name() == name);
        found.ok_or_else(|| {
            let names = Omit::ALL.map(Omit::name).join(", ");
            format!("no variant {name:?}: {names}")
        })
    }
}

impl Job {
    /// Runs the program in the directory `dir`, on what earlier runs have left there.
    ///
    /// # Errors
    ///
    /// Those of the disk. After a power cut every operation fails.
    pub async fn run(&self, dir: &Path, handle: &AioContextHandle, oracle: &Oracle) -> Result<()> {
        match self.program {
            Program::Log => log_segments::run(self, dir, handle, oracle).await,
            Program::Objects => objects::run(self, dir, handle, oracle).await,
            Program::Stream => stream::run(self, dir, handle, oracle).await,
            Program::Copy => copy::run(self, dir, handle, oracle).await,
            Program::Lsm => lsm_batches::run(self, dir, handle, oracle).await,
        }
    }

    /// Opens what a power cut has left in `dir`, compares it with the oracle, goes on with a few operations
    /// and compares again.
    ///
    /// # Errors
    ///
    /// What is lost, or is there and should not be.
    pub async fn verify(
        &self,
        dir: &Path,
        handle: &AioContextHandle,
        oracle: &Oracle,
    ) -> Result<()> {
        self.check(dir, handle, oracle).await?;
        let further = Job {
            operations: 3,
            ..self.clone()
        };
        let done = further.run(dir, handle, oracle).await;
        done.map_err(|error| format!("the program can't go on: {error}"))?;
        let checked = self.check(dir, handle, oracle).await;
        checked.map_err(|error| format!("after the program has gone on: {error}").into())
    }

    async fn check(&self, dir: &Path, handle: &AioContextHandle, oracle: &Oracle) -> Result<()> {
        match self.program {
            Program::Log => log_segments::check(self, dir, handle, oracle).await,
            Program::Objects => objects::check(self, dir, handle, oracle).await,
            Program::Stream => stream::check(self, dir, handle, oracle).await,
            Program::Copy => copy::check(self, dir, handle, oracle).await,
            Program::Lsm => lsm_batches::check(self, dir, handle, oracle).await,
        }
    }

    fn omits(&self, step: Omit) -> bool {
        self.omit == Some(step)
    }

    /// The settings of the log. Segments are short, so that the log uses them again soon.
    fn log_options(&self) -> LogOptions {
        LogOptions {
            segment: 8 * PAGE,
            omit: self.omit,
        }
    }
}
