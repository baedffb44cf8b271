//! Files and buffers with known content.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_kaio::{
    AioCommandError, AioContextHandle, AioOpenOptionsExt, AlignedBuf, File, LockedBuf, ReadFlags,
    WriteFlags,
};

use super::with_hang_guard;

/// A block that every file system accepts for direct I/O.
pub const BLOCK: usize = 4096;

/// The length of a block, as transfers take it.
pub const LEN: u64 = BLOCK as u64;

/// A read of this many bytes usually is in flight long enough for a test to see it there.
pub const LONG: usize = 1 << 20;

/// Fills `block` with bytes that depend on `seed` and on their position.
pub fn pattern(seed: u64, block: &mut [u8]) {
    for (i, word) in block.chunks_mut(8).enumerate() {
        let value = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64;
        word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
    }
}

/// Whether `block` holds [`pattern`] `seed`.
pub fn is_pattern(seed: u64, block: &[u8]) -> bool {
    let mut expected = vec![0; block.len()];
    pattern(seed, &mut expected);
    expected == block
}

/// A buffer of `size` bytes. Not locked: tests that run side by side share the memlock limit.
pub fn buffer(size: usize) -> AlignedBuf {
    AlignedBuf::new(size).unwrap()
}

/// A locked buffer of `size` bytes, as the constructors of `linux-aio-tokio` make it.
pub fn locked_buffer(size: usize) -> LockedBuf {
    LockedBuf::with_size(size).unwrap()
}

/// A buffer that holds [`pattern`] `seed`.
pub fn patterned_buffer(seed: u64, size: usize) -> LockedBuf {
    let mut buffer = buffer(size);
    pattern(seed, buffer.as_mut());
    buffer
}

/// Writes a file of `blocks` blocks; block `i` holds [`pattern`] `i`.
pub fn write_patterned(path: &Path, blocks: usize) {
    let mut bytes = vec![0; blocks * BLOCK];
    for (i, block) in bytes.chunks_mut(BLOCK).enumerate() {
        pattern(i as u64, block);
    }
    fs::write(path, bytes).unwrap();
    fs::File::open(path).unwrap().sync_all().unwrap();
}

/// The file `data` in `dir` with `blocks` blocks, open for reading and writing; block `i` holds [`pattern`] `i`.
pub async fn patterned_file(dir: &TempDir, blocks: u64) -> File {
    write_patterned(&dir.path().join("data"), blocks as usize);
    open_rw(dir, "data").await
}

/// Opens `name` in `dir` for reading and writing; creates it if needed.
pub async fn open_rw(dir: &TempDir, name: &str) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options
        .aio_open(dir.path().join(name), false)
        .await
        .unwrap()
}

/// Reads a block at byte `offset`.
pub async fn read_block(
    handle: &AioContextHandle,
    file: &File,
    offset: u64,
    target: &mut LockedBuf,
) -> Result<u64, AioCommandError> {
    file.read_at(handle, offset, target, BLOCK as u64, ReadFlags::empty())
        .await
}

/// Writes all of `bytes` at block `block`.
pub async fn write(
    handle: &AioContextHandle,
    file: &File,
    block: u64,
    bytes: &LockedBuf,
) -> Result<u64, AioCommandError> {
    let (offset, len) = (block * BLOCK as u64, bytes.size() as u64);
    file.write_at(handle, offset, bytes, len, WriteFlags::empty())
        .await
}

/// Reads the first `blocks` blocks of a patterned file, each in its own task.
pub async fn read_in_tasks(handle: &AioContextHandle, file: File, blocks: u64) {
    let file = Arc::new(file);
    let mut tasks = JoinSet::new();
    for block in 0..blocks {
        let (handle, file) = (handle.clone(), Arc::clone(&file));
        tasks.spawn(async move {
            let mut bytes = buffer(BLOCK);
            let read = read_block(&handle, &file, block * BLOCK as u64, &mut bytes).await;
            assert_eq!(read.unwrap(), BLOCK as u64);
            assert!(is_pattern(block, bytes.as_ref()));
        });
    }
    with_hang_guard(tasks.join_all()).await;
}

/// `len` bytes with [`pattern`] 7.
pub fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pattern(7, &mut bytes);
    bytes
}

/// The file `data` in `dir` with [`content`] `len`, open for direct reads and writes.
pub async fn file_with_content(dir: &TempDir, len: usize) -> File {
    fs::write(dir.path().join("data"), content(len)).unwrap();
    open_rw(dir, "data").await
}

/// What the file `data` in `dir` holds.
pub fn file_content(dir: &TempDir) -> Vec<u8> {
    fs::read(dir.path().join("data")).unwrap()
}
