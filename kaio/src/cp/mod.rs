//! `kaio cp`.
//!
//! | module | contents |
//! |---|---|
//! | `cp_args` | the command line |
//! | `copy_plan`, `tree_walk`, `destination`, `inode_flags`, `free_space` | the plan of a run; invalid requests are refused before anything is written |
//! | `session` | the state that all files of a run share |
//! | `small_files` | copies groups of small files, through the page cache |
//! | `copy_file` | copies one file in blocks, from opening it to renaming it |
//! | `source_file`, `extents` | the file that is read, and its data extents |
//! | `target_file`, `new_directories`, `staged_path`, `short_path` | files and directories under temporary names |
//! | `block_io`, `copy_data`, `copy_until_eof`, `block_buffers`, `zero_blocks` | copying the data in blocks |
//! | `pipes`, `copy_from_pipe`, `copy_to_pipe` | pipes as source or target |
//! | `durability`, `file_system_type` | when the copies are flushed |
//! | `verify`, `file_attributes`, `hard_links`, `reflinks` | `--verify`, `--preserve`, `--reflink` |
//! | `console`, `copy_summary`, `copy_error` | progress, messages, the summary and errors |

// A file with one extent has one range.
#![allow(clippy::single_range_in_vec_init)]

mod block_buffers;
mod block_io;
mod console;
mod copy_data;
mod copy_error;
mod copy_file;
mod copy_from_pipe;
mod copy_plan;
mod copy_summary;
mod copy_to_pipe;
mod copy_until_eof;
mod cp_args;
mod destination;
mod durability;
mod extents;
mod file_attributes;
mod file_system_type;
mod free_space;
mod hard_links;
mod inode_flags;
mod new_directories;
mod pipes;
mod reflinks;
mod session;
mod short_path;
mod small_files;
mod source_file;
mod staged_path;
mod target_file;
mod tree_walk;
mod verify;
mod zero_blocks;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use futures_util::{StreamExt, stream as streams};
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, umask};

pub(crate) use cp_args::CpArgs;

use crate::command_error::{CommandError, CommandResult};
use crate::paths::parent;
use crate::stdio::print_json;
use block_io::{BlockEngine, BlockIo};
use copy_data::CopiedData;
use copy_error::CopyError;
use copy_plan::CopyPlan;
use copy_summary::CopySummary;
use durability::Durability;
use new_directories::NewDirectories;
use pipes::PipeStep;
use session::Session;
use small_files::{DoneCopy, SmallCopy};
use staged_path::StagedPath;

/// Maximum number of files that are copied at the same time. Independent of the depth, because a file
/// that is being flushed occupies no block, and the journal commits many files at once.
const FILES: usize = 32;

/// Maximum number of descriptors of a file, and of the process without files.
const DESCRIPTORS: usize = 5;
const OTHERS: usize = 12;

