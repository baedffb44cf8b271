//! [`File::page_cache_file`]: a second descriptor of a direct file, for I/O through the page cache.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use thiserror::Error;

use super::File;
use super::dispatch::run_on_file;
use super::file::FileInner;
use super::file::path_of;
use crate::SubmitPolicy;
use crate::op::OpenFile;
use crate::sys;

impl File {
    /// Returns the file without `O_DIRECT`. A buffered file returns itself. A direct file is opened once
    /// more at the first call; the second descriptor stays open as long as the file.
    ///
    /// # Errors
    ///
    /// The errors of `open(2)`: `ENOENT` without `/proc`, `EACCES` if the file's mode no longer permits writing,
    /// `EMFILE`. `ESTALE`: `/proc` leads to another file.
    pub(super) async fn page_cache_file(&self) -> io::Result<Arc<OpenFile>> {
        if !self.is_direct {
            return Ok(Arc::clone(&self.inner.open));
        }
        if let Some(open) = self.inner.unaligned().page_cache_file.get() {
            return Ok(Arc::clone(open));
        }
        run_on_file(Arc::clone(&self.inner), open_page_cache_file).await
    }
}

fn open_page_cache_file(file: &FileInner) -> io::Result<Arc<OpenFile>> {
    let unaligned = file.unaligned();
    let guard = unaligned.open_mutex.lock();
    let _guard = guard.unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = unaligned.page_cache_file.get() {
        return Ok(Arc::clone(open));
    }
    #[cfg(feature = "simulation")]
    if let Some(simulated) = file.open.simulated() {
        let reopened = OpenFile::simulated_duplicate(simulated.buffered()?, file.open.id());
        let reopened = unaligned.page_cache_file.get_or_init(|| Arc::new(reopened));
        return Ok(Arc::clone(reopened));
    }
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let reopened = reopen(file.file(), &link).map_err(|error| {
        let path = path_of(file.file());
        io::Error::new(error.kind(), ReopenError { path, link, error })
    })?;
    // The same id as the file, so that a drain also waits for requests on this descriptor.
    let reopened = Arc::new(OpenFile::duplicate(reopened, file.open.id()));
    // A buffered request is done entirely within its submission, which blocks.
    reopened.history().set_policy(Some(SubmitPolicy::Offload));
    Ok(Arc::clone(
        unaligned.page_cache_file.get_or_init(|| reopened),
    ))
}

/// Opens `file` once more, through its link in `/proc`, for writing, with the same `O_APPEND` and `O_SYNC`
/// and without `O_DIRECT`.
fn reopen(file: &fs::File, link: &str) -> io::Result<fs::File> {
    let flags = sys::status_flags(file.as_raw_fd())?;
    let mut options = OpenOptions::new();
    options
        .write(true)
        .append(flags & libc::O_APPEND != 0)
        .custom_flags(flags & libc::O_SYNC); // `O_SYNC` includes the bit of `O_DSYNC`
    let reopened = options.open(link)?;
    let identity = |file: &fs::File| file.metadata().map(|of| (of.dev(), of.ino()));
    match identity(file)? == identity(&reopened)? {
        true => Ok(reopened),
        false => Err(io::Error::from_raw_os_error(libc::ESTALE)), // something is mounted over the link
    }
}

#[derive(Debug, Error)]
#[error(
    "{}: this write goes through the page cache and needs a second descriptor of the file, but {link} \
     can't be opened: {error}; {}, or write whole blocks (write_at), or extend the file before the writes \
     (set_len, allocate)",
    .path.display(),
    advice(.error)
)]
struct ReopenError {
    path: PathBuf,
    link: String,
    #[source]
    error: io::Error,
}

/// Returns the advice for an error of opening the file once more.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "raise RLIMIT_NOFILE (ulimit -n), or close other files",
        Some(libc::ENFILE) => "raise fs.file-max (sysctl), or close files of other processes",
        Some(libc::ENOENT | libc::ENOTDIR) => "make sure that /proc is mounted",
        Some(libc::ESTALE) => {
            "make sure that the proc file system is mounted at /proc, and nothing over it"
        }
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            "make sure that the file's mode, attributes and mount permit writing"
        }
        _ => "make sure that /proc is mounted and that the file's mode permits writing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::file_facts::FileFacts;

    #[test]
    fn the_second_descriptor_has_the_same_append_and_sync_flags() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("log");
        for flags in [0, libc::O_DSYNC, libc::O_SYNC] {
            for append in [false, true] {
                let mut options = OpenOptions::new();
                options.write(true).append(append).create(true);
                let file = options.custom_flags(flags).open(&path).unwrap();
                let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                let reopened = reopen(&file, &link).unwrap();
                let flags_of = |file: &fs::File| {
                    let all = sys::status_flags(file.as_raw_fd()).unwrap();
                    all & (libc::O_SYNC | libc::O_APPEND)
                };
                assert_eq!(flags_of(&reopened), flags_of(&file));
                assert_ne!(reopened.as_raw_fd(), file.as_raw_fd());
            }
        }
    }

    #[test]
    fn an_unlinked_file_can_be_opened_once_more() {
        let file = tempfile::tempfile().unwrap();
        let facts = FileFacts::of(&file).unwrap();
        let file = FileInner::new(OpenFile::new(file), facts);
        let reopened = open_page_cache_file(&file).unwrap();
        assert_eq!(reopened.id(), file.open.id());
        assert!(Arc::ptr_eq(
            &reopened,
            &open_page_cache_file(&file).unwrap()
        ));
        std::os::unix::fs::FileExt::write_all_at(reopened.file(), b"hello", 3).unwrap();
        assert_eq!(file.file().metadata().unwrap().len(), 8);
    }

    #[test]
    fn a_link_to_another_file_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let other = tempfile::NamedTempFile::new().unwrap();
        let refused = reopen(&file, other.path().to_str().unwrap()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ESTALE));
    }

    #[test]
    fn the_error_without_a_second_descriptor_says_why_and_what_to_do() {
        for (errno, advice) in [
            (libc::ENOENT, "/proc is mounted"),
            (libc::ESTALE, "mounted at /proc"),
            (libc::EACCES, "mode"),
            (libc::EMFILE, "ulimit -n"),
            (libc::ENFILE, "fs.file-max"),
            (libc::EIO, "/proc is mounted"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let reason = error.to_string();
            let (path, link) = ("/data/log".into(), "/proc/self/fd/7".into());
            let text = ReopenError { path, link, error }.to_string();
            for part in ["/data/log", "/proc/self/fd/7", &reason, advice, "set_len"] {
                assert!(text.contains(part), "{text}");
            }
            let is_about_descriptors = matches!(errno, libc::EMFILE | libc::ENFILE);
            assert!(
                !(is_about_descriptors && text.contains("/proc is mounted")),
                "{text}"
            );
        }
    }
}
