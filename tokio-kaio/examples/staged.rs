//! A small object store: objects appear whole or not at all. Uploads in parts, uploads on a condition,
//! aborted uploads, and readers that see the old object or the new one.
//!
//! ```sh
//! cargo run --release --example staged [DIRECTORY]
//! ```
//!
//! Creates its objects in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! them at the end.

use std::env;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_kaio::{
    AioContextHandle, PublishMode, StagedFile, StagedFileBuilder, WriteFlags, aio_context,
};

/// Parts need not be aligned.
const PART: usize = 300_001;
const PARTS: usize = 16;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let dir = directory()?;
    let path = dir.path().join("object");
    let (context, handle) = aio_context(32, true)?;

    let first = upload(&handle, &path, 1).await?;
    first.publish(PublishMode::CreateNew).await?;
    println!("uploaded {PARTS} parts of {PART} bytes at the same time");

    // The condition is checked when the object is published.
    let late = upload(&handle, &path, 2).await?;
    match late.publish(PublishMode::CreateNew).await {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            println!("not uploaded: {error}");
        }
        other => drop(other?),
    }
    assert_eq!(content(&path)?, 1);

    let aborted = upload(&handle, &path, 3).await?;
    aborted.discard().await?;
    assert_eq!(content(&path)?, 1);

    // Others read the old object until the new one is there.
    let second = upload(&handle, &path, 4).await?;
    let publishing = tokio::spawn(second.publish(PublishMode::Replace));
    let (mut old, mut new) = (0, 0);
    while new == 0 {
        match content(&path)? {
            1 => old += 1,
            4 => new += 1,
            other => panic!("a part of an object: {other}"),
        }
        tokio::task::yield_now().await;
    }
    publishing.await??;
    println!("replaced: {old} times the old object was read, then the new one");

    let left: Vec<_> = std::fs::read_dir(dir.path())?.collect();
    assert_eq!(left.len(), 1, "{left:?}");
    println!("nothing else is left in the directory");
    context.close().await;
    Ok(())
}

/// Writes an object of bytes `content`, which is durable when it is published.
async fn upload(handle: &AioContextHandle, path: &Path, content: u8) -> Result<StagedFile> {
    // A full disk is an error here.
    let len = (PART * PARTS) as u64;
    let builder = StagedFileBuilder::new(path).len(len).sync(true);
    let staged = builder.create().await?;
    let mut parts = JoinSet::new();
    for part in 0..PARTS {
        let (file, handle) = (staged.file().clone(), handle.clone());
        parts.spawn(async move {
            let bytes = vec![content; PART];
            let offset = (part * PART) as u64;
            let flags = WriteFlags::empty();
            file.write_bytes_at(&handle, offset, &bytes, flags).await
        });
    }
    // If one fails, the staged file is dropped, and removed.
    while let Some(part) = parts.join_next().await {
        part??;
    }
    Ok(staged)
}

/// Checks that the object is whole, and returns its bytes, which are all the same.
fn content(path: &Path) -> Result<u8> {
    let bytes = std::fs::read(path)?;
    assert_eq!(bytes.len(), PART * PARTS);
    assert!(bytes.iter().all(|&byte| byte == bytes[0]));
    Ok(bytes[0])
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
