//! Files to measure with.

use std::fs;
use std::path::{Path, PathBuf};

use kaio_bench::{Pattern, Shape, Workload, engines};
use tempfile::TempDir;

/// Length of each file in bytes.
pub(crate) const LEN: usize = 2 << 20;

/// Creates a file on the disk of the build directory, and one on tmpfs if it supports direct I/O. Returns
/// them with their directories.
pub(crate) fn files() -> Vec<(TempDir, PathBuf)> {
    let parents = [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"];
    let mut files = Vec::new();
    for parent in parents.map(Path::new) {
        let Ok(dir) = tempfile::tempdir_in(parent) else {
            eprintln!("skipped in {}: can't write there", parent.display());
            continue;
        };
        let path = dir.path().join("blocks");
        fs::write(&path, vec![7; LEN]).unwrap();
        fs::File::open(&path).unwrap().sync_all().unwrap();
        let workload = Workload::new(Pattern::RandomRead, Shape::Tasks, 1, &path, LEN as u64);
        if let Err(error) = engines::open_file(&workload, false) {
            eprintln!("skipped in {}: {error}", parent.display());
            continue;
        }
        files.push((dir, path));
    }
    assert!(!files.is_empty(), "no directory with direct I/O");
    files
}