pub(crate) fn run(args: &CpArgs) -> CommandResult {
    let started = Instant::now();
    args.check_usage()?;
    let mut plan = CopyPlan::new(args)?;
    // The umask can only be read by setting it. No other thread creates files meanwhile.
    let mask = umask(Mode::RWXG | Mode::RWXO);
    umask(mask);
    let total = match &plan.pipe {
        Some(pipe) => pipe.length(),
        None => Some(plan.bytes),
    };
    let total = total.map(|bytes| bytes * if args.verify { 2 } else { 1 });
    let session = Session::new(args, total, mask.as_raw_mode());
    for (path, copy_error) in std::mem::take(&mut plan.failed) {
        session.report_failed(&path, copy_error);
    }
    let result = match &plan.pipe {
        Some(pipe) => copy_pipe(&session, pipe),
        None => run_plan(&session, &plan),
    };
    session.console.finish();
    result?;
    let (console, counters) = (session.console, session.counters);
    let is_file = !matches!(plan.pipe, Some(PipeStep::To { .. }));
    let summary = CopySummary::new(
        counters,
        args,
        is_file,
        started.elapsed(),
        console.warnings(),
    );
    match args.json {
        true => print_json(&summary)?,
        false => console.summary(&summary.to_string()),
    }
    Ok(match summary.is_complete() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn copy_pipe(session: &Session<'_>, pipe: &PipeStep) -> Result<(), CommandError> {
    let bytes = pipe.length().unwrap_or(u64::MAX);
    let engine = BlockEngine::start(session, bytes, 1)?;
    engine.run(async |io| match pipe {
        PipeStep::From {
            source,
            destination,
        } => copy_from_pipe::copy_from_pipe(io, source, destination).await,
        PipeStep::To { source, target } => copy_to_pipe::copy_to_pipe(io, source, target).await,
    })?;
    Ok(())
}

fn run_plan(session: &Session<'_>, plan: &CopyPlan) -> Result<(), CommandError> {
    let is_large = |index: &usize| !plan.files[*index].is_small;
    let mut large: Vec<usize> = (0..plan.files.len()).filter(is_large).collect();
    let engine = match large.is_empty() {
        true => None,
        false => Some(start_engine(session, plan, &large)?),
    };
    // Before the first write: it notices errors from then on.
    let durability = Durability::of(session.args, plan);
    let roots = NewDirectories::create(plan)?;
    let counters = &session.counters;
    counters.directories.set(plan.directories.len() as u64);
    let mut run = PlanRun {
        session,
        plan,
        roots: &roots,
        changed_dirs: BTreeSet::new(),
        copied: vec![false; plan.files.len()],
        unnamed: Vec::new(),
    };
    run.create_symlinks()?;
    large.extend(run.copy_small_files(&durability)?);
    if !large.is_empty() {
        let engine = match engine {
            Some(engine) => engine,
            None => start_engine(session, plan, &large)?,
        };
        engine.run(async |io| run.copy_large_files(io, &large, &durability).await)?;
    }
    run.create_hard_links()?;
    let (mut dirs, unnamed) = (run.changed_dirs, run.unnamed);
    roots.set_attributes(session, &plan.directories, &durability)?;
    durability.flush()?;
    for (index, staged) in unnamed {
        let destination = &plan.files[index].destination;
        let renamed = staged.replace(destination)?();
        renamed.map_err(|error| CopyError::of("replace", destination.path(), &error))?;
        dirs.insert(parent(destination.path()).into());
    }
    Ok(roots.publish(session, &plan.directories, dirs)?)
}

fn start_engine<'a>(
    session: &'a Session<'a>,
    plan: &CopyPlan,
    large: &[usize],
) -> Result<BlockEngine<'a>, CommandError> {
    let bytes = large.iter().map(|index| plan.files[*index].bytes).sum();
    BlockEngine::start(session, bytes, files_at_a_time())
}

/// The steps of a run that are done.
struct PlanRun<'a> {
    session: &'a Session<'a>,
    plan: &'a CopyPlan,
    roots: &'a NewDirectories,
    /// Directories whose entries have changed. New ones are flushed anyway.
    changed_dirs: BTreeSet<PathBuf>,
    /// Which files are copied.
    copied: Vec<bool>,
    /// Files that get their names when they are durable.
    unnamed: Vec<(usize, StagedPath)>,
}

