//! `kaio cp`.
//!
//! | module | has |
//! |---|---|
//! | `args` | the command line |
//! | `plan`, `tree`, `place`, `space` | what is to be copied to where, and what is refused, before anything is written |
//! | `session` | what all files of a run share |
//! | `file` | one file, from its opening to its name |
//! | `source`, `extents` | what is copied from, and where it has data |
//! | `target`, `directories` | what is copied to: temporary names, and their end |
//! | `transfer`, `lanes`, `stream`, `zeroes`, `limit` | moving the data |
//! | `verify`, `preserve` | `--verify`, `--preserve` |
//! | `progress`, `summary`, `trouble` | what is told |

// An extent is a range, and a file that has one is no mistake.
#![allow(clippy::single_range_in_vec_init)]

mod args;
mod directories;
mod extents;
mod file;
mod lanes;
mod limit;
mod place;
mod plan;
mod preserve;
mod progress;
mod session;
mod source;
mod space;
mod stream;
mod summary;
mod target;
mod transfer;
mod tree;
mod trouble;
mod verify;
mod zeroes;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream as streams};
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, umask};
use tokio::runtime::Runtime;
use tokio_kaio::{AioContextBuilder, Backend};

pub(crate) use args::Args;

use crate::failure::{Failure, Outcome};
use crate::output::print_json;
use crate::paths::parent;
use directories::Roots;
use plan::Plan;
use session::Session;
use summary::Summary;
use trouble::Trouble;

/// Most files at a time, whatever the depth: while some are being made durable, and the journal takes
/// many in one go, others are read and written.
const FILES: usize = 32;

/// Descriptors that a file takes at most, and the process beside files.
const DESCRIPTORS: u64 = 4;
const OTHERS: u64 = 12;

/// The kernel takes some 30 ms to end an AIO context. What is no more than this has been copied by a few
/// threads by then.
const LITTLE: u64 = 8 << 20;

pub(crate) fn run(args: &Args) -> Outcome {
    let started = Instant::now();
    let plan = Plan::new(args)?;
    // Of the two ways to learn it the one that always works: nothing is created meanwhile.
    let mask = umask(Mode::RWXG | Mode::RWXO);
    umask(mask);
    let runtime = runtime()?;
    let summary = runtime.block_on(copy(args, plan, mask.as_raw_mode(), started))?;
    if args.json {
        print_json(&summary)?;
    }
    Ok(match summary.is_complete() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Its threads stay: with one of them, further ones that can't be had are no trouble.
fn runtime() -> io::Result<Runtime> {
    let starts = thread::Builder::new().spawn(|| ());
    let failed = |error| format!("can't start a thread: {error}; raise the limit (ulimit -u)");
    let _ = starts
        .map_err(|error| io::Error::other(failed(error)))?
        .join();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(u64::from(u32::MAX)))
        .build()
}

async fn copy(
    args: &Args,
    mut plan: Plan,
    umask: u32,
    started: Instant,
) -> Result<Summary, Failure> {
    let depth = usize::from(args.depth);
    // Syncs are requests too.
    let builder = AioContextBuilder::new(depth + files_at_a_time());
    let builder = match plan.bytes <= LITTLE {
        true => builder.backend(Backend::ThreadPool),
        false => builder.automatic_backend(),
    };
    let (context, handle) = builder.build()?;
    let read = plan.bytes * if args.verify { 2 } else { 1 };
    let session = Session::new(args, handle, read, umask)?;
    for (path, trouble) in std::mem::take(&mut plan.failed) {
        session.left_out(&path, trouble);
    }
    let done = steps(&session, &plan).await;
    session.talk.end();
    done?;
    // Nothing is in flight, and the process ends: where no thread can be had, close() would wait for one.
    drop(context);
    let (talk, tally) = (session.talk, session.tally);
    let summary = Summary::new(tally, args, started.elapsed(), talk.warnings());
    if !args.json {
        talk.summary(&summary.to_string());
    }
    Ok(summary)
}

async fn steps(session: &Session<'_>, plan: &Plan) -> Result<(), Trouble> {
    let roots = Roots::make(plan)?;
    let tally = &session.tally;
    tally.directories.set(plan.directories.len() as u64);
    // Directories in which names were made.
    let mut dirs = BTreeSet::new();

    // What is asked for is one thing, or many of which some may fail.
    let is_alone = plan.files.len() + plan.symlinks.len() == 1 && plan.directories.is_empty();
    let go_on = |path: &Path, trouble: Trouble| match trouble.for_all || is_alone {
        true => Err(trouble),
        false => {
            session.left_out(path, trouble);
            Ok(())
        }
    };
    for step in &plan.symlinks {
        let staged = roots.staged(step.root, &step.target);
        match directories::link(session, step, &staged) {
            Ok(()) => {
                tally.symlinks.set(tally.symlinks.get() + 1);
                note_dir(&mut dirs, step.root, &step.target);
            }
            Err(trouble) => go_on(&step.source, trouble)?,
        }
    }
    let mut files = streams::iter(&plan.files)
        .map(async |step| {
            let staged = roots.staged(step.root, step.place.path());
            (step, file::copy(session, step, staged).await)
        })
        .buffer_unordered(files_at_a_time());
    while let Some((step, done)) = files.next().await {
        match done {
            Ok(()) if step.place.is_file() => note_dir(&mut dirs, step.root, step.place.path()),
            Ok(()) => {}
            Err(trouble) => go_on(&step.source, trouble)?,
        }
    }
    drop(files);
    roots.finish(session, &plan.directories, dirs)
}

/// As many as there may be descriptors for (`ulimit -n`).
fn files_at_a_time() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = limit.saturating_sub(OTHERS) / DESCRIPTORS;
    files.clamp(1, FILES as u64) as usize
}

/// New directories are made durable anyway.
fn note_dir(dirs: &mut BTreeSet<PathBuf>, root: Option<usize>, target: &Path) {
    if root.is_none() {
        dirs.insert(parent(target).into());
    }
}

/// Runs a call that may block on tokio's blocking pool.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}
