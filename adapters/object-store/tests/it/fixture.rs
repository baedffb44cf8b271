//! Directories to test in, and data with known content.

use std::env;
use std::fs;
use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tempfile::TempDir;

/// A directory on the disk of the build, and one on tmpfs.
pub(crate) fn test_dirs() -> Vec<TempDir> {
    let tmpfs = tempfile::tempdir_in("/dev/shm");
    if let Err(error) = &tmpfs {
        eprintln!("skipped on tmpfs: /dev/shm: {error}");
    }
    [Some(disk_dir()), tmpfs.ok()]
        .into_iter()
        .flatten()
        .collect()
}

/// A directory on the disk of the build.
pub(crate) fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Bytes that differ at each offset, and between seeds.
pub(crate) fn data(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(len);
    data
}

/// Every file below `dir`, by its path from there.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => files.push(path.strip_prefix(dir).unwrap().to_owned()),
            }
        }
    }
    files.sort();
    files
}

/// Writes a file, durably, and evicts it from the page cache, so that it is read from the device.
pub(crate) fn write_uncached(path: &Path, data: &[u8]) {
    fs::write(path, data).unwrap();
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Whether all of a file is in the page cache. Says that a test is skipped, and why, if not.
pub(crate) fn is_cached(path: &Path) -> bool {
    let file = fs::File::open(path).unwrap();
    let mut memory = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    let read = rustix::io::preadv2(&file, &mut [IoSliceMut::new(&mut memory)], 0, flags);
    let why = match read {
        Ok(read) if read == memory.len() => return true,
        Ok(_) | Err(Errno::AGAIN) => "the kernel has evicted a part of it",
        Err(Errno::OPNOTSUPP) => "the file system does not say what is cached",
        Err(error) => panic!("{}: {error}", path.display()),
    };
    eprintln!("skipped: {}: {why}", path.display());
    false
}

/// How long the store keeps a file after its last use. `IDLE` in `src/descriptor_cache.rs` has the same value.
const IDLE: Duration = Duration::from_secs(5);

/// Whether less than `IDLE` has passed since `start`: the store has closed no file that was used since.
pub(crate) fn are_kept_since(start: Instant) -> bool {
    start.elapsed() < IDLE
}

/// Set in the process that a test has started for itself.
const CHILD: &str = "KAIO_OBJECT_STORE_TEST_CHILD";

/// Runs the rest of a test in a process of its own, because it changes limits or forks. Returns whether this
/// is that process.
pub(crate) fn in_child(module: &str, test: &str) -> bool {
    if env::var_os(CHILD).is_some() {
        return true;
    }
    let test = format!("{}::{test}", module.split_once("::").unwrap().1);
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args([&test, "--exact", "--nocapture"])
        .env(CHILD, "1");
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("1 passed"), "{text}");
    false
}
