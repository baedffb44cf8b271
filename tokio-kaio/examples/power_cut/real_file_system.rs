//! The programs on a real file system, for `tests/power-cuts.sh`, which makes snapshots of its disk.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use tokio_kaio::aio_context;

use crate::programs::{History, Job, Oracle, Result};

/// Runs the program in `dir` until it is killed, and writes what it has started and what is durable to the
/// file `events`.
pub(crate) async fn run(job: Job, dir: &Path, events: &Path) -> Result<ExitCode> {
    let job = Job {
        operations: u64::MAX,
        ..job
    };
    let (context, handle) = aio_context(32, true)?;
    let mut options = fs::OpenOptions::new();
    let opened = options.create(true).append(true).open(events);
    let opened = opened.map_err(|error| format!("{}: {error}", events.display()))?;
    job.run(dir, &handle, &Oracle::with_events(opened)).await?;
    context.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Verifies what a snapshot of the disk has in `dir`. When the snapshot was begun, the file `events` had
/// `durable` bytes; it is a copy that was made when the snapshot was done.
pub(crate) async fn verify(
    job: Job,
    dir: &Path,
    events: &Path,
    durable: usize,
) -> Result<ExitCode> {
    let text = fs::read_to_string(events);
    let text = text.map_err(|error| format!("{}: {error}", events.display()))?;
    let history = History::parse(&text, durable)?;
    let (started, known) = (history.started(), history.durable().len());
    let (context, handle) = aio_context(32, true)?;
    let verified = job
        .verify(dir, &handle, &Oracle::with_history(history))
        .await;
    context.close().await;
    match verified {
        Ok(()) => {
            println!("intact: {started} operations, of these {known} were durable and are needed");
            Ok(ExitCode::SUCCESS)
        }
        Err(loss) => {
            println!("lost: {loss}");
            Ok(ExitCode::FAILURE)
        }
    }
}
