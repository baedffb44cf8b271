//! [`ShortPath`]: a name for a file whose path is too long for the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::paths::parent;

/// Paths of this length and above are too long: `PATH_MAX` is 4096 with the final zero, and a temporary
/// name can be longer than the name it stands for.
const TOO_LONG: usize = 4096 - 128;

/// The flags of a directory that only other calls refer to.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A path that is short enough for a system call: the path itself, or the name of the file below
/// `/proc/self/fd`, where its open directory is.
#[derive(Debug)]
pub(super) struct ShortPath {
    path: PathBuf,
    /// Open as long as the path is used.
    _dir: Option<OwnedFd>,
}

impl ShortPath {
    /// # Errors
    ///
    /// The directory of a long path can't be opened.
    pub(super) fn of(path: &Path) -> io::Result<ShortPath> {
        // Temporary files are registered with their absolute paths.
        let length = std::path::absolute(path)?.as_os_str().len();
        if length < TOO_LONG {
            return Ok(ShortPath {
                path: path.into(),
                _dir: None,
            });
        }
        let dir = open_directory(parent(path))?;
        let mut short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        short.extend(path.file_name());
        Ok(ShortPath {
            path: short,
            _dir: Some(dir),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens a directory for calls that are relative to it, whatever the length of its path is.
///
/// # Errors
///
/// Those of [`openat(2)`](https://man7.org/linux/man-pages/man2/openat.2.html).
pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    if path.as_os_str().len() < TOO_LONG {
        return Ok(openat(CWD, path, DIRECTORY, Mode::empty())?);
    }
    let mut dir: Option<OwnedFd> = None;
    let mut part = PathBuf::new();
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        part.push(component);
        let next = components.peek().map(|next| next.as_os_str());
        let next = next.map_or(0, |next| next.as_bytes().len() + 1);
        let is_last = next == 0;
        if is_last || part.as_os_str().len() + next >= TOO_LONG {
            let at = dir.as_ref().map_or(CWD, |dir| dir.as_fd());
            dir = Some(openat(at, &part, DIRECTORY, Mode::empty())?);
            part.clear();
        }
    }
    dir.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_below_any_number_of_directories_can_be_reached() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let mut path = dir.path().to_path_buf();
        // Created from within, because the whole path is longer than PATH_MAX.
        for number in 0..30 {
            path.push(format!("{number:0>200}"));
            let short = ShortPath::of(&path).unwrap();
            fs::create_dir(short.path()).unwrap();
        }
        assert!(path.as_os_str().len() > 6000);
        path.push("file");
        let short = ShortPath::of(&path).unwrap();
        fs::write(short.path(), "x").unwrap();
        assert_eq!(
            fs::read(ShortPath::of(&path).unwrap().path()).unwrap(),
            b"x"
        );
    }

    #[test]
    fn a_path_that_is_not_too_long_is_not_changed() {
        let path = Path::new("some/file");
        assert_eq!(ShortPath::of(path).unwrap().path(), path);
    }
}
