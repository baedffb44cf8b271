//! [`Directory`]: an open directory, and system calls on names in it. They work whatever the length of its
//! path, and go on to mean the same directory after it was renamed.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::syscalls::syscall_result;

/// An open directory. Names are relative to it.
#[derive(Debug)]
pub(crate) struct Directory(File);

impl Directory {
    /// Opens a directory, so that it can be synced.
    ///
    /// # Errors
    ///
    /// `EACCES`: it is not readable. `ENOTDIR`: it is no directory.
    pub(crate) fn open(path: &Path) -> io::Result<Directory> {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_DIRECTORY);
        Ok(Directory(options.open(path)?))
    }

    /// Opens a directory that need not be readable. It can't be synced.
    ///
    /// # References
    ///
    /// [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html): `O_PATH`
    pub(crate) fn open_path(path: &Path) -> io::Result<Directory> {
        let mut options = File::options();
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        options.read(true).custom_flags(flags);
        Ok(Directory(options.open(path)?))
    }

    /// Makes the entries of the directory durable. On a file system that can't sync directories (`EINVAL`),
    /// does nothing.
    ///
    /// # References
    ///
    /// [`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html)
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self.0.sync_all() {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result,
        }
    }

    /// Returns whether entries can only be added to the directory (`chattr +a`). `false` if that is unknown.
    ///
    /// # References
    ///
    /// [`statx(2)`](https://man7.org/linux/man-pages/man2/statx.2.html): `STATX_ATTR_APPEND`
    pub(crate) fn is_append_only(&self) -> bool {
        let mut status = MaybeUninit::<libc::statx>::zeroed();
        let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        // SAFETY: an empty string, and a structure of ours to write to.
        let code = unsafe { libc::statx(self.fd(), path, flags, 0, status.as_mut_ptr()) };
        // SAFETY: plain numbers, for which zero is valid, and the kernel may have filled them in.
        let status = unsafe { status.assume_init() };
        code == 0 && status.stx_attributes & libc::STATX_ATTR_APPEND as u64 != 0
    }

    /// Creates a file without a name, open for reading and writing, which [`Directory::link`] can give one.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`, on old kernels also `EISDIR` and `ENOENT`: the file system has no such files.
    ///
    /// # References
    ///
    /// [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html): `O_TMPFILE`
    pub(crate) fn create_unnamed(&self, mode: libc::mode_t) -> io::Result<File> {
        self.create(c".", libc::O_TMPFILE, mode)
    }

    /// Creates the file `name`, open for reading and writing.
    ///
    /// # Errors
    ///
    /// `EEXIST`: there is a file of that name, if only a symbolic link.
    ///
    /// # References
    ///
    /// [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html)
    pub(crate) fn create_new(&self, name: &CStr, mode: libc::mode_t) -> io::Result<File> {
        self.create(name, libc::O_CREAT | libc::O_EXCL, mode)
    }

    fn create(&self, name: &CStr, flags: libc::c_int, mode: libc::mode_t) -> io::Result<File> {
        let flags = flags | libc::O_RDWR | libc::O_CLOEXEC | libc::O_LARGEFILE;
        resumed(|| {
            // SAFETY: a string that ends with 0, and numbers.
            let fd = unsafe { libc::openat(self.fd(), name.as_ptr(), flags, mode) };
            syscall_result(fd.into())?;
            // SAFETY: the kernel has just made it, and nobody else knows it.
            Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
        })
    }

    /// Gives an open file the name `name`.
    ///
    /// # Errors
    ///
    /// `EEXIST`: the name is taken. `ENOENT`: `/proc` is not mounted, or the directory was removed.
    ///
    /// # References
    ///
    /// [`linkat(2)`](https://man7.org/linux/man-pages/man2/linkat.2.html). `AT_EMPTY_PATH` would need a
    /// capability before Linux 6.10; the link in `/proc` does not.
    pub(crate) fn link(&self, file: &File, name: &CStr) -> io::Result<()> {
        let link = descriptor_link(file);
        let (source, target) = (link.as_ptr(), name.as_ptr());
        let flags = libc::AT_SYMLINK_FOLLOW;
        // SAFETY: two strings that end with 0, and numbers.
        let code = unsafe { libc::linkat(libc::AT_FDCWD, source, self.fd(), target, flags) };
        syscall_result(code.into()).map(drop)
    }

    /// Gives the file `from` the additional name `to`. See [`Directory::link`].
    pub(crate) fn link_name(&self, from: &CStr, to: &CStr) -> io::Result<()> {
        let (fd, from, to) = (self.fd(), from.as_ptr(), to.as_ptr());
        // SAFETY: two strings that end with 0, and numbers.
        let code = unsafe { libc::linkat(fd, from, fd, to, 0) };
        syscall_result(code.into()).map(drop)
    }

    /// Renames `from` to `to`, and replaces the file `to`, if there is one.
    ///
    /// # References
    ///
    /// [`renameat(2)`](https://man7.org/linux/man-pages/man2/rename.2.html)
    pub(crate) fn rename(&self, from: &CStr, to: &CStr) -> io::Result<()> {
        let (fd, from, to) = (self.fd(), from.as_ptr(), to.as_ptr());
        // SAFETY: two strings that end with 0, and numbers.
        let code = unsafe { libc::renameat(fd, from, fd, to) };
        syscall_result(code.into()).map(drop)
    }

    /// Renames `from` to `to`, unless `to` exists.
    ///
    /// # Errors
    ///
    /// `EEXIST`: `to` exists. `EINVAL`: the file system can't do that. `ENOSYS`: the kernel can't.
    ///
    /// # References
    ///
    /// [`renameat2(2)`](https://man7.org/linux/man-pages/man2/rename.2.html): `RENAME_NOREPLACE`
    #[doc(alias = "renameat2")]
    pub(crate) fn rename_new(&self, from: &CStr, to: &CStr) -> io::Result<()> {
        let (fd, from, to) = (libc::c_long::from(self.fd()), from.as_ptr(), to.as_ptr());
        let flags = libc::RENAME_NOREPLACE as libc::c_long;
        // SAFETY: two strings that end with 0, and numbers. Not every C library has a function for it.
        let code = unsafe { libc::syscall(libc::SYS_renameat2, fd, from, fd, to, flags) };
        syscall_result(code).map(drop)
    }

    /// Removes the name of a file.
    ///
    /// # References
    ///
    /// [`unlinkat(2)`](https://man7.org/linux/man-pages/man2/unlink.2.html)
    pub(crate) fn unlink(&self, name: &CStr) -> io::Result<()> {
        // SAFETY: a string that ends with 0, and numbers.
        let code = unsafe { libc::unlinkat(self.fd(), name.as_ptr(), 0) };
        syscall_result(code.into()).map(drop)
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Whether [`Directory::link`] can name `file`: whether `/proc` leads to it.
pub(crate) fn is_linkable(file: &File) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let link = descriptor_link(file).into_string().unwrap_or_default();
    let found = std::fs::metadata(link).map(identity);
    matches!((found, file.metadata().map(identity)), (Ok(found), Ok(own)) if found == own)
}

/// The path of an open file in `/proc`, which works where the file has no name.
fn descriptor_link(file: &File) -> std::ffi::CString {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::ffi::CString::new(link).unwrap_or_default() // has no 0
}

/// Calls `call` until no signal interrupts it.
fn resumed<T>(call: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
