//! One request for several pieces of memory: a header and a body in separate buffers, pages of one buffer
//! in another order, and a list of owned buffers.
//!
//! ```sh
//! cargo run --release --example vectored [DIRECTORY]
//! ```
//!
//! Creates its file in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! it at the end.

use std::env;
use std::error::Error;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio_kaio::{
    AioContextHandle, AioOpenOptionsExt, AlignedBuf, File, ReadFlags, WriteFlags, aio_context,
};

const PAGE: usize = 4096;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = directory()?;
    let (context, handle) = aio_context(8, true)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    let file = options.aio_open(dir.path().join("records"), false).await?;

    header_and_body(&handle, &file).await?;
    pages_in_another_order(&handle, &file).await?;
    owned_buffers(&handle, &file).await?;

    context.close().await;
    Ok(())
}

/// Writes a header and a body from two buffers, without copying either, and reads them back.
async fn header_and_body(handle: &AioContextHandle, file: &File) -> Result<(), Box<dyn Error>> {
    let mut header = AlignedBuf::new(PAGE)?;
    let mut body = AlignedBuf::new(16 * PAGE)?;
    body.fill(7);
    let used = 3 * PAGE; // the rest of the buffer is not written
    header[..8].copy_from_slice(&(used as u64).to_le_bytes());

    let record = [header.part(..), body.part(..used)];
    let written = file.write_vectored_at(handle, 0, &record, WriteFlags::DSYNC);
    assert_eq!(written.await?, (PAGE + used) as u64);

    // The read ends where the file ends.
    header.fill(0);
    body.fill(0);
    let record = &mut [header.part_mut(..), body.part_mut(..)];
    let read = file.read_vectored_at(handle, 0, record, ReadFlags::empty());
    assert_eq!(read.await?, (PAGE + used) as u64);
    assert_eq!(header[..8], (used as u64).to_le_bytes());
    assert!(body[..used].iter().all(|&byte| byte == 7));
    println!("a header of {PAGE} bytes and a body of {used}: one request to write, one to read");
    Ok(())
}

/// Writes pages of one buffer in the order of their place in the file. Each range must be aligned for
/// direct I/O.
async fn pages_in_another_order(
    handle: &AioContextHandle,
    file: &File,
) -> Result<(), Box<dyn Error>> {
    let order = [3, 0, 2, 1];
    let mut cache = AlignedBuf::new(order.len() * PAGE)?;
    for (number, page) in (0..).zip(cache.chunks_mut(PAGE)) {
        page.fill(number);
    }
    let sorted = order.map(|page| cache.part(page * PAGE..(page + 1) * PAGE));
    let written = file.write_vectored_at(handle, 0, &sorted, WriteFlags::empty());
    assert_eq!(written.await?, cache.size() as u64);

    let mut back = AlignedBuf::new(cache.size())?;
    let len = back.size() as u64;
    file.read_exact_at(handle, 0, &mut back, len, ReadFlags::empty())
        .await?;
    for (page, number) in back.chunks(PAGE).zip(order) {
        assert!(page.iter().all(|&byte| usize::from(byte) == number));
    }
    println!("pages {order:?} of one buffer, written next to each other in the file");
    Ok(())
}

/// Passes buffers that the operation owns while it runs. They come back with its result.
async fn owned_buffers(handle: &AioContextHandle, file: &File) -> Result<(), Box<dyn Error>> {
    let pages = (1..=4).map(|number| {
        let mut page = AlignedBuf::new(PAGE)?;
        page.fill(number);
        Ok(page)
    });
    let pages: Vec<_> = pages.collect::<Result<_, Box<dyn Error>>>()?;
    let flags = WriteFlags::empty();
    let (written, mut pages) = file.write_vectored_owned_at(handle, 0, pages, flags).await;
    assert_eq!(written?, (4 * PAGE) as u64);

    pages.iter_mut().for_each(|page| page.fill(0));
    let flags = ReadFlags::empty();
    let (read, pages) = file.read_vectored_owned_at(handle, 0, pages, flags).await;
    assert_eq!(read?, (4 * PAGE) as u64);
    for (number, page) in (1..).zip(&pages) {
        assert!(page.iter().all(|&byte| byte == number));
    }
    println!("{} owned buffers: written, read, and returned", pages.len());
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
