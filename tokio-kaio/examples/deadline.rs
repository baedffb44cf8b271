//! Ends operations at a deadline, whatever the disk does, and closes a context while one of its requests
//! is stuck. The stuck request here is a read of an empty pipe. This context submits everything from
//! the blocking pool, so only a thread of the pool waits for it.
//!
//! ```sh
//! cargo run --release --example deadline [DIRECTORY]
//! ```
//!
//! Creates its file in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! it at the end.

use std::env;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::unix::pipe;
use tokio::time::Instant;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, AlignedBuf, File, RawCommand, ReadFlags,
    SubmitPolicy,
};

const LEN: u64 = 4096;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = directory()?;
    let path = dir.path().join("table");
    fs::write(&path, vec![7; LEN as usize])?;
    let file = File::open(&path, false).await?;
    let (sender, receiver) = pipe::pipe()?;
    let (sender, receiver) = (sender.into_blocking_fd()?, receiver.into_blocking_fd()?);

    let (context, handle) = AioContextBuilder::new(8)
        .submit_policy(SubmitPolicy::Offload)
        .build()?;
    timeout_per_operation(&handle, &file).await?;
    one_deadline_for_all(&handle, &file, &receiver).await?;

    // The read of the pipe is still in flight. `close` would wait for it forever.
    let closed = context.close_timeout(Duration::from_millis(50)).await;
    let error = closed.expect_err("closed although the read of the pipe is in flight");
    println!("close timed out: {error}");
    // On a slow disk, the read of the file may be in flight too.
    assert!(error.in_flight() > 0 && error.in_flight() == error.abandoned());
    assert!(error.descriptors().contains(&receiver.as_raw_fd()));

    // The context ends by itself as soon as its last request completes.
    fs::File::from(sender).write_all(b"at last")?;
    while handle.metrics().in_flight > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("the pipe was written to: nothing is in flight any more");
    Ok(())
}

/// `with_timeout`: a limit for each operation, from its first poll.
async fn timeout_per_operation(
    handle: &AioContextHandle,
    file: &File,
) -> Result<(), Box<dyn Error>> {
    let patient = handle.with_timeout(Duration::from_secs(60));
    let mut buffer = AlignedBuf::new(LEN as usize)?;
    for _ in 0..2 {
        let read = file.read_at(&patient, 0, &mut buffer, LEN, ReadFlags::empty());
        assert_eq!(read.await?, LEN);
    }
    println!("two reads completed, each within its timeout");
    Ok(())
}

/// `with_deadline`: one limit for all operations of a task, here those that answer a client.
async fn one_deadline_for_all(
    handle: &AioContextHandle,
    file: &File,
    pipe: &OwnedFd,
) -> Result<(), Box<dyn Error>> {
    // Within this time a thread begins each read, even on a busy machine. A read that no thread has begun by the
    // deadline is withdrawn: it would not be in flight when the context is closed.
    let deadline = Instant::now() + Duration::from_secs(1);
    let limited = handle.with_deadline(deadline);
    let (mut block, mut answer) = (AlignedBuf::new(LEN as usize)?, AlignedBuf::new(16)?);
    let stuck = RawCommand::Pread {
        offset: 0,
        buffer: &mut answer,
        flags: ReadFlags::empty(),
        len: 16,
    };
    let (read, stuck) = tokio::join!(
        file.read_at(&limited, 0, &mut block, LEN, ReadFlags::empty()),
        limited.submit_request(pipe, stuck),
    );
    assert!(matches!(stuck, Err(AioCommandError::TimedOut)));
    // The kernel can still write to the memory of the stuck read, so the buffer has new memory.
    assert_eq!(answer[..], [0; 16]);
    if let Err(AioCommandError::TimedOut) = read {
        println!("the disk is slow: both reads timed out");
        return Ok(());
    }
    assert_eq!(read?, LEN);

    // An operation that starts after the deadline is not submitted.
    let submitted = handle.metrics().submitted;
    let read = file.read_at(&limited, 0, &mut block, LEN, ReadFlags::empty());
    assert!(matches!(read.await, Err(AioCommandError::TimedOut)));
    assert_eq!(handle.metrics().submitted, submitted);
    println!("by the deadline, one read completed, a stuck one and a late one timed out");
    Ok(())
}

/// A scratch directory in the one that was given. Removed when it is dropped.
fn directory() -> Result<TempDir, Box<dyn Error>> {
    let default = if Path::new("target").is_dir() {
        "target"
    } else {
        "."
    };
    let place = env::args_os().nth(1).map_or(default.into(), PathBuf::from);
    tempfile::tempdir_in(&place).map_err(|error| format!("{}: {error}", place.display()).into())
}
