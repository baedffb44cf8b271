//! [`create_all`]: creates the files to measure with.

use std::path::{Path, PathBuf};

use crate::{BenchFile, Result};

/// Creates a file in each of `parents`. By default, creates one in `target`, or `.` if that is missing, and
/// one in /dev/shm if that has direct I/O. Makes the names of the places unique.
pub(super) fn create_all(parents: &[PathBuf], len: u64) -> Result<Vec<BenchFile>> {
    let mut files: Vec<BenchFile> = Vec::new();
    let mut add = |parent: &Path| {
        let mut file = BenchFile::new(parent, len, true)?;
        let same = |other: &&BenchFile| other.place.file_system == file.place.file_system;
        let named =
            |other: &&BenchFile| other.place.name.starts_with(&file.place.name) && same(other);
        match files.iter().filter(named).count() {
            0 => {}
            n => file.place.name = format!("{}-{}", file.place.name, n + 1),
        }
        files.push(file);
        Result::Ok(())
    };
    if parents.is_empty() {
        let target = Path::new("target");
        add(if target.is_dir() {
            target
        } else {
            Path::new(".")
        })?;
        if let Err(error) = add(Path::new("/dev/shm")) {
            eprintln!("skipping tmpfs: {error}");
        }
    }
    parents.iter().try_for_each(|parent| add(parent))?;
    Ok(files)
}
