//! [`StagedPath`]: a temporary name, which is removed if the process ends before its file is complete.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use kaio_bench::temp_path::TempPath;
use rustix::io::Errno;
use tokio_kaio::{PublishError, PublishMode, StagedFile, StagedFileBuilder};

use super::copy_error::CopyError;
use super::destination::{self, Destination};
use super::short_path::ShortPath;
use crate::paths::{creation_forbidden, identity, parent};

/// A file, directory or link under a temporary name, which is removed if the process ends before it is
/// renamed.
#[derive(Debug)]
pub(super) struct StagedPath {
    temp: TempPath,
    /// Keeps the directory of a long path open.
    place: ShortPath,
}

impl StagedPath {
    /// Creates a file that other users can't access until it gets its own mode, and that will appear under
    /// `path`. It has a temporary name from the start, which `fsync(2)` needs on btrfs, and which is
    /// registered here: a file without a name would get one later, unknown to those who handle signals.
    ///
    /// # Errors
    ///
    /// Those of [`StagedFileBuilder::create_blocking`], as the system call returned them.
    pub(super) fn create_file(path: &Path) -> io::Result<(StagedPath, StagedFile)> {
        let place = ShortPath::of(path)?;
        let builder = StagedFileBuilder::new(place.path()).mode(0o600).named(true);
        let (temp, file) = TempPath::new(|| {
            let file = builder.create_blocking().map_err(system_error)?;
            match file.temp_path() {
                Some(temp) => Ok((temp, file)),
                None => unreachable!("the file was created with a name"),
            }
        })?;
        Ok((StagedPath { temp, place }, file))
    }

    /// The temporary path.
    pub(super) fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Gives `file`, which was created with this path, its name.
    ///
    /// # Errors
    ///
    /// Those of [`StagedFile::publish_blocking`], as the system call returned them.
    pub(super) fn publish_file(self, file: StagedFile, mode: PublishMode) -> io::Result<()> {
        self.temp.keep_if(|_| {
            let published = match file.publish_blocking(mode) {
                Err(error) if can_only_replace(&error, mode) => match error.into_staged() {
                    Some(file) => file.publish_blocking(PublishMode::Replace),
                    None => return Ok(()),
                },
                published => published,
            };
            published
                .map(drop)
                .map_err(|error| system_error(error.into()))
        })
    }

    /// Gives it its name: that of the path for which it was made.
    ///
    /// # Errors
    ///
    /// Those of [`TempPath::rename`].
    pub(super) fn rename(self) -> io::Result<()> {
        self.temp.rename(self.place.path())
    }

    /// Returns the call that renames it.
    ///
    /// # Errors
    ///
    /// Those of [`StagedPath::refuse_replaced`].
    pub(super) fn replace(
        self,
        destination: &Destination,
    ) -> Result<impl FnOnce() -> io::Result<()> + Send + 'static, CopyError> {
        self.refuse_replaced(destination)?;
        Ok(move || self.rename())
    }

    /// # Errors
    ///
    /// What is there is not what `destination` describes: another program has replaced it.
    pub(super) fn refuse_replaced(&self, destination: &Destination) -> Result<(), CopyError> {
        let existing = destination::metadata_of(self.place.path())?;
        match existing.as_ref().map(identity) == destination.replaced().map(identity) {
            true => Ok(()),
            false => Err(replaced_meanwhile(destination.path())),
        }
    }
}

/// The error for a target that another program has created or replaced.
pub(super) fn replaced_meanwhile(path: &Path) -> CopyError {
    CopyError::new(format!(
        "another program replaced {} during the copy; check it, and copy again",
        path.display()
    ))
}

/// Whether a new file could not be published because the file system has neither `RENAME_NOREPLACE` nor hard
/// links, as some FUSE file systems. A rename is left, for a target that did not exist a moment before.
fn can_only_replace(error: &PublishError, mode: PublishMode) -> bool {
    let errno = Errno::from_io_error(error.io_error());
    let is_unsupported = matches!(errno, Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP));
    is_unsupported && mode == PublishMode::CreateNew
}

