//! Questions about paths that several commands ask.

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kaio_bench::Place;

/// The directory that contains `path`: `.` for a bare name, `/` for `/`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// The absolute path, for messages: `.` says little to a user who has named no directory.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Device and inode, which identify a file whatever its name is.
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The length of a file or block device in bytes. The metadata of a device don't contain it.
///
/// # Errors
///
/// The file can't be opened for reading.
pub(crate) fn length(path: &Path) -> io::Result<u64> {
    File::open(path)?.seek(SeekFrom::End(0))
}

/// Whether the file system `name` belongs to the kernel, such as procfs: programs can't create files on
/// it. Some of these file systems report that as "No such file or directory".
pub(crate) fn is_kernel_file_system(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "proc",
        "sysfs",
        "cgroup",
        "cgroup2",
        "debugfs",
        "tracefs",
        "securityfs",
        "bpf",
        "devpts",
    ];
    NAMES.contains(&name)
}

/// Why no file can be created in `dir`, if that is because of its file system.
pub(crate) fn creation_forbidden(dir: &Path) -> Option<String> {
    let name = Place::of(dir).ok()?.file_system;
    is_kernel_file_system(&name).then(|| cant_hold_files(&name))
}

/// The text for a file system of the kernel.
pub(crate) fn cant_hold_files(name: &str) -> String {
    format!("{name} is a file system of the kernel, and programs can't create files on it")
}
