//! Reads a file into the buffers of a pool and sends them to consumers as [`Bytes`], without a copy. A
//! buffer returns to the pool when the last consumer drops its last `Bytes`. The reader waits for a
//! free buffer, so it can't run ahead of its consumers, and memory is bounded.
//!
//! ```sh
//! cargo run --release --features bytes --example pool [DIRECTORY]
//! ```
//!
//! Creates its file in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! it at the end.

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
const CHUNKS: usize = 256; // in the file, followed by half a chunk
const BUFFERS: usize = 8; // in the pool

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let dir = directory()?;
    let path = dir.path().join("data");
    std::fs::write(&path, content())?;
    let (context, handle) = aio_context(BUFFERS, true)?;
    let file = File::open(&path, false).await?;

    let pool = BufferPool::new(BUFFERS, CHUNK)?;
    // The channels need no limit of their own: the pool limits what is sent.
    let ((to_sums, for_sums), (to_ends, for_ends)) = (unbounded_channel(), unbounded_channel());
    let sums = tokio::spawn(sum(for_sums));
    let ends = tokio::spawn(last_bytes(for_ends));
    let waited = read(&handle, &file, &pool, &[to_sums, to_ends]).await?;

    let content = content();
    let sum: u64 = content.iter().map(|&byte| u64::from(byte)).sum();
    assert_eq!(sums.await?, sum);
    assert_eq!(ends.await?, CHUNKS + 1);
    // All buffers are back.
    assert_eq!(pool.available(), BUFFERS);
    println!(
        "read {} KiB through {} KiB of buffers; the reader waited for a buffer {waited} times",
        content.len() >> 10,
        (BUFFERS * CHUNK) >> 10,
    );

    wait_for_a_consumer(&pool).await;
    context.close().await;
    Ok(())
}

/// Consumers hold all buffers: `get` waits until the last `Bytes` of a buffer is dropped.
async fn wait_for_a_consumer(pool: &BufferPool) {
    let buffers = iter::from_fn(|| pool.try_get());
    let mut consumers: Vec<_> = buffers.map(Bytes::from).collect();
    assert_eq!(consumers.len(), BUFFERS);
    let mut next = pin!(pool.get());
    assert!(poll!(&mut next).is_pending());

    let header = consumers[0].slice(..16);
    consumers.remove(0);
    assert!(poll!(&mut next).is_pending()); // 16 bytes keep the whole buffer
    drop(header);
    assert_eq!(next.await.size(), CHUNK);
    println!("a buffer came back when the last slice of it was dropped");
}

/// Reads the file from front to back and sends each chunk to every consumer. Returns how often it had to
/// wait for a buffer.
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

/// A slow consumer.
async fn sum(mut chunks: UnboundedReceiver<Bytes>) -> u64 {
    let mut sum = 0;
    while let Some(chunk) = chunks.recv().await {
        sum += chunk.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sum
}

/// A consumer that keeps 16 bytes of the last two chunks, and so keeps two buffers from the pool.
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

/// A scratch directory in the one that was given. Removed when it is dropped.
fn directory() -> Result<TempDir> {
    let default = if Path::new("target").is_dir() {
        "target"
    } else {
        "."
    };
    let place = env::args_os().nth(1).map_or(default.into(), PathBuf::from);
    tempfile::tempdir_in(&place).map_err(|error| format!("{}: {error}", place.display()).into())
}
