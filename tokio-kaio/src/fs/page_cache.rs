//! A second way to a file that is open for direct I/O: through the page cache.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use thiserror::Error;

use super::File;
use super::file::FileInner;
use super::file::run_blocking;
use super::open_options::name_of;
use crate::SubmitPolicy;
use crate::op::OpenFile;
use crate::sys;

impl File {
    /// The file without `O_DIRECT`: itself, if it has none. Else it is opened once more, when this is
    /// first asked for, and stays open as long as the file.
    ///
    /// # Errors
    ///
    /// Those of `open(2)`: `ENOENT` where there is no `/proc`, `EACCES` where the file's mode no longer
    /// allows for writing, `EMFILE`.
    pub(super) async fn page_cached(&self) -> io::Result<Arc<OpenFile>> {
        if !self.is_direct {
            return Ok(Arc::clone(&self.inner.open));
        }
        if let Some(open) = self.inner.unaligned().cached.get() {
            return Ok(Arc::clone(open));
        }
        let file = Arc::clone(&self.inner);
        run_blocking(move || open_once(&file)).await
    }
}

fn open_once(file: &FileInner) -> io::Result<Arc<OpenFile>> {
    let unaligned = file.unaligned();
    let alone = unaligned.opening.lock();
    let _alone = alone.unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = unaligned.cached.get() {
        return Ok(Arc::clone(open));
    }
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = open_again(file.file(), &link).map_err(|error| {
        let path = name_of(file.file());
        io::Error::new(error.kind(), NotAgain { path, link, error })
    })?;
    // Known as the file, so that a drain waits for what goes this way, too.
    let again = Arc::new(OpenFile::duplicate(again, file.open.id()));
    again.history().set_policy(Some(SubmitPolicy::Offload)); // the submission does all of it, and waits
    Ok(Arc::clone(unaligned.cached.get_or_init(|| again)))
}

fn open_again(file: &fs::File, link: &str) -> io::Result<fs::File> {
    let flags = sys::status_flags(file.as_raw_fd())?;
    let mut options = OpenOptions::new();
    options
        .write(true)
        .append(flags & libc::O_APPEND != 0)
        .custom_flags(flags & libc::O_SYNC); // and `O_DSYNC`, which is a part of it
    let again = options.open(link)?;
    let identity = |file: &fs::File| file.metadata().map(|of| (of.dev(), of.ino()));
    match identity(file)? == identity(&again)? {
        true => Ok(again),
        false => Err(io::Error::from_raw_os_error(libc::ESTALE)), // whatever is mounted there
    }
}

#[derive(Debug, Error)]
#[error(
    "{}: bytes that fill no block at the file's end are written through a second descriptor, which \
     {link} does not give: {error}; {}, or write whole blocks (write_at), or make the file longer ahead \
     of the writes (set_len, allocate)",
    .path.display(),
    advice(.error)
)]
struct NotAgain {
    path: PathBuf,
    link: String,
    #[source]
    error: io::Error,
}

/// What to do, so that the file can be opened once more.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "raise RLIMIT_NOFILE (ulimit -n), or close other files",
        Some(libc::ENFILE) => "raise fs.file-max (sysctl), or have other processes close files",
        Some(libc::ENOENT | libc::ENOTDIR) => "have /proc mounted",
        Some(libc::ESTALE) => "have the process file system mounted at /proc, and nothing over it",
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            "have the file's mode, attributes and mount allow for writing"
        }
        _ => "have /proc mounted, and the file's mode allow for writing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_descriptor_is_of_the_same_file_and_as_synchronous() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("log");
        for flags in [0, libc::O_DSYNC, libc::O_SYNC] {
            for append in [false, true] {
                let mut options = OpenOptions::new();
                options.write(true).append(append).create(true);
                let file = options.custom_flags(flags).open(&path).unwrap();
                let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                let again = open_again(&file, &link).unwrap();
                let of = |file: &fs::File| {
                    let all = sys::status_flags(file.as_raw_fd()).unwrap();
                    all & (libc::O_SYNC | libc::O_APPEND)
                };
                assert_eq!(of(&again), of(&file));
                assert_ne!(again.as_raw_fd(), file.as_raw_fd());
            }
        }
    }

    #[test]
    fn it_works_where_the_file_has_no_name_any_more() {
        let file = tempfile::tempfile().unwrap();
        let open = FileInner::new(file);
        let again = open_once(&open).unwrap();
        assert_eq!(again.id(), open.open.id());
        assert!(Arc::ptr_eq(&again, &open_once(&open).unwrap()));
        std::os::unix::fs::FileExt::write_all_at(again.file(), b"hello", 3).unwrap();
        assert_eq!(open.file().metadata().unwrap().len(), 8);
    }

    #[test]
    fn another_file_in_its_place_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let other = tempfile::NamedTempFile::new().unwrap();
        let refused = open_again(&file, other.path().to_str().unwrap()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ESTALE));
    }

    #[test]
    fn that_there_is_no_second_descriptor_says_why_and_what_to_do() {
        for (errno, advice) in [
            (libc::ENOENT, "/proc mounted"),
            (libc::ESTALE, "mounted at /proc"),
            (libc::EACCES, "mode"),
            (libc::EMFILE, "ulimit -n"),
            (libc::ENFILE, "fs.file-max"),
            (libc::EIO, "/proc mounted"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let why = error.to_string();
            let (path, link) = ("/data/log".into(), "/proc/self/fd/7".into());
            let text = NotAgain { path, link, error }.to_string();
            for part in ["/data/log", "/proc/self/fd/7", &why, advice, "set_len"] {
                assert!(text.contains(part), "{text}");
            }
            let is_about_descriptors = matches!(errno, libc::EMFILE | libc::ENFILE);
            assert!(
                !(is_about_descriptors && text.contains("/proc mounted")),
                "{text}"
            );
        }
    }
}
