//! Hints on how to fix an error.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::iter::successors;

use crate::paths::is_kernel_file_system;

/// The errno of an error or of its sources.
pub(crate) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
}

/// The kind of the I/O error among an error and its sources.
fn kind(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let first = successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>());
    match errno(error) {
        Some(errno) => Some(io::Error::from_raw_os_error(errno).kind()),
        None => first.map(io::Error::kind),
    }
}

/// The error without the path of the scratch directory, which the user has not named.
pub(crate) fn without_path(error: &io::Error) -> io::Error {
    match errno(error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => error.kind().into(),
    }
}

/// The hint for a directory in which no file can be created.
pub(crate) fn unwritable_hint(error: &io::Error, file_system: Option<&str>) -> &'static str {
    if file_system.is_some_and(is_kernel_file_system) {
        return "AIO is not usable here: name a directory on a disk";
    }
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: name a file on it to measure reads, or remount it \
             (mount -o remount,rw)"
        }
        ErrorKind::PermissionDenied => {
            "name a directory that you may write to, or a file in this directory to measure reads"
        }
        _ => no_space_hint(error).unwrap_or("name a directory in which files can be created"),
    }
}

/// The hint for an error because of too little space.
pub(crate) fn no_space_hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    match kind(error)? {
        ErrorKind::StorageFull => Some(
            "the file system has no free blocks or inodes: free 2 MiB, or name another directory",
        ),
        ErrorKind::QuotaExceeded => {
            Some("the quota is exhausted: free 2 MiB, or name another directory")
        }
        ErrorKind::FileTooLarge => Some("raise RLIMIT_FSIZE (ulimit -f) to at least 2 MiB"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use tokio_kaio::AioCommandError;

    use super::*;

    #[test]
    fn the_errno_is_found_among_the_sources_of_an_error() {
        let error = io::Error::from(Errno::NOSPC);
        let failed: Box<dyn Error> = AioCommandError::BadResult(error).into();
        assert_eq!(errno(failed.as_ref()), Some(Errno::NOSPC.raw_os_error()));
        assert_eq!(errno(Box::<dyn Error>::from("none").as_ref()), None);
    }

    #[test]
    fn a_read_only_file_system_and_a_forbidden_directory_have_different_hints() {
        let hint = |errno: Errno| unwritable_hint(&errno.into(), Some("ext4"));
        assert!(hint(Errno::ROFS).contains("read-only"));
        assert!(hint(Errno::ACCESS).contains("you may write to"));
        assert!(hint(Errno::NOSPC).contains("free 2 MiB"));
        assert!(unwritable_hint(&Errno::NOENT.into(), Some("proc")).contains("not usable"));
    }
}