impl PlanRun<'_> {
    /// A single entry that fails ends the run; of several, the others are still copied.
    fn report(&self, path: &Path, copy_error: CopyError) -> Result<(), CopyError> {
        let plan = self.plan;
        let entries = plan.files.len() + plan.symlinks.len() + plan.hard_links.len();
        let is_alone = entries == 1 && plan.directories.is_empty();
        match copy_error.affects_all || is_alone {
            true => Err(copy_error),
            false => {
                self.session.report_failed(path, copy_error);
                Ok(())
            }
        }
    }

    /// Notes that the directory of `target` has to be flushed.
    fn note_changed_dir(&mut self, root: Option<usize>, target: &Path) {
        if root.is_none() {
            self.changed_dirs.insert(parent(target).into());
        }
    }

    fn create_symlinks(&mut self) -> Result<(), CopyError> {
        for step in &self.plan.symlinks {
            let staged = self.roots.staged(step.root, &step.target);
            match new_directories::link(self.session, step, &staged) {
                Ok(()) => {
                    increment(&self.session.counters.symlinks);
                    self.note_changed_dir(step.root, &step.target);
                }
                Err(copy_error) => self.report(&step.source, copy_error)?,
            }
        }
        Ok(())
    }

    /// Copies the small files, and returns the indices of those that are not small.
    fn copy_small_files(&mut self, durability: &Durability) -> Result<Vec<usize>, CopyError> {
        let (session, plan, roots) = (self.session, self.plan, self.roots);
        let mut large = Vec::new();
        small_files::copy_small_files(session, plan, roots, durability, |index, small| {
            let step = &plan.files[index];
            match small {
                Ok(SmallCopy::NotSmall) => large.push(index),
                Ok(SmallCopy::Done(done)) => self.small_file_done(index, done),
                Err(copy_error) => self.report(&step.source, copy_error)?,
            }
            Ok(())
        })?;
        Ok(large)
    }

    fn small_file_done(&mut self, index: usize, done: DoneCopy) {
        let (session, step) = (self.session, &self.plan.files[index]);
        let shared = if done.is_reflink { done.length } else { 0 };
        let moved = CopiedData {
            length: done.length,
            written: done.length - shared,
            shared,
            checks: Vec::new(),
        };
        copy_file::add_to_counters(session, &moved);
        session.counters.buffered.set(true);
        session.console.advance(step.bytes);
        session.attributes_lost(step.destination.path(), &done.lost);
        if done.has_changed {
            session.warn_changed(&step.source);
        }
        self.copied[index] = true;
        match done.staged {
            Some(staged) => self.unnamed.push((index, staged)),
            None => self.note_changed_dir(step.root, step.destination.path()),
        }
    }

    async fn copy_large_files(
        &mut self,
        io: &BlockIo<'_>,
        large: &[usize],
        durability: &Durability,
    ) -> Result<(), CopyError> {
        let (plan, roots) = (self.plan, self.roots);
        let mut files = streams::iter(large)
            .map(async |&index| {
                let step = &plan.files[index];
                let staged = roots.staged(step.root, step.destination.path());
                let is_flushed_later = durability.is_deferred() && step.root.is_some();
                let copied = copy_file::copy_file(io, step, staged, is_flushed_later);
                (index, copied.await)
            })
            .buffer_unordered(files_at_a_time());
        while let Some((index, result)) = files.next().await {
            let step = &plan.files[index];
            match result {
                Ok(()) => {
                    self.copied[index] = true;
                    if step.destination.is_file() {
                        self.note_changed_dir(step.root, step.destination.path());
                    }
                }
                Err(copy_error) => self.report(&step.source, copy_error)?,
            }
        }
        Ok(())
    }

    fn create_hard_links(&mut self) -> Result<(), CopyError> {
        for link in &self.plan.hard_links {
            match hard_links::create(link, self.plan, self.roots, self.copied[link.first]) {
                Ok(()) => {
                    increment(&self.session.counters.hard_links);
                    self.note_changed_dir(link.root, link.destination.path());
                }
                Err(copy_error) => self.report(&link.source, copy_error)?,
            }
        }
        Ok(())
    }
}

fn increment(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// The number of files that the limit on descriptors (`ulimit -n`) allows.
fn files_at_a_time() -> usize {
    (free_descriptors() / DESCRIPTORS).clamp(1, FILES)
}

/// The number of descriptors that are left for files.
fn free_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .saturating_sub(OTHERS)
}

/// Runs a blocking call on tokio's blocking pool.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}
