//! What to do about an error.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::iter::successors;

/// The errno that is behind an error.
pub(crate) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
}

/// What kind of error is behind one.
fn kind(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let first = successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>());
    match errno(error) {
        Some(errno) => Some(io::Error::from_raw_os_error(errno).kind()),
        None => first.map(io::Error::kind),
    }
}

/// The error without the name of a scratch directory that was not made, for which nobody asked.
pub(crate) fn plain(error: &io::Error) -> io::Error {
    match errno(error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => error.kind().into(),
    }
}

/// Whether a file system is not made to hold anybody's files, whoever asks.
pub(crate) fn is_the_kernels(file_system: Option<&str>) -> bool {
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
    file_system.is_some_and(|name| NAMES.contains(&name))
}

/// Where nothing can be made in a directory.
pub(crate) fn unwritable(error: &io::Error, file_system: Option<&str>) -> &'static str {
    if is_the_kernels(file_system) {
        return "no files can be made on this file system, and AIO is not usable here: name a \
                directory on a disk";
    }
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: name a file on it, of which reads are measured, or \
             remount it (mount -o remount,rw)"
        }
        ErrorKind::PermissionDenied => {
            "name a directory that you may write to, or a file in this one, of which reads are \
             measured"
        }
        _ => full(error).unwrap_or("name a directory in which files can be made"),
    }
}

/// Where there is no room.
pub(crate) fn full(error: &(dyn Error + 'static)) -> Option<&'static str> {
    match kind(error)? {
        ErrorKind::StorageFull => Some(
            "the file system is full, of blocks or of inodes: free 2 MiB, or name another directory",
        ),
        ErrorKind::QuotaExceeded => {
            Some("the quota is used up: free 2 MiB, or name another directory")
        }
        ErrorKind::FileTooLarge => Some("RLIMIT_FSIZE (ulimit -f) has to allow for files of 2 MiB"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use tokio_kaio::AioCommandError;

    use super::*;

    #[test]
    fn the_errno_is_found_behind_what_explains_it() {
        let error = io::Error::from(Errno::NOSPC);
        let failed: Box<dyn Error> = AioCommandError::BadResult(error).into();
        assert_eq!(errno(failed.as_ref()), Some(Errno::NOSPC.raw_os_error()));
        assert_eq!(errno(Box::<dyn Error>::from("none").as_ref()), None);
    }

    #[test]
    fn a_read_only_file_system_is_told_from_a_forbidden_directory() {
        let way_out = |errno: Errno| unwritable(&errno.into(), Some("ext4"));
        assert!(way_out(Errno::ROFS).contains("read-only"));
        assert!(way_out(Errno::ACCESS).contains("you may write to"));
        assert!(way_out(Errno::NOSPC).contains("full"));
        assert!(unwritable(&Errno::NOENT.into(), Some("proc")).contains("not usable"));
    }
}
