//! [`BenchFile`]: a scratch file to measure with.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::temp_path::TempPath;
use crate::{PageBuffer, Place, Result, Unavailable};

/// A scratch file to measure with. Removed on drop.
#[derive(Debug)]
pub struct BenchFile {
    /// The directory given to [`BenchFile::new`].
    pub place: Place,
    /// Path of the file. All of its bytes are on disk.
    pub path: PathBuf,
    _dir: TempPath,
}

impl BenchFile {
    /// Creates a file of `len` bytes in a new directory in `parent`. `len` must be a multiple of the
    /// alignment of direct I/O. If `direct`, the file system must support direct I/O.
    ///
    /// # Errors
    ///
    /// Errors of creating and writing the file; [`Unavailable`] without direct I/O.
    pub fn new(parent: &Path, len: u64, direct: bool) -> Result<BenchFile> {
        let dir = TempPath::dir(parent, "kaio-bench-").map_err(|error| {
            let place = parent.display();
            format!("can't create a directory in {place}: {error}; choose another directory")
        })?;
        let bench_file = BenchFile {
            place: Place::of(parent)?,
            path: dir.path().join("blocks"),
            _dir: dir,
        };
        let created =
            check_free_space(len, parent).and_then(|()| write_file(&bench_file.path, len, direct));
        created.map_err(|error| {
            let (place, mib) = (parent.display(), len.div_ceil(1 << 20));
            let kind = if direct { " for direct I/O" } else { "" };
            let message = format!("can't create a file of {mib} MiB{kind} in {place}: {error}");
            match error.raw_os_error() {
                Some(libc::EINVAL) if direct => Unavailable(format!(
                    "{message}: its file system has no direct I/O; choose another"
                ))
                .into(),
                Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
                    format!("{message}; --size makes it smaller").into()
                }
                _ => Error::from(message),
            }
        })?;
        Ok(bench_file)
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Checks that `len` bytes are free in `dir`, so that the disk need not be filled to find out.
///
/// # Errors
///
/// `ENOSPC` if they are not.
pub(crate) fn check_free_space(len: u64, dir: &Path) -> std::io::Result<()> {
    let space = rustix::fs::statvfs(dir)?;
    // File systems that do not count blocks, such as ramfs, report 0 in total.
    let is_short = space.f_blocks > 0 && space.f_bfree.saturating_mul(space.f_frsize) < len;
    match is_short {
        true => Err(std::io::Error::from_raw_os_error(libc::ENOSPC)),
        false => Ok(()),
    }
}

/// Writes a file of `len` bytes to disk; if `direct`, not through the page cache.
fn write_file(path: &Path, len: u64, direct: bool) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let mut file = options.custom_flags(flags).open(path)?;
    let chunk = PageBuffer::new(1 << 20);
    let mut left = len;
    while left > 0 {
        let part = left.min(chunk.len() as u64);
        file.write_all(&chunk[..part as usize])?;
        left -= part;
    }
    file.sync_all()
}
