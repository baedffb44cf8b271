//! Reads a file from ordinary threads, without a tokio runtime, through a handle in a `static`.
//!
//! ```sh
//! cargo run --release --example own_thread [FILE]
//! ```
//!
//! Reads `FILE`, by default this source.

use std::error::Error;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::{env, io, thread};

use futures::executor::block_on;
use tokio_kaio::{AioContextBuilder, AioContextHandle, BoundFile, File, ReadFlags};

const THREADS: u64 = 4;
const PIECE: usize = 64 << 10;

/// Works from any executor, and as long as the program runs.
static HANDLE: LazyLock<AioContextHandle> = LazyLock::new(|| {
    let builder = AioContextBuilder::new(64).automatic_backend().own_thread();
    builder
        .build_detached()
        .expect("a context for the whole program")
});

fn main() -> Result<(), Box<dyn Error>> {
    let source = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/own_thread.rs");
    let path = env::args_os().nth(1).map_or_else(source, PathBuf::from);
    let file = File::open_blocking(&path, false)?.with_handle(&HANDLE);
    let threads: Vec<_> = (0..THREADS)
        .map(|first| {
            let file = file.clone();
            thread::spawn(move || block_on(count_lines(&file, first)))
        })
        .collect();
    let mut lines = 0;
    for thread in threads {
        lines += thread.join().expect("no panic")?;
    }
    println!("{}: {lines} lines\n\n{}", path.display(), HANDLE.metrics());
    Ok(())
}

/// Counts the lines that end in each [`THREADS`]th piece of the file, from piece `first`.
async fn count_lines(file: &BoundFile, first: u64) -> io::Result<usize> {
    let mut bytes = vec![0; PIECE];
    let mut lines = 0;
    for piece in (first..).step_by(THREADS as usize) {
        let at = piece * PIECE as u64;
        let read = file
            .read_bytes_at(at, &mut bytes, ReadFlags::empty())
            .await?;
        lines += bytes[..read as usize]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        if read < PIECE as u64 {
            break;
        }
    }
    Ok(lines)
}
