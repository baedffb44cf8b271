//! Buffered files, whose I/O goes through the page cache.

use std::fs;
use std::io;

use super::File;
use super::direct::{NotDirect, make_direct};
use super::file_facts::FileFacts;
use crate::SubmitPolicy;
use crate::sys;

impl File {
    /// Makes an open file direct, or buffered if it can't do direct I/O.
    pub(super) fn direct_or_buffered(file: fs::File) -> Result<File, NotDirect> {
        match make_direct(&file) {
            Ok(facts) => Ok(File::new(file, facts)),
            Err(reason) if reason.may_be_buffered() => {
                File::buffered(file).map_err(NotDirect::Failed)
            }
            Err(reason) => Err(reason),
        }
    }

    /// Creates a buffered file: clears `O_DIRECT`. Its requests are submitted from the blocking pool, since a
    /// buffered submission may block.
    pub(super) fn buffered(file: fs::File) -> io::Result<File> {
        sys::clear_direct(&file)?;
        let facts = FileFacts::of(&file)?;
        let file = File {
            is_direct: false,
            ..File::new(file, facts)
        };
        file.set_submit_policy(Some(SubmitPolicy::Offload));
        Ok(file)
    }

    /// Returns whether the file does direct I/O. `false`: I/O goes through the page cache. Only
    /// [`aio_open_or_buffered`](crate::AioOpenOptionsExt::aio_open_or_buffered) creates such files, if direct
    /// I/O is not possible.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::OpenOptions;
    /// use tokio_kaio::AioOpenOptionsExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// // procfs has no direct I/O.
    /// let mut options = OpenOptions::new();
    /// let file = options.read(true).aio_open_or_buffered("/proc/version".into(), false).await?;
    /// assert!(!file.is_direct());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::error::{Transfer, explain};
    use crate::{Backend, LockedBuf, ReadFlags, WriteFlags};

    #[tokio::test]
    async fn a_buffered_file_is_written_and_read_at_any_offset_from_the_pool() {
        let file = File::buffered(tempfile::tempfile().unwrap()).unwrap();
        let (context, handle) = crate::aio_context(1, true).unwrap();
        let mut bytes = LockedBuf::with_size(4096).unwrap();
        bytes.as_mut().fill(7);
        let none = WriteFlags::empty();
        assert_eq!(file.write_at(&handle, 3, &bytes, 5, none).await.unwrap(), 5);
        file.sync_all(&handle).await.unwrap();
        let read = file.read_at(&handle, 2, &mut bytes, 100, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), 6);
        assert_eq!(bytes.as_ref()[..7], [0, 7, 7, 7, 7, 7, 7]);
        if handle.backend() == Backend::KernelAio && !cfg!(kaio_plain_policy) {
            assert_eq!(handle.metrics().offloads, 3); // the sync is one of them
        }
        context.close().await;
    }

    #[test]
    fn a_buffered_file_loses_o_direct_and_no_other_flag() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let mut options = fs::OpenOptions::new();
        let path = dir.path().join("log");
        let file = options.append(true).create(true).open(path).unwrap();
        if let Err(error) = sys::set_direct(&file) {
            eprintln!("skipped: there is no direct I/O here: {error}");
            return;
        }
        let file = File::buffered(file).unwrap();
        assert!(!file.is_direct() && !sys::is_direct(file.as_raw_fd()).unwrap());
        assert!(file.appends);
        let flags = sys::set_direct(&file).unwrap();
        assert_ne!(flags & libc::O_APPEND, 0, "O_APPEND is still there");
    }

    #[test]
    fn only_errors_of_direct_files_mention_alignment() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let file = tempfile::tempfile_in(&dir).unwrap();
        let explained = || {
            let transfer = Transfer {
                offset: Some(1),
                len: 1,
            };
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            explain(error, file.as_raw_fd(), transfer, 0).to_string()
        };
        assert!(!explained().contains("direct I/O"), "{}", explained());
        let is_reported = sys::direct_io(file.as_raw_fd()).unwrap().is_some();
        if !is_reported || sys::set_direct(&file).is_err() {
            eprintln!("skipped: the file system does not report its alignment");
            return;
        }
        assert!(explained().contains("direct I/O"), "{}", explained());
    }
}
