//! Operations that end in time whatever the disk does, and a context that is closed while one of them
//! is stuck. What is stuck here is a read of an empty pipe, which goes from the blocking pool, as all
//! requests of this context do: its thread waits, and nobody else.
//!
//! ```sh
//! cargo run --release --example deadline [DIRECTORY]
//! ```
//!
//! The file lies in `DIRECTORY`, else in `target` or, where there is none, in the current directory. It
//! is removed at the end.

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
    each_in_its_time(&handle, &file).await?;
    all_by_one_time(&handle, &file, &receiver).await?;

    // The pipe's read is still out: a close that waits for it would wait for ever.
    let still_out = match context.close_timeout(Duration::from_millis(50)).await {
        Ok(()) => return Err("there is nothing to read, and yet it was read".into()),
        Err(still_out) => still_out,
    };
    println!("closing: {still_out}");
    assert_eq!((still_out.in_flight(), still_out.abandoned()), (1, 1));
    assert_eq!(still_out.descriptors(), [receiver.as_raw_fd()]);

    // The context has gone on to end by itself, which it does as soon as nothing is stuck any more.
    fs::File::from(sender).write_all(b"at last")?;
    while handle.metrics().in_flight > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("nothing is out any more");
    Ok(())
}

/// `with_timeout`: so much time for each operation, from its start.
async fn each_in_its_time(handle: &AioContextHandle, file: &File) -> Result<(), Box<dyn Error>> {
    let patient = handle.with_timeout(Duration::from_secs(60));
    let mut buffer = AlignedBuf::new(LEN as usize)?;
    for _ in 0..2 {
        let read = file.read_at(&patient, 0, &mut buffer, LEN, ReadFlags::empty());
        assert_eq!(read.await?, LEN);
    }
    println!("two reads, each in its time");
    Ok(())
}

/// `with_deadline`: one end for all that it takes to answer somebody.
async fn all_by_one_time(
    handle: &AioContextHandle,
    file: &File,
    pipe: &OwnedFd,
) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_millis(100);
    let in_time = handle.with_deadline(deadline);
    let (mut block, mut answer) = (AlignedBuf::new(LEN as usize)?, AlignedBuf::new(16)?);
    let stuck = RawCommand::Pread {
        offset: 0,
        buffer: &mut answer,
        flags: ReadFlags::empty(),
        len: 16,
    };
    let (read, stuck) = tokio::join!(
        file.read_at(&in_time, 0, &mut block, LEN, ReadFlags::empty()),
        in_time.submit_request(pipe, stuck),
    );
    assert_eq!(read?, LEN);
    assert!(matches!(stuck, Err(AioCommandError::TimedOut)));
    // The kernel may still write to the memory of the one that is stuck, so the buffer has other.
    assert_eq!(answer[..], [0; 16]);

    // What starts too late is not submitted at all.
    let submitted = handle.metrics().submitted;
    let read = file.read_at(&in_time, 0, &mut block, LEN, ReadFlags::empty());
    assert!(matches!(read.await, Err(AioCommandError::TimedOut)));
    assert_eq!(handle.metrics().submitted, submitted);
    println!("one read done, one stuck, one too late: at the deadline all were over");
    Ok(())
}

/// Where the file goes: a directory of its own in the one that was given.
fn directory() -> Result<TempDir, Box<dyn Error>> {
    let default = if Path::new("target").is_dir() {
        "target"
    } else {
        "."
    };
    let place = env::args_os().nth(1).map_or(default.into(), PathBuf::from);
    tempfile::tempdir_in(&place).map_err(|error| format!("{}: {error}", place.display()).into())
}