/// The error of the system call, without the text that the library has added: it has the path for which the
/// file is staged, and not the one that the user knows.
fn system_error(error: io::Error) -> io::Error {
    let added = error.get_ref().and_then(|added| added.source());
    let source = added.and_then(|source| source.downcast_ref::<io::Error>());
    match source.and_then(io::Error::raw_os_error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => error,
    }
}

/// Calls `make` with a hidden temporary name next to `path`. What `make` creates is removed if the process
/// ends before it is renamed.
///
/// # Errors
///
/// Those of `make`. If a name is taken, `make` is called again with another one.
pub(super) fn make_next_to<T>(
    path: &Path,
    make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(StagedPath, T)> {
    let prefix = prefix(path.file_name().unwrap_or_default());
    let place = ShortPath::of(path)?;
    let (temp, made) = TempPath::make_in(parent(place.path()), prefix, make)?;
    Ok((StagedPath { temp, place }, made))
}

/// `.NAME.kaio-`, with NAME cut so that the temporary name is not too long for a file system.
fn prefix(name: &OsStr) -> OsString {
    const LONGEST: usize = 100;
    let mut end = name.len().min(LONGEST);
    // Not within a character: some file systems refuse names that are not UTF-8.
    while name
        .to_str()
        .is_some_and(|text| !text.is_char_boundary(end))
    {
        end -= 1;
    }
    OsString::from_vec([b".", &name.as_bytes()[..end], b".kaio-"].concat())
}

/// The error for a file or directory at `path` that can't be created.
pub(super) fn creation_error(path: &Path, error: &io::Error) -> CopyError {
    match error.kind() {
        ErrorKind::PermissionDenied => CopyError::new(format!(
            "can't create a file next to {}: {error}; the copy is written there under a temporary name, \
             which requires write permission for the directory",
            path.display()
        )),
        // Some file systems of the kernel answer like this to any name.
        ErrorKind::NotFound => match creation_forbidden(parent(path)) {
            Some(why) => CopyError::new(format!(
                "can't create {}: {why}; copy to another directory",
                path.display()
            )),
            None => CopyError::of("create", path, error),
        },
        _ => CopyError::of("create", path, error),
    }
}

/// Creates a file that other users can't access until it gets its own mode.
pub(super) fn create_private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_private_and_removed_unless_it_is_published() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let (staged, file) = StagedPath::create_file(&dir.path().join("copy")).unwrap();
        let metadata = fs::metadata(staged.path()).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        drop(staged);
        assert_eq!(names(dir.path()), [""; 0]);
        drop(file);

        let (staged, file) = StagedPath::create_file(&dir.path().join("copy")).unwrap();
        staged.publish_file(file, PublishMode::CreateNew).unwrap();
        assert_eq!(names(dir.path()), ["copy"]);
    }

    #[test]
    fn a_new_file_does_not_replace_one_that_has_appeared_meanwhile() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("copy");
        let (staged, file) = StagedPath::create_file(&path).unwrap();
        fs::write(&path, "of another program").unwrap();
        let refused = staged.publish_file(file, PublishMode::CreateNew);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(17)); // EEXIST
        assert_eq!(fs::read(&path).unwrap(), b"of another program");
        assert_eq!(names(dir.path()), ["copy"]);

        let (staged, file) = StagedPath::create_file(&path).unwrap();
        staged.publish_file(file, PublishMode::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(names(dir.path()), ["copy"]);
    }

    #[test]
    fn the_error_of_creating_a_file_is_that_of_the_system_call() {
        let error = StagedPath::create_file(Path::new("/proc/self/copy")).unwrap_err();
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
    }

    #[test]
    fn a_temporary_name_is_hidden_and_never_too_long() {
        assert_eq!(prefix(OsStr::new("big.img")), ".big.img.kaio-");
        let long = "ä".repeat(127);
        let cut = prefix(OsStr::new(&long)).into_string().unwrap();
        assert_eq!(cut, format!(".{}.kaio-", "ä".repeat(50)));
        let cut = prefix(OsStr::new(&format!("a{long}")))
            .into_string()
            .unwrap();
        assert_eq!(cut, format!(".a{}.kaio-", "ä".repeat(49)));
        assert_eq!(prefix(OsStr::from_bytes(&[0xff; 255])).len(), 107);
    }
}
