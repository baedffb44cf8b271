//! A reader and its consumers, with memory of fixed size between them: a file is read into the buffers
//! of a pool, which are handed on as [`Bytes`] without a copy, and are back in the pool when the last
//! consumer has dropped the last of them. The reader can't run ahead: it waits for a buffer.
//!
//! ```sh
//! cargo run --release --features bytes --example pool [DIRECTORY]
//! ```
//!
//! The file lies in `DIRECTORY`, else in `target` or, where there is none, in the current directory. It
//! is removed at the end.

use std::env;
use std::error::Error;
use std::iter;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::poll;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_kaio::{AioContextHandle, BufferPool, File, ReadFlags, aio_context};

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 256; // of the file; and a last one that is half as long
const BUFFERS: usize = 8; // of the pool

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let dir = directory()?;
    let path = dir.path().join("data");
    std::fs::write(&path, content())?;
    let (context, handle) = aio_context(BUFFERS, true)?;
    let file = File::open(&path, false).await?;

    let pool = BufferPool::new(BUFFERS, CHUNK)?;
    // What is sent has no limit of its own: that of the pool is enough.
    let ((to_sums, for_sums), (to_ends, for_ends)) = (unbounded_channel(), unbounded_channel());
    let sums = tokio::spawn(sum(for_sums));
    let ends = tokio::spawn(last_bytes(for_ends));
    let waited = read(&handle, &file, &pool, &[to_sums, to_ends]).await?;

    let content = content();
    let sum: u64 = content.iter().map(|&byte| u64::from(byte)).sum();
    assert_eq!(sums.await?, sum);
    assert_eq!(ends.await?, CHUNKS + 1);
    // Nobody has any of it.
    assert_eq!(pool.available(), BUFFERS);
    println!(
        "{} KiB through {} KiB of memory; the reader has waited for a buffer {waited} times",
        content.len() >> 10,
        (BUFFERS * CHUNK) >> 10,
    );

    wait_for_a_consumer(&pool).await;
    context.close().await;
    Ok(())
}

/// Where consumers have all buffers, there is a next one when the last `Bytes` of one is dropped.
async fn wait_for_a_consumer(pool: &BufferPool) {
    let buffers = iter::from_fn(|| pool.try_get());
    let mut consumers: Vec<_> = buffers.map(Bytes::from).collect();
    assert_eq!(consumers.len(), BUFFERS);
    let mut next = pin!(pool.get());
    assert!(poll!(&mut next).is_pending());

    let header = consumers[0].slice(..16);
    consumers.remove(0);
    assert!(poll!(&mut next).is_pending()); // a few bytes keep all of it
    drop(header);
    assert_eq!(next.await.size(), CHUNK);
}

/// Reads the file from front to back, and sends each chunk to every consumer. Returns how often there
/// was no buffer.
async fn read(
    handle: &AioContextHandle,
    file: &File,
    pool: &BufferPool,
    consumers: &[UnboundedSender<Bytes>],
) -> Result<usize> {
    let mut waited = 0;
    for offset in (0..).step_by(CHUNK) {
        let buffer = match pool.try_get() {
            Some(buffer) => buffer,
            None => {
                waited += 1;
                pool.get().await
            }
        };
        let flags = ReadFlags::empty();
        let (read, buffer) = file.read_owned_at(handle, offset, buffer, flags).await;
        let read = read? as usize;
        if read > 0 {
            let chunk = Bytes::from(buffer).slice(..read);
            for consumer in consumers {
                consumer.send(chunk.clone())?; // the same memory
            }
        }
        if read < CHUNK {
            break; // the end of the file
        }
    }
    Ok(waited)
}

/// A consumer that takes its time.
async fn sum(mut chunks: UnboundedReceiver<Bytes>) -> u64 {
    let mut sum = 0;
    while let Some(chunk) = chunks.recv().await {
        sum += chunk.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sum
}

/// A consumer that keeps a little of some chunks, which keeps their buffers: of two at a time.
async fn last_bytes(mut chunks: UnboundedReceiver<Bytes>) -> usize {
    let (mut kept, mut seen) = ([Bytes::new(), Bytes::new()], 0);
    while let Some(chunk) = chunks.recv().await {
        kept[seen % 2] = chunk.slice(chunk.len() - 16..);
        seen += 1;
    }
    assert_eq!(kept[(seen - 1) % 2], content()[content().len() - 16..]);
    seen
}

fn content() -> Vec<u8> {
    let len = CHUNKS * CHUNK + CHUNK / 2;
    (0..len).map(|at| (at / 997 % 251) as u8).collect()
}

/// Where the file goes: a directory of its own in the one that was given.
fn directory() -> Result<TempDir> {
    let default = if Path::new("target").is_dir() {
        "target"
    } else {
        "."
    };
    let place = env::args_os().nth(1).map_or(default.into(), PathBuf::from);
    tempfile::tempdir_in(&place).map_err(|error| format!("{}: {error}", place.display()).into())
}
