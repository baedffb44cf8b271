//! `kaio cp`.
//!
//! | module | contents |
//! |---|---|
//! | `cp_args` | the command line |
//! | `copy_plan`, `tree_walk`, `destination`, `free_space` | the plan of a run; invalid requests are refused before anything is written |
//! | `session` | the state that all files of a run share |
//! | `copy_file` | copies one file, from opening it to renaming it |
//! | `source_file`, `extents` | the file that is read, and its data extents |
//! | `target_file`, `new_directories` | files and directories under temporary names |
//! | `copy_data`, `copy_until_eof`, `block_buffers`, `zero_blocks`, `rate_limiter` | copying the data |
//! | `verify`, `file_attributes` | `--verify`, `--preserve` |
//! | `console`, `copy_summary`, `copy_error` | progress, messages, the summary and errors |

// A file with one extent has one range.
#![allow(clippy::single_range_in_vec_init)]

mod block_buffers;
mod console;
mod copy_data;
mod copy_error;
mod copy_file;
mod copy_plan;
mod copy_summary;
mod copy_until_eof;
mod cp_args;
mod destination;
mod extents;
mod file_attributes;
mod free_space;
mod new_directories;
mod rate_limiter;
mod session;
mod source_file;
mod target_file;
mod tree_walk;
mod verify;
mod zero_blocks;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use futures_util::{StreamExt, stream as streams};
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, umask};
use tokio_kaio::{AioContextBuilder, Backend};

pub(crate) use cp_args::CpArgs;

use crate::command_error::{CommandError, CommandResult};
use crate::paths::parent;
use crate::stdio::print_json;
use crate::thread_limit::current_thread_runtime;
use copy_error::CopyError;
use copy_plan::CopyPlan;
use copy_summary::CopySummary;
use new_directories::NewDirectories;
use session::Session;

/// Maximum number of files that are copied at the same time. Independent of the depth, because a file
/// that is being flushed occupies no block, and the journal commits many files at once.
const FILES: usize = 32;

/// Maximum number of descriptors of a file, and of the process without files.
const DESCRIPTORS: u64 = 4;
const OTHERS: u64 = 12;

/// Up to this many bytes are copied by threads: that takes less time than the 30 ms that the kernel needs
/// to destroy an AIO context.
const SMALL: u64 = 8 << 20;

pub(crate) fn run(args: &CpArgs) -> CommandResult {
    let started = Instant::now();
    let plan = CopyPlan::new(args)?;
    // The umask can only be read by setting it. No other thread creates files meanwhile.
    let mask = umask(Mode::RWXG | Mode::RWXO);
    umask(mask);
    let runtime = current_thread_runtime()?;
    let summary = runtime.block_on(copy(args, plan, mask.as_raw_mode(), started))?;
    if args.json {
        print_json(&summary)?;
    }
    Ok(match summary.is_complete() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn copy(
    args: &CpArgs,
    mut plan: CopyPlan,
    umask: u32,
    started: Instant,
) -> Result<CopySummary, CommandError> {
    let depth = usize::from(args.depth);
    // Each file in progress may have a flush in flight, which needs a slot.
    let builder = AioContextBuilder::new(depth + files_at_a_time());
    let builder = match plan.bytes <= SMALL {
        true => builder.backend(Backend::ThreadPool),
        false => builder.automatic_backend(),
    };
    let (context, handle) = builder.build()?;
    let read = plan.bytes * if args.verify { 2 } else { 1 };
    let session = Session::new(args, handle, read, umask)?;
    for (path, copy_error) in std::mem::take(&mut plan.failed) {
        session.report_failed(&path, copy_error);
    }
    let result = run_plan(&session, &plan).await;
    session.console.finish();
    result?;
    // Nothing is in flight, and the process is about to end. close() would need a thread.
    drop(context);
    let (console, counters) = (session.console, session.counters);
    let summary = CopySummary::new(counters, args, started.elapsed(), console.warnings());
    if !args.json {
        console.summary(&summary.to_string());
    }
    Ok(summary)
}

async fn run_plan(session: &Session<'_>, plan: &CopyPlan) -> Result<(), CopyError> {
    let roots = NewDirectories::create(plan)?;
    let counters = &session.counters;
    counters.directories.set(plan.directories.len() as u64);
    // Directories whose entries have changed.
    let mut dirs = BTreeSet::new();

    // A single entry that fails ends the run; of several, the others are still copied.
    let is_alone = plan.files.len() + plan.symlinks.len() == 1 && plan.directories.is_empty();
    let on_error = |path: &Path, copy_error: CopyError| match copy_error.affects_all || is_alone {
        true => Err(copy_error),
        false => {
            session.report_failed(path, copy_error);
            Ok(())
        }
    };
    for step in &plan.symlinks {
        let staged = roots.staged(step.root, &step.target);
        match new_directories::link(session, step, &staged) {
            Ok(()) => {
                counters.symlinks.set(counters.symlinks.get() + 1);
                note_changed_dir(&mut dirs, step.root, &step.target);
            }
            Err(copy_error) => on_error(&step.source, copy_error)?,
        }
    }
    let mut files = streams::iter(&plan.files)
        .map(async |step| {
            let staged = roots.staged(step.root, step.destination.path());
            (step, copy_file::copy_file(session, step, staged).await)
        })
        .buffer_unordered(files_at_a_time());
    while let Some((step, result)) = files.next().await {
        match result {
            Ok(()) if step.destination.is_file() => {
                note_changed_dir(&mut dirs, step.root, step.destination.path())
            }
            Ok(()) => {}
            Err(copy_error) => on_error(&step.source, copy_error)?,
        }
    }
    drop(files);
    roots.finish(session, &plan.directories, dirs)
}

/// The number of files that the limit on descriptors (`ulimit -n`) allows.
fn files_at_a_time() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = limit.saturating_sub(OTHERS) / DESCRIPTORS;
    files.clamp(1, FILES as u64) as usize
}

/// Notes that the directory of `target` has to be flushed. New directories are flushed anyway.
fn note_changed_dir(dirs: &mut BTreeSet<PathBuf>, root: Option<usize>, target: &Path) {
    if root.is_none() {
        dirs.insert(parent(target).into());
    }
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
